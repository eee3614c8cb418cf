#include "wire/batch_format.h"
#include "wire/batch_words.h"

#include "base/buf.h"

#include <string.h>

/* From this level on a page is looked at whole before it is spared the compression, which then
 * takes 10 us a page and more. */
#define LOOK_FROM_LEVEL 4
/* zstd's lowest level with a table that stays in the processor's nearest cache, and matches of 6
 * bytes instead of 7 for what that loses: as many bytes in less time (docs/wire-codec.md, Speed).
 */
#define QUICK_LEVEL 1
#define QUICK_HASH_LOG 12
#define QUICK_MATCH 6
/* Fewer bytes than this are not worth a frame of zstd. */
#define PACK_MIN 64u

static void put_header(
	const struct batch *b, uint8_t flags, size_t plain, size_t columns, uint8_t *out)
{
	out[0] = BATCH_FORMAT;
	out[1] = flags;
	put_be16(out + 2, (uint16_t)b->items_len);
	put_be32(out + 4, (uint32_t)b->raw_len);
	put_be32(out + 8, (uint32_t)plain);
	put_be32(out + 12, (uint32_t)columns);
}

/* Whether 16 octets out of each 256 have as many different values as random ones: 162 on average,
 * with a standard deviation of 5.1. Text and code have less; a counter has more. */
static bool seems_random(const uint8_t *page)
{
	uint8_t seen[256] = {0};
	uint64_t eight;
	unsigned values = 0;

	for (unsigned i = 0; i < STREAM_PAGE; i += 256)
		for (unsigned j = 0; j < 16; j++)
			seen[page[i + j]] = 1;
	for (unsigned i = 0; i < sizeof(seen); i += sizeof(eight)) {
		memcpy(&eight, seen + i, sizeof(eight));
		values += (unsigned)__builtin_popcountll(eight);
	}
	return values >= 140 && values <= 184;
}

/* Whether the values of all octets are as evenly spread as those of random ones. The sum of the
 * squares of how often each appears is 69,616 on average then, with a standard deviation of 362;
 * more is text or code or numbers, less is a pattern. */
static bool is_random(const uint8_t *page)
{
	uint16_t counts[256] = {0};
	uint32_t sum = 0;

	for (unsigned i = 0; i < STREAM_PAGE; i++)
		counts[page[i]]++;
	for (unsigned i = 0; i < 256; i++)
		sum += (uint32_t)counts[i] * counts[i];
	return sum >= 68000 && sum <= 71300;
}

static uint8_t *put_hashes(const struct batch_coder *c, const struct batch *b, uint8_t *at)
{
	for (size_t i = 0; i < b->items_len; i++)
		if (b->pages[i].code == CODE_REFERENCE) {
			pagehash(c->hash, batch_contents(b, i), at);
			at += PAGEHASH_SIZE;
		}
	return at;
}

/* Chooses the pages that are spared compression, which would take time and gain nothing. A page is
 * copied as soon as it was looked at, when it is near. */
static uint8_t *put_spared(const struct batch *b, int level, uint8_t *at)
{
	for (size_t i = 0; i < b->items_len; i++) {
		uint8_t *code = &b->pages[i].code;
		const uint8_t *page;

		if (*code != CODE_DATA && *code != CODE_DATA_PLAIN)
			continue;
		*code = CODE_DATA;
		page = batch_contents(b, i);
		if (!level || !seems_random(page) || (level >= LOOK_FROM_LEVEL && !is_random(page)))
			continue;
		*code = CODE_DATA_PLAIN;
		memcpy(at, page, STREAM_PAGE);
		at += STREAM_PAGE;
	}
	return at;
}

static uint8_t *put_data(const struct batch *b, uint8_t *at)
{
	for (size_t i = 0; i < b->items_len; i++)
		if (b->pages[i].code == CODE_DATA) {
			memcpy(at, batch_contents(b, i), STREAM_PAGE);
			at += STREAM_PAGE;
		}
	return at;
}

static uint8_t *put_kinds(const struct batch *b, uint8_t *at)
{
	size_t from, to;

	for (from = 0; from < b->items_len; from = to) {
		unsigned code = b->pages[from].code;
		size_t count;

		for (to = from + 1; to < b->items_len && b->pages[to].code == code;)
			to++;
		count = to - from;
		if (count < KIND_LONG) {
			*at++ = (uint8_t)(code << KIND_SHIFT | (count - 1));
		} else {
			*at++ = (uint8_t)(code << KIND_SHIFT | (KIND_LONG - 1));
			at = varint_put(at, count - KIND_LONG);
		}
	}
	return at;
}

static uint8_t *put_runs(const struct batch *b, uint8_t *at)
{
	struct batch_walk walk = {0};
	struct batch_run run;

	while (walk.item < b->items_len) {
		batch_run_next(b, &walk, &run);
		at = batch_run_put(at, &run);
	}
	return at;
}

static uint8_t *put_references(const struct batch *b, uint8_t *at)
{
	struct batch_references state = {0};

	for (size_t i = 0; i < b->items_len; i++)
		if (b->pages[i].code == CODE_REFERENCE)
			at = batch_reference_put(at, &state, &b->pages[i]);
	return at;
}

/* The bitmap of a difference is cut into its octets that are not 0, and a bitmap of these. */
static uint8_t *put_masks(const struct batch *b, uint8_t *at)
{
	for (size_t i = 0; i < b->items_len; i++) {
		const uint8_t *bitmap = b->words + b->pages[i].at;

		if (b->pages[i].code != CODE_DIFFERENCE)
			continue;
		memset(at, 0, WORDS_BITMAP / 8);
		for (unsigned j = 0; j < WORDS_BITMAP; j++)
			if (bitmap[j])
				at[j / 8] |= (uint8_t)(1u << j % 8);
		at += WORDS_BITMAP / 8;
	}
	return at;
}

static uint8_t *put_bitmaps(const struct batch *b, uint8_t *at)
{
	for (size_t i = 0; i < b->items_len; i++) {
		const uint8_t *bitmap = b->words + b->pages[i].at;

		if (b->pages[i].code != CODE_DIFFERENCE)
			continue;
		for (unsigned j = 0; j < WORDS_BITMAP; j++)
			if (bitmap[j])
				*at++ = bitmap[j];
	}
	return at;
}

static uint8_t *put_words(const struct batch *b, uint8_t *at)
{
	for (size_t i = 0; i < b->items_len; i++) {
		const uint8_t *bitmap = b->words + b->pages[i].at;
		size_t len;

		if (b->pages[i].code != CODE_DIFFERENCE)
			continue;
		len = (size_t)words_count(bitmap) * WORD;
		memcpy(at, bitmap + WORDS_BITMAP, len);
		at += len;
	}
	return at;
}

static uint8_t *put_other(const struct batch *b, uint8_t *at)
{
	size_t done = 0, gap;

	for (size_t i = 0; i <= b->items_len; i++) {
		const struct stream_item *item = &b->items[i];

		gap = (i < b->items_len ? item->at : b->raw_len) - done;
		memcpy(at, b->raw + done, gap);
		at += gap;
		if (i < b->items_len)
			done = item->at + stream_item_len(item);
	}
	return at;
}

static size_t put_columns(const struct batch *b, uint8_t *out)
{
	uint8_t *at = out;

	at = put_kinds(b, at);
	at = put_runs(b, at);
	at = put_references(b, at);
	at = put_masks(b, at);
	at = put_bitmaps(b, at);
	at = put_words(b, at);
	at = put_data(b, at);
	at = put_other(b, at);
	return (size_t)(at - out);
}

/* 0 is what the level has of its own. */
static void set_level(ZSTD_CCtx *pack, int level)
{
	bool quick = level == QUICK_LEVEL;

	ZSTD_CCtx_setParameter(pack, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setParameter(pack, ZSTD_c_hashLog, quick ? QUICK_HASH_LOG : 0);
	ZSTD_CCtx_setParameter(pack, ZSTD_c_minMatch, quick ? QUICK_MATCH : 0);
}

/* Makes one zstd frame of the columns; 0 when that is not shorter. */
static size_t pack(const struct batch_coder *c, int level, size_t columns, uint8_t *out)
{
	size_t len;

	if (columns < PACK_MIN)
		return 0;
	set_level(c->pack, level);
	len = ZSTD_compress2(c->pack, out, columns - 1, c->columns, columns);
	return ZSTD_isError(len) ? 0 : len;
}

size_t batch_encode(struct batch_coder *c, struct batch *b, int level, uint8_t *out)
{
	uint8_t flags = b->no_cache ? BATCH_NO_CACHE : 0, *begin = out + BATCH_HEADER, *at;
	size_t columns, packed = 0;

	at = put_hashes(c, b, begin);
	at = put_spared(b, level, at);
	columns = put_columns(b, level ? c->columns : at);
	if (level) {
		packed = pack(c, level, columns, at);
		if (!packed)
			memcpy(at, c->columns, columns);
	}
	put_header(b, packed ? flags | BATCH_PACKED : flags, (size_t)(at - begin), columns, out);
	return (size_t)(at - out) + (packed ? packed : columns);
}
