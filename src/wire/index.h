/*
 * Content indexes: where in a disk image a page's contents are to be found.
 *
 * The index of IMAGE is the file IMAGE.didx beside it. It maps the 64-bit fingerprint (XXH3, seed
 * 0) of each 4 KiB block of the file, at multiples of 4 KiB of the file itself, to the block's
 * number. The image's format does not matter: a guest's file system puts its blocks at such offsets
 * of its disk, and qcow2 and raw keep them there. Blocks of zeros are left out, and of equal blocks
 * all but the first.
 *
 * An index says which image it was made of, by what is the same on every node: its size, its mtime
 * in nanoseconds, and a hash over its first and its last MiB. A device or inode number is no part
 * of it: they differ between the nodes of some pools, and between two copies of an image that are
 * as good as one another.
 *
 * An index is never trusted. It is mapped (mapping.h), each look takes a copy of one cache line,
 * and what it says is only where a page may be: whoever reads the block compares what he finds. A
 * wrong, stale or hostile index costs misses and nothing else.
 *
 * docs/images.md has the file's format.
 */
#ifndef DROVER_WIRE_INDEX_H
#define DROVER_WIRE_INDEX_H

#include "base/error.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INDEX_BLOCK 4096u
#define INDEX_SUFFIX ".didx"
/* So many blocks are indexed at most: 64 GiB that are not zeros. What lies behind is not found.
 * An index takes 16 bytes for each, and making it as much memory and 12 bytes more. */
#define INDEX_BLOCKS_MAX (1u << 24)

struct index_identity {
	uint64_t size; /* bytes */
	int64_t mtime_ns;
	uint64_t edges; /* XXH3 of the first MiB and the last MiB (of less than that, all) */
};

/* Reads up to 2 MiB of an open image. ERROR_DISK for what is no regular file or cannot be read;
 * `path` is for the message. */
int index_identity_read(
	int fd, const char *path, struct index_identity *identity, struct error **err);
bool index_identity_equal(const struct index_identity *a, const struct index_identity *b);

/* "IMAGE.didx"; the caller frees it. */
char *index_path(const char *image);

struct index;

/* Opens the index of an image of that identity, for lookups by any number of threads.
 * ERROR_NOT_FOUND when there is none; ERROR_REQUEST when it is another image's, stale or broken. */
struct index *index_open(
	const char *image, const struct index_identity *identity, struct error **err);
/* NULL is nothing to close. */
void index_close(struct index *index);
/* How many contents it says to hold. */
uint64_t index_count(const struct index *index);
/* Where contents with this fingerprint may be: a block that lies in the image whole. Looks at one
 * cache line, at two when the first is full (one lookup in 18), never at more than
 * INDEX_PROBES. */
#define INDEX_PROBES 4u
bool index_find(const struct index *index, uint64_t fingerprint, uint64_t *block);

enum index_state { INDEX_NONE, INDEX_FRESH, INDEX_STALE };
const char *index_state_name(enum index_state state); /* "none", "fresh", "stale" */
/* How it stands with the index of an image; a broken one counts as stale. -1 when the image cannot
 * be read. */
int index_look(const char *image, enum index_state *state, struct error **err);

struct index_built {
	uint64_t image_bytes;
	uint64_t read_bytes;  /* of these: in no hole */
	uint64_t entries;     /* contents that are in the index */
	uint64_t index_bytes; /* size of the file */
};

/*
 * Makes the index of an image, or makes it again: reads all of it, then writes the index to a
 * temporary file (".tmp.didx." and 16 hexadecimal digits, beside the image), syncs it, and renames
 * it. Its owner and mode are the image's, as far as that is allowed: it tells of its contents.
 * Stops as soon as *stop is not 0 (ERROR_CANCELLED; NULL: never); whatever fails, no temporary file
 * is left. ERROR_BUSY when the image changes meanwhile.
 */
int index_build(const char *image, const volatile sig_atomic_t *stop, struct index_built *built,
	struct error **err);

/* `drover-wire index [--background] IMAGE`, argv[0] being "index": makes an index and prints a line
 * of JSON. Returns the exit status. SIGINT and SIGTERM stop it. */
int index_main(int argc, char **argv);

#endif
