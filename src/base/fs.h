/*
 * Files and names: bounded reads, writes that are whole or not there, and names that can become a
 * path component.
 */
#ifndef DROVER_BASE_FS_H
#define DROVER_BASE_FS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

void close_fd(int *fd);
void free_pointer(void *p);
/* Release at the end of the scope: file descriptors of -1 and pointers of NULL are left alone. */
#define cleanup_fd __attribute__((cleanup(close_fd)))
#define cleanup_free __attribute__((cleanup(free_pointer)))

/* Longest name of a VM, node or checkpoint; it fits a file name, a certificate's common name and a
 * DNS label with room to spare. */
#define FS_NAME_MAX 48

/* Whether `name` is 1..FS_NAME_MAX of [A-Za-z0-9._-] that starts with a letter or a digit. With
 * `what` ("VM", "node") for the message; ERROR_NAME. */
int fs_check_name(const char *what, const char *name, struct error **err);

/* printf into a new string; never NULL (aborts without memory). The caller frees it. */
char *fs_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Whole file as a NUL-terminated string of at most max_bytes; ERROR_NOT_FOUND when it is not there,
 * ERROR_DEFINITION when it is larger. *len may be NULL. The caller frees it. */
char *fs_read(const char *path, size_t max_bytes, size_t *len, struct error **err);

/* Replaces `path` with `len` bytes, atomically and durably: temporary file in the same directory,
 * fsync, rename, fsync of the directory. ERROR_NO_SPACE, ERROR_FAILED. */
int fs_write(const char *path, const void *data, size_t len, mode_t mode, struct error **err);

/* Makes a directory and its parents, the last with `mode`; one that exists is left as it is. */
int fs_mkdirs(const char *path, mode_t mode, struct error **err);

/* fsync of a directory, so that names made or removed in it last. */
int fs_sync_dir(const char *path, struct error **err);

bool fs_exists(const char *path);

/* Sends all of `len` bytes; -1 with errno. Restarted after signals. */
int fs_write_all(int fd, const void *data, size_t len);

/* "128", "128K", "1.5G", "2T" (powers of 1024) as bytes; ERROR_USAGE names `what`. 0 and values
 * over `max` are errors too. */
int fs_parse_size(
	const char *what, const char *text, uint64_t max, uint64_t *bytes, struct error **err);
/* The same without limits, for who has other limits or other words; false when it is not written
 * like a size. */
bool fs_scan_size(const char *text, double *bytes);
/* A whole decimal number in min..max. */
int fs_parse_number(const char *what, const char *text, int64_t min, int64_t max, int64_t *value,
	struct error **err);

/* 2 × `bytes` hexadecimal digits of randomness from the kernel, NUL-terminated. */
void fs_random_hex(char *out, size_t bytes);

#endif
