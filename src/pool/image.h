/*
 * Disk images on the pool: base images in images/, and which VM is based on which.
 *
 * A backing file is found by the header of the qcow2 image that is based on it. A disk that its
 * definition calls raw has none, whatever is in it: what is in it the guest has written.
 */
#ifndef DROVER_POOL_IMAGE_H
#define DROVER_POOL_IMAGE_H

#include "pool/pool.h"
#include "pool/vm_def.h"

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_NAME_MAX 200
/* Images that are based on one another, at most; what lies behind is not looked at. */
#define IMAGE_CHAIN_MAX 16

/* Names of images are 1..IMAGE_NAME_MAX of [A-Za-z0-9._+-], start with a letter or a digit and do
 * not end like an index; ERROR_NAME. */
int image_check_name(const char *name, struct error **err);
/* "DIR/images/NAME"; the caller frees it, and has checked the name. */
char *image_path(const struct pool *pool, const char *name);
/* Sorted names of the images in images/; other files are passed over. */
int image_list(const struct pool *pool, struct pool_names *names, struct error **err);

struct image_facts {
	uint64_t size, allocated; /* bytes of the file, and of these on the disk */
	const char *format;       /* "qcow2", else "raw" */
	uint64_t virtual_size;    /* what a guest sees */
	char *backing;            /* absolute path, or NULL; the caller frees it */
};
int image_read_facts(const char *path, struct image_facts *facts, struct error **err);

/* What a caller of image_add asks from time to time. */
typedef bool image_stop_fn(void *arg);
/*
 * Copies an open file to images/NAME, which appears whole or not at all; holes stay holes. Stops
 * with ERROR_CANCELLED when `stop` says so. ERROR_EXISTS, ERROR_NO_SPACE; ERROR_DISK for what is no
 * regular file, is empty, or is based on an image that would not be found from there; ERROR_BUSY
 * when it changes meanwhile. `from` is its absolute path.
 */
int image_add(const struct pool *pool, int fd, const char *from, const char *name,
	image_stop_fn *stop, void *arg, struct error **err);
/* Removes images/NAME and its index. ERROR_NOT_FOUND, also for what image_list passes over;
 * ERROR_REFUSED while a VM, or another image,
 * is based on it or uses it, or when that cannot be told. */
int image_remove(const struct pool *pool, const char *name, struct error **err);
/* Removes what killed copyings and indexings have left in images/ more than a day ago. */
void image_sweep(const struct pool *pool);

/* A file by what all nodes call it and what this one does. */
struct image_file {
	char *name; /* below the pool's directory: "images/debian.qcow2"; else the absolute path */
	char *path; /* absolute, links followed */
	bool in_pool;
};
struct image_files {
	struct image_file *list;
	size_t count;
};
void image_files_free(struct image_files *files);
/*
 * The files that a VM's disks are based on, the nearest first, each once; not the disks themselves,
 * which the guest writes. Only regular files. -1 when a disk or a backing file cannot be read: then
 * `files` holds what could be, too.
 */
int image_backing_files(const struct pool *pool, const struct vm_def *def,
	struct image_files *files, struct error **err);

/* Calls `take` for each file that an image is based on, the nearest first, and, with `data`, for
 * the external data files of images of the chain, as they are written there. `format` NULL: as its
 * first bytes say. A file that is not there is based on nothing. What is no
 * file ("nbd:...", "json:...") is given as it is written, and is the last. */
typedef void image_backing_fn(const char *path, bool data, void *arg);
int image_follow_chain(const char *path, const char *format, image_backing_fn *take, void *arg,
	struct error **err);

/* Whether all files that a definition names (disks, what they are based on, kernel, initrd) are,
 * links followed, in the pool or below one of the directories `allowed` ("/srv/iso:/dev/zvol",
 * NULL: none). ERROR_REFUSED names the first that is not. */
int image_check_places(
	const struct pool *pool, const struct vm_def *def, const char *allowed, struct error **err);

/* Who uses what. */
struct image_use {
	char *user;   /* a VM, or an image "images/NAME" */
	bool backing; /* is based on it; false: has it as a disk */
	char *path;   /* links followed */
};
struct image_uses {
	struct image_use *list;
	size_t count;
	struct error
		*unknown; /* somebody's disks could not be read: this may not be all; or NULL */
};
void image_uses_free(struct image_uses *uses);
/* Of all VMs and images of the pool. */
int image_uses(const struct pool *pool, struct image_uses *uses, struct error **err);

#endif
