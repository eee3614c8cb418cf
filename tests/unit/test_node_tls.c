/* Nodes among themselves: who is answered over TLS, and who is believed. */
#include "test_node_cluster.h"

/* ---- who is answered ---- */

static void test_member_is_answered_by_name(void **state)
{
	cleanup_json json_t *answer = NULL;
	struct error *err = NULL;

	(void)state;
	call_node1("GET", "/v1/who", &answer, &err);
	expect_no_error(&err);
	assert_string_equal(json_get_string(answer, "peer", NULL), "node2");
}

static void test_member_with_raw_tls_is_answered(void **state)
{
	/* What the refusals below are compared with: it is the certificate that they lack. */
	struct raw_client client = {.cert_pem = node2->cert_pem, .key_pem = node2->key_pem};
	cleanup_free char *answer = ask_raw(&client, server_port(server), ASK_WHO);

	(void)state;
	assert_non_null(strstr(answer, "{\"peer\":\"node2\"}"));
}

static void test_caller_without_certificate_is_refused(void **state)
{
	(void)state;
	expect_refused(NULL, "no certificate of it was shown");
}

static void test_certificate_of_another_cluster_is_refused(void **state)
{
	struct identity other = {0};
	struct identity *foreign;

	(void)state;
	memcpy(other.cluster_id, node1->cluster_id, sizeof(other.cluster_id));
	other.pool_dir = node1->pool_dir;
	assert_int_equal(pki_make_ca(node1->cluster_id, &other.ca_key_pem, &other.ca_pem, NULL), 0);
	foreign = make_identity(&other, NULL, "foreign", "node2", DAY_S);
	expect_refused(foreign, "not of this cluster");
	identity_free(foreign);
	pki_free_key(other.ca_key_pem);
	free(other.ca_pem);
}

static void test_expired_certificate_is_refused(void **state)
{
	struct identity *old = make_identity(node1, pool, "old", "node3", -1);

	(void)state;
	expect_refused(old, "has expired");
	identity_free(old);
}

static void test_certificate_of_no_member_is_refused(void **state)
{
	struct identity *stranger = make_identity(node1, NULL, "stranger", "node9", DAY_S);

	(void)state;
	expect_refused(stranger, "no node named node9");
	identity_free(stranger);
}

static void test_older_certificate_of_a_member_is_refused(void **state)
{
	struct identity *again = make_identity(node1, NULL, "again", "node2", DAY_S);

	(void)state;
	expect_refused(again, "not the one that node2 joined with");
	set_record(again, again->fingerprint, 1);
	expect_refused(node2, "not the one that node2 joined with");
	identity_free(again);
}

static void test_removed_node_is_refused_at_once(void **state)
{
	struct error *err = NULL;
	struct node_link *link = node_link_open(peers, "node1", &err);
	struct http_request request = {.method = "POST", .path = "/v1/who", .timeout_ms = WAIT_MS};

	(void)state;
	node_link_call(link, &request, NULL, &err);
	expect_no_error(&err);
	pool_node_remove(pool, "node2", &err);
	expect_no_error(&err);
	/* On the same connection. */
	assert_int_equal(node_link_call(link, &request, NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "node1 does not answer node2");
	node_link_close(link);
	assert_int_equal(call_node1("GET", "/v1/who", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "node1 does not answer node2");
}

static void test_pool_that_went_away_is_no_removal(void **state)
{
	cleanup_free char *dir = in_scratch("pool"), *away = in_scratch("away");
	struct error *err = NULL;
	struct node_link *link = node_link_open(peers, "node1", &err);
	struct http_request request = {.method = "POST", .path = "/v1/who", .timeout_ms = WAIT_MS};

	(void)state;
	expect_no_error(&err);
	assert_int_equal(rename(dir, away), 0);
	assert_int_equal(node_link_call(link, &request, NULL, &err), -1);
	expect_error(&err, ERROR_POOL, "is it mounted?");
	assert_int_equal(call_node1("GET", "/v1/who", NULL, &err), -1);
	expect_error(&err, ERROR_POOL, "is it mounted?");
	assert_int_equal(rename(away, dir), 0);
	node_link_call(link, &request, NULL, &err);
	expect_no_error(&err);
	node_link_close(link);
}

static void test_old_tls_and_no_tls_are_refused(void **state)
{
	struct raw_client client = {.priorities = "NORMAL:-VERS-ALL:+VERS-TLS1.2",
		.cert_pem = node2->cert_pem,
		.key_pem = node2->key_pem};
	char answer[64];
	int fd;

	(void)state;
	assert_null(ask_raw(&client, server_port(server), ASK_WHO));
	client.priorities = "NORMAL:-VERS-ALL:+VERS-TLS1.3";
	free(ask_raw(&client, server_port(server), ASK_WHO));
	fd = connect_port(server_port(server));
	fs_write_all(fd, ASK_WHO, strlen(ASK_WHO));
	assert_true(recv(fd, answer, sizeof(answer), 0) < (ssize_t)sizeof(answer));
	assert_int_not_equal(memcmp(answer, "HTTP", 4), 0);
	close(fd);
}

static void test_peer_may_not_ask_what_is_local(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_int_equal(call_node1("GET", "/v1/own", NULL, &err), -1);
	expect_error(&err, ERROR_REFUSED, "run it on node1");
	assert_int_equal(call_node1("GET", "/v1/none", NULL, &err), -1);
	expect_error(&err, ERROR_NOT_FOUND, "no GET /v1/none");
}

static void test_stranger_gets_the_ca_and_nothing_else(void **state)
{
	struct raw_client nobody = {0};
	cleanup_free char *ca = ask_raw(&nobody, server_port(server),
		"GET /v1/ca HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	cleanup_free char *own = ask_raw(&nobody, server_port(server),
		"GET /v1/own HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	cleanup_free char *none = ask_raw(&nobody, server_port(server),
		"GET /v1/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

	(void)state;
	assert_non_null(strstr(ca, "BEGIN CERTIFICATE"));
	assert_null(strstr(ca, "PRIVATE"));
	assert_non_null(strstr(own, " 403 "));
	assert_non_null(strstr(none, " 403 "));
}

static void test_stranger_may_send_little(void **state)
{
	struct raw_client nobody = {0};
	struct buf request;
	char *answer;

	(void)state;
	buf_init(&request, 1 << 20);
	buf_printf(&request, "POST /v1/members HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
			     "Content-Length: 70000\r\n\r\n");
	memset(buf_reserve(&request, 70000), ' ', 70000);
	request.len += 70000;
	answer = ask_raw(&nobody, server_port(server), buf_string(&request));
	assert_non_null(answer);
	assert_non_null(strstr(answer, " 413 "));
	free(answer);
	buf_free(&request);
}

static void test_caller_that_stops_in_the_handshake_is_cut_off(void **state)
{
	static const unsigned char hello[] = {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc};
	char answer[64];
	int fd;

	(void)state;
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start_as(node1, 200);
	fd = connect_port(server_port(server));
	fs_write_all(fd, hello, sizeof(hello));
	while (recv(fd, answer, sizeof(answer), 0) > 0)
		;
	close(fd);
}

static void test_one_address_cannot_take_all_connections(void **state)
{
	int fds[SERVER_CONNECTIONS_PER_ADDRESS + 1];
	size_t last = SERVER_CONNECTIONS_PER_ADDRESS;
	struct error *err = NULL;
	char byte;

	(void)state;
	for (size_t i = 0; i <= last; i++)
		fds[i] = connect_from(2, server_port(server));
	/* The one too many is closed; others are answered. */
	assert_true(recv(fds[last], &byte, 1, 0) <= 0);
	assert_true(recv(fds[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	call_node1("GET", "/v1/who", NULL, &err);
	expect_no_error(&err);
	for (size_t i = 0; i <= last; i++)
		close(fds[i]);
}

/* ---- who is believed ---- */

/* node1 is now served with another identity. */
static void serve_as(const struct identity *id)
{
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start_as(id, 0);
	set_record(node1, node1->fingerprint, server_port(server));
}

static void test_node_with_the_name_but_another_ca_is_not_believed(void **state)
{
	struct identity other = {0}, *fake;
	struct error *err = NULL;

	(void)state;
	memcpy(other.cluster_id, node1->cluster_id, sizeof(other.cluster_id));
	other.pool_dir = node1->pool_dir;
	assert_int_equal(pki_make_ca(node1->cluster_id, &other.ca_key_pem, &other.ca_pem, NULL), 0);
	fake = make_identity(&other, NULL, "fake", "node1", DAY_S);
	serve_as(fake);
	assert_int_equal(call_node1("GET", "/v1/who", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "node1 (127.0.0.1:");
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start_as(node1, 0);
	identity_free(fake);
	pki_free_key(other.ca_key_pem);
	free(other.ca_pem);
}

static void expect_not_believed(const struct identity *id)
{
	struct error *err = NULL;

	serve_as(id);
	assert_int_equal(call_node1("GET", "/v1/who", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "node1 (127.0.0.1:");
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start_as(node1, 0);
}

static void test_member_does_not_pass_for_another(void **state)
{
	(void)state;
	expect_not_believed(node2);
}

static void test_node_with_its_older_certificate_is_not_believed(void **state)
{
	struct identity *before = make_identity(node1, NULL, "before", "node1", DAY_S);

	(void)state;
	expect_not_believed(before);
	identity_free(before);
}

static void test_node_with_an_expired_certificate_is_not_believed(void **state)
{
	struct identity *old = make_identity(node1, NULL, "old", "node1", -1);

	(void)state;
	expect_not_believed(old);
	identity_free(old);
}

static void test_node_that_is_down_or_unknown_is_said_so(void **state)
{
	struct error *err = NULL;
	int64_t start_ms = clock_ms();

	(void)state;
	assert_int_equal(
		node_call(peers, "node9", "GET", "/v1/who", NULL, WAIT_MS, NULL, &err), -1);
	expect_error(&err, ERROR_NO_NODE, "node9");
	set_record(node1, node1->fingerprint, 1);
	assert_int_equal(call_node1("GET", "/v1/who", NULL, &err), -1);
	expect_error(
		&err, ERROR_UNREACHABLE, "node1 (127.0.0.1:1) does not answer: Connection refused");
	assert_true(clock_ms() - start_ms < WAIT_MS);
}

static void test_node_that_accepts_and_says_nothing_is_said_so(void **state)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct error *err = NULL;

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	set_record(node1, node1->fingerprint, ntohs(at.sin_port));
	assert_int_equal(node_call(peers, "node1", "GET", "/v1/who", NULL, 300, NULL, &err), -1);
	expect_error(&err, ERROR_UNREACHABLE, "does not answer: no connection in time");
	close(fd);
}

static void test_port_that_is_taken_is_said_so(void **state)
{
	cleanup_free char *listen_at = fs_format("127.0.0.1:%d", server_port(server));
	struct server_options options = {
		.listen = listen_at, .identity = node1, .pool = pool, .routes = routes};
	struct error *err = NULL;

	(void)state;
	assert_null(server_start(&options, &err));
	expect_error(&err, ERROR_BUSY, "Address already in use");
}

static void test_server_with_a_key_of_another_does_not_start(void **state)
{
	struct identity bad = *node1;
	struct server_options options = {
		.listen = "127.0.0.1:0", .identity = &bad, .pool = pool, .routes = routes};
	struct error *err = NULL;
	int before = dup(0);

	(void)state;
	bad.key_pem = node2->key_pem;
	close(before);
	assert_null(server_start(&options, &err));
	expect_error(&err, ERROR_FAILED, "cannot start the server");
	/* It has closed what it opened. */
	assert_int_equal(dup(0), before);
	close(before);
}

/* ---- connections ---- */

static void test_connections_are_shared_and_kept(void **state)
{
	struct error *err = NULL;
	struct node_link *link;
	struct http_request request = {.method = "POST", .path = "/v1/who", .timeout_ms = WAIT_MS};

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_int_equal(call_node1("POST", "/v1/who", NULL, NULL), 0);
	link = node_link_open(peers, "node1", &err);
	node_link_call(link, &request, NULL, &err);
	expect_no_error(&err);
	assert_int_equal(node_link_connections(link), 1);
	/* A second one at the same time is another. */
	assert_int_equal(call_node1("POST", "/v1/who", NULL, NULL), 0);
	assert_int_equal(node_link_connections(link), 1);
	node_link_close(link);
	/* A node that moved is not looked for where it was. */
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start_as(node1, 0);
	set_record(node1, node1->fingerprint, server_port(server));
	assert_int_equal(call_node1("POST", "/v1/who", NULL, &err), 0);
}

struct caller {
	pthread_t thread;
	int failed;
};

static void *call_often(void *arg)
{
	struct caller *caller = arg;

	for (int i = 0; i < 50; i++)
		if (call_node1("POST", "/v1/who", NULL, NULL) < 0)
			caller->failed++;
	return NULL;
}

static void test_many_threads_call_at_once(void **state)
{
	struct caller callers[8] = {0};

	(void)state;
	for (int i = 0; i < 8; i++)
		assert_int_equal(
			pthread_create(&callers[i].thread, NULL, call_often, &callers[i]), 0);
	for (int i = 0; i < 8; i++) {
		pthread_join(callers[i].thread, NULL);
		assert_int_equal(callers[i].failed, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_member_is_answered_by_name),
		TEST(test_member_with_raw_tls_is_answered),
		TEST(test_caller_without_certificate_is_refused),
		TEST(test_certificate_of_another_cluster_is_refused),
		TEST(test_expired_certificate_is_refused),
		TEST(test_certificate_of_no_member_is_refused),
		TEST(test_older_certificate_of_a_member_is_refused),
		TEST(test_removed_node_is_refused_at_once),
		TEST(test_pool_that_went_away_is_no_removal),
		TEST(test_old_tls_and_no_tls_are_refused),
		TEST(test_peer_may_not_ask_what_is_local),
		TEST(test_stranger_gets_the_ca_and_nothing_else),
		TEST(test_stranger_may_send_little),
		TEST(test_caller_that_stops_in_the_handshake_is_cut_off),
		TEST(test_one_address_cannot_take_all_connections),
		TEST(test_node_with_the_name_but_another_ca_is_not_believed),
		TEST(test_member_does_not_pass_for_another),
		TEST(test_node_with_its_older_certificate_is_not_believed),
		TEST(test_node_with_an_expired_certificate_is_not_believed),
		TEST(test_node_that_is_down_or_unknown_is_said_so),
		TEST(test_node_that_accepts_and_says_nothing_is_said_so),
		TEST(test_port_that_is_taken_is_said_so),
		TEST(test_server_with_a_key_of_another_does_not_start),
		TEST(test_connections_are_shared_and_kept),
		TEST(test_many_threads_call_at_once),
	};

	return RUN_TESTS(tests);
}
