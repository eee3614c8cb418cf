#include "wire/setup.h"

#include "base/buf.h"
#include "wire/cache.h"

#include <string.h>

size_t setup_encode(const struct setup *setup, uint8_t out[SETUP_MAX])
{
	memcpy(out, setup->key, PAGEHASH_KEY);
	put_be64(out + PAGEHASH_KEY, setup->cache_bytes);
	memcpy(out + PAGEHASH_KEY + 8, setup->sources, setup->sources_len);
	return PAGEHASH_KEY + 8 + setup->sources_len;
}

static bool cache_possible(uint64_t bytes)
{
	return bytes == 0 || (bytes >= CACHE_MIN && bytes <= CACHE_MAX);
}

int setup_decode(const uint8_t *in, size_t len, struct setup *setup, struct error **err)
{
	const uint8_t *key;
	struct reader r;

	reader_init(&r, in, len);
	key = reader_bytes(&r, PAGEHASH_KEY);
	setup->cache_bytes = reader_be64(&r);
	if (!key || r.failed || !cache_possible(setup->cache_bytes))
		return error_set(err, ERROR_REQUEST, 0,
			"a setup of %zu bytes came that makes no sense", len);
	memcpy(setup->key, key, PAGEHASH_KEY);
	setup->sources = r.at;
	setup->sources_len = r.left;
	return 0;
}

void setup_ack_encode(const struct setup_ack *ack, uint8_t out[SETUP_ACK_SIZE])
{
	put_be64(out, ack->cache_bytes);
	put_be32(out + 8, ack->sources);
}

int setup_ack_decode(const uint8_t *in, size_t len, struct setup_ack *ack, struct error **err)
{
	struct reader r;

	reader_init(&r, in, len);
	ack->cache_bytes = reader_be64(&r);
	ack->sources = reader_be32(&r);
	if (r.failed || r.left || !cache_possible(ack->cache_bytes))
		return error_set(err, ERROR_REQUEST, 0,
			"an answer to the setup of %zu bytes came that makes no sense", len);
	return 0;
}

void setup_reading_encode(uint64_t blocks, uint64_t ns, uint8_t out[SETUP_READING_SIZE])
{
	put_be64(out, blocks);
	put_be64(out + 8, ns);
}

int setup_reading_decode(
	const uint8_t *in, size_t len, uint64_t *blocks, uint64_t *ns, struct error **err)
{
	struct reader r;

	reader_init(&r, in, len);
	*blocks = reader_be64(&r);
	*ns = reader_be64(&r);
	if (r.failed || r.left)
		return error_set(err, ERROR_REQUEST, 0, "a READING of %zu bytes came", len);
	return 0;
}
