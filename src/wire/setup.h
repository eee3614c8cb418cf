/*
 * SETUP and SETUP_ACK: what batches are made with, agreed on before the first one. The sender says
 * what it would like, the receiver what it can do.
 */
#ifndef DROVER_WIRE_SETUP_H
#define DROVER_WIRE_SETUP_H

#include "base/error.h"
#include "wire/pagehash.h"
#include "wire/source.h"

struct setup {
	uint8_t key[PAGEHASH_KEY]; /* of the hash that references carry */
	uint64_t cache_bytes;      /* of pages that were sent before: 0, or what cache.h allows */
	const uint8_t *sources;    /* source_set_encode's; in the payload after decoding */
	size_t sources_len;
};

#define SETUP_MAX (PAGEHASH_KEY + 8u + SOURCE_LIST_MAX)
size_t setup_encode(const struct setup *setup, uint8_t out[SETUP_MAX]);
/* Both decoders: ERROR_REQUEST for a wrong length or an impossible cache. */
int setup_decode(const uint8_t *in, size_t len, struct setup *setup, struct error **err);

struct setup_ack {
	uint64_t cache_bytes; /* at most what was asked for: both sides use this */
	uint32_t sources;     /* a bit for each content source that can be read */
};

#define SETUP_ACK_SIZE 12u
void setup_ack_encode(const struct setup_ack *ack, uint8_t out[SETUP_ACK_SIZE]);
int setup_ack_decode(const uint8_t *in, size_t len, struct setup_ack *ack, struct error **err);

/* Payload of READING: blocks of content sources that the receiver has read, and the nanoseconds
 * that this took, since the start. */
#define SETUP_READING_SIZE 16u
void setup_reading_encode(uint64_t blocks, uint64_t ns, uint8_t out[SETUP_READING_SIZE]);
int setup_reading_decode(
	const uint8_t *in, size_t len, uint64_t *blocks, uint64_t *ns, struct error **err);

#endif
