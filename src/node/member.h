/*
 * The record of a member, read so that a pool that has gone away is not taken for a removal: a
 * directory that nothing is mounted on holds no records either.
 */
#ifndef DROVER_NODE_MEMBER_H
#define DROVER_NODE_MEMBER_H

#include "base/error.h"
#include "pool/pool.h"

/* pool_node_read, with ERROR_POOL instead of ERROR_NO_NODE where pool.conf is missing too. */
struct pool_node *member_read(const struct pool *pool, const char *name, struct error **err);

#endif
