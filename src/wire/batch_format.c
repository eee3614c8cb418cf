#include "wire/batch_format.h"

#include "wire/batch_words.h"

#include <string.h>

enum batch_kind batch_code_kind(enum batch_code code)
{
	switch (code) {
	case CODE_ZERO:
	case CODE_ZERO_FULL:
		return BATCH_ZERO;
	case CODE_REFERENCE:
		return BATCH_REFERENCE;
	case CODE_DIFFERENCE:
	case CODE_SAME:
		return BATCH_DIFFERENCE;
	default:
		return BATCH_DATA;
	}
}

size_t varint_len(uint64_t v)
{
	size_t len = 1;

	for (; v >= 0x80; v >>= 7)
		len++;
	return len;
}

uint8_t *varint_put(uint8_t *at, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*at++ = (uint8_t)(v | 0x80);
	*at++ = (uint8_t)v;
	return at;
}

uint64_t zigzag(uint64_t to, uint64_t from, unsigned bits)
{
	/* The difference's sign is its highest bit, moved to where int64_t has its own. */
	int64_t difference = (int64_t)((to - from) << (64 - bits)) >> (64 - bits);

	return (uint64_t)difference << 1 ^ (uint64_t)(difference >> 63);
}

uint64_t zigzag_add(uint64_t from, uint64_t difference, unsigned bits)
{
	uint64_t change = difference >> 1 ^ -(difference & 1);

	return (from + change) & ((1ull << bits) - 1);
}

void batch_run_next(const struct batch *b, struct batch_walk *walk, struct batch_run *run)
{
	const struct stream_item *item = &b->items[walk->item], *first = item;
	const struct stream_item *last = &b->items[b->items_len - 1];
	size_t end;

	run->gap = first->at - walk->at;
	run->block = first->block;
	run->other_block = first->block != walk->block;
	run->bare = !first->word;
	run->jump = zigzag(first->address / STREAM_PAGE, walk->due[first->block], PAGE_BITS);
	end = item->at + stream_item_len(item);
	while (item < last && item[1].at == end && item[1].block == first->block &&
		item[1].word == first->word && item[1].address == item->address + STREAM_PAGE) {
		item++;
		end += stream_item_len(item);
	}
	run->count = (size_t)(item - first) + 1;
	walk->due[first->block] = (item->address / STREAM_PAGE + 1) & PAGE_MASK;
	walk->item += run->count;
	walk->at = end;
	walk->block = first->block;
}

static uint64_t run_head(const struct batch_run *run)
{
	return (uint64_t)(run->count - 1) << RUN_SHIFT | (run->gap ? RUN_GAP : 0u) |
	       (run->other_block ? RUN_BLOCK : 0u) | (run->bare ? RUN_BARE : 0u);
}

size_t batch_run_len(const struct batch_run *run)
{
	return varint_len(run_head(run)) + (run->gap ? varint_len(run->gap) : 0) +
	       (run->other_block ? 1 : 0) + varint_len(run->jump);
}

uint8_t *batch_run_put(uint8_t *at, const struct batch_run *run)
{
	at = varint_put(at, run_head(run));
	if (run->gap)
		at = varint_put(at, run->gap);
	if (run->other_block)
		*at++ = run->block;
	return varint_put(at, run->jump);
}

uint8_t *batch_reference_put(
	uint8_t *at, struct batch_references *state, const struct batch_page *page)
{
	bool other = page->source != state->source;
	uint64_t *due = &state->due[page->source];

	at = varint_put(at, zigzag(page->number, *due, SOURCE_BLOCK_BITS) << 1 | other);
	if (other)
		*at++ = page->source;
	*due = (page->number + 1) & SOURCE_BLOCK_MASK;
	state->source = page->source;
	return at;
}

uint8_t *batch_contents(const struct batch *b, size_t item)
{
	return b->raw + b->items[item].at + (b->items[item].word ? STREAM_WORD : 0);
}

bool batch_page_is_zero(const uint8_t page[STREAM_PAGE])
{
	static const uint8_t zero[STREAM_PAGE];

	return !memcmp(page, zero, STREAM_PAGE);
}

static size_t difference_len(const uint8_t *bitmap)
{
	size_t len = 8 + (size_t)words_count(bitmap) * WORD;

	for (unsigned i = 0; i < WORDS_BITMAP; i++)
		len += bitmap[i] != 0;
	return len;
}

static size_t page_len(
	const struct batch *b, const struct batch_page *page, struct batch_references *state)
{
	uint8_t scratch[REFERENCE_MAX];

	switch (page->code) {
	case CODE_REFERENCE:
		return PAGEHASH_SIZE +
		       (size_t)(batch_reference_put(scratch, state, page) - scratch);
	case CODE_DIFFERENCE:
		return difference_len(b->words + page->at);
	case CODE_DATA:
	case CODE_DATA_PLAIN:
		return STREAM_PAGE;
	default:
		return 0;
	}
}

void batch_count(struct batch *b)
{
	struct batch_references state = {0};
	struct batch_counts *counts = &b->counts;

	counts->other_bytes = b->raw_len;
	for (size_t i = 0; i < b->items_len; i++) {
		const struct batch_page *page = &b->pages[i];
		enum batch_kind kind = batch_code_kind(page->code);

		counts->pages[kind]++;
		counts->bytes[kind] += page_len(b, page, &state);
		counts->other_bytes -= stream_item_len(&b->items[i]);
		if (kind == BATCH_REFERENCE)
			counts->hits[page->source]++;
	}
}
