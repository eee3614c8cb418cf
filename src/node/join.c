#include "node/join.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "node/http.h"
#include "node/member.h"
#include "node/token.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define NONCE_BYTES 16

/* One join at a time: two that ask for the same name must not both get it. */
static pthread_mutex_t joining = PTHREAD_MUTEX_INITIALIZER;

static int write_record(const struct pool *pool, const char *name, const char *address,
	const char *cert_pem, struct error **err)
{
	struct pool_node node = {.address = (char *)address, .facts = NULL};

	memcpy(node.name, name, strlen(name) + 1);
	if (pki_fingerprint(cert_pem, node.fingerprint, err) < 0)
		return -1;
	return pool_node_write(pool, &node, err);
}

/* ERROR_EXISTS when the pool has a node of that name. */
static int check_free(const struct pool *pool, const char *name, struct error **err)
{
	struct error *why = NULL;
	struct pool_node *node = member_read(pool, name, &why);

	if (!node && why->kind == ERROR_NO_NODE) {
		error_free(&why);
		return 0;
	}
	if (!node)
		return error_move(err, why);
	pool_node_free(node);
	return error_set(err, ERROR_EXISTS, 0,
		"a node named %s is in the cluster already; take another name, or remove that one "
		"with `drover node rm %s`",
		name, name);
}

static struct identity *new_identity(
	const char *name, const char *address, const char *pool_dir, const char *cluster_id)
{
	struct identity *id = calloc(1, sizeof(*id));

	if (!id)
		abort();
	memcpy(id->name, name, strlen(name) + 1);
	memcpy(id->cluster_id, cluster_id, sizeof(id->cluster_id));
	id->address = fs_format("%s", address);
	id->pool_dir = fs_format("%s", pool_dir);
	return id;
}

static int check_not_member(const char *state_dir, struct error **err)
{
	if (!identity_exists(state_dir))
		return 0;
	return error_set(err, ERROR_EXISTS, 0,
		"this node is in a cluster already; its identity is in %s", state_dir);
}

/* ---- drover init ---- */

static int make_certificates(struct identity *id, struct error **err)
{
	cleanup_free char *request = NULL;

	if (pki_make_ca(id->cluster_id, &id->ca_key_pem, &id->ca_pem, err) < 0 ||
		pki_make_request(id->name, &id->key_pem, &request, err) < 0)
		return -1;
	id->cert_pem =
		pki_sign(id->ca_key_pem, id->ca_pem, request, id->name, PKI_NODE_VALID_S, err);
	return id->cert_pem ? 0 : -1;
}

static int make_pool(const struct identity *id, struct error **err)
{
	struct pool *pool;
	int result;

	if (pool_create(id->pool_dir, id->cluster_id, id->ca_pem, err) < 0)
		return -1;
	pool = pool_open(id->pool_dir, err);
	result = pool ? write_record(pool, id->name, id->address, id->cert_pem, err) : -1;
	pool_close(pool);
	if (result < 0)
		error_prefix(err,
			"the pool in %s was made and is of no use; remove it (pool.conf is "
			"what makes it one)",
			id->pool_dir);
	return result;
}

/* The identity comes first: it is the one that can be taken back. */
static int settle(const char *state_dir, struct identity *id, struct error **err)
{
	if (identity_save(state_dir, id, err) < 0)
		return -1;
	if (make_pool(id, err) == 0)
		return 0;
	identity_remove(state_dir, NULL);
	return -1;
}

struct identity *join_init(const char *state_dir, const char *name, const char *own_address,
	const char *pool_dir, struct error **err)
{
	char cluster_id[33];
	struct identity *id;

	if (check_not_member(state_dir, err) < 0 || pki_check_name(name, err) < 0 ||
		pool_check_mount(pool_dir, err) < 0)
		return NULL;
	fs_random_hex(cluster_id, sizeof(cluster_id) / 2);
	id = new_identity(name, own_address, pool_dir, cluster_id);
	if (make_certificates(id, err) == 0 && settle(state_dir, id, err) == 0)
		return id;
	identity_free(id);
	return NULL;
}

/* ---- the machine that joins ---- */

struct join {
	struct token token;
	const char *token_text, *address, *name, *own_address;
	char *ca_pem;
	char *pool_dir;
	struct pool *pool;
	char *key_pem, *request_pem;
	char nonce[2 * NONCE_BYTES + 1];
};

static void free_join(struct join *join)
{
	free(join->ca_pem);
	free(join->pool_dir);
	pool_close(join->pool);
	pki_free_key(join->key_pem);
	free(join->request_pem);
}

/* One request to the node that made the token; join->ca_pem NULL: not verified yet. */
static int ask(const struct join *join, const struct http_request *request, json_t **reply,
	struct error **err)
{
	struct http_target target = {
		.name = join->token.issuer, .address = join->address, .ca_pem = join->ca_pem};
	struct http_client *client = http_open(&target, err);
	int result = client ? http_call(client, request, reply, err) : -1;

	http_close(client);
	return result;
}

static int ask_ca(const struct join *join, json_t **reply, struct error **err)
{
	struct http_request request = {
		.method = "GET", .path = "/v1/ca", .timeout_ms = JOIN_TIMEOUT_MS};

	return ask(join, &request, reply, err);
}

/* The CA, from whoever answers there: believed only when the token knows it. */
static int fetch_ca(struct join *join, struct error **err)
{
	cleanup_json json_t *reply = NULL;
	char fingerprint[PKI_FINGERPRINT_SIZE];
	const char *pem;

	if (ask_ca(join, &reply, err) < 0)
		return -1;
	pem = json_get_string(reply, "ca", err);
	if (!pem || pki_fingerprint(pem, fingerprint, err) < 0)
		return -1;
	if (!pki_fingerprint_equal(fingerprint, join->token.ca_fingerprint))
		return error_set(err, ERROR_CERTIFICATE, 0,
			"the node at %s is not of the cluster that the token is for; check the "
			"address, and who may be in between",
			join->address);
	join->ca_pem = fs_format("%s", pem);
	return 0;
}

/* Opens the pool here, at pool_dir or where the other node has it. */
static int open_pool(struct join *join, const char *pool_dir, struct error **err)
{
	cleanup_json json_t *reply = NULL;
	char fingerprint[PKI_FINGERPRINT_SIZE];

	/* Verified now; also what finds out a wrong address before anything is made. */
	if (ask_ca(join, &reply, err) < 0)
		return -1;
	if (!pool_dir)
		pool_dir = json_get_string(reply, "pool", err);
	if (!pool_dir)
		return -1;
	join->pool_dir = fs_format("%s", pool_dir);
	join->pool = pool_open(pool_dir, err);
	if (!join->pool || pool_check_mount(pool_dir, err) < 0 ||
		pki_fingerprint(join->pool->ca_pem, fingerprint, err) < 0)
		return -1;
	if (!pki_fingerprint_equal(fingerprint, join->token.ca_fingerprint))
		return error_set(err, ERROR_POOL, 0,
			"the pool at %s is of another cluster than the token; mount that cluster's "
			"pool and name it with --pool",
			pool_dir);
	return 0;
}

/* Becomes a member in the other node's eyes. */
static int ask_membership(const struct join *join, json_t **reply, struct error **err)
{
	cleanup_json json_t *body = json_pack("{s:s,s:s,s:s,s:s,s:s}", "token", join->token_text,
		"name", join->name, "address", join->own_address, "csr", join->request_pem, "nonce",
		join->nonce);
	struct http_request request = {.method = "POST",
		.path = "/v1/members",
		.body = body,
		.timeout_ms = JOIN_TIMEOUT_MS};

	if (!body)
		return error_set(err, ERROR_USAGE, 0, "the name or the address is not text");
	return ask(join, &request, reply, err);
}

/* Makes this machine what the other side has taken it for. */
static struct identity *accept_membership(
	struct join *join, const char *state_dir, const json_t *reply, struct error **err)
{
	const char *cert = json_get_string(reply, "certificate", err);
	struct identity *id;

	if (!cert)
		return NULL;
	id = new_identity(join->name, join->own_address, join->pool_dir, join->pool->cluster_id);
	id->cert_pem = fs_format("%s", cert);
	id->ca_pem = fs_format("%s", join->ca_pem);
	id->key_pem = join->key_pem;
	join->key_pem = NULL;
	if (identity_save(state_dir, id, err) == 0)
		return id;
	identity_free(id);
	return NULL;
}

static struct identity *enter(struct join *join, const char *state_dir, struct error **err)
{
	cleanup_json json_t *reply = NULL;
	struct identity *id = NULL;
	const char *seen;
	int lock, asked;

	if (pool_probe_begin(join->pool, join->nonce, &lock, err) < 0)
		return NULL;
	asked = ask_membership(join, &reply, err);
	close_fd(&lock);
	if (asked < 0) {
		pool_probe_finish(join->pool, join->nonce, "", NULL);
		return NULL;
	}
	seen = json_get_string(reply, "answer", err);
	if (pool_probe_finish(join->pool, join->nonce, seen ? seen : "", err) == 0)
		id = accept_membership(join, state_dir, reply, err);
	/* The record is on the pool, which we have: a member that is none must not stay there. */
	if (!id)
		pool_node_remove(join->pool, join->name, NULL);
	return id;
}

struct identity *join_cluster(const char *state_dir, const char *address, const char *token_text,
	const char *name, const char *own_address, const char *pool_dir, struct error **err)
{
	struct join join = {.token_text = token_text,
		.address = address,
		.name = name,
		.own_address = own_address};
	struct identity *id = NULL;

	fs_random_hex(join.nonce, NONCE_BYTES);
	if (check_not_member(state_dir, err) == 0 && pki_check_name(name, err) == 0 &&
		token_parse(token_text, &join.token, err) == 0 && fetch_ca(&join, err) == 0 &&
		open_pool(&join, pool_dir, err) == 0 &&
		pki_make_request(name, &join.key_pem, &join.request_pem, err) == 0)
		id = enter(&join, state_dir, err);
	free_join(&join);
	return id;
}

/* ---- the node that made the token ---- */

int join_answer_ca(const struct identity *id, json_t **answer, struct error **err)
{
	(void)err;
	*answer = json_pack("{s:s,s:s}", "ca", id->ca_pem, "pool", id->pool_dir);
	return *answer ? 0 : error_set(err, ERROR_FAILED, 0, "the pool's path is not UTF-8");
}

struct member {
	const char *token, *name, *address, *csr, *nonce;
};

static int read_member(const json_t *request, struct member *member, struct error **err)
{
	static const char *const known[] = {"token", "name", "address", "csr", "nonce", NULL};
	char host[256];
	int port;

	if (json_only_known(request, known, err) < 0)
		return -1;
	member->token = json_get_string(request, "token", err);
	member->name = json_get_string(request, "name", err);
	member->address = json_get_string(request, "address", err);
	member->csr = json_get_string(request, "csr", err);
	member->nonce = json_get_string(request, "nonce", err);
	if (!member->token || !member->name || !member->address || !member->csr || !member->nonce)
		return -1;
	if (strlen(member->nonce) != 2 * NONCE_BYTES ||
		strspn(member->nonce, "0123456789abcdef") != 2 * NONCE_BYTES)
		return error_set(err, ERROR_REQUEST, 0, "\"nonce\" is not 32 hexadecimal digits");
	return http_split_address(member->address, host, &port, err);
}

/* With `joining` held. The certificate; the caller frees it. */
static char *admit(const struct identity *id, const struct pool *pool, struct db *db,
	const struct member *member, const struct token *token, struct error **err)
{
	char *cert;

	if (check_free(pool, member->name, err) < 0)
		return NULL;
	cert = pki_sign(
		id->ca_key_pem, id->ca_pem, member->csr, member->name, PKI_NODE_VALID_S, err);
	if (cert && token_use(db, token, member->name, clock_wall_ms(), err) == 0 &&
		write_record(pool, member->name, member->address, cert, err) == 0)
		return cert;
	free(cert);
	return NULL;
}

int join_answer(const struct identity *id, const struct pool *pool, struct db *db,
	const json_t *request, json_t **answer, struct error **err)
{
	char seen[2 * NONCE_BYTES + 1];
	cleanup_free char *cert = NULL;
	struct member member;
	struct token token;

	if (read_member(request, &member, err) < 0 || token_parse(member.token, &token, err) < 0 ||
		token_check(db, &token, clock_wall_ms(), err) < 0)
		return -1;
	if (!id->ca_key_pem)
		return error_set(err, ERROR_REFUSED, 0,
			"%s cannot take in nodes: the CA's key is on the node where `drover init` "
			"was "
			"run",
			id->name);
	fs_random_hex(seen, NONCE_BYTES);
	if (pki_check_name(member.name, err) < 0 ||
		pool_probe_answer(pool->dir, member.nonce, seen, err) < 0)
		return -1;
	pthread_mutex_lock(&joining);
	cert = admit(id, pool, db, &member, &token, err);
	pthread_mutex_unlock(&joining);
	if (!cert)
		return -1;
	log_info("%s joined the cluster from %s", member.name, member.address);
	*answer = json_pack("{s:s,s:s,s:s,s:s}", "certificate", cert, "ca", id->ca_pem, "cluster",
		id->cluster_id, "answer", seen);
	return *answer ? 0 : error_set(err, ERROR_FAILED, 0, "the answer cannot be written");
}
