/*
 * What the files of pool/ share with each other and with nobody else.
 */
#ifndef DROVER_POOL_INTERNAL_H
#define DROVER_POOL_INTERNAL_H

#include "pool/pool.h"

#include <sys/stat.h>
#include <sys/types.h>

/* ERROR_NO_SPACE for a full file system or quota, else ERROR_POOL. */
enum error_kind pool_error_kind(int errnum);

/* Whether `text` is just that many lower-case hexadecimal digits. */
bool pool_is_hex(const char *text, size_t digits);

/* Sorted names in `dir` that have `suffix` (which is cut off), are names of a `what` and of file
 * type `type` (S_IFREG, S_IFDIR); others, and what is being written, are passed over. */
int pool_names_read(const char *dir, const char *what, const char *suffix, mode_t type,
	struct pool_names *names, struct error **err);

/* Whether "/images/..." or "/vms/VM/...", below the pool and without links, may be an image: not
 * what the pool itself works by. */
bool pool_is_image_place(const char *path);

/* Whether a file that is being written was left so by who wrote it: for a day nothing of it has
 * changed. Asked is st_ctime, which only the file system sets. st_mtime is no time at all for a
 * moment on NFS: a server keeps a number there by which it knows an exclusive creation again that
 * is asked twice (RFC 1813, CREATE). */
bool pool_is_left_over(const struct stat *st);

#endif
