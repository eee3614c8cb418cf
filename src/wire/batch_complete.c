#include "wire/batch_format.h"
#include "wire/batch_words.h"

#include <string.h>

static int complete_difference(
	struct batch *b, size_t i, struct page_cache *cache, struct error **err)
{
	const struct stream_item *item = &b->items[i];
	const uint8_t *bitmap = b->words + b->pages[i].at;
	uint8_t *kept = cache ? page_cache_find(cache, item->block, item->address) : NULL;

	if (!kept)
		return error_set(err, ERROR_REQUEST, 0,
			"the other node sent a difference to page 0x%llx of block %u, which is not "
			"in the cache",
			(unsigned long long)item->address, item->block);
	if (b->pages[i].code == CODE_DIFFERENCE)
		words_put(kept, bitmap, bitmap + WORDS_BITMAP);
	memcpy(batch_contents(b, i), kept, STREAM_PAGE);
	page_cache_renew(cache, item->block, item->address);
	return 0;
}

int batch_complete(struct batch *b, struct page_cache *cache, struct error **err)
{
	if (b->missing)
		return error_set(err, ERROR_REQUEST, 0,
			"%u pages of a batch were asked for and have not come", b->missing);
	if (b->no_cache)
		return 0;
	for (size_t i = 0; i < b->items_len; i++) {
		const struct stream_item *item = &b->items[i];
		enum batch_kind kind = batch_code_kind(b->pages[i].code);

		if (kind == BATCH_DIFFERENCE) {
			if (complete_difference(b, i, cache, err) < 0)
				return -1;
		} else if (cache && kind == BATCH_DATA) {
			page_cache_put(cache, item->block, item->address, batch_contents(b, i));
		} else if (cache) {
			page_cache_drop(cache, item->block, item->address);
		}
	}
	return 0;
}
