/*
 * Codecs: how the hypervisor's stream becomes frames, and frames become the stream again.
 *
 * An encoder is given the stream in pieces, as they are read, and emits frames in the order in
 * which they are to be decoded. A decoder is given each frame that carries the stream, in order,
 * and emits the stream in pieces. The bytes that a decoder emits are the bytes that the encoder was
 * given.
 *
 * Pieces and frames are chunks (chunk.h): a codec that only passes them on hands the same chunk
 * over, and nothing is copied. Each codec but `plain` has a bit in the hello's feature set, and is
 * used when both sides have it; its frames have types from FRAME_CODEC upwards.
 */
#ifndef DROVER_WIRE_CODEC_H
#define DROVER_WIRE_CODEC_H

#include "wire/chunk.h"

/* Where a codec puts what it makes. The chunk becomes the sink's. -1: the codec returns at once. */
struct wire_sink {
	int (*put)(void *arg, struct chunk *chunk, struct error **err);
	void *arg;
};

struct wire_codec {
	const char *name;
	uint64_t feature; /* its bit in frame_hello.features; 0: always there */

	/* State of one encoder or decoder: for one stream, used by one thread. */
	void *(*open)(struct chunk_pool *pool, struct error **err);
	void (*close)(void *state);

	/* Takes a piece of the stream (chunk->type is FRAME_DATA), which becomes the codec's. */
	int (*encode)(
		void *state, struct chunk *in, const struct wire_sink *out, struct error **err);
	/* Nothing more to read for now: whatever has been held back goes out. */
	int (*flush)(void *state, const struct wire_sink *out, struct error **err);
	/* Takes a frame: chunk->type is FRAME_DATA or at least FRAME_CODEC. */
	int (*decode)(
		void *state, struct chunk *in, const struct wire_sink *out, struct error **err);
};

/* Passes the stream on unchanged in DATA frames. */
extern const struct wire_codec wire_codec_plain;

/* All that this program speaks, as a feature set; and the best one that both sides speak. */
uint64_t wire_codec_features(void);
const struct wire_codec *wire_codec_choose(uint64_t features);

#endif
