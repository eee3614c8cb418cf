/*
 * Content sources: files that both nodes can read, and whose blocks a page can refer to: base
 * images on the pool first. The source node looks pages up by fingerprint in their indexes
 * (index.h); the destination reads the blocks.
 *
 * The two nodes agree on them in the SETUP frame: the source lists those for which it has an index,
 * by name and identity; the destination opens those that its own droverd has allowed it under that
 * name, and whose identity is the same. Nothing that a peer says is ever used as a path.
 */
#ifndef DROVER_WIRE_SOURCE_H
#define DROVER_WIRE_SOURCE_H

#include "base/error.h"
#include "wire/stream.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Content sources of one migration, at most. */
#define SOURCE_MAX 16u
/* Longest name of one: its path below the pool's directory. */
#define SOURCE_NAME_MAX 255u

struct source_set;

/* An empty set. Until both sides agree it is one thread's. */
struct source_set *source_set_open(void);
/* NULL is nothing to close. */
void source_set_close(struct source_set *set);
/* `name` is what both nodes call it; `path` is the file here, opened now and never again. For the
 * side that sends, the index beside the file is opened too: ERROR_NOT_FOUND when there is none,
 * ERROR_REQUEST when it is another file's or stale. ERROR_DISK for what is no regular file or does
 * not open, ERROR_NAME, ERROR_EXISTS (a name that is there) and ERROR_BUSY (SOURCE_MAX are there).
 * Whatever fails, the set stays as it was. */
int source_set_add(struct source_set *set, const char *name, const char *path, bool with_index,
	struct error **err);
/* The highest number and one; less are there when some were dropped. */
size_t source_set_count(const struct source_set *set);
/* NULL: that one was dropped, or never was. Belongs to the set. */
const char *source_set_name(const struct source_set *set, size_t number);

/*
 * Payload of SETUP's list of sources, and the answer: a bit for each that the destination can read.
 *
 *     be16 how many, at most SOURCE_MAX; then for each
 *     be16 length of its name, 1 to SOURCE_NAME_MAX; the name;
 *     be64 size, be64 mtime in nanoseconds, be64 edges (index.h: struct index_identity)
 *
 * source_set_agree: the destination; afterwards its set has the numbers of the source's, with gaps.
 * ERROR_REQUEST for what is no such list; then the set stays as it was.
 * source_set_keep: the source; drops all whose bit is not set.
 */
#define SOURCE_LIST_MAX (2u + SOURCE_MAX * (2u + SOURCE_NAME_MAX + 24u))
/* Of a set that nothing was dropped from; returns the length. */
size_t source_set_encode(const struct source_set *set, uint8_t out[SOURCE_LIST_MAX]);
int source_set_agree(struct source_set *set, const uint8_t *in, size_t len, uint32_t *usable,
	struct error **err);
void source_set_keep(struct source_set *set, uint32_t usable);

/* XXH3, 64 bits, seed 0, of a page: what indexes are made of. */
uint64_t source_fingerprint(const uint8_t page[STREAM_PAGE]);
/* Whether some block of a source that is in use may have these contents; any thread. */
bool source_set_find(
	const struct source_set *set, uint64_t fingerprint, uint8_t *source, uint64_t *block);
/* Reads up to `count` blocks that follow each other, the first at block * STREAM_PAGE, each into a
 * page of its own. Returns how many it has read, from the first on; fewer than `count` tells
 * nothing of the one behind them, and 0 that the first cannot be read, whatever the numbers are. At
 * most SOURCE_RUN at once. Any thread. Counts the time that reading takes. */
#define SOURCE_RUN 32u
size_t source_set_read(const struct source_set *set, uint8_t source, uint64_t block,
	uint8_t *const *pages, size_t count);
/* Blocks read, and nanoseconds spent reading them, since the start. */
void source_set_reading(const struct source_set *set, uint64_t *blocks, uint64_t *ns);

/* The side that sends decides which sources go on being used: a source that is off is not found in.
 * All are on at first. Any thread. */
void source_set_enable(struct source_set *set, size_t number, bool on);
bool source_set_enabled(const struct source_set *set, size_t number);

#endif
