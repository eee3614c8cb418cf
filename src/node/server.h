/*
 * The HTTP server: droverd's API on its Unix socket, and to other nodes over TLS. One thread a
 * connection; a handler is straight-line code and may block.
 *
 * Who is calling is found out before a request's body is read:
 *     SERVER_LOCAL   came over the Unix socket (its mode and group decide who may)
 *     SERVER_PEER    came over TLS with a certificate of this cluster, which is valid now and is
 *                    the very one in the pool's record of that node: looked up for each request, so
 *                    that a removed node can do nothing at once
 *     SERVER_ANYONE  anybody who reaches the TLS port; for the join
 * Whoever may not gets ERROR_CERTIFICATE (TLS) or ERROR_REFUSED; a member gets ERROR_POOL while
 * the pool cannot be read.
 *
 * Limits, none of which a caller can pass: 32 KiB of request line and headers, JSON_TEXT_MAX of
 * body (SERVER_ANYONE_BODY_MAX for ANYONE), SERVER_HEADER_MS from connecting to the end of the
 * first request's headers with the TLS handshake in it, SERVER_BODY_MS for a body, and as much for
 * reading our answer, SERVER_IDLE_MS between requests of a member, SERVER_CONNECTIONS at once, of
 * these SERVER_CONNECTIONS_PER_ADDRESS from one address.
 */
#ifndef DROVER_NODE_SERVER_H
#define DROVER_NODE_SERVER_H

#include "base/error.h"
#include "node/identity.h"
#include "pool/pool.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SERVER_HEADER_MS 10000
#define SERVER_BODY_MS 60000
#define SERVER_IDLE_MS 600000
#define SERVER_CONNECTIONS 1024
#define SERVER_CONNECTIONS_PER_ADDRESS 64
#define SERVER_ANYONE_BODY_MAX (64u << 10)

enum server_who { SERVER_LOCAL = 1, SERVER_PEER = 2, SERVER_ANYONE = 4 };

struct request;
struct response;

/* Answers one request: fills the response and returns 0, or -1 with an error, which is sent as
 * {"error":…} with the status of its kind. Without any response_ call, {} is sent. */
typedef int server_handler(struct request *request, struct response *response, struct error **err);

struct server_route {
	const char *method;
	const char *path; /* "/v1/vms/{vm}/start": {vm} is one segment, 1..255 bytes without '/' */
	unsigned who;     /* enum server_who, ored */
	server_handler *handler;
};

/* The value of {name} in the route's path. */
const char *request_param(const struct request *request, const char *name);
/* The value of ?name=, NULL when there is none, "" when it has no value. */
const char *request_query(const struct request *request, const char *name);
/* Each name after '?' in turn, until `each` answers a negative number, which is the result. */
typedef int request_query_fn(const char *name, const char *value, void *arg);
int request_queries(const struct request *request, request_query_fn *each, void *arg);
/* Path and query as they came, still escaped: for a request that is passed on. */
const char *request_target(const struct request *request);
const char *request_method(const struct request *request);
/* The body: an object; an empty one when there was no body. Belongs to the request. */
const json_t *request_body(const struct request *request);
/* Name of the node that calls, NULL when it is local or not known. */
const char *request_peer(const struct request *request);
/* User of the local process that calls; (uid_t)-1 when not local. */
uid_t request_uid(const struct request *request);
/* server_options.context. */
void *request_context(const struct request *request);
/* For a handler that waits for something: whether nobody waits for its answer any more, because the
 * caller has gone or the server is stopping. */
bool request_abandoned(const struct request *request);

/* Takes the object over. */
void response_json(struct response *response, json_t *object);
/* Takes the text (from malloc) over. type: "text/plain; charset=utf-8". */
void response_text(struct response *response, const char *type, char *text, size_t len);
/* 200 where it is not called, or the error's. */
void response_status(struct response *response, int status);

struct server_options {
	/* Unix socket: mode 0660, group `group` where there is one of that name (NULL: ours). */
	const char *socket_path;
	const char *group;
	/* Or TLS: "HOST:PORT", port 0 for any. Both stay the caller's, and outlive the server. */
	const char *listen;
	const struct identity *identity;
	const struct pool *pool;

	const struct server_route *routes; /* ends with a method of NULL; outlives the server */
	void *context;
	/* 0: as above. For tests. */
	int header_ms, body_ms, idle_ms;
};

struct server;

/*
 * Listens and answers. A socket file that nobody listens on is replaced; ERROR_BUSY when somebody
 * does, or the port is taken. Certificates are read from the identity now.
 */
struct server *server_start(const struct server_options *options, struct error **err);
/* The TCP port it listens on. */
int server_port(const struct server *server);
/*
 * Takes no more connections, waits up to limit_ms for the requests that are being answered, closes
 * all connections and frees the server. Returns how many requests had not ended: then their threads
 * and the server stay; it may be called again, or the process exits.
 */
int server_stop(struct server *server, int limit_ms);

#endif
