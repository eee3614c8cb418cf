/*
 * For the tests of payloads from a hostile peer: two ends of a codec, and a batch with pages of
 * every kind between them.
 */
#ifndef DROVER_TESTS_UNIT_TEST_BATCH_HOSTILE_H
#define DROVER_TESTS_UNIT_TEST_BATCH_HOSTILE_H

#include "test_batch_support.h"

/* The header's fields that the tests set. */
#define AT_FLAGS 1
#define AT_ITEMS 2
#define AT_RAW 4
#define AT_PLAIN 8
#define AT_COLUMNS 12
#define HEADER 16

struct ends {
	struct source_set *set;
	struct page_cache *from, *to;
	struct batch_coder *coder;
	struct batch *sent, *received;
	uint8_t *payload;
	size_t len;
};

static inline int open_ends(void **state)
{
	struct ends *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	random_state = 2;
	e->set = make_source();
	e->from = page_cache_open(CACHE_MIN, NULL);
	e->to = page_cache_open(CACHE_MIN, NULL);
	e->coder = make_coder();
	e->sent = make_batch();
	e->received = make_batch();
	e->payload = malloc(PAYLOAD_ROOM);
	assert_true(e->from && e->to && e->payload);
	*state = e;
	return 0;
}

static inline int close_ends(void **state)
{
	struct ends *e = *state;

	free(e->set);
	page_cache_close(e->from);
	page_cache_close(e->to);
	batch_coder_close(e->coder);
	batch_free(e->sent);
	batch_free(e->received);
	free(e->payload);
	free(e);
	return 0;
}

/* A batch with pages of every kind, as short as that can be, in e->payload. */
static inline void make_payload(struct ends *e, int level)
{
	static const uint8_t zero[STREAM_PAGE];
	uint8_t page[STREAM_PAGE];

	fill_text(page, sizeof(page));
	for (unsigned i = 0; i < 4; i++) {
		struct page_cache *cache = i & 1 ? e->from : e->to;

		page_cache_put(cache, 0, 5 * STREAM_PAGE, page);
		page_cache_put(cache, 1, 6 * STREAM_PAGE, page);
	}
	batch_reset(e->sent);
	add_other(e->sent, 9);
	add_item(e->sent, 0, 3 * STREAM_PAGE, true, e->set->indexed[1]);
	add_item(e->sent, 0, 4 * STREAM_PAGE, true, NULL);
	add_item(e->sent, 0, 5 * STREAM_PAGE, true, page);
	page[77]++;
	page[2077]++;
	add_other(e->sent, 12);
	add_item(e->sent, 1, 6 * STREAM_PAGE, false, page);
	add_item(e->sent, 1, 99 * STREAM_PAGE, true, zero);
	add_item(e->sent, 1, 100 * STREAM_PAGE, true, e->set->indexed[2]);
	fill_text(page, sizeof(page));
	page[1] = 0;
	add_item(e->sent, 1, 101 * STREAM_PAGE, true, page);
	fill_random(page, sizeof(page));
	add_item(e->sent, 1, 102 * STREAM_PAGE, true, page);
	add_other(e->sent, 5);
	batch_plan(e->sent, e->from, e->set, true);
	for (unsigned kind = 0; kind < BATCH_KINDS; kind++)
		assert_int_equal(e->sent->counts.pages[kind], 2);
	e->len = batch_encode(e->coder, e->sent, level, e->payload);
}

/* Decodes a copy of exactly so many bytes, so that ASan sees a read behind it. */
static inline int decode(struct ends *e, const uint8_t *payload, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct error *err = NULL;
	int rc;

	assert_non_null(copy);
	memcpy(copy, payload, len);
	batch_reset(e->received);
	rc = batch_decode(e->coder, copy, len, e->set, e->received, &err);
	assert_int_equal(rc < 0, err != NULL);
	assert_true(!err || err->kind == ERROR_REQUEST);
	error_free(&err);
	free(copy);
	return rc;
}

static inline void set_be32(uint8_t *at, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> (24 - 8 * i));
}

#define end_test(name) cmocka_unit_test_setup_teardown(name, open_ends, close_ends)

#endif
