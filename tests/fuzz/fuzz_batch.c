/*
 * Any bytes as the payload of BATCH, and what follows them as an answer and as a MISS for it. What
 * was decoded is completed, planned, encoded and decoded again, and must be the same piece then.
 *
 * Input: an octet of options, two octets of the payload's length (big-endian), the payload, and the
 * rest.
 */
#include "wire/batch.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Content sources in place of wire/source.c: block n is full of n, and can be read when n % 4 is
 * not 3. */
struct source_set {
	char unused;
};

uint64_t source_fingerprint(const uint8_t page[STREAM_PAGE])
{
	for (size_t i = 1; i < STREAM_PAGE; i++)
		if (page[i] != page[0])
			return 0;
	return page[0];
}

bool source_set_find(
	const struct source_set *set, uint64_t fingerprint, uint8_t *source, uint64_t *block)
{
	(void)set;
	*source = fingerprint % SOURCE_MAX;
	*block = fingerprint;
	return fingerprint != 0;
}

size_t source_set_read(const struct source_set *set, uint8_t source, uint64_t block,
	uint8_t *const *pages, size_t count)
{
	size_t n = 0;

	(void)set;
	if (source >= SOURCE_MAX || block >> 51 || !count || count > SOURCE_RUN)
		abort();
	for (; n < count && (block + n) % 4 != 3; n++)
		memset(pages[n], (int)((block + n) & 0xff), STREAM_PAGE);
	return n;
}

#define CACHED 8u

static struct page_cache *open_cache(void)
{
	struct page_cache *cache = page_cache_open(CACHE_MIN, NULL);
	uint8_t page[STREAM_PAGE];

	if (!cache)
		abort();
	for (unsigned i = 0; i < CACHED; i++) {
		memset(page, (int)(0x80 + i), sizeof(page));
		/* Twice, which is when a page is kept. */
		for (unsigned n = 0; n < 2; n++)
			page_cache_put(cache, (uint8_t)(i / 4), i * (uint64_t)STREAM_PAGE, page);
	}
	return cache;
}

static void must(bool holds)
{
	if (!holds)
		abort();
}

/* Answers what is missing, as a source would that has the pages. */
static void settle(struct batch *b)
{
	static uint8_t miss[BATCH_MISS_PAYLOAD_MAX], answer[BATCH_ANSWER_PAYLOAD_MAX];
	size_t from = 0, len;

	while ((len = batch_misses_encode(b, &from, miss))) {
		struct batch source = *b;

		must(len <= sizeof(miss));
		len = batch_answer_encode(&source, miss, len, answer, NULL);
		must(len && len <= sizeof(answer));
		must(batch_answer_take(b, answer, len, NULL) == 0);
	}
	must(b->missing == 0);
}

/* Sends what was received to a third node, and compares. */
static void carry_on(struct batch_coder *coder, struct batch *b, int level)
{
	static const struct source_set set;
	static uint8_t payload[BATCH_RAW_MAX + BATCH_EXTRA];
	static struct batch *again;
	struct page_cache *from = open_cache(), *to = open_cache();
	size_t len;

	if (!again)
		must((again = batch_new(NULL)));
	batch_reset(again);
	memset(&b->counts, 0, sizeof(b->counts));
	b->words_len = 0;
	batch_plan(b, from, &set, true);
	len = batch_encode(coder, b, level, payload);
	must(len <= b->raw_len + BATCH_EXTRA);
	must(batch_decode(coder, payload, len, &set, again, NULL) == 0);
	/* Here a source answers; in settle() it has the same memory as the destination. */
	for (size_t i = 0; i < again->items_len; i++)
		if (again->pages[i].missing)
			memcpy(again->raw + again->items[i].at, b->raw + b->items[i].at,
				stream_item_len(&b->items[i]));
	settle(again);
	must(batch_complete(again, to, NULL) == 0);
	must(again->raw_len == b->raw_len && !memcmp(again->raw, b->raw, b->raw_len));
	must(again->items_len == b->items_len);
	page_cache_close(from);
	page_cache_close(to);
}

static void check_items(const struct batch *b)
{
	size_t at = 0;

	must(b->raw_len <= BATCH_RAW_MAX && b->items_len <= BATCH_ITEMS_MAX);
	for (size_t i = 0; i < b->items_len; i++) {
		must(b->items[i].at >= at && b->items[i].at <= b->raw_len);
		must(stream_item_len(&b->items[i]) <= b->raw_len - b->items[i].at);
		at = b->items[i].at + stream_item_len(&b->items[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t key[PAGEHASH_KEY];
	static const struct source_set set;
	static uint8_t answer[BATCH_ANSWER_PAYLOAD_MAX];
	static struct batch_coder *coder;
	static struct batch *b;
	struct page_cache *cache;
	size_t len;

	if (!coder) {
		struct pagehash *hash = pagehash_open(key, NULL);

		must(hash && (coder = batch_coder_open(hash, NULL)) && (b = batch_new(NULL)));
		pagehash_close(hash);
	}
	if (size < 3)
		return 0;
	len = (size_t)data[1] << 8 | data[2];
	if (len > size - 3)
		len = size - 3;
	batch_reset(b);
	if (batch_decode(coder, data + 3, len, data[0] & 1 ? &set : NULL, b, NULL) < 0)
		return 0;
	check_items(b);
	batch_answer_take(b, data + 3 + len, size - 3 - len, NULL);
	settle(b);
	batch_answer_encode(b, data + 3 + len, size - 3 - len, answer, NULL);
	cache = data[0] & 2 ? NULL : open_cache();
	if (batch_complete(b, cache, NULL) == 0)
		carry_on(coder, b, data[0] & 4 ? 0 : (data[0] >> 3) % 7 - 2);
	page_cache_close(cache);
	return 0;
}
