/*
 * Gives streams to a parser as a reader of a socket does, and checks what stream.h promises of
 * every stream, whatever is in it.
 */
#ifndef DROVER_TESTS_STREAM_FEED_H
#define DROVER_TESTS_STREAM_FEED_H

#include "stream_gen.h"

/* How a stream is cut: new bytes come in random numbers up to piece_max, tables have room for up to
 * items_max items. */
struct stream_split {
	uint64_t seed;
	size_t piece_max, items_max;
};

/* From bytes one by one to pieces larger than any of a socket; their seed is 0. */
#define STREAM_SPLITS 4
extern const struct stream_split stream_splits[STREAM_SPLITS];

/* Gives all of the stream to the parser, and ends it; adds what it finds to the table (`at` counts
 * from the beginning). Returns NULL, or which promise was broken. */
const char *stream_feed(struct stream_parser *p, const uint8_t *bytes, size_t len,
	const struct stream_split *split, struct stream_table *found);

/* Makes the stream again from the table, its pages' contents and the other bytes; whether it is
 * the same. */
bool stream_rebuild(const struct stream_table *found, const uint8_t *bytes, size_t len);

#endif
