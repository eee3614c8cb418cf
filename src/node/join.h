/*
 * How a machine enters a cluster: both sides of `drover join`, and `drover init`.
 *
 *     machine                                    node that made the token
 *     GET  /v1/ca           not authenticated ─▶ {"ca"}
 *          its fingerprint must be the token's; from here on TLS is verified against it
 *     GET  /v1/ca           verified ──────────▶ {"ca","pool"}: where that node has the pool
 *     POST /v1/members      {"token","name","address","csr","nonce"}
 *             token good? name free? same pool (it finds the nonce there, and answers it)?
 *             token used up, certificate signed, node's record written
 *                                             ─▶ {"certificate","ca","cluster","answer"}
 *
 * The token is used up after the checks: a pool that is not mounted costs no token.
 */
#ifndef DROVER_NODE_JOIN_H
#define DROVER_NODE_JOIN_H

#include "base/db.h"
#include "base/error.h"
#include "node/identity.h"
#include "pool/pool.h"

#include <jansson.h>

#define JOIN_TIMEOUT_MS 30000

/*
 * The machine's side: enters the cluster as `name`, reachable at `own_address`, through the node at
 * `address`. `pool_dir` is where the pool is mounted here; NULL: where that node has it.
 * The identity is saved in state_dir; the caller frees it with identity_free.
 * ERROR_EXISTS (an identity here, or a node of that name there), ERROR_TOKEN, ERROR_CERTIFICATE
 * (the node there is not the token's), ERROR_POOL (not the same pool), ERROR_NAME,
 * ERROR_UNREACHABLE.
 */
struct identity *join_cluster(const char *state_dir, const char *address, const char *token_text,
	const char *name, const char *own_address, const char *pool_dir, struct error **err);

/*
 * `drover init`: makes the pool's layout, the CA and this node's identity in state_dir, and writes
 * the node's record. ERROR_EXISTS when this node has an identity or the directory is a pool.
 */
struct identity *join_init(const char *state_dir, const char *name, const char *own_address,
	const char *pool_dir, struct error **err);

/* The other side: the answers to the two requests above. *answer is the caller's. */
int join_answer_ca(const struct identity *id, json_t **answer, struct error **err);
/* ERROR_REFUSED where this node has no CA key. Safe to be called by several threads. */
int join_answer(const struct identity *id, const struct pool *pool, struct db *db,
	const json_t *request, json_t **answer, struct error **err);

#endif
