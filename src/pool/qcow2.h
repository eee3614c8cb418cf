/*
 * The header of a qcow2 image, as far as it names other files (QEMU, docs/interop/qcow2.txt). An
 * image belongs to somebody else: each number is checked.
 */
#ifndef DROVER_POOL_QCOW2_H
#define DROVER_POOL_QCOW2_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define QCOW2_NAME_MAX 1023u /* the format's */

struct qcow2 {
	bool is; /* false: another format, and nothing below is set */
	uint64_t virtual_size;
	char backing[QCOW2_NAME_MAX + 1];   /* as it is written there; "": none */
	char backing_format[16];            /* "raw", "qcow2"; "": not said */
	bool has_data_file;                 /* its guest's data is in another file */
	char data_file[QCOW2_NAME_MAX + 1]; /* as it is written there; "": it was not found */
};

/* Reads the header of an open file. ERROR_DISK when it cannot be read, or is one of qcow2 that is
 * broken; `path` is for the message. */
int qcow2_read(int fd, const char *path, struct qcow2 *q, struct error **err);

/* The file that `backing` of an image at `path` means: an absolute path, or one beside the image.
 * NULL when it means no file ("nbd:…", "json:…"). The caller frees it. */
char *qcow2_backing_path(const char *path, const char *backing);

#endif
