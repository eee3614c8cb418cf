/*
 * Differences between two versions of a page, in words of 8 bytes. In memory a difference is a
 * bitmap, 64 octets of which bit n of octet m stands for word 8 * m + n, and the words that
 * changed.
 */
#ifndef DROVER_WIRE_BATCH_WORDS_H
#define DROVER_WIRE_BATCH_WORDS_H

#include "wire/stream.h"

#define WORD 8u
#define WORDS_BITMAP (STREAM_PAGE / WORD / 8)
/* A page of which more words changed is no difference: with its bitmap it would take more than half
 * of the page, and what did not change costs little when it is compressed. */
#define WORDS_MAX 256u
#define WORDS_ROOM (WORDS_BITMAP + WORDS_MAX * WORD)

/* Writes the bitmap of the words that differ, returns how many. */
unsigned words_compare(const uint8_t old[STREAM_PAGE], const uint8_t new[STREAM_PAGE],
	uint8_t bitmap[WORDS_BITMAP]);
/* The words of the bitmap out of the page; returns the end of what was written. */
uint8_t *words_take(
	const uint8_t page[STREAM_PAGE], const uint8_t bitmap[WORDS_BITMAP], uint8_t *words);
/* And into the page. */
void words_put(uint8_t page[STREAM_PAGE], const uint8_t bitmap[WORDS_BITMAP], const uint8_t *words);
/* How many words a bitmap has. */
unsigned words_count(const uint8_t bitmap[WORDS_BITMAP]);

/* words_compare in the instructions that every processor has, and in AVX2. */
unsigned words_compare_any(const uint8_t *old, const uint8_t *new, uint8_t *bitmap);
unsigned words_compare_avx2(const uint8_t *old, const uint8_t *new, uint8_t *bitmap);

/* Between this machine's order and the low octet first. */
static inline uint64_t words_le64(uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	v = __builtin_bswap64(v);
#endif
	return v;
}

#endif
