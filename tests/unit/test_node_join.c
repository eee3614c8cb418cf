/* How a machine joins a cluster, and how it does not. */
#include "test_node_cluster.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_machine_joins_with_a_token),
		TEST(test_tokens_that_are_used_old_or_wrong_let_nobody_in),
		TEST(test_name_that_is_taken_costs_no_token),
		TEST(test_token_of_another_cluster_is_noticed_before_it_is_shown),
		TEST(test_member_cannot_pass_for_the_node_of_the_token),
		TEST(test_machine_with_another_pool_does_not_join),
		TEST(test_requests_to_join_that_are_wrong_are_refused),
	};

	return RUN_TESTS(tests);
}
