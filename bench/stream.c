/*
 * Writes a stream as QEMU would, made up, to its standard output: `stream PAGES ZERO_PERCENT`.
 *
 * The guest has four blocks of memory. What is not zero is half text-like, half random; one page in
 * four is one that was sent before, changed in a few words (tests/unit/stream_gen.h).
 */
#include "stream_gen.h"

#include <stdio.h>
#include <stdlib.h>

#define BLOCKS 4u
#define BUFFER_BYTES (1u << 20)

static void write_bytes(const uint8_t *bytes, size_t len)
{
	if (fwrite_unlocked(bytes, 1, len, stdout) != len)
		exit(1); /* nobody reads any more */
}

/* What was random in 8 bits of a byte is so in 4: half as long when it is compressed. */
static void write_as_text(const uint8_t *bytes)
{
	uint8_t page[STREAM_PAGE];

	for (size_t i = 0; i < sizeof(page); i++)
		page[i] = 'a' + (bytes[i] & 15);
	write_bytes(page, sizeof(page));
}

static void write_piece(void *arg, const uint8_t *bytes, size_t len, const struct stream_item *item)
{
	size_t word = item && item->word ? STREAM_WORD : 0;

	(void)arg;
	if (!item || item->kind != STREAM_FULL || item->address / STREAM_PAGE % 2) {
		write_bytes(bytes, len);
	} else {
		write_bytes(bytes, word);
		write_as_text(bytes + word);
	}
}

int main(int argc, char **argv)
{
	struct stream_gen options = {.seed = 1, .blocks = BLOCKS, .round_pages = 4096};

	options.pages = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
	options.zero_percent = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	if (options.pages < BLOCKS * 4 || options.zero_percent > 100) {
		fprintf(stderr, "usage: stream PAGES ZERO_PERCENT\n");
		return 2;
	}
	options.block_pages = options.pages / BLOCKS / 4 * 3;
	setvbuf(stdout, NULL, _IOFBF, BUFFER_BYTES);
	stream_gen(&options, write_piece, NULL);
	return fflush(stdout) == 0 ? 0 : 1;
}
