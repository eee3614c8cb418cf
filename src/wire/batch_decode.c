#include "wire/batch_format.h"
#include "wire/batch_words.h"

#include "base/buf.h"

#include <string.h>

struct decoder {
	struct batch_coder *c;
	struct batch *b;
	struct batch_header h;
	struct reader plain, columns;
};

static int bad(struct error **err, const char *what)
{
	return error_set(err, ERROR_REQUEST, 0, "a batch of pages is broken: %s", what);
}

static int read_header(struct reader *in, struct batch_header *h, struct error **err)
{
	uint8_t format = reader_u8(in);

	h->flags = reader_u8(in);
	h->items = reader_be16(in);
	h->raw_len = reader_be32(in);
	h->plain = reader_be32(in);
	h->columns = reader_be32(in);
	if (in->failed)
		return bad(err, "it is shorter than its header");
	if (format != BATCH_FORMAT || h->flags & ~BATCH_FLAGS)
		return bad(err, "its format is unknown");
	if (h->raw_len > BATCH_RAW_MAX || h->items > BATCH_ITEMS_MAX)
		return bad(err, "it is too large");
	if (h->plain > in->left || h->columns > h->raw_len + BATCH_EXTRA)
		return bad(err, "a length is wrong");
	return 0;
}

/* Sets d->columns up from what is left of the payload. */
static int unpack(struct decoder *d, struct reader *in, struct error **err)
{
	size_t packed = in->left, len = d->h.columns;
	const uint8_t *at = reader_bytes(in, packed);

	if (!(d->h.flags & BATCH_PACKED)) {
		if (packed != len)
			return bad(err, "a length is wrong");
		reader_init(&d->columns, at, len);
		return 0;
	}
	if (ZSTD_findFrameCompressedSize(at, packed) != packed ||
		ZSTD_decompressDCtx(d->c->unpack, d->c->columns, len, at, packed) != len)
		return bad(err, "it does not decompress to the length that it says");
	reader_init(&d->columns, d->c->columns, len);
	return 0;
}

static uint64_t read_varint(struct reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t octet = reader_u8(r);

		if (shift == 63 && octet > 1)
			break;
		v |= (uint64_t)(octet & 0x7f) << shift;
		if (!(octet & 0x80))
			return v;
	}
	r->failed = true;
	return 0;
}

/* A run of equal kinds; its length, 0 when it makes no sense. */
static size_t read_kind(struct decoder *d, size_t room, uint8_t *code)
{
	uint8_t octet = reader_u8(&d->columns);
	uint64_t count = (octet & (KIND_LONG - 1)) + 1u, more = 0;

	if (count == KIND_LONG)
		more = read_varint(&d->columns);
	*code = octet >> KIND_SHIFT;
	if (d->columns.failed || *code >= CODES || count > room || more > room - count)
		return 0;
	return (size_t)(count + more);
}

static int read_kinds(struct decoder *d, struct error **err)
{
	struct batch *b = d->b;
	size_t count, i = 0;
	uint8_t code;

	while (i < d->h.items) {
		count = read_kind(d, d->h.items - i, &code);
		if (!count)
			return bad(err, "its kinds of pages make no sense");
		if (b->no_cache && batch_code_kind(code) == BATCH_DIFFERENCE)
			return bad(err, "it has a difference but uses no cache");
		for (; count; count--, i++) {
			b->pages[i] = (struct batch_page){.code = code};
			b->items[i].kind = code == CODE_ZERO ? STREAM_ZERO : STREAM_FULL;
		}
	}
	b->items_len = d->h.items;
	return 0;
}

static bool read_run(struct decoder *d, const struct batch_walk *walk, struct batch_run *run)
{
	struct reader *r = &d->columns;
	uint64_t head = read_varint(r), count = (head >> RUN_SHIFT) + 1;

	run->gap = head & RUN_GAP ? read_varint(r) : 0;
	run->other_block = head & RUN_BLOCK;
	run->block = run->other_block ? reader_u8(r) : walk->block;
	run->bare = head & RUN_BARE;
	run->jump = read_varint(r);
	if (r->failed || count > d->h.items - walk->item || run->block >= STREAM_BLOCKS_MAX ||
		run->gap > d->h.raw_len - walk->at || run->jump >> PAGE_BITS)
		return false;
	run->count = (size_t)count;
	return true;
}

/* Makes the run's items, and writes their words. False when they do not fit into the piece. */
static bool place_run(struct decoder *d, struct batch_walk *walk, const struct batch_run *run)
{
	struct batch *b = d->b;
	uint64_t page = zigzag_add(walk->due[run->block], run->jump, PAGE_BITS);
	size_t end = walk->item + run->count;

	walk->at += run->gap;
	walk->block = run->block;
	for (; walk->item < end; walk->item++) {
		struct stream_item *item = &b->items[walk->item];

		item->address = page * STREAM_PAGE;
		item->at = (uint32_t)walk->at;
		item->block = run->block;
		item->word = !run->bare;
		if (stream_item_len(item) > d->h.raw_len - walk->at)
			return false;
		if (item->word)
			stream_item_header(item, b->raw + walk->at);
		walk->at += stream_item_len(item);
		if (item->kind == STREAM_ZERO)
			b->raw[walk->at - 1] = 0;
		page = (page + 1) & PAGE_MASK;
	}
	walk->due[run->block] = page;
	return true;
}

static int read_runs(struct decoder *d, struct error **err)
{
	struct batch_walk walk = {0};
	struct batch_run run;

	while (walk.item < d->h.items)
		if (!read_run(d, &walk, &run) || !place_run(d, &walk, &run))
			return bad(err, "its pages have no room in it");
	d->b->raw_len = d->h.raw_len;
	return 0;
}

static int read_references(struct decoder *d, struct error **err)
{
	struct batch_references state = {0};
	struct batch *b = d->b;

	for (size_t i = 0; i < b->items_len; i++) {
		struct batch_page *page = &b->pages[i];
		uint64_t code;

		if (page->code != CODE_REFERENCE)
			continue;
		code = read_varint(&d->columns);
		if (code & 1)
			state.source = reader_u8(&d->columns);
		if (d->columns.failed || state.source >= SOURCE_MAX ||
			code >> 1 >> SOURCE_BLOCK_BITS)
			return bad(err, "a reference makes no sense");
		page->source = state.source;
		page->number = zigzag_add(state.due[state.source], code >> 1, SOURCE_BLOCK_BITS);
		state.due[state.source] = (page->number + 1) & SOURCE_BLOCK_MASK;
	}
	return 0;
}

static size_t count_code(const struct batch *b, enum batch_code code)
{
	size_t count = 0;

	for (size_t i = 0; i < b->items_len; i++)
		count += b->pages[i].code == code;
	return count;
}

/* Puts a bitmap together from its mask and those of its octets that are not 0. */
static bool read_bitmap(struct reader *r, const uint8_t *mask, uint8_t *bitmap)
{
	for (unsigned i = 0; i < WORDS_BITMAP; i++) {
		bool there = mask[i / 8] >> i % 8 & 1;

		bitmap[i] = there ? reader_u8(r) : 0;
		if (there && !bitmap[i])
			return false;
	}
	return true;
}

static int read_differences(struct decoder *d, struct error **err)
{
	struct batch *b = d->b;
	const uint8_t *words;
	const uint8_t *mask =
		reader_bytes(&d->columns, count_code(b, CODE_DIFFERENCE) * (WORDS_BITMAP / 8));

	if (!mask)
		return bad(err, "it ends in its differences");
	for (size_t i = 0; i < b->items_len; i++) {
		uint8_t *bitmap = b->words + b->words_len;
		unsigned count;

		if (b->pages[i].code != CODE_DIFFERENCE)
			continue;
		if (!read_bitmap(&d->columns, mask, bitmap))
			return bad(err, "a difference makes no sense");
		count = words_count(bitmap);
		if (!count || count > WORDS_MAX)
			return bad(err, "a difference has too many words, or none");
		b->pages[i].at = (uint32_t)b->words_len;
		b->words_len += WORDS_BITMAP + (size_t)count * WORD;
		mask += WORDS_BITMAP / 8;
	}
	for (size_t i = 0; i < b->items_len; i++) {
		uint8_t *bitmap = b->words + b->pages[i].at;
		size_t len;

		if (b->pages[i].code != CODE_DIFFERENCE)
			continue;
		len = (size_t)words_count(bitmap) * WORD;
		words = reader_bytes(&d->columns, len);
		if (!words)
			return bad(err, "it ends in its differences");
		memcpy(bitmap + WORDS_BITMAP, words, len);
	}
	return 0;
}

static int read_pages(struct decoder *d, enum batch_code code, struct reader *r, struct error **err)
{
	struct batch *b = d->b;

	for (size_t i = 0; i < b->items_len; i++) {
		const uint8_t *page;

		if (b->pages[i].code != code)
			continue;
		page = reader_bytes(r, STREAM_PAGE);
		if (!page)
			return bad(err, "it ends in its pages");
		memcpy(batch_contents(b, i), page, STREAM_PAGE);
	}
	return 0;
}

static void zero_pages(struct batch *b)
{
	for (size_t i = 0; i < b->items_len; i++)
		if (b->pages[i].code == CODE_ZERO_FULL)
			memset(batch_contents(b, i), 0, STREAM_PAGE);
}

static int read_other(struct decoder *d, struct error **err)
{
	struct batch *b = d->b;
	size_t done = 0;

	for (size_t i = 0; i <= b->items_len; i++) {
		size_t gap = (i < b->items_len ? b->items[i].at : b->raw_len) - done;
		const uint8_t *bytes = reader_bytes(&d->columns, gap);

		if (!bytes)
			return bad(err, "it ends in its other bytes");
		memcpy(b->raw + done, bytes, gap);
		if (i < b->items_len)
			done = b->items[i].at + stream_item_len(&b->items[i]);
	}
	return 0;
}

/* References to blocks that follow each other. */
struct reference_run {
	struct batch_page *refs[SOURCE_RUN];
	uint8_t *contents[SOURCE_RUN];
	size_t count;
};

/* The next run from item `i` on; returns the item to go on with. */
static size_t take_run(struct batch *b, size_t i, struct reference_run *run)
{
	for (run->count = 0; i < b->items_len && run->count < SOURCE_RUN; i++) {
		struct batch_page *page = &b->pages[i], *first = run->refs[0];

		if (page->code != CODE_REFERENCE)
			continue;
		if (run->count && (page->source != first->source ||
					  page->number != first->number + run->count))
			break;
		run->refs[run->count] = page;
		run->contents[run->count++] = batch_contents(b, i);
	}
	return i;
}

static void check_reference(struct decoder *d, struct batch_page *page, const uint8_t *contents,
	const uint8_t *expected)
{
	uint8_t hash[PAGEHASH_SIZE];

	if (contents) {
		pagehash(d->c->hash, contents, hash);
		page->missing = memcmp(hash, expected, PAGEHASH_SIZE) != 0;
	} else {
		page->missing = true;
	}
	if (page->missing) {
		d->b->missing++;
		d->b->counts.misses[page->source]++;
	}
}

static void check_run(struct decoder *d, const struct reference_run *run, const uint8_t *hashes,
	const struct source_set *sources)
{
	size_t i = 0, read_to;

	while (i < run->count) {
		const struct batch_page *first = run->refs[i];

		read_to = i;
		if (sources)
			read_to += source_set_read(sources, first->source, first->number,
				run->contents + i, run->count - i);
		/* Behind one that cannot be read there may be some that can. */
		if (read_to == i) {
			check_reference(d, run->refs[i], NULL, hashes + i * PAGEHASH_SIZE);
			i++;
		}
		for (; i < read_to; i++)
			check_reference(
				d, run->refs[i], run->contents[i], hashes + i * PAGEHASH_SIZE);
	}
}

/* Reads the blocks that are referred to and checks their hashes, which begin at `hashes`. */
static void check_references(
	struct decoder *d, const uint8_t *hashes, const struct source_set *sources)
{
	struct reference_run run;
	size_t next = take_run(d->b, 0, &run);

	while (run.count) {
		check_run(d, &run, hashes, sources);
		hashes += run.count * PAGEHASH_SIZE;
		next = take_run(d->b, next, &run);
	}
}

static int read_columns(struct decoder *d, struct error **err)
{
	if (read_kinds(d, err) < 0 || read_runs(d, err) < 0 || read_references(d, err) < 0 ||
		read_differences(d, err) < 0 || read_pages(d, CODE_DATA, &d->columns, err) < 0 ||
		read_other(d, err) < 0)
		return -1;
	return d->columns.left ? bad(err, "its columns are too long") : 0;
}

int batch_decode(struct batch_coder *c, const uint8_t *in, size_t len,
	const struct source_set *sources, struct batch *b, struct error **err)
{
	struct decoder d = {.c = c, .b = b};
	const uint8_t *plain, *hashes;
	struct reader r;

	reader_init(&r, in, len);
	if (read_header(&r, &d.h, err) < 0)
		return -1;
	b->no_cache = d.h.flags & BATCH_NO_CACHE;
	plain = reader_bytes(&r, d.h.plain);
	reader_init(&d.plain, plain, d.h.plain);
	if (unpack(&d, &r, err) < 0 || read_columns(&d, err) < 0)
		return -1;
	hashes = reader_bytes(&d.plain, count_code(b, CODE_REFERENCE) * PAGEHASH_SIZE);
	if (!hashes || read_pages(&d, CODE_DATA_PLAIN, &d.plain, err) < 0 || d.plain.left)
		return bad(err, "what is not compressed has a wrong length");
	zero_pages(b);
	batch_count(b);
	check_references(&d, hashes, sources);
	return 0;
}
