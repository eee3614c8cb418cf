/*
 * Batches: a piece of the hypervisor's stream with the table of its pages, and how it crosses the
 * network. This is the page codec; docs/wire-codec.md describes its bytes.
 *
 * At the source a batch is filled by the reader and a parser (stream.h), planned in the order of
 * the stream (batch_plan: which page goes how), and encoded by any thread in any order
 * (batch_encode). At the destination it is decoded by any thread in any order (batch_decode), then,
 * when no page of it is missing, completed in the order of the stream (batch_complete) and written.
 * Planning and completing keep equal caches of pages that were sent before (cache.h).
 *
 * A page goes as zero, as a reference to a block of a content source, as the difference to the
 * version that was sent before, or as data. References are claims: each carries 128 bits of a hash
 * with a key of this migration, the destination checks what it has read, and what differs or cannot
 * be read is a miss, for which it asks (batch_misses_encode) and is answered with the page itself
 * (batch_answer_encode); the source keeps a batch until it has been acknowledged.
 */
#ifndef DROVER_WIRE_BATCH_H
#define DROVER_WIRE_BATCH_H

#include "base/error.h"
#include "wire/cache.h"
#include "wire/pagehash.h"
#include "wire/source.h"
#include "wire/stream.h"

/* So long is a batch's piece of stream at most: 255 pages without their words. Its frame is never
 * longer than the piece and BATCH_EXTRA bytes: what does not get smaller goes as it is. That is
 * what a frame's longest payload leaves, and enough for 255 such pages of which none follows
 * another: kind, run, gap, block and jump are 14 bytes each. */
#define BATCH_RAW_MAX (255u * STREAM_PAGE)
#define BATCH_EXTRA 4080u
/* So many pages has a batch at most, zero pages being 9 bytes. */
#define BATCH_ITEMS_MAX 8192u

/* How a page goes. */
enum batch_kind { BATCH_ZERO, BATCH_REFERENCE, BATCH_DIFFERENCE, BATCH_DATA, BATCH_KINDS };
const char *batch_kind_name(enum batch_kind kind); /* "zero", "reference", "difference", "data" */

/* What one batch was made of; pages by kind, and the bytes that each kind took in the batch before
 * compression (addresses and kinds not counted). Complete after batch_plan or batch_decode, but for
 * the misses at the source, which batch_answer_encode counts. */
struct batch_counts {
	uint64_t pages[BATCH_KINDS], bytes[BATCH_KINDS];
	uint64_t other_bytes; /* of the stream: in no page */
	uint64_t hits[SOURCE_MAX],
		misses[SOURCE_MAX]; /* references to each source; of these missed */
};
void batch_counts_add(struct batch_counts *sum, const struct batch_counts *more);

/* How the page of one item goes; belongs to the codec. */
struct batch_page {
	uint8_t code;    /* enum batch_code (batch_format.h) */
	uint8_t source;  /* of a reference: which content source */
	bool missing;    /* reference: destination: not answered yet; source: was asked for */
	uint32_t at;     /* of a difference: where it is in batch->words */
	uint64_t number; /* of a reference: which block of the source */
};

struct batch {
	struct batch *next; /* of the list that it is in */
	uint64_t sequence;  /* of its frame */
	uint8_t *raw;       /* the piece of the stream: BATCH_RAW_MAX bytes of room */
	size_t raw_len;
	struct stream_item *items; /* BATCH_ITEMS_MAX of room; `at` counts from raw, ascending */
	size_t items_len;
	struct batch_page *pages; /* one for each item */
	uint8_t *words; /* differences, each a bitmap of the words that changed and these words */
	size_t words_len;
	bool no_cache;    /* the cache is not asked and not changed (batch_plan decides) */
	unsigned missing; /* destination: references that have not been answered yet */
	struct batch_counts counts;
};

/* At most 1.8 MiB each, taken as it is used. NULL with an error when there is no memory.
 * batch_reset makes it empty again, `next` too. */
struct batch *batch_new(struct error **err);
void batch_free(struct batch *b);
void batch_reset(struct batch *b);

/*
 * Decides how each page goes, and brings the cache up to date. In the order of the stream, one
 * thread, each batch once. `cache` and `sources` may be NULL. `keep` false: the cache is neither
 * asked nor changed (a link that is faster than memory needs none); the payload says so, and the
 * destination does the same.
 *
 * What is not as stream.h promises, and items that would take more bytes than they save, become
 * other bytes: then items_len is 0 afterwards. The piece arrives as it is in any case.
 */
void batch_plan(
	struct batch *b, struct page_cache *cache, const struct source_set *sources, bool keep);

/* One of these for each thread that encodes or decodes. */
struct batch_coder;
/* Takes a copy of `key`, which no other thread uses meanwhile. Memory: 2 MiB, and what zstd takes
 * for 1 MiB at the levels that are used: 0.6 MiB up to level 1, 13 at level 9, 18 at level 19. */
struct batch_coder *batch_coder_open(const struct pagehash *key, struct error **err);
void batch_coder_close(struct batch_coder *c);

/* Levels: 0 stores; -5 to -1 and 1 to 19 are zstd's. */
#define BATCH_LEVEL_MIN (-5)
#define BATCH_LEVEL_MAX 19

/* Makes the payload of the frame of a batch that was planned; `out` has room for BATCH_RAW_MAX +
 * BATCH_EXTRA bytes. Returns its length. The same batch can be encoded again, at another level too.
 */
size_t batch_encode(struct batch_coder *c, struct batch *b, int level, uint8_t *out);

/*
 * Reads a payload into an empty batch; reads and checks references. ERROR_REQUEST for anything that
 * no encoder makes: every size is checked before it is used, and no memory is taken. Afterwards
 * b->missing says how many references must be answered before batch_complete. `sources` may be
 * NULL: all miss. After an error the batch can only be reset.
 */
int batch_decode(struct batch_coder *c, const uint8_t *in, size_t len,
	const struct source_set *sources, struct batch *b, struct error **err);

/* Applies differences and brings the cache up to date; after it b->raw is the piece of the stream.
 * In the order of the stream, one thread, each batch once. ERROR_REQUEST for a difference to a page
 * that is not in the cache, and for a batch of which pages are missing; the stream cannot go on
 * then. `cache` NULL: there is none, which the source's then must not have either. */
int batch_complete(struct batch *b, struct page_cache *cache, struct error **err);

/* Payloads of MISS (destination to source) and PAGES (the answer, for a batch that the source
 * still has). A MISS names at most BATCH_MISSES_MAX pages (items of the batch, ascending); an
 * answer has at most so many; more need more frames. Both begin with the batch's sequence number,
 * batch_sequence reads it. */
#define BATCH_MISSES_MAX 128u
#define BATCH_MISS_PAYLOAD_MAX (8u + 2u * BATCH_MISSES_MAX)
#define BATCH_ANSWER_PAYLOAD_MAX (8u + (2u + STREAM_PAGE) * BATCH_MISSES_MAX)
int batch_sequence(const uint8_t *in, size_t len, uint64_t *sequence, struct error **err);
/* Destination: the next pages that are missing, from item *from on, which is moved. 0: none. */
size_t batch_misses_encode(const struct batch *b, size_t *from, uint8_t *out);
/* Source: answers a MISS and counts it in the batch's misses, each page once. Returns the length, 0
 * with an error for what no destination asks. */
size_t batch_answer_encode(
	struct batch *b, const uint8_t *in, size_t len, uint8_t *out, struct error **err);
/* Destination: takes an answer; a page that is not missing any more is passed over, so that an
 * answer may come twice. ERROR_REQUEST for a page that was never a reference, for another batch's
 * answer, and for what is no answer; the pages before the wrong one were taken. */
int batch_answer_take(struct batch *b, const uint8_t *in, size_t len, struct error **err);

#endif
