/*
 * Chunks: the buffers that frames are received into.
 *
 * A pool holds a fixed number of chunks: what this process keeps between the hypervisors can never
 * be more.
 */
#ifndef DROVER_WIRE_CHUNK_H
#define DROVER_WIRE_CHUNK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chunk {
	struct chunk *next; /* of the list that it is in */
	uint8_t type;       /* frame_type */
	uint64_t sequence;  /* of the frame; 0: it has none */
	size_t len;         /* bytes of data used */
	size_t cap;         /* bytes of data there are */
	uint8_t *data;
};

/* A fixed number of chunks of one size. Used by several threads. */
struct chunk_pool;

/* `count` chunks of `cap` bytes each. */
struct chunk_pool *chunk_pool_open(size_t count, size_t cap, struct error **err);
/* All chunks must have been given back, or never be used again. */
void chunk_pool_close(struct chunk_pool *pool);
/* An empty chunk; waits for one. */
struct chunk *chunk_take(struct chunk_pool *pool);
void chunk_give_back(struct chunk_pool *pool, struct chunk *chunk);

#endif
