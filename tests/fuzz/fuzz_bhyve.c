/*
 * Any bytes as bhyve's stream: whole and in pieces, and with what the parser keeps back passed on
 * now and then. The promises of stream.h hold, tables do not depend on how the stream was cut, and
 * the stream can be made again from them.
 *
 * The first three bytes say what comes before the stream, how it is cut, and what the guest has of
 * memory. In the rest 'P' and a byte stand for a page of that byte, so that short inputs get far.
 */
#include "../unit/stream_feed.h"
#include "../unit/stream_feed.c"
#include "../unit/stream_gen.c"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STREAM_MAX ((size_t)1 << 16)

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

/* The header of specs and the specs, which a fuzzer would be long in finding. */
static void add_head(struct buf *stream)
{
	uint8_t head[80 + 520] = {0x08, 0x02, [8] = 1, [80] = 'a', [80 + 512 + 1] = 0x10};

	must(buf_add(stream, head, sizeof(head)), "no room");
}

static void expand(struct buf *stream, const uint8_t *data, size_t size)
{
	uint8_t page[STREAM_PAGE];

	for (size_t i = 0; i < size; i++) {
		bool is_page = data[i] == 'P' && i + 1 < size;

		if (is_page)
			memset(page, data[++i], sizeof(page));
		if (!buf_add(stream, is_page ? page : &data[i], is_page ? sizeof(page) : 1))
			return;
	}
}

static struct stream_parser *open_parser(uint8_t memory)
{
	struct stream_parser *p = stream_parser_open(memory % 2 ? "auto" : "bhyve");

	must(p, "no memory");
	/* An odd number of pages, or so much that no list ends. */
	if (memory >= 250)
		must(stream_parser_expect(p, STREAM_MEMORY_MAX >> 12), "memory is not taken");
	else if (memory > 1)
		must(stream_parser_expect(p, memory / 2 * (uint64_t)STREAM_PAGE),
			"memory is not taken");
	return p;
}

static struct stream_counts feed(uint8_t memory, const struct buf *stream,
	const struct stream_split *split, struct stream_table *found)
{
	struct stream_parser *p = open_parser(memory);
	const char *broken = stream_feed(p, stream->data, stream->len, split, found);
	struct stream_counts counts = *stream_parser_counts(p);

	must(!broken, broken ? broken : "");
	must(stream_rebuild(found, stream->data, stream->len), "another stream");
	stream_parser_close(p);
	return counts;
}

/* As a reader does whose source pauses after each piece. */
static void feed_with_pauses(uint8_t memory, const struct buf *stream, uint64_t random)
{
	struct stream_parser *p = open_parser(memory);
	const struct stream_counts *counts = stream_parser_counts(p);
	struct stream_item items[64];
	size_t done = 0, there = 0, found;

	while (there < stream->len) {
		size_t more = 1 + stream_gen_next(&random) % 6000;

		there = more < stream->len - there ? there + more : stream->len;
		do {
			done += stream_parse(
				p, stream->data + done, there - done, items, 64, &found);
		} while (found == 64);
		must(there - done < STREAM_ITEM_MAX, "too much is left");
		if (stream_parser_pass(p, there - done))
			done = there;
		/* Only what may still become another parser's is kept. */
		must(done == there || there < 8, "a source may wait for what is kept back");
	}
	stream_parser_end(p, stream->len - done);
	must(counts->pages * STREAM_PAGE + counts->other_bytes == stream->len,
		"bytes are counted wrongly");
	must(!counts->zero_pages && counts->unknown_bytes <= counts->other_bytes,
		"bytes are counted wrongly");
	stream_parser_close(p);
}

static void must_equal(const struct stream_table *a, const struct stream_table *b)
{
	must(a->items_len == b->items_len, "tables differ");
	for (size_t i = 0; i < a->items_len; i++) {
		const struct stream_item *x = &a->items[i], *y = &b->items[i];

		must(x->address == y->address && x->at == y->at && x->kind == y->kind &&
				x->block == y->block && x->word == y->word,
			"items differ");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct stream_split whole = {
		.seed = 1, .piece_max = 1u << 30, .items_max = 4096};
	struct stream_table all = {0}, cut = {0};
	struct stream_counts a, b;
	struct buf stream;

	if (size < 3)
		return 0;
	struct stream_split split = {
		.seed = data[1], .piece_max = 8u << data[0] % 11, .items_max = 1 + data[1] % 16};
	buf_init(&stream, STREAM_MAX);
	if (data[0] < 0x80)
		add_head(&stream);
	expand(&stream, data + 3, size - 3);
	if (!stream.len)
		return 0;
	a = feed(data[2], &stream, &whole, &all);
	b = feed(data[2], &stream, &split, &cut);
	must_equal(&all, &cut);
	must(!memcmp(&a, &b, sizeof(a)), "counts differ");
	feed_with_pauses(data[2], &stream, data[1]);
	stream_table_free(&all);
	stream_table_free(&cut);
	buf_free(&stream);
	return 0;
}
