/*
 * droverd's API (docs/api.md): tables of routes, and what is the same for all of them.
 *
 * A file api_*.c holds handlers and one table, written as a macro that is expanded twice:
 *
 *     #define ROUTES(X) \
 *             X(show, "GET", "/v1/things/{thing}", API_ANY_NODE, "", "") \
 *             X(add, "POST", "/v1/things", SERVER_LOCAL, "", "name size")
 *     ROUTES(API_ROUTE_FUNCTION)
 *     const struct server_route api_thing_routes[] = {ROUTES(API_ROUTE_ROW){0}};
 *
 * Columns: handler, method, path, who may call, names that may stand after '?', members that the
 * body may have (both separated by spaces).
 *
 * For each request, api_serve() refuses members that are not known; passes a request with
 * ?node=NAME on to that node when the route is one that peers may call; counts; and logs what
 * changes something. The handler gets the daemon by api_daemon().
 */
#ifndef DROVER_DAEMON_API_H
#define DROVER_DAEMON_API_H

#include "base/error.h"
#include "base/json.h"
#include "daemon/daemon.h"
#include "node/server.h"

#include <stdint.h>

#define API_ANY_NODE (SERVER_LOCAL | SERVER_PEER)
/* Longest that a request may ask to be kept waiting. */
#define API_WAIT_MAX_MS 30000
/* Longest time that a guest is given to power off. */
#define API_STOP_MAX_MS 600000
/* A request that is passed on must be answered within this: longer than any of the above. */
#define API_FORWARD_MS 660000

struct api_route {
	const char *method, *path;
	unsigned who;
	const char *query, *members;
	server_handler *handler;
};

int api_serve(const struct api_route *route, struct request *request, struct response *response,
	struct error **err);

#define API_ROUTE_FUNCTION(name, method, path, who, query, members) \
	static int name##_route( \
		struct request *request, struct response *response, struct error **err) \
	{ \
		static const struct api_route route = {method, path, who, query, members, name}; \
\
		return api_serve(&route, request, response, err); \
	}
#define API_ROUTE_ROW(name, method, path, who, query, members) {method, path, who, name##_route},

/* Each ends with a method of NULL. */
extern const struct server_route api_node_routes[];
extern const struct server_route api_member_routes[];
extern const struct server_route api_vm_routes[];
extern const struct server_route api_cpu_routes[];
extern const struct server_route api_recover_routes[];
extern const struct server_route api_migration_routes[];
extern const struct server_route api_task_routes[];
extern const struct server_route api_image_routes[];

/* All of them in one table, made once. */
const struct server_route *api_routes(void);

struct daemon *api_daemon(const struct request *request);
/* Sends a request to another node and answers with its answer. body: NULL or empty for none. */
int api_pass_on(const struct request *request, struct response *response, const char *node,
	const char *method, const char *path, const json_t *body, struct error **err);

/* ?name=N as a whole number in min..max; `fallback` when it is not there. ERROR_REQUEST. */
int api_query_int(const struct request *request, const char *name, int64_t min, int64_t max,
	int64_t fallback, int64_t *value, struct error **err);
/* ?name=1 or 0. */
int api_query_bool(const struct request *request, const char *name, bool fallback, bool *value,
	struct error **err);
/* Answers with an object, NULL being the failure that *err tells. */
int api_answer(struct response *response, json_t *object);

/* A question to one of several nodes. */
struct api_ask {
	const char *node;
	json_t *answer;        /* the caller's; NULL: there was none, and */
	struct error *problem; /* why (the caller's too) */
	int64_t asked_ms;      /* wall clock half-way between question and answer */
};

/* GETs `path` of all these nodes at once, each within timeout_ms. */
void api_ask_nodes(struct node_ctx *peers, struct api_ask *asks, size_t count, const char *path,
	int timeout_ms);
void api_ask_free(struct api_ask *asks, size_t count);

/* Requests answered since the start, and failed ones by kind. */
uint64_t api_requests(void);
uint64_t api_failures(enum error_kind kind);

/* The text of GET /metrics; the caller frees it. */
char *metrics_text(struct daemon *daemon, size_t *len);

#endif
