/* The body of words_compare, compiled for each set of instructions. */
#ifndef DROVER_WIRE_BATCH_WORDS_COMPARE_H
#define DROVER_WIRE_BATCH_WORDS_COMPARE_H

#include "wire/batch_words.h"

#include <string.h>

/* Four words: one AVX2 register, or what the compiler makes of it elsewhere. */
typedef uint64_t four_words __attribute__((vector_size(32)));

static inline uint64_t compare_64_words(const uint8_t *old, const uint8_t *new)
{
	four_words bit = {1, 2, 4, 8}, found = {0}, a, b;

	for (unsigned i = 0; i < 16; i++) {
		memcpy(&a, old + i * sizeof(a), sizeof(a));
		memcpy(&b, new + i * sizeof(b), sizeof(b));
		found |= (four_words)(a != b) & bit;
		bit <<= 4;
	}
	return found[0] | found[1] | found[2] | found[3];
}

static inline unsigned compare_words(const uint8_t *old, const uint8_t *new, uint8_t *bitmap)
{
	unsigned count = 0;

	for (unsigned i = 0; i < STREAM_PAGE / WORD / 64; i++) {
		uint64_t bits = compare_64_words(old + i * 512, new + i * 512);
		uint64_t stored = words_le64(bits);

		count += (unsigned)__builtin_popcountll(bits);
		memcpy(bitmap + i * 8, &stored, 8);
	}
	return count;
}

#endif
