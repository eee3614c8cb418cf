/*
 * For the tests of the page codec: a guest whose pages change, streams made of them, and a content
 * source in memory whose blocks a test can change. Instead of wire/source.c, which is not linked.
 */
#ifndef DROVER_TEST_BATCH_SUPPORT_H
#define DROVER_TEST_BATCH_SUPPORT_H

#include "wire/batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SOURCE_BLOCKS 64u
#define GUEST_BLOCKS 3u
#define GUEST_PAGES 700u
#define PAYLOAD_ROOM (BATCH_RAW_MAX + BATCH_EXTRA)

static uint64_t random_state = 1;

static inline uint64_t random_u64(void)
{
	/* splitmix64 */
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline size_t random_below(size_t n)
{
	return (size_t)(random_u64() % n);
}

static inline void fill_random(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)(random_u64() >> 24);
}

static inline void fill_text(uint8_t *at, size_t len)
{
	static const char words[] = "the quick brown fox jumps over a lazy dog and then it rests ";

	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)words[(i + (random_u64() % 9 == 0)) % (sizeof(words) - 1)];
}

/* Two views of the same blocks: what the sender's index says, and what the file holds now. */
struct source_set {
	uint8_t indexed[SOURCE_BLOCKS][STREAM_PAGE], now[SOURCE_BLOCKS][STREAM_PAGE];
	uint64_t fingerprints[SOURCE_BLOCKS];
	bool unreadable;
	uint64_t hole; /* block that cannot be read; counted from 1, 0: none */
};

uint64_t source_fingerprint(const uint8_t page[STREAM_PAGE])
{
	return XXH3_64bits(page, STREAM_PAGE);
}

bool source_set_find(
	const struct source_set *set, uint64_t fingerprint, uint8_t *source, uint64_t *block)
{
	for (size_t i = 0; i < SOURCE_BLOCKS; i++)
		if (set->fingerprints[i] == fingerprint) {
			/* Every second source, to see them told apart; eight blocks in each. */
			*source = (uint8_t)(i / 8 % 8 * 2 + 1);
			*block = i + 1000 * *source;
			return true;
		}
	return false;
}

/* Often fewer than it could, as the real one may. */
size_t source_set_read(const struct source_set *set, uint8_t source, uint64_t block,
	uint8_t *const *pages, size_t count)
{
	size_t first = block - 1000 * source, n = 0;

	for (; n < count && n < 3 && first + n < SOURCE_BLOCKS; n++) {
		if (set->unreadable || first + n + 1 == set->hole)
			break;
		memcpy(pages[n], set->now[first + n], STREAM_PAGE);
	}
	return n;
}

static inline struct source_set *make_source(void)
{
	struct source_set *set = calloc(1, sizeof(*set));

	assert_non_null(set);
	for (size_t i = 0; i < SOURCE_BLOCKS; i++) {
		fill_random(set->indexed[i], STREAM_PAGE);
		set->fingerprints[i] = source_fingerprint(set->indexed[i]);
	}
	memcpy(set->now, set->indexed, sizeof(set->now));
	return set;
}

struct guest {
	uint8_t pages[GUEST_BLOCKS][GUEST_PAGES][STREAM_PAGE];
};

static inline struct guest *make_guest(void)
{
	struct guest *g = calloc(1, sizeof(*g));

	assert_non_null(g);
	return g;
}

/* Changes the page as guests do. */
static inline void change_page(uint8_t *page, const struct source_set *set)
{
	switch (random_below(9)) {
	case 0:
		memset(page, 0, STREAM_PAGE);
		break;
	case 1:
	case 2:
		memcpy(page, set->indexed[random_below(SOURCE_BLOCKS)], STREAM_PAGE);
		break;
	case 3:
		fill_random(page, STREAM_PAGE);
		break;
	case 4:
		fill_text(page, STREAM_PAGE);
		break;
	case 5:
		break;
	default:
		for (size_t n = (size_t)1 << random_below(10); n; n--)
			page[random_below(STREAM_PAGE)]++;
	}
}

static inline void add_other(struct batch *b, size_t len)
{
	fill_random(b->raw + b->raw_len, len);
	b->raw_len += len;
}

/* An item at the end of the batch; false when there is no room. `page` NULL: a zero page. */
static inline bool add_item(
	struct batch *b, uint8_t block, uint64_t address, bool word, const uint8_t *page)
{
	struct stream_item *item = &b->items[b->items_len];
	size_t len;

	if (b->items_len == BATCH_ITEMS_MAX)
		return false;
	*item = (struct stream_item){.address = address,
		.at = (uint32_t)b->raw_len,
		.kind = page ? STREAM_FULL : STREAM_ZERO,
		.block = block,
		.word = word};
	len = stream_item_len(item);
	if (len > BATCH_RAW_MAX - b->raw_len)
		return false;
	if (word)
		stream_item_header(item, b->raw + b->raw_len);
	if (page)
		memcpy(b->raw + b->raw_len + len - STREAM_PAGE, page, STREAM_PAGE);
	else
		b->raw[b->raw_len + len - 1] = 0;
	b->raw_len += len;
	b->items_len++;
	return true;
}

/* Fills an empty batch with about `pages` pages of the guest, changed before. */
static inline void fill_batch(
	struct batch *b, struct guest *g, const struct source_set *set, size_t pages)
{
	size_t block = 0, page = random_below(GUEST_PAGES);
	bool word = true;

	for (; pages; pages--) {
		if (!random_below(12))
			block = random_below(GUEST_BLOCKS);
		page = random_below(5) ? (page + 1) % GUEST_PAGES : random_below(GUEST_PAGES);
		word = random_below(word ? 30 : 3) != 0;
		if (!word || !random_below(40))
			add_other(b, 8 + random_below(100));
		if (b->raw_len > BATCH_RAW_MAX - STREAM_ITEM_MAX)
			break;
		change_page(g->pages[block][page], set);
		if (!random_below(6))
			memset(g->pages[block][page], 0, STREAM_PAGE);
		if (random_below(2) && !g->pages[block][page][0] &&
			!memcmp(g->pages[block][page], g->pages[block][page] + 1, STREAM_PAGE - 1))
			add_item(b, (uint8_t)block, page * STREAM_PAGE, word, NULL);
		else
			add_item(
				b, (uint8_t)block, page * STREAM_PAGE, word, g->pages[block][page]);
	}
	if (!random_below(3))
		add_other(b, random_below(BATCH_RAW_MAX - b->raw_len < 300
						  ? BATCH_RAW_MAX - b->raw_len + 1
						  : 300));
}

static inline struct pagehash *make_key(void)
{
	uint8_t key[PAGEHASH_KEY];
	struct pagehash *hash;

	fill_random(key, sizeof(key));
	hash = pagehash_open(key, NULL);
	assert_non_null(hash);
	return hash;
}

static inline struct batch_coder *make_coder(void)
{
	struct pagehash *hash = make_key();
	struct batch_coder *coder = batch_coder_open(hash, NULL);

	assert_non_null(coder);
	pagehash_close(hash);
	return coder;
}

static inline struct batch *make_batch(void)
{
	struct batch *b = batch_new(NULL);

	assert_non_null(b);
	return b;
}

static inline bool same_piece(const struct batch *a, const struct batch *b)
{
	return a->raw_len == b->raw_len && !memcmp(a->raw, b->raw, a->raw_len);
}

#endif
