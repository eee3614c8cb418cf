/* HTTP on the Unix socket: routes, limits, and what a bad client does to the server. */
#include "test_http_support.h"

/* ---- a client that does what it likes ---- */

static int connect_raw(void)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	struct timeval limit = {WAIT_MS / 1000, 0};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(at.sun_path, socket_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

/* What comes until the other side closes; fails when it does not. */
static char *read_all(int fd)
{
	struct buf got;
	char part[4096], *all;
	ssize_t n;

	buf_init(&got, 8 << 20);
	while ((n = recv(fd, part, sizeof(part), 0)) > 0)
		assert_true(buf_add(&got, part, (size_t)n));
	if (n < 0 && errno != ECONNRESET)
		fail_msg("the server did not close: %s", strerror(errno));
	all = fs_format("%s", buf_string(&got));
	buf_free(&got);
	return all;
}

/* Sends and reads all; the caller frees the answer. */
static char *exchange(const void *data, size_t len)
{
	int fd = connect_raw();
	char *answer;

	fs_write_all(fd, data, len);
	shutdown(fd, SHUT_WR);
	answer = read_all(fd);
	close(fd);
	return answer;
}

static char *post(const char *body, size_t len)
{
	struct buf request;
	char *answer;

	buf_init(&request, 8 << 20);
	buf_printf(&request,
		"POST /v1/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
		"%zu\r\n\r\n",
		len);
	assert_true(buf_add(&request, body, len));
	answer = exchange(request.data, request.len);
	buf_free(&request);
	return answer;
}

static void expect_answer(char *answer, const char *status, const char *part)
{
	if (strncmp(answer, "HTTP/1.1 ", 9) != 0 || !strstr(answer, status) ||
		!strstr(answer, part))
		fail_msg("answer \"%.300s\", where status %s and \"%s\" were expected", answer,
			status, part);
	free(answer);
}

/* ---- routes ---- */

static void test_params_and_queries_reach_the_handler(void **state)
{
	cleanup_json json_t *answer = NULL;
	struct error *err = NULL;
	const char *path = "/v1/things/a%20b/parts/7?colour=dark%26red&x";

	(void)state;
	call("GET", path, NULL, &answer, &err);
	expect_no_error(&err);
	assert_string_equal(json_get_string(answer, "thing", NULL), "a b");
	assert_string_equal(json_get_string(answer, "part", NULL), "7");
	assert_string_equal(json_get_string(answer, "colour", NULL), "dark&red");
	assert_string_equal(json_get_string(answer, "target", NULL), path);
	assert_int_equal(json_integer_value(json_object_get(answer, "uid")), getuid());
}

static void test_queries_are_walked(void **state)
{
	cleanup_json json_t *all = NULL, *some = NULL;

	(void)state;
	assert_int_equal(call("GET", "/v1/count?a=1&b&c=", NULL, &all, NULL), 0);
	assert_int_equal(json_integer_value(json_object_get(all, "count")), 3);
	assert_int_equal(json_integer_value(json_object_get(all, "result")), 0);
	assert_int_equal(call("GET", "/v1/count?a&stop&b", NULL, &some, NULL), 0);
	assert_int_equal(json_integer_value(json_object_get(some, "count")), 2);
	assert_int_equal(json_integer_value(json_object_get(some, "result")), -7);
}

static void test_body_reaches_the_handler_with_every_method(void **state)
{
	static const char *const methods[] = {"POST", "PUT", "DELETE"};
	cleanup_json json_t *body = json_pack("{s:s}", "name",
		"w\xc3\xa9"
		"b");

	(void)state;
	for (int i = 0; i < 3; i++) {
		cleanup_json json_t *answer = NULL, *empty = NULL;
		struct error *err = NULL;

		call(methods[i], "/v1/echo", body, &answer, &err);
		expect_no_error(&err);
		assert_true(json_equal(answer, body));
		call(methods[i], "/v1/echo", NULL, &empty, &err);
		expect_no_error(&err);
		assert_int_equal(json_object_size(empty), 0);
	}
}

static void test_error_of_a_handler_is_the_callers(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_int_equal(call("GET", "/v1/fail", NULL, NULL, &err), -1);
	expect_error(&err, ERROR_NO_VM, "no VM named web1");
}

static void test_unknown_paths_and_methods_are_refused(void **state)
{
	static const char *const paths[] = {"/", "/v1", "/v1/echo/", "/v1/echo/x",
		"/v1/things/a/parts", "/v1/things//parts/b", "//v1/echo", "/v1/things/a/parts/b/"};
	struct error *err = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		assert_int_equal(call("GET", paths[i], NULL, NULL, &err), -1);
		expect_error(&err, ERROR_NOT_FOUND, "the API has no GET");
	}
	expect_answer(
		exchange("PATCH /v1/echo HTTP/1.0\r\n\r\n", 27), "405", "the API has no PATCH");
	assert_int_equal(call("GET", "/v1/peers-only", NULL, NULL, &err), -1);
	expect_error(&err, ERROR_REFUSED, "only other nodes");
	assert_int_equal(call("GET", "/v1/a b", NULL, NULL, &err), -1);
	expect_error(&err, ERROR_USAGE, "cannot be sent");
}

static void test_text_is_read(void **state)
{
	struct http_client *client = client_of(socket_path);
	struct http_request request = {.method = "GET", .path = "/v1/text", .timeout_ms = WAIT_MS};
	struct error *err = NULL;
	char *got = NULL;
	size_t len = 0;

	(void)state;
	http_call_text(client, &request, &got, &len, &err);
	expect_no_error(&err);
	assert_int_equal(len, 8);
	assert_string_equal(got, "one\ntwo\n");
	free(got);
	request.path = "/v1/fail";
	assert_int_equal(http_call_text(client, &request, &got, &len, &err), -1);
	expect_error(&err, ERROR_NO_VM, "web1");
	http_close(client);
}

/* ---- bad clients ---- */

static void test_bodies_that_are_no_json_object_are_refused(void **state)
{
	char *deep = malloc(20001);

	(void)state;
	memset(deep, '[', 10000);
	memset(deep + 10000, ']', 10000);
	expect_answer(post("{\"name\": \"we", 12), "400", "\"kind\":\"request\"");
	expect_answer(post("[]", 2), "400", "not a JSON object");
	expect_answer(post("{\"a\":1,\"a\":2}", 13), "400", "\"kind\":\"request\"");
	expect_answer(post("{\"a\":\"\\u0000\"}", 14), "400", "\"kind\":\"request\"");
	expect_answer(post("\xff\xfe\x00{}", 5), "400", "\"kind\":\"request\"");
	expect_answer(post(deep, 20000), "400", "\"kind\":\"request\"");
	expect_alive();
	free(deep);
}

static long peak_kib(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

/* 100 MB of a body, in pieces, until the other side has enough of it. */
static void pour(int fd, bool chunked)
{
	static char piece[1 << 20];
	char size[16];
	int len = snprintf(size, sizeof(size), "%zx\r\n", sizeof(piece));

	memset(piece, ' ', sizeof(piece));
	for (int i = 0; i < 100; i++) {
		if (chunked && send(fd, size, (size_t)len, MSG_NOSIGNAL) != len)
			return;
		if (fs_write_all(fd, piece, sizeof(piece)) < 0)
			return;
		if (chunked && send(fd, "\r\n", 2, MSG_NOSIGNAL) != 2)
			return;
	}
}

static void expect_refused(const char *head, bool body, bool chunked)
{
	int fd = connect_raw();

	fs_write_all(fd, head, strlen(head));
	if (body)
		pour(fd, chunked);
	if (chunked)
		fs_write_all(fd, "0\r\n\r\n", 5);
	expect_answer(read_all(fd), "413", "at most 4194304 bytes");
	close(fd);
}

static void test_body_of_100_mb_is_refused_and_not_kept(void **state)
{
#define HEAD "POST /v1/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	long before = peak_kib();

	(void)state;
	expect_refused(
		HEAD "Expect: 100-continue\r\nContent-Length: 104857600\r\n\r\n", false, false);
	expect_refused(HEAD "Content-Length: 104857600\r\n\r\n", true, false);
	expect_refused(HEAD "Transfer-Encoding: chunked\r\n\r\n", true, true);
	/* Room for the 4 MiB that may be kept as they grow, and for malloc. */
	assert_true(peak_kib() - before < 40 << 10);
	expect_alive();
}

static void test_body_a_little_too_long_is_answered(void **state)
{
	size_t len = JSON_TEXT_MAX + 1;
	char *body = malloc(len);
	int fd = connect_raw();
	char head[128];

	(void)state;
	memset(body, ' ', len);
	expect_answer(post(body, len), "413", "at most 4194304 bytes");
	/* Of unknown length, read to its end before the answer. */
	fs_write_all(fd, head,
		(size_t)snprintf(head, sizeof(head),
			"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
			"Connection: close\r\n\r\n%zx\r\n",
			len));
	fs_write_all(fd, body, len);
	fs_write_all(fd, "\r\n0\r\n\r\n", 7);
	expect_answer(read_all(fd), "413", "at most 4194304 bytes");
	close(fd);
	memset(body, 'x', len);
	memcpy(body, "{\"a\":\"", 6);
	memcpy(body + len - 3, "\"}", 2);
	expect_answer(post(body, len - 1), "200", "xxx\"}");
	free(body);
}

static void test_what_is_not_http_does_no_harm(void **state)
{
	static const char *const bad[] = {"\r\n\r\n\r\n", "GET\r\n\r\n", "GET /v1/text\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "GET / HTTP/9.9\r\n\r\n",
		"POST /v1/echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n{}",
		"POST /v1/echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
		("PUT /v1/echo HTTP/1.1\r\nContent-Length: 2\r\n"
		 "Transfer-Encoding: chunked\r\n\r\n{}"),
		"POST /v1/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
		"GET /%00%ff%2e%2e/%2fetc HTTP/1.0\r\n\r\n"};
	char *noise = malloc(1 << 20);
	unsigned seed = 42;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		free(exchange(bad[i], strlen(bad[i])));
	for (int i = 0; i < 1 << 20; i++)
		noise[i] = (char)(rand_r(&seed) >> 8);
	for (int i = 0; i < 64; i++)
		free(exchange(noise + i * 16384, 16384));
	/* A request line and headers without end. */
	memset(noise, 'a', 1 << 20);
	memcpy(noise, "GET /", 5);
	free(exchange(noise, 1 << 20));
	for (int i = 20; i + 8 < 1 << 20; i += 8)
		memcpy(noise + i, "a: bcd\r\n", 8);
	memcpy(noise, "GET / HTTP/1.1    \r\n", 20);
	free(exchange(noise, 1 << 20));
	free(noise);
	expect_alive();
}

/* Sends `piece` every 20 ms until the server has enough; how long that took. */
static int64_t dribble(const char *head, const char *piece)
{
	int64_t start_ms = clock_ms();
	int fd = connect_raw();
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	fs_write_all(fd, head, strlen(head));
	while (poll(&wait, 1, 20) == 0 && clock_ms() - start_ms < WAIT_MS)
		if (send(fd, piece, strlen(piece), MSG_NOSIGNAL) < 0)
			break;
	close(fd);
	return clock_ms() - start_ms;
}

static void test_slow_clients_are_cut_off(void **state)
{
	(void)state;
	restart(300, 300, 300);
	assert_in_range(dribble("", "G"), 250, WAIT_MS - 1);
	assert_in_range(dribble("GET / HTTP/1.1\r\n", "a: b\r\n"), 250, WAIT_MS - 1);
	assert_in_range(dribble("POST /v1/echo HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", " "),
		250, WAIT_MS - 1);
	expect_alive();
}

static void test_client_that_connects_and_says_nothing_is_cut_off(void **state)
{
	int fd;

	(void)state;
	restart(200, 200, 200);
	fd = connect_raw();
	free(read_all(fd));
	close(fd);
}

static void test_connections_beyond_the_limit_wait_and_harm_nobody(void **state)
{
	int fds[64];

	(void)state;
	for (int i = 0; i < 64; i++)
		fds[i] = connect_raw();
	expect_alive();
	for (int i = 0; i < 64; i++)
		close(fds[i]);
}

/* ---- start and stop ---- */

static void test_second_server_on_a_socket_is_refused(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_null(start(0, 0, 0, &err));
	expect_error(&err, ERROR_BUSY, "droverd runs already");
	expect_alive();
}

static void test_socket_of_another_program_is_left_alone(void **state)
{
	struct error *err = NULL;
	int fd;

	(void)state;
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	assert_int_equal(access(socket_path, F_OK), -1);
	fd = listen_at(socket_path);
	server = start(0, 0, 0, &err);
	assert_null(server);
	expect_error(&err, ERROR_BUSY, "another program answers");
	close(connect_raw());
	close(fd);
	/* Now nobody listens there: the file is what a crash leaves behind. */
	assert_int_equal(access(socket_path, F_OK), 0);
	server = start(0, 0, 0, &err);
	expect_no_error(&err);
	expect_alive();
}

static void test_socket_is_for_owner_and_group(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(socket_path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
}

static void test_stop_waits_for_requests_up_to_its_limit(void **state)
{
	struct waiter waiter;
	struct error *err = NULL;

	(void)state;
	start_waiter(&waiter, WAIT_MS);
	assert_int_equal(server_stop(server, 50), 1);
	wait_for(&abandoned);
	assert_int_equal(call("POST", "/v1/echo", NULL, NULL, &err), -1);
	expect_error(&err, ERROR_DAEMON, "does not answer: Connection refused");
	atomic_store(&released, 1);
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	pthread_join(waiter.thread, NULL);
	expect_no_error(&waiter.err);
	server = start(0, 0, 0, &err);
	expect_no_error(&err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_params_and_queries_reach_the_handler),
		TEST(test_queries_are_walked),
		TEST(test_body_reaches_the_handler_with_every_method),
		TEST(test_error_of_a_handler_is_the_callers),
		TEST(test_unknown_paths_and_methods_are_refused),
		TEST(test_text_is_read),
		TEST(test_bodies_that_are_no_json_object_are_refused),
		TEST(test_body_of_100_mb_is_refused_and_not_kept),
		TEST(test_body_a_little_too_long_is_answered),
		TEST(test_what_is_not_http_does_no_harm),
		TEST(test_slow_clients_are_cut_off),
		TEST(test_client_that_connects_and_says_nothing_is_cut_off),
		TEST(test_connections_beyond_the_limit_wait_and_harm_nobody),
		TEST(test_second_server_on_a_socket_is_refused),
		TEST(test_socket_of_another_program_is_left_alone),
		TEST(test_socket_is_for_owner_and_group),
		TEST(test_stop_waits_for_requests_up_to_its_limit),
	};

	return RUN_TESTS(tests);
}
