#include "wire/chunk.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Data begins on a cache line. */
#define ALIGN 64u

struct chunk_pool {
	pthread_mutex_t mutex;
	pthread_cond_t change;
	struct chunk *free;
	uint8_t *memory;
	struct chunk chunks[];
};

struct chunk_pool *chunk_pool_open(size_t count, size_t cap, struct error **err)
{
	size_t stride = (cap + ALIGN - 1) / ALIGN * ALIGN;
	struct chunk_pool *pool = calloc(1, sizeof(*pool) + count * sizeof(pool->chunks[0]));

	if (!pool || posix_memalign((void **)&pool->memory, 4096, count * stride)) {
		free(pool);
		error_set(err, ERROR_FAILED, ENOMEM, "cannot get %zu buffers of %zu bytes", count,
			cap);
		return NULL;
	}
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->change, NULL);
	for (size_t i = 0; i < count; i++) {
		struct chunk *chunk = &pool->chunks[i];

		chunk->cap = cap;
		chunk->data = pool->memory + i * stride;
		chunk->next = pool->free;
		pool->free = chunk;
	}
	return pool;
}

void chunk_pool_close(struct chunk_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_destroy(&pool->mutex);
	pthread_cond_destroy(&pool->change);
	free(pool->memory);
	free(pool);
}

struct chunk *chunk_take(struct chunk_pool *pool)
{
	struct chunk *chunk;

	pthread_mutex_lock(&pool->mutex);
	while (!pool->free)
		pthread_cond_wait(&pool->change, &pool->mutex);
	chunk = pool->free;
	pool->free = chunk->next;
	chunk->next = NULL;
	chunk->len = 0;
	chunk->sequence = 0;
	pthread_mutex_unlock(&pool->mutex);
	return chunk;
}

void chunk_give_back(struct chunk_pool *pool, struct chunk *chunk)
{
	pthread_mutex_lock(&pool->mutex);
	chunk->next = pool->free;
	pool->free = chunk;
	pthread_cond_signal(&pool->change);
	pthread_mutex_unlock(&pool->mutex);
}
