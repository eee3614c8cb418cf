#include "wire/batch_format.h"
#include "wire/batch_words.h"

#include <string.h>

/* A difference of so few words is taken before a reference is looked for, which is 16 bytes of hash
 * at least and must be read at the destination. */
#define FEW_WORDS 4u

/* Whether the item is what stream.h promises, so that it can be made again from its table. */
static bool item_holds(const struct batch *b, const struct stream_item *item, size_t at)
{
	uint8_t word[STREAM_WORD];
	const uint8_t *begin = b->raw + item->at;

	if (item->kind > STREAM_FULL || item->block >= STREAM_BLOCKS_MAX ||
		item->address % STREAM_PAGE || item->at < at || item->at > b->raw_len ||
		stream_item_len(item) > b->raw_len - item->at)
		return false;
	if (item->word) {
		stream_item_header(item, word);
		if (memcmp(begin, word, STREAM_WORD))
			return false;
	}
	return item->kind == STREAM_FULL || !begin[stream_item_len(item) - 1];
}

/*
 * Whether the items take less than they save. Their words and the octets of zero pages are saved;
 * what goes instead of a page is never longer than the page; kinds take an octet each at most.
 */
static bool items_save(const struct batch *b)
{
	struct batch_walk walk = {0};
	struct batch_run run;
	size_t saved = BATCH_EXTRA - BATCH_HEADER, taken = b->items_len, at = 0;

	for (size_t i = 0; i < b->items_len; i++) {
		const struct stream_item *item = &b->items[i];

		if (!item_holds(b, item, at))
			return false;
		at = item->at + stream_item_len(item);
		saved += stream_item_len(item) - (item->kind == STREAM_FULL ? STREAM_PAGE : 0);
	}
	while (walk.item < b->items_len && taken <= saved) {
		batch_run_next(b, &walk, &run);
		taken += batch_run_len(&run);
	}
	return taken <= saved;
}

struct plan {
	struct batch *b;
	struct page_cache *cache; /* NULL: not used for this batch */
	const struct source_set *sources;
};

static void plan_reference(struct plan *p, size_t i, uint8_t source, uint64_t number)
{
	struct batch_page *page = &p->b->pages[i];

	page->code = CODE_REFERENCE;
	page->source = source;
	page->number = number;
	if (p->cache)
		page_cache_drop(p->cache, p->b->items[i].block, p->b->items[i].address);
}

/* The difference whose bitmap is at the end of batch->words already. */
static void plan_difference(struct plan *p, size_t i, uint8_t *kept, unsigned words)
{
	struct batch *b = p->b;
	struct batch_page *page = &b->pages[i];
	uint8_t *bitmap = b->words + b->words_len, *end;

	page->code = words ? CODE_DIFFERENCE : CODE_SAME;
	if (words) {
		page->at = (uint32_t)b->words_len;
		end = words_take(batch_contents(b, i), bitmap, bitmap + WORDS_BITMAP);
		words_put(kept, bitmap, bitmap + WORDS_BITMAP);
		b->words_len = (size_t)(end - b->words);
	}
	page_cache_renew(p->cache, b->items[i].block, b->items[i].address);
}

static bool find_source(
	const struct plan *p, const uint8_t *page, uint8_t *source, uint64_t *number)
{
	return p->sources &&
	       source_set_find(p->sources, source_fingerprint(page), source, number) &&
	       *source < SOURCE_MAX && *number <= SOURCE_BLOCK_MASK;
}

static void plan_full(struct plan *p, size_t i)
{
	struct batch *b = p->b;
	const struct stream_item *item = &b->items[i];
	const uint8_t *page = batch_contents(b, i);
	uint8_t *kept = p->cache ? page_cache_find(p->cache, item->block, item->address) : NULL;
	unsigned words = STREAM_PAGE / WORD;
	uint8_t source;
	uint64_t number;

	if (kept)
		words = words_compare(kept, page, b->words + b->words_len);
	if (words <= FEW_WORDS) {
		plan_difference(p, i, kept, words);
	} else if (find_source(p, page, &source, &number)) {
		plan_reference(p, i, source, number);
	} else if (words <= WORDS_MAX) {
		plan_difference(p, i, kept, words);
	} else {
		b->pages[i].code = CODE_DATA;
		if (p->cache)
			page_cache_put(p->cache, item->block, item->address, page);
	}
}

static void plan_item(struct plan *p, size_t i)
{
	const struct stream_item *item = &p->b->items[i];

	p->b->pages[i] = (struct batch_page){.code = CODE_ZERO};
	if (item->kind == STREAM_FULL && !batch_page_is_zero(batch_contents(p->b, i))) {
		plan_full(p, i);
		return;
	}
	if (item->kind == STREAM_FULL)
		p->b->pages[i].code = CODE_ZERO_FULL;
	if (p->cache)
		page_cache_drop(p->cache, item->block, item->address);
}

void batch_plan(
	struct batch *b, struct page_cache *cache, const struct source_set *sources, bool keep)
{
	struct plan p = {b, keep ? cache : NULL, sources};

	b->no_cache = !p.cache;
	if (!items_save(b))
		b->items_len = 0;
	for (size_t i = 0; i < b->items_len; i++)
		plan_item(&p, i);
	batch_count(b);
}
