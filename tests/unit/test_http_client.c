/* The HTTP client: its limits, what a bad server does to it, and how it keeps connections. */
#include "test_http_support.h"

static void test_caller_that_cancels_is_noticed(void **state)
{
	struct waiter waiter;

	(void)state;
	start_waiter(&waiter, 0);
	atomic_store(&waiter.cancel, true);
	pthread_join(waiter.thread, NULL);
	expect_error(&waiter.err, ERROR_CANCELLED, "cancelled while waiting for droverd");
	wait_for(&abandoned);
}

static void test_call_ends_at_its_time_limit(void **state)
{
	struct waiter waiter;

	(void)state;
	start_waiter(&waiter, 200);
	pthread_join(waiter.thread, NULL);
	expect_error(&waiter.err, ERROR_TIMEOUT, "did not answer GET /v1/wait within 200 ms");
}

/* ---- bad servers ---- */

static void test_no_droverd_is_said_so(void **state)
{
	struct error *err = NULL;
	struct http_client *client;

	(void)state;
	client = client_of("/nonexistent/droverd.sock");
	assert_int_equal(call_with(client, "GET", "/v1/text", NULL, 1000, NULL, &err), -1);
	expect_error(&err, ERROR_DAEMON, "No such file or directory; is it running?");
	http_close(client);
}

/* Answers connections with the texts in turn, one a request, NULL closing; counts requests. */
struct fake {
	pthread_t thread;
	int fd;
	const char *const *answers;
	int requests;
};

static void *serve_fake(void *arg)
{
	struct fake *fake = arg;
	char request[65536];
	int fd = -1;

	for (const char *const *answer = fake->answers; *answer;) {
		ssize_t n;

		if (fd < 0)
			fd = accept(fake->fd, NULL, NULL);
		if (fd < 0)
			break;
		n = recv(fd, request, sizeof(request), 0);
		if (n > 0) {
			fake->requests++;
			fs_write_all(fd, *answer, strlen(*answer));
		}
		if (n <= 0 || !strstr(*answer, "keep-alive"))
			close_fd(&fd);
		if (n > 0)
			answer++;
	}
	close_fd(&fd);
	close(fake->fd);
	return NULL;
}

/* Calls `calls` times over one client; the error of the last. */
static struct error *call_fake(
	const char *method, int calls, const char *const *answers, int *requests)
{
	cleanup_free char *path = in_scratch("fake.sock");
	struct fake fake = {.fd = listen_at(path), .answers = answers};
	struct http_client *client = client_of(path);
	struct error *err = NULL;

	pthread_create(&fake.thread, NULL, serve_fake, &fake);
	for (int i = 0; i < calls; i++) {
		expect_no_error(&err);
		call_with(client, method, "/v1/x", NULL, WAIT_MS, NULL, &err);
	}
	http_close(client);
	/* It may still be waiting for a request. */
	unlink(path);
	shutdown(fake.fd, SHUT_RDWR);
	pthread_join(fake.thread, NULL);
	*requests = fake.requests;
	return err;
}

#define OK "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"

static void test_answers_that_are_none_are_errors(void **state)
{
	static const struct {
		const char *answer;
		enum error_kind kind;
		const char *part;
	} cases[] = {
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"cut\":  ", ERROR_REQUEST,
			"not JSON"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", ERROR_DAEMON,
			"stopped answering"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", ERROR_REQUEST,
			"not a JSON object"},
		{"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", ERROR_REQUEST,
			"without a reason"},
		{"HTTP/1.1 302 Go\r\nLocation: http://[::1]/\r\nContent-Length: 2\r\n\r\n",
			ERROR_DAEMON, ""},
		{"SSH-2.0-OpenSSH_9.2\r\n", ERROR_DAEMON, "HTTP/0.9"},
		{"", ERROR_DAEMON, "stopped answering"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *const answers[] = {cases[i].answer, NULL};
		int requests;
		struct error *err = call_fake("GET", 1, answers, &requests);

		expect_error(&err, cases[i].kind, cases[i].part);
	}
}

static void test_answer_without_end_is_cut_off(void **state)
{
	struct buf answer;
	struct error *err;
	int requests;

	(void)state;
	buf_init(&answer, 8 << 20);
	buf_printf(&answer, "HTTP/1.1 200 OK\r\n\r\n");
	memset(buf_reserve(&answer, 6 << 20), ' ', 6 << 20);
	answer.len += 6 << 20;
	const char *const answers[] = {buf_string(&answer), NULL};
	err = call_fake("GET", 1, answers, &requests);
	expect_error(&err, ERROR_REQUEST, "more than 4194304 bytes");
	buf_free(&answer);
}

/* The second request of a kept connection is read and not answered. */
static void test_post_is_never_sent_twice(void **state)
{
	static const char *const answers[] = {OK, "", OK, NULL};
	struct error *err;
	int requests;

	(void)state;
	err = call_fake("POST", 2, answers, &requests);
	expect_error(&err, ERROR_UNREACHABLE, "lost before the answer came");
	assert_int_equal(requests, 2);
	err = call_fake("GET", 2, answers, &requests);
	expect_no_error(&err);
	assert_int_equal(requests, 3);
}

static void test_connection_is_kept(void **state)
{
	struct http_client *client = client_of(socket_path);
	struct error *err = NULL;

	(void)state;
	for (int i = 0; i < 5; i++) {
		call_with(client, "POST", "/v1/echo", NULL, WAIT_MS, NULL, &err);
		expect_no_error(&err);
		/* An error is an answer too. */
		assert_int_equal(
			call_with(client, "GET", "/v1/fail", NULL, WAIT_MS, NULL, &err), -1);
		expect_error(&err, ERROR_NO_VM, "web1");
	}
	assert_int_equal(http_connections(client), 1);
	/* The other end is started anew: a new connection, and no error. */
	restart(0, 0, 0);
	call_with(client, "POST", "/v1/echo", NULL, WAIT_MS, NULL, &err);
	expect_no_error(&err);
	assert_int_equal(http_connections(client), 2);
	http_close(client);
}

static void test_addresses_are_split(void **state)
{
	static const struct {
		const char *address, *host;
		int port;
	} good[] = {{"node2", "node2", 7780}, {"10.0.0.1:99", "10.0.0.1", 99},
		{"[fe80::1%eth0]:1", "fe80::1%eth0", 1}, {"[::1]", "::1", 7780}};
	static const char *const bad[] = {"", ":1", "a:", "a:b", "a:65536", "a:-1", "[::1", "[]:1",
		"[::1]x", "a b", "http://a", "a/b", "a:1:2", "a\n", "a@b"};
	struct error *err = NULL;
	char host[256];
	int port;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		http_split_address(good[i].address, host, &port, &err);
		expect_no_error(&err);
		assert_string_equal(host, good[i].host);
		assert_int_equal(port, good[i].port);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (http_split_address(bad[i], host, &port, &err) == 0)
			fail_msg("\"%s\" was taken for an address", bad[i]);
		expect_error(&err, ERROR_USAGE, "");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_caller_that_cancels_is_noticed),
		TEST(test_call_ends_at_its_time_limit),
		TEST(test_no_droverd_is_said_so),
		TEST(test_answers_that_are_none_are_errors),
		TEST(test_answer_without_end_is_cut_off),
		TEST(test_post_is_never_sent_twice),
		TEST(test_connection_is_kept),
		TEST(test_addresses_are_split),
	};

	return RUN_TESTS(tests);
}
