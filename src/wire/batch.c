#include "wire/batch.h"

#include "wire/batch_format.h"
#include "wire/batch_words.h"

#include <stdlib.h>

/* As many differences as a batch has room for full pages. */
#define WORDS_TOTAL (BATCH_RAW_MAX / STREAM_PAGE * WORDS_ROOM)

const char *batch_kind_name(enum batch_kind kind)
{
	static const char *const names[BATCH_KINDS] = {
		[BATCH_ZERO] = "zero",
		[BATCH_REFERENCE] = "reference",
		[BATCH_DIFFERENCE] = "difference",
		[BATCH_DATA] = "data",
	};

	return kind < BATCH_KINDS ? names[kind] : "unknown";
}

void batch_counts_add(struct batch_counts *sum, const struct batch_counts *more)
{
	for (unsigned i = 0; i < BATCH_KINDS; i++) {
		sum->pages[i] += more->pages[i];
		sum->bytes[i] += more->bytes[i];
	}
	sum->other_bytes += more->other_bytes;
	for (unsigned i = 0; i < SOURCE_MAX; i++) {
		sum->hits[i] += more->hits[i];
		sum->misses[i] += more->misses[i];
	}
}

struct batch *batch_new(struct error **err)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (b) {
		b->raw = malloc(BATCH_RAW_MAX);
		b->items = malloc(BATCH_ITEMS_MAX * sizeof(*b->items));
		b->pages = malloc(BATCH_ITEMS_MAX * sizeof(*b->pages));
		b->words = malloc(WORDS_TOTAL);
	}
	if (!b || !b->raw || !b->items || !b->pages || !b->words) {
		batch_free(b);
		error_set(err, ERROR_FAILED, 0, "no memory for a batch of pages");
		return NULL;
	}
	return b;
}

void batch_free(struct batch *b)
{
	if (!b)
		return;
	free(b->raw);
	free(b->items);
	free(b->pages);
	free(b->words);
	free(b);
}

void batch_reset(struct batch *b)
{
	*b = (struct batch){.raw = b->raw, .items = b->items, .pages = b->pages, .words = b->words};
}

struct batch_coder *batch_coder_open(const struct pagehash *key, struct error **err)
{
	struct batch_coder *c = calloc(1, sizeof(*c));

	if (c) {
		c->pack = ZSTD_createCCtx();
		c->unpack = ZSTD_createDCtx();
		c->columns = malloc(BATCH_RAW_MAX + BATCH_EXTRA);
	}
	if (!c || !c->pack || !c->unpack || !c->columns) {
		batch_coder_close(c);
		error_set(err, ERROR_FAILED, 0, "no memory for the page codec");
		return NULL;
	}
	/* The header of the batch has it. */
	ZSTD_CCtx_setParameter(c->pack, ZSTD_c_contentSizeFlag, 0);
	c->hash = pagehash_copy(key, err);
	if (!c->hash) {
		batch_coder_close(c);
		return NULL;
	}
	return c;
}

void batch_coder_close(struct batch_coder *c)
{
	if (!c)
		return;
	pagehash_close(c->hash);
	ZSTD_freeCCtx(c->pack);
	ZSTD_freeDCtx(c->unpack);
	free(c->columns);
	free(c);
}
