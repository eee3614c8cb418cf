#include "stream_feed.h"

#include <stdlib.h>
#include <string.h>

const struct stream_split stream_splits[STREAM_SPLITS] = {{.piece_max = 1, .items_max = 3},
	{.piece_max = 40, .items_max = 1}, {.piece_max = 9000, .items_max = 20},
	{.piece_max = 200000, .items_max = 700}};

static void *allocate(size_t len)
{
	void *p = malloc(len ? len : 1);
	if (!p)
		abort();
	return p;
}

/* One call of the parser, with memory that is exactly as long as it may look. */
struct call {
	struct stream_item *items;
	size_t items_len, items_max, taken, len;
};

static void parse(struct stream_parser *p, const uint8_t *bytes, struct call *call)
{
	uint8_t *exact = allocate(call->len);
	if (call->len > 0)
		memcpy(exact, bytes, call->len);
	call->items = allocate(call->items_max * sizeof(*call->items));
	call->taken =
		stream_parse(p, exact, call->len, call->items, call->items_max, &call->items_len);
	free(exact);
}

static const char *check(const struct call *call)
{
	size_t end = 0;
	if (call->items_len > call->items_max)
		return "the table is longer than its room";
	if (call->taken > call->len)
		return "more is taken than there is";
	if (call->len - call->taken >= STREAM_ITEM_MAX && call->items_len < call->items_max)
		return "too much is left though the table is not full";
	for (size_t i = 0; i < call->items_len; i++) {
		const struct stream_item *item = &call->items[i];
		if (item->at < end)
			return "items overlap";
		end = item->at + stream_item_len(item);
		if (item->address % STREAM_PAGE != 0 || item->block >= STREAM_BLOCKS_MAX)
			return "an item has no such address or block";
	}
	return end > call->taken ? "an item is longer than what is taken" : NULL;
}

static const char *check_counts(
	const struct stream_parser *p, const struct stream_table *found, size_t len)
{
	const struct stream_counts *counts = stream_parser_counts(p);
	if (counts->zero_pages != found->zero_pages ||
		counts->pages != found->items_len - found->zero_pages)
		return "pages are counted wrongly";
	if (counts->other_bytes != len - found->items_bytes)
		return "other bytes are counted wrongly";
	return counts->unknown_bytes > counts->other_bytes ? "more is unknown than other" : NULL;
}

const char *stream_feed(struct stream_parser *p, const uint8_t *bytes, size_t len,
	const struct stream_split *split, struct stream_table *found)
{
	uint64_t random = split->seed;
	size_t done = 0, there = 0;
	bool again = false;
	while (again || there < len) {
		size_t more = 1 + stream_gen_next(&random) % split->piece_max;
		if (!again)
			there = more < len - there ? there + more : len;
		struct call call = {.len = there - done,
			.items_max = 1 + stream_gen_next(&random) % split->items_max};
		parse(p, bytes + done, &call);
		const char *broken = check(&call);
		for (size_t i = 0; i < call.items_len && !broken; i++) {
			call.items[i].at += (uint32_t)done;
			stream_table_add(found, &call.items[i]);
		}
		free(call.items);
		if (broken)
			return broken;
		done += call.taken;
		/* A full table is no reason to wait for more. */
		again = call.items_len == call.items_max && there > done;
	}
	stream_parser_end(p, len - done);
	return check_counts(p, found, len);
}

bool stream_rebuild(const struct stream_table *found, const uint8_t *bytes, size_t len)
{
	uint8_t *made = allocate(len);
	size_t at = 0;
	for (size_t i = 0; i < found->items_len; i++) {
		const struct stream_item *item = &found->items[i];
		memcpy(made + at, bytes + at, item->at - at);
		at = item->at;
		if (item->word) {
			stream_item_header(item, made + at);
			at += STREAM_WORD;
		}
		if (item->kind == STREAM_ZERO) {
			made[at++] = 0;
		} else {
			memcpy(made + at, bytes + at, STREAM_PAGE);
			at += STREAM_PAGE;
		}
	}
	memcpy(made + at, bytes + at, len - at);
	bool same = memcmp(made, bytes, len) == 0;
	free(made);
	return same;
}
