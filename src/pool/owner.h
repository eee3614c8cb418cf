/*
 * Ownership: which node may run a VM.
 *
 * vms/VM/owner.E holds the name of a node, and the highest E counts. An epoch is claimed by
 * link(2)ing a finished temporary file to owner.E: link is atomic on every POSIX file system and on
 * NFS, so each epoch has one winner, whatever crashes. Where the answer of link was lost (NFS), the
 * temporary file's link count of 2 says that it was done. After winning, the directory is read
 * again: an epoch below the highest is not a win.
 *
 * A stopped VM is owned by nobody: its last owner has claimed the next epoch with an empty node.
 *
 * Owner files more than 64 epochs below the highest are removed after a claim. docs/pool.md has the
 * file's format, every failure, and how to mend an owner file that is broken.
 */
#ifndef DROVER_POOL_OWNER_H
#define DROVER_POOL_OWNER_H

#include "pool/pool.h"

#include <stdint.h>

struct pool_owner {
	uint64_t epoch;             /* 0: never claimed */
	char node[FS_NAME_MAX + 1]; /* "": nobody */
	char why[41];               /* one word: migration id, "start", "stop", "recover" … */
	int64_t when_ms;            /* wall clock of the claimer */
};

/* Who owns it now. No owner file at all is epoch 0 and nobody. ERROR_POOL when it can't be told. */
int pool_owner_read(
	const struct pool *pool, const char *vm, struct pool_owner *owner, struct error **err);

/*
 * Claims `epoch`, which must be one more than the epoch the caller read, for `node` ("" releases).
 * 0: won, durably. -1 with ERROR_NOT_OWNER: somebody else has it (*now, which may be NULL, says
 * who); nothing of ours is left behind. -1 with another kind: it is not known whether it was won:
 * read again before acting on it.
 */
int pool_owner_claim(const struct pool *pool, const char *vm, uint64_t epoch, const char *node,
	const char *why, struct pool_owner *now, struct error **err);

#endif
