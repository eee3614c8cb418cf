/*
 * For the tests of src/node: a scratch directory with a cluster in it, and a server.
 */
#ifndef DROVER_TEST_NODE_SUPPORT_H
#define DROVER_TEST_NODE_SUPPORT_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/db.h"
#include "base/json.h"
#include "node/http.h"
#include "node/identity.h"
#include "node/join.h"
#include "node/peer.h"
#include "node/server.h"
#include "node/token.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char scratch[64];

static inline int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/drover-test-XXXXXX");
	return mkdtemp(scratch) ? 0 : -1;
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

static inline int remove_scratch(void **state)
{
	(void)state;
	return nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static inline char *in_scratch(const char *name)
{
	return fs_format("%s/%s", scratch, name);
}

/* The error must be there, be of that kind, and say `part`. */
static inline void expect_error(struct error **err, enum error_kind kind, const char *part)
{
	if (!*err)
		fail_msg("no error, where one of kind %s was expected", error_kind_name(kind));
	if ((*err)->kind != kind || !strstr((*err)->message, part))
		fail_msg("error %s \"%s\", where %s \"%s\" was expected",
			error_kind_name((*err)->kind), (*err)->message, error_kind_name(kind),
			part);
	error_free(err);
}

static inline void expect_no_error(struct error **err)
{
	if (*err)
		fail_msg("error %s \"%s\"", error_kind_name((*err)->kind), (*err)->message);
}

/* The first node of a new cluster: its state in scratch/node1, the pool in scratch/pool. */
static inline struct identity *init_node1(struct error **err)
{
	cleanup_free char *state = in_scratch("node1"), *pool = in_scratch("pool");
	struct identity *id = join_init(state, "node1", "127.0.0.1:7780", pool, err);

	expect_no_error(err);
	return id;
}

/* An identity signed by the CA of `ca` and saved in scratch/DIR; with a record when pool is given.
 */
static inline struct identity *make_identity(const struct identity *ca, const struct pool *pool,
	const char *dir, const char *name, int64_t valid_s)
{
	cleanup_error struct error *err = NULL;
	cleanup_free char *request = NULL, *state = in_scratch(dir);
	struct identity *id = calloc(1, sizeof(*id));

	snprintf(id->name, sizeof(id->name), "%s", name);
	memcpy(id->cluster_id, ca->cluster_id, sizeof(id->cluster_id));
	id->address = fs_format("127.0.0.1:7781");
	id->pool_dir = fs_format("%s", ca->pool_dir);
	id->ca_pem = fs_format("%s", ca->ca_pem);
	assert_int_equal(pki_make_request(name, &id->key_pem, &request, &err), 0);
	id->cert_pem = pki_sign(ca->ca_key_pem, ca->ca_pem, request, name, valid_s, &err);
	assert_non_null(id->cert_pem);
	/* One that has expired is refused by identity_save: saved by hand below. */
	if (valid_s > 0)
		assert_int_equal(identity_save(state, id, &err), 0);
	else
		assert_int_equal(pki_fingerprint(id->cert_pem, id->fingerprint, &err), 0);
	if (pool) {
		struct pool_node node = {.address = id->address};

		memcpy(node.name, id->name, sizeof(node.name));
		memcpy(node.fingerprint, id->fingerprint, sizeof(node.fingerprint));
		assert_int_equal(pool_node_write(pool, &node, &err), 0);
	}
	expect_no_error(&err);
	return id;
}

#endif
