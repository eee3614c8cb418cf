/*
 * A file that is mapped to be read and may be cut short meanwhile: by somebody who truncates it, by
 * an NFS server that has forgotten it, by a disk that fails. The kernel then answers a look at it
 * with SIGBUS. Here such a look finds zeros, and so does every later one: the handler puts
 * anonymous memory in the mapping's place.
 *
 * The handler is the process's; opening a mapping puts it there. A SIGBUS from elsewhere does what
 * it did before.
 */
#ifndef DROVER_WIRE_MAPPING_H
#define DROVER_WIRE_MAPPING_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Mappings at once. */
#define MAPPING_MAX 64u

struct mapping;

/* Maps the first `len` bytes (1 or more) of a file, which may be closed afterwards, and asks the
 * kernel to read them ahead. `what` names it in messages. ERROR_FAILED; ERROR_BUSY when there are
 * MAPPING_MAX. */
struct mapping *mapping_open(int fd, size_t len, const char *what, struct error **err);
/* Nobody looks at it any more. NULL is nothing to close. */
void mapping_close(struct mapping *m);
/* What is there can change at any time: take a copy of what is looked at twice. */
const uint8_t *mapping_data(const struct mapping *m);
/* Whether it was found cut short, and is zeros now. */
bool mapping_lost(const struct mapping *m);

#endif
