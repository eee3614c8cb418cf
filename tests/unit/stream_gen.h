/*
 * Synthetic streams of QEMU, with every flag and section that a parser can meet. The same options
 * give the same stream. Guest memory of any size takes no memory here: contents are computed.
 */
#ifndef DROVER_TESTS_STREAM_GEN_H
#define DROVER_TESTS_STREAM_GEN_H

#include "base/buf.h"
#include "wire/stream.h"

enum stream_gen_flag {
	STREAM_GEN_POSTCOPY = 1 << 0,      /* ADVISE, and half of the pages behind the switch */
	STREAM_GEN_RETURN_PATH = 1 << 1,   /* OPEN_RETURN_PATH, PING */
	STREAM_GEN_FLUSH = 1 << 2,         /* MULTIFD_FLUSH between pages, as 10.0 */
	STREAM_GEN_XBZRLE = 1 << 3,        /* some pages in this form */
	STREAM_GEN_COMPRESS = 1 << 4,      /* and in this */
	STREAM_GEN_HOOK = 1 << 5,          /* HOOK between pages */
	STREAM_GEN_IGNORE_SHARED = 1 << 6, /* CONFIGURATION says so; a word more for each block */
	STREAM_GEN_HUGE_PAGES = 1 << 7,    /* in every other block, with POSTCOPY */
	STREAM_GEN_UUID = 1 << 8,          /* subsections of CONFIGURATION */
	STREAM_GEN_FILL = 1 << 9,          /* ZERO with another byte than 0 */
	STREAM_GEN_NAMES = 1 << 10,        /* names of blocks also where they do not change */
	STREAM_GEN_NO_FOOTER = 1 << 11,    /* as old machine types */
	STREAM_GEN_NO_CONFIGURATION = 1 << 12, /* likewise */
	STREAM_GEN_FLAGS = (1 << 13) - 1
};

struct stream_gen {
	uint64_t seed;
	unsigned flags;        /* enum stream_gen_flag */
	unsigned blocks;       /* of memory, at least 1 */
	uint64_t block_pages;  /* pages in each, at least 1 */
	uint64_t pages;        /* pages sent in all; those sent again differ in a few words */
	unsigned zero_percent; /* pages of zeros */
	unsigned round_pages;  /* pages in each section, at least 1 */
};

/* Random options for a small stream; flags among these. */
struct stream_gen stream_gen_random(uint64_t seed, unsigned flags);

/* Gets the stream piece by piece. `item` is NULL for other bytes; else the bytes are exactly this
 * item's, whose `at` is 0. */
typedef void (*stream_gen_sink)(
	void *arg, const uint8_t *bytes, size_t len, const struct stream_item *item);
void stream_gen(const struct stream_gen *options, stream_gen_sink sink, void *arg);

/* What a page holds after it has been sent `version` times before. */
void stream_gen_contents(uint64_t seed, unsigned block, uint64_t number, uint64_t version,
	uint8_t page[STREAM_PAGE]);

/* A whole stream in memory with its table. */
struct stream_table {
	struct buf bytes;
	struct stream_item *items; /* `at` counts from the beginning */
	size_t items_len, items_cap;
	uint64_t zero_pages, items_bytes;
};
void stream_table_make(struct stream_table *t, const struct stream_gen *options);
void stream_table_free(struct stream_table *t);
/* Adds an item; ends the program without memory. */
void stream_table_add(struct stream_table *t, const struct stream_item *item);

/* A random number from a state. */
uint64_t stream_gen_next(uint64_t *state);

#endif
