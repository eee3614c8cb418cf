/*
 * For the tests of the stream parsers: feeding one of them, with the checks of stream_feed.h.
 */
#ifndef DROVER_TESTS_STREAM_SUPPORT_H
#define DROVER_TESTS_STREAM_SUPPORT_H

#include "stream_feed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* In one piece. */
static const struct stream_split whole = {.seed = 1, .piece_max = 1 << 30, .items_max = 1 << 20};

/* A parser that has been given a stream, and what it has found. */
struct fed {
	struct stream_parser *p;
	const struct stream_counts *counts;
	struct stream_table found;
};

static inline struct fed feed(
	const char *name, const uint8_t *bytes, size_t len, const struct stream_split *split)
{
	struct fed f = {.p = stream_parser_open(name)};
	assert_non_null(f.p);
	f.counts = stream_parser_counts(f.p);
	const char *broken = stream_feed(f.p, bytes, len, split, &f.found);
	if (broken)
		fail_msg("%s (split %llu)", broken, (unsigned long long)split->seed);
	assert_true(stream_rebuild(&f.found, bytes, len));
	return f;
}

static inline void fed_free(struct fed *f)
{
	stream_parser_close(f->p);
	stream_table_free(&f->found);
}

static inline void assert_same_tables(const struct stream_table *a, const struct stream_table *b)
{
	assert_int_equal(a->items_len, b->items_len);
	for (size_t i = 0; i < a->items_len; i++) {
		const struct stream_item *x = &a->items[i], *y = &b->items[i];
		if (x->address != y->address || x->at != y->at || x->kind != y->kind ||
			x->block != y->block || x->word != y->word)
			fail_msg("item %zu differs: at %u, %u", i, x->at, y->at);
	}
}

#endif
