#include "wire/batch_words_compare.h"

unsigned words_compare_any(const uint8_t *old, const uint8_t *new, uint8_t *bitmap)
{
	return compare_words(old, new, bitmap);
}

unsigned words_compare(const uint8_t old[STREAM_PAGE], const uint8_t new[STREAM_PAGE],
	uint8_t bitmap[WORDS_BITMAP])
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return words_compare_avx2(old, new, bitmap);
#endif
	return words_compare_any(old, new, bitmap);
}

static uint64_t bitmap_word(const uint8_t *bitmap, unsigned i)
{
	uint64_t stored;

	memcpy(&stored, bitmap + i * 8, 8);
	return words_le64(stored);
}

uint8_t *words_take(
	const uint8_t page[STREAM_PAGE], const uint8_t bitmap[WORDS_BITMAP], uint8_t *words)
{
	for (unsigned i = 0; i < WORDS_BITMAP / 8; i++)
		for (uint64_t bits = bitmap_word(bitmap, i); bits; bits &= bits - 1) {
			memcpy(words, page + (i * 64 + (unsigned)__builtin_ctzll(bits)) * WORD,
				WORD);
			words += WORD;
		}
	return words;
}

void words_put(uint8_t page[STREAM_PAGE], const uint8_t bitmap[WORDS_BITMAP], const uint8_t *words)
{
	for (unsigned i = 0; i < WORDS_BITMAP / 8; i++)
		for (uint64_t bits = bitmap_word(bitmap, i); bits; bits &= bits - 1) {
			memcpy(page + (i * 64 + (unsigned)__builtin_ctzll(bits)) * WORD, words,
				WORD);
			words += WORD;
		}
}

unsigned words_count(const uint8_t bitmap[WORDS_BITMAP])
{
	unsigned count = 0;

	for (unsigned i = 0; i < WORDS_BITMAP / 8; i++)
		count += (unsigned)__builtin_popcountll(bitmap_word(bitmap, i));
	return count;
}
