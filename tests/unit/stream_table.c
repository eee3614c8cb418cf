/*
 * Prints what a parser finds in a recorded stream: `stream_table PARSER FILE [SEED]`.
 *
 * First line: what the parser has turned out to be, full pages, pages of zeros, other bytes, bytes
 * unknown. Then a line for each page: "full" or "zero", block, address, where it begins, 1 if with
 * its word. With a SEED the stream is cut into random pieces. Fails when a promise of stream.h is
 * broken, or when the stream cannot be made again from the table.
 */
#include "stream_feed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define FILE_MAX ((size_t)1 << 30)

static int fail(const char *what)
{
	fprintf(stderr, "stream_table: %s\n", what);
	return 1;
}

static bool read_file(struct buf *b, const char *path)
{
	FILE *file = fopen(path, "rb");
	if (!file)
		return false;
	buf_init(b, FILE_MAX);
	uint8_t piece[1 << 16];
	size_t len;
	bool fits = true;
	while (fits && (len = fread(piece, 1, sizeof(piece), file)) > 0)
		fits = buf_add(b, piece, len);
	bool whole = fits && !ferror(file);
	fclose(file);
	return whole;
}

static void print(const struct stream_parser *p, const struct stream_table *found)
{
	const struct stream_counts *counts = stream_parser_counts(p);
	printf("%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", stream_parser_name(p),
		counts->pages, counts->zero_pages, counts->other_bytes, counts->unknown_bytes);
	for (size_t i = 0; i < found->items_len; i++) {
		const struct stream_item *item = &found->items[i];
		printf("%s %u %" PRIu64 " %u %d\n", item->kind == STREAM_ZERO ? "zero" : "full",
			item->block, item->address, item->at, item->word);
	}
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc > 4)
		return fail("usage: stream_table PARSER FILE [SEED]");
	struct stream_split split = {.seed = 1, .piece_max = FILE_MAX, .items_max = 8192};
	if (argc == 4)
		split = (struct stream_split){
			.seed = strtoull(argv[3], NULL, 10), .piece_max = 70000, .items_max = 500};
	struct stream_parser *p = stream_parser_open(argv[1]);
	struct buf bytes;
	if (!p || !read_file(&bytes, argv[2]))
		return fail("no such parser, or the file cannot be read");
	struct stream_table found = {0};
	const char *broken = stream_feed(p, bytes.data, bytes.len, &split, &found);
	if (broken)
		return fail(broken);
	if (!stream_rebuild(&found, bytes.data, bytes.len))
		return fail("what is made from the table is another stream");
	print(p, &found);
	stream_parser_close(p);
	stream_table_free(&found);
	buf_free(&bytes);
	return 0;
}
