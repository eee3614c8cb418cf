#include "node/member.h"

#include <errno.h>
#include <unistd.h>

struct pool_node *member_read(const struct pool *pool, const char *name, struct error **err)
{
	cleanup_free char *conf = fs_format("%s/pool.conf", pool->dir);
	struct error *why = NULL;
	struct pool_node *node = pool_node_read(pool, name, &why);

	if (node)
		return node;
	if (why->kind == ERROR_NO_NODE && access(conf, F_OK) < 0) {
		error_set(err, ERROR_POOL, errno, "the pool cannot be read at %s; is it mounted?",
			pool->dir);
		error_free(&why);
		return NULL;
	}
	error_move(err, why);
	return NULL;
}
