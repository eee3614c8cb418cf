#include "wire/codec.h"

#include "wire/frame.h"

#include <stdlib.h>

/* Best first. */
static const struct wire_codec *const codecs[] = {&wire_codec_plain};

#define CODECS (sizeof(codecs) / sizeof(codecs[0]))

uint64_t wire_codec_features(void)
{
	uint64_t features = 0;

	for (size_t i = 0; i < CODECS; i++)
		features |= codecs[i]->feature;
	return features;
}

const struct wire_codec *wire_codec_choose(uint64_t features)
{
	for (size_t i = 0; i < CODECS; i++)
		if (!codecs[i]->feature || (codecs[i]->feature & features))
			return codecs[i];
	abort();
}

static void *plain_open(struct chunk_pool *pool, struct error **err)
{
	(void)err;
	return pool;
}

static void plain_close(void *state)
{
	(void)state;
}

static int plain_encode(
	void *state, struct chunk *in, const struct wire_sink *out, struct error **err)
{
	(void)state;
	return out->put(out->arg, in, err);
}

static int plain_flush(void *state, const struct wire_sink *out, struct error **err)
{
	(void)state;
	(void)out;
	(void)err;
	return 0;
}

static int plain_decode(
	void *state, struct chunk *in, const struct wire_sink *out, struct error **err)
{
	struct chunk_pool *pool = state;
	uint8_t type = in->type;

	if (type == FRAME_DATA)
		return out->put(out->arg, in, err);
	chunk_give_back(pool, in);
	return error_set(err, ERROR_REQUEST, 0, "a frame of the unknown type %u came", type);
}

const struct wire_codec wire_codec_plain = {
	.name = "plain",
	.open = plain_open,
	.close = plain_close,
	.encode = plain_encode,
	.flush = plain_flush,
	.decode = plain_decode,
};
