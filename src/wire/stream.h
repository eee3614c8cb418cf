/*
 * Stream parsers: they find the pages in a hypervisor's migration stream.
 *
 * A parser looks at a piece of the stream in place and fills a table of the pages in it. All bytes
 * that the table does not cover are "other" bytes: they are passed on as they are. No input is an
 * error, and a parser never guesses: from the first thing that it does not understand it is lost
 * for good, and everything from there on is passed on and counted as unknown too. What is
 * understood well enough to know that no page is in it (headers, commands, the devices' state
 * behind the end of memory) is other, but not unknown.
 *
 * The table is exact: the bytes of an item can be made again from the item and the page's contents
 * (stream_item_header), so that table, contents and other bytes together give the piece again, byte
 * for byte.
 */
#ifndef DROVER_WIRE_STREAM_H
#define DROVER_WIRE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_PAGE 4096u
/* A word `address | flags` in front of a page. */
#define STREAM_WORD 8u
/* Blocks of memory that are told apart; pages of any further block are other bytes. */
#define STREAM_BLOCKS_MAX 255u
/* No item, and nothing else that a parser must see whole, is longer. */
#define STREAM_ITEM_MAX (STREAM_PAGE + 512u)
/* A parser deals with so many bytes at once, at most. */
#define STREAM_PIECE_MAX (1u << 30)
/* Memory of a guest, for stream_parser_expect. */
#define STREAM_MEMORY_MAX (1ull << 43)

enum stream_kind {
	STREAM_ZERO, /* a page of zeros: [word] and one byte 0 */
	STREAM_FULL  /* [word] and STREAM_PAGE bytes */
};

struct stream_item {
	uint64_t address; /* in its block, in bytes; a multiple of STREAM_PAGE */
	uint32_t at;      /* where the item begins in the piece */
	uint8_t kind;     /* enum stream_kind */
	uint8_t block; /* which block of memory, in the order of their first appearance, from 0 */
	/* Whether the item begins with its word, which then is the usual one: address, "same block
	 * as before" and the kind's flag, nothing else. Otherwise the word, and whatever follows
	 * it, are other bytes, and the item is the contents only. */
	bool word;
};

/* The item's length in the stream. */
static inline uint32_t stream_item_len(const struct stream_item *item)
{
	return (item->word ? STREAM_WORD : 0) + (item->kind == STREAM_ZERO ? 1 : STREAM_PAGE);
}

/* Writes the word of an item that has one (QEMU's: migration/ram.c). */
void stream_item_header(const struct stream_item *item, uint8_t out[STREAM_WORD]);

struct stream_counts {
	uint64_t pages, zero_pages; /* items: full pages, pages of zeros */
	uint64_t other_bytes;       /* bytes that are in no item */
	uint64_t unknown_bytes;     /* of these: seen after the parser had lost its way */
};

/*
 * The parsers:
 *
 * "qemu" knows the streams of QEMU 7.2 to 10.0, pre-copy and post-copy, on their main channel. It
 * finds pages from ram's SECTION_START on; in pre-copy all that follows ram's SECTION_END is device
 * state, and other bytes. In post-copy device state has its length (a PACKAGED command) and pages
 * go on behind it. It is lost (everything from there on is unknown)
 * - without the magic number and version 3 in front;
 * - at a section other than ram before the end of ram, device or iterable (dirty-bitmap, vfio,
 *   virtio-mem, background snapshots): their length is nowhere;
 * - at a word, a subsection of CONFIGURATION or a command that it does not know, or one with a
 *   length that it cannot have; at ENABLE_COLO;
 * - when the guest's pages are not of STREAM_PAGE bytes;
 * - when blocks of several page sizes meet post-copy and x-ignore-shared in one stream.
 * Pages in the forms XBZRLE and COMPRESS_PAGE, and a ZERO page whose byte is not 0, are other
 * bytes.
 *
 * "bhyve" knows the streams of the FreeBSD-UPB tree's bhyve on amd64, warm and live, and those of
 * its older warm migration that have no type, and the files of a suspended guest, one after the
 * other (docs/wire-bhyve.md). All of memory is block 0, with addresses that count through lowmem
 * and then through highmem; pages of zeros are full pages. It is lost
 * - at anything but a header of specs, of 520 bytes, or of files in front, and at pages that are
 * not of STREAM_PAGE bytes;
 * - at a type of migration that it does not know, and at sizes of memory that no guest has;
 * - at the first list of pages of a live migration, when the guest's memory was not told
 *   (stream_parser_expect): how long these lists are is nowhere in the stream;
 * - behind memory, at what is neither a kernel structure nor a device, or longer than 256 MiB;
 * - at files that are longer than 8 TiB (memory) or 256 MiB (the others), and behind them.
 *
 * "opaque" finds nothing: everything is unknown.
 *
 * "auto" takes the one that the stream's first 8 bytes call for, and until then deals with none.
 * A QEMU stream that names a capability in its CONFIGURATION that changes it in a way not known
 * here (mapped-ram) becomes "opaque" there.
 */
struct stream_parser;
/* NULL for a name that is unknown, or without memory. Free with stream_parser_close. */
struct stream_parser *stream_parser_open(const char *name);
void stream_parser_close(struct stream_parser *p);
/* What the guest has of memory, in bytes: a multiple of STREAM_PAGE up to STREAM_MEMORY_MAX. Takes
 * an eighth of a byte for each page. False, and nothing changed, for any other number or without
 * memory. */
bool stream_parser_expect(struct stream_parser *p, uint64_t memory);
/* The name of what it has turned out to be: "qemu", "bhyve", "opaque"; "auto" before that is known.
 */
const char *stream_parser_name(const struct stream_parser *p);
const struct stream_counts *stream_parser_counts(const struct stream_parser *p);

/*
 * Looks at the next `len` bytes of the stream. Appends at most `items_max` items (1 at least) to
 * `items`, in their order (`at` counts from data), sets *items_len to how many, and returns how
 * many bytes it has dealt with: the caller gives it the rest again, with more behind it or, when
 * the table was full, with a new table. What it leaves is less than STREAM_ITEM_MAX bytes, unless
 * the table was full or `len` is over STREAM_PIECE_MAX. The tables of a stream and its counts do
 * not depend on how it was cut into pieces (but on stream_parser_pass). At the end of the stream
 * what is left over is other bytes (stream_parser_end counts it).
 */
size_t stream_parse(struct stream_parser *p, const uint8_t *data, size_t len,
	struct stream_item *items, size_t items_max, size_t *items_len);
void stream_parser_end(struct stream_parser *p, size_t left);
/*
 * For a stream that is a dialogue: the source may wait for an answer to what a parser leaves. When
 * nothing has come behind the `left` bytes for a while, they can be passed on: true, and they are
 * other bytes that have been dealt with. False when the parser must see them whole (QEMU's, whose
 * source waits for nothing), and for 0 bytes.
 */
bool stream_parser_pass(struct stream_parser *p, size_t left);

#endif
