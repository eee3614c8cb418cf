/*
 * Any bytes as a hypervisor's stream, whole and in pieces: the promises of stream.h hold, both
 * tables are the same, and the stream can be made again from them. The first two bytes say which
 * parser takes it, and how it is cut.
 */
#include "../unit/stream_feed.h"
#include "../unit/stream_feed.c"
#include "../unit/stream_gen.c"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct stream_counts feed(const char *name, const uint8_t *data, size_t size,
	const struct stream_split *split, struct stream_table *found)
{
	struct stream_parser *p = stream_parser_open(name);
	if (!p)
		abort();
	const char *broken = stream_feed(p, data, size, split, found);
	if (broken || !stream_rebuild(found, data, size)) {
		fprintf(stderr, "%s\n", broken ? broken : "another stream");
		abort();
	}
	struct stream_counts counts = *stream_parser_counts(p);
	stream_parser_close(p);
	return counts;
}

static void must_equal(const struct stream_table *a, const struct stream_table *b)
{
	if (a->items_len != b->items_len)
		abort();
	for (size_t i = 0; i < a->items_len; i++) {
		const struct stream_item *x = &a->items[i], *y = &b->items[i];
		if (x->address != y->address || x->at != y->at || x->kind != y->kind ||
			x->block != y->block || x->word != y->word)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct stream_split whole = {
		.seed = 1, .piece_max = 1u << 30, .items_max = 4096};
	if (size < 2)
		return 0;
	const char *name = data[0] % 8 == 0 ? "auto" : "qemu";
	struct stream_split split = {
		.seed = data[1], .piece_max = 1u << data[0] % 13, .items_max = 1 + data[1] % 16};
	struct stream_table all = {0}, cut = {0};
	data += 2;
	size -= 2;
	struct stream_counts a = feed(name, data, size, &whole, &all);
	struct stream_counts b = feed(name, data, size, &split, &cut);
	must_equal(&all, &cut);
	if (memcmp(&a, &b, sizeof(a)) != 0)
		abort();
	stream_table_free(&all);
	stream_table_free(&cut);
	return 0;
}
