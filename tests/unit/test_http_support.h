/*
 * For the tests of HTTP on the Unix socket: a server with some routes, and our client.
 */
#ifndef DROVER_TEST_HTTP_SUPPORT_H
#define DROVER_TEST_HTTP_SUPPORT_H

#include "test_node_support.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define WAIT_MS 10000

/* ---- a server ---- */

static struct server *server;
static char *socket_path;
static atomic_int waiting, released, abandoned;

static inline int show_thing(struct request *request, struct response *response, struct error **err)
{
	const char *colour = request_query(request, "colour");

	(void)err;
	assert_null(request_query(request, "size"));
	assert_null(request_param(request, "thin"));
	response_json(response,
		json_pack("{s:s,s:s,s:s,s:i,s:s}", "thing", request_param(request, "thing"), "part",
			request_param(request, "part"), "colour", colour ? colour : "none", "uid",
			(int)request_uid(request), "target", request_target(request)));
	return 0;
}

static inline int echo(struct request *request, struct response *response, struct error **err)
{
	(void)err;
	response_json(response, json_deep_copy(request_body(request)));
	return 0;
}

static inline int fail_here(struct request *request, struct response *response, struct error **err)
{
	(void)request, (void)response;
	return error_set(err, ERROR_NO_VM, 0, "no VM named web1");
}

static inline int text(struct request *request, struct response *response, struct error **err)
{
	(void)request, (void)err;
	response_text(response, "text/plain; charset=utf-8", strdup("one\ntwo\n"), 8);
	return 0;
}

/* Until it is released; notices when nobody waits for it. */
static inline int wait_here(struct request *request, struct response *response, struct error **err)
{
	(void)response, (void)err;
	atomic_fetch_add(&waiting, 1);
	while (!atomic_load(&released)) {
		if (request_abandoned(request))
			atomic_store(&abandoned, 1);
		poll(NULL, 0, 5);
	}
	return 0;
}

static inline int count_query(const char *name, const char *value, void *arg)
{
	(void)value;
	*(int *)arg += 1;
	return strcmp(name, "stop") == 0 ? -7 : 0;
}

static inline int count(struct request *request, struct response *response, struct error **err)
{
	int n = 0, result = request_queries(request, count_query, &n);

	(void)err;
	response_json(response, json_pack("{s:i,s:i}", "count", n, "result", result));
	return 0;
}

static const struct server_route routes[] = {
	{"GET", "/v1/things/{thing}/parts/{part}", SERVER_LOCAL, show_thing},
	{"POST", "/v1/echo", SERVER_LOCAL | SERVER_PEER, echo},
	{"PUT", "/v1/echo", SERVER_LOCAL, echo},
	{"DELETE", "/v1/echo", SERVER_LOCAL, echo},
	{"GET", "/v1/fail", SERVER_LOCAL, fail_here},
	{"GET", "/v1/text", SERVER_LOCAL, text},
	{"GET", "/v1/wait", SERVER_LOCAL, wait_here},
	{"GET", "/v1/count", SERVER_LOCAL, count},
	{"GET", "/v1/peers-only", SERVER_PEER, text},
	{0},
};

static inline struct server *start(int header_ms, int body_ms, int idle_ms, struct error **err)
{
	struct server_options options = {.socket_path = socket_path,
		.routes = routes,
		.header_ms = header_ms,
		.body_ms = body_ms,
		.idle_ms = idle_ms};

	return server_start(&options, err);
}

static inline int set_up(void **state)
{
	struct error *err = NULL;

	if (make_scratch(state) < 0)
		return -1;
	socket_path = in_scratch("droverd.sock");
	atomic_store(&waiting, 0);
	atomic_store(&released, 0);
	atomic_store(&abandoned, 0);
	server = start(0, 0, 0, &err);
	expect_no_error(&err);
	return 0;
}

static inline int tear_down(void **state)
{
	atomic_store(&released, 1);
	if (server_stop(server, WAIT_MS) != 0)
		return -1;
	free(socket_path);
	return remove_scratch(state);
}

/* In place of the server of set_up. */
static inline void restart(int header_ms, int body_ms, int idle_ms)
{
	struct error *err = NULL;

	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start(header_ms, body_ms, idle_ms, &err);
	expect_no_error(&err);
}

/* ---- our client ---- */

static inline struct http_client *client_of(const char *path)
{
	struct http_target target = {.socket_path = path};
	struct error *err = NULL;
	struct http_client *client = http_open(&target, &err);

	expect_no_error(&err);
	return client;
}

static inline int call_with(struct http_client *client, const char *method, const char *path,
	json_t *body, int timeout_ms, json_t **answer, struct error **err)
{
	struct http_request request = {
		.method = method, .path = path, .body = body, .timeout_ms = timeout_ms};

	return http_call(client, &request, answer, err);
}

static inline int call(
	const char *method, const char *path, json_t *body, json_t **answer, struct error **err)
{
	struct http_client *client = client_of(socket_path);
	int result = call_with(client, method, path, body, WAIT_MS, answer, err);

	http_close(client);
	return result;
}

static inline void expect_alive(void)
{
	cleanup_error struct error *err = NULL;

	call("POST", "/v1/echo", NULL, NULL, &err);
	expect_no_error(&err);
}

static inline int listen_at(const char *path)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(at.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

struct waiter {
	pthread_t thread;
	int result;
	struct error *err;
	atomic_bool cancel;
	int timeout_ms;
};

static inline void *wait_in_thread(void *arg)
{
	struct waiter *waiter = arg;
	struct http_client *client = client_of(socket_path);
	struct http_request request = {.method = "GET",
		.path = "/v1/wait",
		.timeout_ms = waiter->timeout_ms,
		.cancel = &waiter->cancel};

	waiter->result = http_call(client, &request, NULL, &waiter->err);
	http_close(client);
	return NULL;
}

static inline void wait_for(atomic_int *what)
{
	int64_t deadline = clock_ms() + WAIT_MS;

	while (!atomic_load(what)) {
		assert_true(clock_ms() < deadline);
		poll(NULL, 0, 5);
	}
}

static inline void start_waiter(struct waiter *waiter, int timeout_ms)
{
	*waiter = (struct waiter){.timeout_ms = timeout_ms};
	assert_int_equal(pthread_create(&waiter->thread, NULL, wait_in_thread, waiter), 0);
	wait_for(&waiting);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* Runs `tests` (an array) as main does. */
#define RUN_TESTS(tests) \
	(signal(SIGPIPE, SIG_IGN), \
		http_init(NULL) < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL))

#endif
