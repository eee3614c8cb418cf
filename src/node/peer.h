/*
 * Calls to other nodes by name. The address and the certificate's fingerprint come from the pool;
 * connections are kept and shared by all threads.
 */
#ifndef DROVER_NODE_PEER_H
#define DROVER_NODE_PEER_H

#include "base/error.h"
#include "node/http.h"
#include "node/identity.h"
#include "pool/pool.h"

#include <jansson.h>
#include <stdatomic.h>

/* Connections without a request that are kept for one node, and for how long (less than the
 * server's SERVER_IDLE_MS, so that the other side is never the one to close). */
#define NODE_IDLE_PER_PEER 4
#define NODE_IDLE_MS 300000

struct node_ctx;

/* Both stay the caller's and outlive it. */
struct node_ctx *node_open(const struct identity *id, const struct pool *pool, struct error **err);
/* No call may be under way. */
void node_close(struct node_ctx *ctx);

/* One request to a node. Thread-safe. Errors of http_call, ERROR_NO_NODE and ERROR_POOL. */
int node_call(struct node_ctx *ctx, const char *node, const char *method, const char *path,
	const json_t *body, int timeout_ms, json_t **answer, struct error **err);

/*
 * A connection to a node that is the caller's alone until node_link_close gives it back, for a
 * request that must not wait for a handshake or for the pool (the handover). For one thread at a
 * time.
 */
struct node_link;
struct node_link *node_link_open(struct node_ctx *ctx, const char *node, struct error **err);
void node_link_close(struct node_link *link);
int node_link_call(struct node_link *link, const struct http_request *request, json_t **answer,
	struct error **err);
/* Connections that this link has made so far: 1 means that no call had to make another. */
long node_link_connections(const struct node_link *link);

#endif
