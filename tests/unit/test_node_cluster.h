/*
 * For the tests of nodes among themselves: a cluster of node1, which answers over TLS, and node2,
 * which calls; and a client with any certificate.
 */
#ifndef DROVER_TEST_NODE_CLUSTER_H
#define DROVER_TEST_NODE_CLUSTER_H

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

static inline int who(struct request *request, struct response *response, struct error **err)
{
	const char *peer = request_peer(request);

	(void)err;
	response_json(response, json_pack("{s:s}", "peer", peer ? peer : "nobody"));
	return 0;
}

static inline int give_ca(struct request *request, struct response *response, struct error **err)
{
	json_t *answer = NULL;

	(void)request;
	if (join_answer_ca(node1, &answer, err) < 0)
		return -1;
	response_json(response, answer);
	return 0;
}

static inline int add_member(struct request *request, struct response *response, struct error **err)
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

static inline struct server *start_as(const struct identity *id, int header_ms)
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
static inline void set_record(const struct identity *id, const char *fingerprint, int port)
{
	cleanup_free char *address = fs_format("127.0.0.1:%d", port);
	struct pool_node node = {.address = address};
	struct error *err = NULL;

	memcpy(node.name, id->name, sizeof(node.name));
	memcpy(node.fingerprint, fingerprint, sizeof(node.fingerprint));
	pool_node_write(pool, &node, &err);
	expect_no_error(&err);
}

static inline int set_up(void **state)
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

static inline int tear_down(void **state)
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

static inline int call_node1(
	const char *method, const char *path, json_t **answer, struct error **err)
{
	return node_call(peers, "node1", method, path, NULL, WAIT_MS, answer, err);
}

/* ---- a client with any certificate and any version of TLS ---- */

struct raw_client {
	const char *priorities;
	const char *cert_pem, *key_pem; /* NULL: none */
};

/* From 127.0.0.`host`. */
static inline int connect_from(uint32_t host, int port)
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

static inline int connect_port(int port)
{
	return connect_from(1, port);
}

static inline char *talk(gnutls_session_t session, const char *request)
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
static inline char *ask_raw(const struct raw_client *client, int port, const char *request)
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

static inline void expect_refused(const struct identity *id, const char *part)
{
	struct raw_client client = {
		.cert_pem = id ? id->cert_pem : NULL, .key_pem = id ? id->key_pem : NULL};
	cleanup_free char *answer = ask_raw(&client, server_port(server), ASK_WHO);

	if (!answer || !strstr(answer, " 403 ") || !strstr(answer, "\"kind\":\"certificate\"") ||
		!strstr(answer, part))
		fail_msg("answer \"%s\", where 403 and \"%s\" were expected",
			answer ? answer : "none", part);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* Runs `tests` (an array) as main does. */
#define RUN_TESTS(tests) \
	(signal(SIGPIPE, SIG_IGN), \
		http_init(NULL) < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL))

#endif
