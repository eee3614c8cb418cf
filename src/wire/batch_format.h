/*
 * The bytes of a BATCH payload, for batch_encode.c and batch_decode.c: docs/wire-codec.md draws
 * them.
 *
 * Header, then "plain" (hashes of references, and pages that cannot be compressed), then the
 * columns, as they are or as one zstd frame. The columns follow each other in the order of
 * docs/wire-codec.md; each is as long as the ones before it say.
 */
#ifndef DROVER_WIRE_BATCH_FORMAT_H
#define DROVER_WIRE_BATCH_FORMAT_H

#include "wire/batch.h"

#include <zstd.h>

#define BATCH_HEADER 16u
#define BATCH_FORMAT 1u

enum batch_flag { BATCH_PACKED = 1, BATCH_NO_CACHE = 2, BATCH_FLAGS = 3 };

struct batch_header {
	uint8_t flags;
	size_t items, raw_len;
	size_t plain, columns; /* lengths; that of the columns without compression */
};

/* What the column of kinds says of an item. */
enum batch_code {
	CODE_ZERO,       /* STREAM_ZERO */
	CODE_ZERO_FULL,  /* STREAM_FULL whose page is zero */
	CODE_REFERENCE,  /* all from here are STREAM_FULL */
	CODE_DIFFERENCE, /* of one word or more */
	CODE_SAME,       /* difference of no word */
	CODE_DATA,       /* among the columns */
	CODE_DATA_PLAIN, /* in "plain" */
	CODES
};
enum batch_kind batch_code_kind(enum batch_code code);

/* Kinds: an octet each run of equal ones, `code << 5 | count - 1`; when these low five bits are all
 * set, a varint of count - KIND_LONG follows. */
#define KIND_SHIFT 5u
#define KIND_LONG 32u

/* Runs of items: a varint of `count - 1 << 3` and these. */
enum batch_run_flag {
	RUN_GAP = 1,   /* other bytes precede: a varint says how many */
	RUN_BLOCK = 2, /* of another block than the item before: one octet */
	RUN_BARE = 4,  /* items have no word */
	RUN_SHIFT = 3
};

/* Page numbers of memory (address / STREAM_PAGE) and of sources. */
#define PAGE_BITS 52u
#define PAGE_MASK ((1ull << PAGE_BITS) - 1)
#define SOURCE_BLOCK_BITS 51u
#define SOURCE_BLOCK_MASK ((1ull << SOURCE_BLOCK_BITS) - 1)

#define VARINT_MAX 10u
/* LEB128: seven bits an octet, low ones first, bit 7 set in all but the last. */
size_t varint_len(uint64_t v);
uint8_t *varint_put(uint8_t *at, uint64_t v);

/* The difference of two numbers of `bits` bits, modulo 2^bits, so that small ones of either sign
 * become small: 0, -1, 1, -2 are 0, 1, 2, 3. And what comes out when it is added again. */
uint64_t zigzag(uint64_t to, uint64_t from, unsigned bits);
uint64_t zigzag_add(uint64_t from, uint64_t difference, unsigned bits);

/* Items that follow each other: no bytes between them, pages in ascending order of one block, all
 * with their word or all without. */
struct batch_run {
	size_t count;
	uint64_t gap; /* other bytes before it */
	bool other_block, bare;
	uint8_t block;
	uint64_t jump; /* from the page that would follow the block's last item: zigzag */
};
/* Where a walk over runs is. All zero at the start. */
struct batch_walk {
	uint64_t due[STREAM_BLOCKS_MAX]; /* number of the page that would follow, for each block */
	size_t item, at;
	uint8_t block;
};
/* The run that begins at walk->item. */
void batch_run_next(const struct batch *b, struct batch_walk *walk, struct batch_run *run);
size_t batch_run_len(const struct batch_run *run);
uint8_t *batch_run_put(uint8_t *at, const struct batch_run *run);

/* References, one after the other: `zigzag << 1` of the block's number, from the one that follows
 * the last block of that source, plus 1 when it is another source than before, whose octet then
 * follows. All zero at the start. */
struct batch_references {
	uint64_t due[SOURCE_MAX];
	uint8_t source;
};
uint8_t *batch_reference_put(
	uint8_t *at, struct batch_references *state, const struct batch_page *page);
#define REFERENCE_MAX (VARINT_MAX + 1u)

/* The contents of an item that is STREAM_FULL. */
uint8_t *batch_contents(const struct batch *b, size_t item);
bool batch_page_is_zero(const uint8_t page[STREAM_PAGE]);
/* Fills counts from items and pages, but for the misses. */
void batch_count(struct batch *b);

struct batch_coder {
	struct pagehash *hash;
	ZSTD_CCtx *pack;
	ZSTD_DCtx *unpack;
	uint8_t *columns; /* BATCH_RAW_MAX + BATCH_EXTRA bytes */
};

#endif
