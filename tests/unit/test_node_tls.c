/* Nodes among themselves: who is answered over TLS, who is believed, and how a machine joins. */
#include "test_node_support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#define WAIT_MS 10000
#define DAY_S 86400

static struct identity *node1, *node2;
static struct pool *pool;
static struct db *db;
static struct server *server;
static struct node_ctx *peers; /* node2's */

/* ---- node1's server ---- */

static int who(struct request *request, struct response *response, struct error **err)
{
	const char *peer = request_peer(request);

	(void)err;
	response_json(response, json_pack("{s:s}", "peer", peer ? peer : "nobody"));
	return 0;
}

static int give_ca(struct request *request, struct response *response, struct error **err)
{
	json_t *answer = NULL;

	(void)request;
	if (join_answer_ca(node1, &answer, err) < 0)
		return -1;
	response_json(response, answer);
	return 0;
}

static int add_member(struct request *request, struct response *response, struct error **err)
{
	json_t *answer = NULL;

	if (join_answer(node1, pool, db, request_body(request), &answer, err) < 0)
		return -1;
	response_json(response, answer);
	return 0;
}

static const struct server_route routes[] = {
	{"GET", "/v1/who", SERVER_PEER, who},
	{"POST", "/v1/who", SERVER_PEER | SERVER_LOCAL, who},
	{"GET", "/v1/own", SERVER_LOCAL, who},
	{"GET", "/v1/ca", SERVER_ANYONE, give_ca},
	{"POST", "/v1/members", SERVER_ANYONE, add_member},
	{0},
};

static struct server *start_as(const struct identity *id, int header_ms)
{
	struct server_options options = {.listen = "127.0.0.1:0",
		.identity = id,
		.pool = pool,
		.routes = routes,
		.header_ms = header_ms};
	struct error *err = NULL;
	struct server *started = server_start(&options, &err);

	expect_no_error(&err);
	return started;
}

/* Makes the pool lead to a node at a port, with a certificate. */
static void set_record(const struct identity *id, const char *fingerprint, int port)
{
	cleanup_free char *address = fs_format("127.0.0.1:%d", port);
	struct pool_node node = {.address = address};
	struct error *err = NULL;

	memcpy(node.name, id->name, sizeof(node.name));
	memcpy(node.fingerprint, fingerprint, sizeof(node.fingerprint));
	pool_node_write(pool, &node, &err);
	expect_no_error(&err);
}

static int set_up(void **state)
{
	struct error *err = NULL;
	cleanup_free char *dir = NULL, *file = NULL;

	if (make_scratch(state) < 0)
		return -1;
	dir = in_scratch("pool");
	file = in_scratch("db");
	node1 = init_node1(&err);
	pool = pool_open(dir, &err);
	expect_no_error(&err);
	node2 = make_identity(node1, pool, "node2", "node2", DAY_S);
	db = db_open(file, TOKEN_SCHEMA, &err);
	expect_no_error(&err);
	server = start_as(node1, 0);
	set_record(node1, node1->fingerprint, server_port(server));
	peers = node_open(node2, pool, &err);
	expect_no_error(&err);
	return 0;
}

static int tear_down(void **state)
{
	node_close(peers);
	if (server_stop(server, WAIT_MS) != 0)
		return -1;
	db_close(db);
	identity_free(node1);
	identity_free(node2);
	pool_close(pool);
	return remove_scratch(state);
}

static int call_node1(const char *method, const char *path, json_t **answer, struct error **err)
{
	return node_call(peers, "node1", method, path, NULL, WAIT_MS, answer, err);
}

/* ---- a client with any certificate and any version of TLS ---- */

struct raw_client {
	const char *priorities;
	const char *cert_pem, *key_pem; /* NULL: none */
};

/* From 127.0.0.`host`. */
static int connect_from(uint32_t host, int port)
{
	struct sockaddr_in from = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host)};
	struct sockaddr_in at = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {WAIT_MS / 1000, 0};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static int connect_port(int port)
{
	return connect_from(1, port);
}

static char *talk(gnutls_session_t session, const char *request)
{
	char answer[8192];
	size_t len = 0;
	ssize_t n = 1;

	for (size_t left = strlen(request); left > 0 && n > 0; left -= (size_t)n) {
		n = gnutls_record_send(session, request, left);
		request += n;
	}
	if (n < 0)
		return NULL;
	while (len < sizeof(answer) - 1 &&
		(n = gnutls_record_recv(session, answer + len, sizeof(answer) - 1 - len)) > 0)
		len += (size_t)n;
	answer[len] = '\0';
	return fs_format("%s", answer);
}

/* The answer to a request, NULL when there was no handshake; the caller frees it. */
static char *ask_raw(const struct raw_client *client, int port, const char *request)
{
	gnutls_certificate_credentials_t credentials;
	gnutls_session_t session;
	char *answer = NULL;
	int code, fd = connect_port(port);

	gnutls_certificate_allocate_credentials(&credentials);
	/* Shown whatever CA the server names. */
	gnutls_certificate_set_flags(credentials, GNUTLS_CERTIFICATE_SKIP_KEY_CERT_MATCH);
	gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_FORCE_CLIENT_CERT);
	if (client->cert_pem) {
		gnutls_datum_t cert = {
			(unsigned char *)client->cert_pem, (unsigned)strlen(client->cert_pem)};
		gnutls_datum_t key = {
			(unsigned char *)client->key_pem, (unsigned)strlen(client->key_pem)};

		assert_int_equal(gnutls_certificate_set_x509_key_mem(
					 credentials, &cert, &key, GNUTLS_X509_FMT_PEM),
			0);
	}
	gnutls_priority_set_direct(
		session, client->priorities ? client->priorities : "NORMAL", NULL);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_transport_set_int(session, fd);
	do
		code = gnutls_handshake(session);
	while (code < 0 && !gnutls_error_is_fatal(code));
	if (code == 0)
		answer = talk(session, request);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(credentials);
	close(fd);
	return answer;
}

#define ASK_WHO "GET /v1/who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static void expect_refused(const struct identity *id, const char *part)
{
	struct raw_client client = {
		.cert_pem = id ? id->cert_pem : NULL, .key_pem = id ? id->key_pem : NULL};
	cleanup_free char *answer = ask_raw(&client, server_port(server), ASK_WHO);

	if (!answer || !strstr(answer, " 403 ") || !strstr(answer, "\"kind\":\"certificate\"") ||
		!strstr(answer, part))
		fail_msg("answer \"%s\", where 403 and \"%s\" were expected",
			answer ? answer : "none", part);
}

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

/* ---- join ---- */

static void make_token(char text[TOKEN_TEXT_SIZE], int64_t age_ms)
{
	char fingerprint[PKI_FINGERPRINT_SIZE];
	struct error *err = NULL;

	assert_int_equal(pki_fingerprint(node1->ca_pem, fingerprint, &err), 0);
	token_issue(db, fingerprint, "node1", clock_wall_ms() - age_ms, text, &err);
	expect_no_error(&err);
}

static struct identity *join_as(
	const char *name, const char *token, const char *pool_dir, struct error **err)
{
	cleanup_free char *dir = in_scratch(name);
	cleanup_free char *address = fs_format("127.0.0.1:%d", server_port(server));

	return join_cluster(dir, address, token, name, "127.0.0.1:7790", pool_dir, err);
}

static void test_machine_joins_with_a_token(void **state)
{
	char token[TOKEN_TEXT_SIZE];
	cleanup_json json_t *answer = NULL;
	struct error *err = NULL;
	struct identity *id;
	struct pool_node *record;
	struct node_ctx *its_peers;

	(void)state;
	make_token(token, 0);
	id = join_as("node3", token, NULL, &err);
	expect_no_error(&err);
	assert_string_equal(id->cluster_id, node1->cluster_id);
	assert_string_equal(id->pool_dir, node1->pool_dir);
	assert_null(id->ca_key_pem);
	record = pool_node_read(pool, "node3", &err);
	expect_no_error(&err);
	assert_string_equal(record->address, "127.0.0.1:7790");
	assert_string_equal(record->fingerprint, id->fingerprint);
	its_peers = node_open(id, pool, &err);
	node_call(its_peers, "node1", "GET", "/v1/who", NULL, WAIT_MS, &answer, &err);
	expect_no_error(&err);
	assert_string_equal(json_get_string(answer, "peer", NULL), "node3");
	/* It is a member now, and is not one a second time. */
	assert_null(join_as("node3", token, NULL, &err));
	expect_error(&err, ERROR_EXISTS, "in a cluster already");
	node_close(its_peers);
	pool_node_free(record);
	identity_free(id);
}

/* Nothing of a node3 may be there. */
static void expect_not_joined(
	struct identity *id, struct error **err, enum error_kind kind, const char *part)
{
	cleanup_free char *dir = in_scratch("node3");
	struct error *none = NULL;

	assert_null(id);
	expect_error(err, kind, part);
	assert_false(identity_exists(dir));
	assert_null(pool_node_read(pool, "node3", &none));
	expect_error(&none, ERROR_NO_NODE, "node3");
}

static void test_tokens_that_are_used_old_or_wrong_let_nobody_in(void **state)
{
	char used[TOKEN_TEXT_SIZE], old[TOKEN_TEXT_SIZE], wrong[TOKEN_TEXT_SIZE];
	struct error *err = NULL;

	(void)state;
	make_token(used, 0);
	make_token(old, TOKEN_LIFE_MS + 1000);
	make_token(wrong, 0);
	wrong[10] = wrong[10] == 'A' ? 'B' : 'A'; /* within the secret */
	identity_free(join_as("node4", used, NULL, &err));
	expect_no_error(&err);
	expect_not_joined(
		join_as("node3", used, NULL, &err), &err, ERROR_TOKEN, "used already, by node4");
	expect_not_joined(
		join_as("node3", old, NULL, &err), &err, ERROR_TOKEN, "older than an hour");
	expect_not_joined(join_as("node3", wrong, NULL, &err), &err, ERROR_TOKEN, "not known");
	expect_not_joined(
		join_as("node3", "drover1.", NULL, &err), &err, ERROR_TOKEN, "not a join token");
}

static void test_name_that_is_taken_costs_no_token(void **state)
{
	char token[TOKEN_TEXT_SIZE];
	cleanup_free char *dir = in_scratch("elsewhere");
	cleanup_free char *address = fs_format("127.0.0.1:%d", server_port(server));
	struct error *err = NULL;
	struct pool_node *record;

	(void)state;
	make_token(token, 0);
	assert_null(join_cluster(dir, address, token, "node2", "127.0.0.1", NULL, &err));
	expect_error(&err, ERROR_EXISTS, "a node named node2 is in the cluster already");
	record = pool_node_read(pool, "node2", &err);
	expect_no_error(&err);
	assert_string_equal(record->fingerprint, node2->fingerprint);
	pool_node_free(record);
	identity_free(join_as("node3", token, NULL, &err));
	expect_no_error(&err);
}

static void test_token_of_another_cluster_is_noticed_before_it_is_shown(void **state)
{
	char fingerprint[PKI_FINGERPRINT_SIZE], token[TOKEN_TEXT_SIZE];
	struct token parsed;
	struct error *err = NULL;

	(void)state;
	pki_sha256_hex("another", 7, fingerprint);
	token_issue(db, fingerprint, "node1", clock_wall_ms(), token, &err);
	expect_no_error(&err);
	expect_not_joined(join_as("node3", token, NULL, &err), &err, ERROR_CERTIFICATE,
		"not of the cluster that the token is for");
	token_parse(token, &parsed, &err);
	assert_int_equal(token_check(db, &parsed, clock_wall_ms(), &err), 0);
}

static void test_member_cannot_pass_for_the_node_of_the_token(void **state)
{
	char token[TOKEN_TEXT_SIZE];
	struct error *err = NULL;

	(void)state;
	make_token(token, 0);
	assert_int_equal(server_stop(server, WAIT_MS), 0);
	server = start_as(node2, 0);
	expect_not_joined(join_as("node3", token, NULL, &err), &err, ERROR_CERTIFICATE,
		"it is node2, not node1");
}

static void test_machine_with_another_pool_does_not_join(void **state)
{
	char token[TOKEN_TEXT_SIZE];
	cleanup_free char *other = in_scratch("other"), *copy = in_scratch("copy");
	struct error *err = NULL;

	(void)state;
	make_token(token, 0);
	expect_not_joined(join_as("node3", token, "/nonexistent", &err), &err, ERROR_POOL, "");
	pool_create(other, node1->cluster_id, node2->cert_pem, &err);
	expect_no_error(&err);
	expect_not_joined(
		join_as("node3", token, other, &err), &err, ERROR_POOL, "of another cluster");
	/* The same CA and id, and yet not the same directory: what the probe is for. */
	pool_create(copy, node1->cluster_id, node1->ca_pem, &err);
	expect_no_error(&err);
	expect_not_joined(join_as("node3", token, copy, &err), &err, ERROR_POOL, "");
	identity_free(join_as("node3", token, NULL, &err));
	expect_no_error(&err);
}

static void test_requests_to_join_that_are_wrong_are_refused(void **state)
{
	static const char *const bodies[] = {"{}", "{\"token\":1}",
		"{\"token\":\"drover1.\",\"name\":\"a\",\"address\":\"b\",\"csr\":\"c\",\"nonce\":"
		"\"d\"}",
		"{\"token\":\"x\",\"name\":\"../a\",\"address\":\"b\",\"csr\":\"c\","
		"\"nonce\":\"00112233445566778899aabbccddeeff\",\"more\":1}"};
	struct raw_client nobody = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		cleanup_free char *request =
			fs_format("POST /v1/members HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
				  "Content-Length: %zu\r\n\r\n%s",
				strlen(bodies[i]), bodies[i]);
		cleanup_free char *answer = ask_raw(&nobody, server_port(server), request);

		assert_non_null(strstr(answer, " 400 "));
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

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
		TEST(test_machine_joins_with_a_token),
		TEST(test_tokens_that_are_used_old_or_wrong_let_nobody_in),
		TEST(test_name_that_is_taken_costs_no_token),
		TEST(test_token_of_another_cluster_is_noticed_before_it_is_shown),
		TEST(test_member_cannot_pass_for_the_node_of_the_token),
		TEST(test_machine_with_another_pool_does_not_join),
		TEST(test_requests_to_join_that_are_wrong_are_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	if (http_init(NULL) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
