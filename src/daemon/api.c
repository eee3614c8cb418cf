#include "daemon/api.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUTES_MAX 96
#define MEMBERS_MAX 16
/* Threads at once that ask other nodes. */
#define ASK_MAX 64

static atomic_uint_fast64_t requests;
static atomic_uint_fast64_t failures[ERROR_KINDS];

uint64_t api_requests(void)
{
	return atomic_load(&requests);
}

uint64_t api_failures(enum error_kind kind)
{
	return atomic_load(&failures[kind]);
}

struct daemon *api_daemon(const struct request *request)
{
	return request_context(request);
}

int api_answer(struct response *response, json_t *object)
{
	if (!object)
		return -1;
	response_json(response, object);
	return 0;
}

/* The words of a list with spaces between them, as far as they fit. */
struct words {
	char text[256];
	const char *words[MEMBERS_MAX + 1];
};

static void split(struct words *w, const char *list)
{
	size_t count = 0;
	char *rest = NULL;

	snprintf(w->text, sizeof(w->text), "%s", list);
	for (char *word = strtok_r(w->text, " ", &rest); word && count < MEMBERS_MAX;
		word = strtok_r(NULL, " ", &rest))
		w->words[count++] = word;
	w->words[count] = NULL;
}

static int may_forward(const struct api_route *route, const struct request *request,
	const char *node, struct error **err)
{
	if (request_uid(request) == (uid_t)-1)
		return error_set(err, ERROR_USAGE, 0,
			"?node= is for a node's own socket; it was sent to another node");
	if (route->who & SERVER_PEER)
		return 0;
	return error_set(err, ERROR_REFUSED, 0,
		"%s %s cannot be asked of another node; run the command on %s itself",
		route->method, route->path, node);
}

/* "/v1/vms/{vm}/start" with what the request has for {vm}, and its query. */
static char *forward_path(const struct api_route *route, const struct request *request)
{
	struct words query;
	struct buf path;
	char *text, separator = '?';

	buf_init(&path, 64u << 10);
	for (const char *at = route->path; *at;) {
		const char *open = strchr(at, '{'), *close = open ? strchr(open, '}') : NULL;
		cleanup_free char *name = NULL, *value = NULL;

		if (!close) {
			buf_printf(&path, "%s", at);
			break;
		}
		name = fs_format("%.*s", (int)(close - open - 1), open + 1);
		value = http_escape(request_param(request, name));
		buf_printf(&path, "%.*s%s", (int)(open - at), at, value);
		at = close + 1;
	}
	split(&query, route->query);
	for (const char **name = query.words; *name; name++) {
		const char *given = request_query(request, *name);
		cleanup_free char *value = given ? http_escape(given) : NULL;

		if (!value)
			continue;
		buf_printf(&path, "%c%s=%s", separator, *name, value);
		separator = '&';
	}
	text = fs_format("%s", buf_string(&path));
	buf_free(&path);
	return text;
}

int api_pass_on(const struct request *request, struct response *response, const char *node,
	const char *method, const char *path, const json_t *body, struct error **err)
{
	struct cluster *c = daemon_cluster(api_daemon(request), err);
	json_t *answer = NULL;

	if (!c || node_call(c->peers, node, method, path, json_object_size(body) ? body : NULL,
			  API_FORWARD_MS, &answer, err) < 0)
		return -1;
	return api_answer(response, answer);
}

static int forward(const struct api_route *route, const struct request *request,
	struct response *response, const char *node, struct error **err)
{
	cleanup_free char *path = forward_path(route, request);

	if (may_forward(route, request, node, err) < 0)
		return -1;
	return api_pass_on(
		request, response, node, route->method, path, request_body(request), err);
}

static bool is_self(struct daemon *daemon, const char *node)
{
	struct cluster *cluster = atomic_load(&daemon->cluster);

	return cluster && !strcmp(cluster->identity->name, node);
}

struct query_check {
	const char *const *known;
	struct error **err;
};

static int check_query_name(const char *name, const char *value, void *arg)
{
	const struct query_check *check = arg;
	const char *const *known = check->known;

	(void)value;
	while (*known && strcmp(*known, name))
		known++;
	if (*known || !strcmp(name, "node"))
		return 0;
	return error_set(check->err, ERROR_REQUEST, 0, "?%.40s= is not known here", name);
}

/* What it brings that the route does not take. */
static int check_known(
	const struct api_route *route, const struct request *request, struct error **err)
{
	struct words members, query;
	struct query_check check = {query.words, err};

	split(&members, route->members);
	split(&query, route->query);
	/* Decoded, it would end the name that it stands in. */
	if (strstr(request_target(request), "%00"))
		return error_set(err, ERROR_REQUEST, 0, "%%00 cannot stand in a request");
	if (request_queries(request, check_query_name, &check) < 0)
		return -1;
	return json_only_known(request_body(request), members.words, err);
}

static int serve(const struct api_route *route, struct request *request, struct response *response,
	struct error **err)
{
	const char *node = request_query(request, "node");

	if (check_known(route, request, err) < 0)
		return -1;
	if (node && fs_check_name("node", node, err) < 0)
		return -1;
	if (node && !is_self(api_daemon(request), node))
		return forward(route, request, response, node, err);
	return route->handler(request, response, err);
}

static void log_request(
	const struct api_route *route, const struct request *request, const struct error *e)
{
	cleanup_free char *who = NULL;
	bool read_only = !strcmp(route->method, "GET");

	if (read_only && !e)
		return;
	if (request_peer(request))
		who = fs_format("node %s", request_peer(request));
	else if (request_uid(request) != (uid_t)-1)
		who = fs_format("user %u", (unsigned)request_uid(request));
	else
		who = fs_format("somebody");
	log_write(read_only ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "%s %.200s by %s: %s",
		route->method, request_target(request), who, e ? e->message : "done");
}

int api_serve(const struct api_route *route, struct request *request, struct response *response,
	struct error **err)
{
	struct error *e = NULL;
	int rc = serve(route, request, response, &e);

	atomic_fetch_add(&requests, 1);
	if (rc < 0 && !e)
		error_set(&e, ERROR_FAILED, 0, "%s %s failed and does not say why", route->method,
			route->path);
	if (rc < 0)
		atomic_fetch_add(&failures[e->kind], 1);
	log_request(route, request, rc < 0 ? e : NULL);
	return rc < 0 ? error_move(err, e) : 0;
}

int api_query_int(const struct request *request, const char *name, int64_t min, int64_t max,
	int64_t fallback, int64_t *value, struct error **err)
{
	const char *text = request_query(request, name);

	*value = fallback;
	if (!text)
		return 0;
	if (fs_parse_number(name, text, min, max, value, err) == 0)
		return 0;
	if (err)
		(*err)->kind = ERROR_REQUEST;
	return -1;
}

int api_query_bool(const struct request *request, const char *name, bool fallback, bool *value,
	struct error **err)
{
	int64_t number;

	if (api_query_int(request, name, 0, 1, fallback, &number, err) < 0)
		return -1;
	*value = number;
	return 0;
}

/* What the threads of one api_ask_nodes share. */
struct asking {
	struct node_ctx *peers;
	struct api_ask *asks;
	size_t count;
	atomic_size_t next;
	const char *path;
	int timeout_ms;
};

static void *ask_in_turn(void *arg)
{
	struct asking *a = arg;

	for (size_t i; (i = atomic_fetch_add(&a->next, 1)) < a->count;) {
		struct api_ask *ask = &a->asks[i];
		int64_t before = clock_wall_ms();

		node_call(a->peers, ask->node, "GET", a->path, NULL, a->timeout_ms, &ask->answer,
			&ask->problem);
		ask->asked_ms = before + (clock_wall_ms() - before) / 2;
	}
	return NULL;
}

void api_ask_nodes(struct node_ctx *peers, struct api_ask *asks, size_t count, const char *path,
	int timeout_ms)
{
	struct asking a = {.peers = peers,
		.asks = asks,
		.count = count,
		.path = path,
		.timeout_ms = timeout_ms};
	size_t wanted = count < ASK_MAX ? count : ASK_MAX, started = 0;
	pthread_t threads[ASK_MAX];

	/* With fewer threads it takes longer, no more. */
	while (started < wanted && pthread_create(&threads[started], NULL, ask_in_turn, &a) == 0)
		started++;
	ask_in_turn(&a);
	for (size_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

void api_ask_free(struct api_ask *asks, size_t count)
{
	for (size_t i = 0; asks && i < count; i++) {
		json_decref(asks[i].answer);
		error_free(&asks[i].problem);
	}
	free(asks);
}

static struct server_route all_routes[ROUTES_MAX + 1];

static void join_routes(void)
{
	const struct server_route *const parts[] = {api_node_routes, api_member_routes,
		api_vm_routes, api_recover_routes, api_migration_routes, api_task_routes,
		api_image_routes, api_cpu_routes};
	size_t count = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		for (const struct server_route *r = parts[i]; r->method; r++) {
			if (count == ROUTES_MAX)
				abort();
			all_routes[count++] = *r;
		}
}

const struct server_route *api_routes(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, join_routes);
	return all_routes;
}
