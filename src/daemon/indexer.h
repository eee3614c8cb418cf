/*
 * Makes content indexes of base images, by `drover-wire index` as a child process: at the lowest
 * priority in the background, and when somebody asks for one.
 *
 * What a VM is based on is looked at when the VM is started here and when a move from here begins.
 * Only images in the pool are indexed unasked. Two nodes may make one image's index at the same
 * time: the later one replaces the other, which is just as good.
 */
#ifndef DROVER_DAEMON_INDEXER_H
#define DROVER_DAEMON_INDEXER_H

#include "base/error.h"
#include "pool/pool.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct indexer;

/* Starts its thread. wire_binary must outlive it. */
struct indexer *indexer_open(const char *wire_binary);
/* Ends what is being indexed, also what somebody waits for. False when that has not ended at
 * until_ms (of clock_ms); then nothing of it can be freed. */
bool indexer_stop(struct indexer *x, int64_t until_ms);
/* After indexer_stop. NULL is nothing to free. */
void indexer_free(struct indexer *x);

/* Has indexes made of the images that a VM is based on, where they are missing or stale. Returns at
 * once; the pool must outlive the indexer. */
void indexer_look_at(struct indexer *x, const struct pool *pool, const char *vm);

/* What the caller of indexer_make asks from time to time. */
typedef bool indexer_stop_fn(void *arg);
/* Makes the index of an image, whatever it is now, and waits for it:
 * {"image_bytes","read_bytes","entries","index_bytes","duration_ms","cpu_ms"}. ERROR_CANCELLED when
 * `stop` says so, ERROR_INTERRUPTED when droverd stops, and what index_build says. */
json_t *indexer_make(
	struct indexer *x, const char *image, indexer_stop_fn *stop, void *arg, struct error **err);
/* Whether the index of that very path is being made here now. */
bool indexer_makes(struct indexer *x, const char *image);

#endif
