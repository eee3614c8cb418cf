/* This node: status, metrics, and how it enters or makes a cluster. */
#include "daemon/api.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/address.h"
#include "node/join.h"
#include "node/token.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ALL (SERVER_LOCAL | SERVER_PEER | SERVER_ANYONE)

#define ROUTES(X) \
	X(status, "GET", "/v1/status", API_ANY_NODE, "", "") \
	X(metrics, "GET", "/metrics", SERVER_LOCAL, "", "") \
	X(init, "POST", "/v1/init", SERVER_LOCAL, "", "pool name address") \
	X(join, "POST", "/v1/join", SERVER_LOCAL, "", "address token name pool own_address") \
	X(new_token, "POST", "/v1/tokens", SERVER_LOCAL, "", "") \
	X(ca, "GET", "/v1/ca", ALL, "", "") \
	X(new_member, "POST", "/v1/members", ALL, "", "token name csr address nonce")

static json_t *hypervisor_json(struct daemon *daemon)
{
	struct hv *hv = atomic_load(&daemon->hv);
	const struct hv_facts *f = hv ? hv_get_facts(hv) : NULL;

	if (!f)
		return json_null();
	return json_pack("{s:s, s:s, s:s, s:s?}", "driver", f->driver, "version", f->version,
		"accel", f->accel, "no_live", f->no_live);
}

static int count_running(const json_t *list, const char *key)
{
	const json_t *entry;
	int count = 0;
	size_t i;

	json_array_foreach(json_object_get(list, key), i, entry)
	{
		const char *state = json_string_value(json_object_get(entry, "state"));

		count += state && !strcmp(state, "running");
	}
	return count;
}

static int status(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct cluster *c = atomic_load(&daemon->cluster);
	struct machine *m = atomic_load(&daemon->machine);
	cleanup_json json_t *vms = m && daemon_pool_answers(daemon) ? vms_list(m->vms, NULL) : NULL;
	cleanup_json json_t *migrations = m ? migrations_list(m->migrations, NULL) : NULL;
	json_t *problems = daemon_problems(daemon);
	json_t *answer = json_pack("{s:s, s:s?, s:s?, s:s?, s:s?, s:b, s:o, s:o, s:I}", "version",
		DROVER_VERSION, "node", c ? c->identity->name : NULL, "address",
		c ? c->identity->address : NULL, "cluster", c ? c->identity->cluster_id : NULL,
		"pool", c ? c->pool->dir : NULL, "ready", m && json_array_size(problems) == 0,
		"problems", problems, "hypervisor", hypervisor_json(daemon), "time_ms",
		(json_int_t)clock_wall_ms());

	json_object_set_new(
		answer, "vms_running", vms ? json_integer(count_running(vms, "vms")) : json_null());
	json_object_set_new(answer, "migrations_running",
		json_integer(count_running(migrations, "migrations")));
	(void)err;
	return api_answer(response, answer);
}

static int metrics(struct request *request, struct response *response, struct error **err)
{
	size_t len;
	char *text = metrics_text(api_daemon(request), &len);

	(void)err;
	response_text(response, "text/plain; version=0.0.4; charset=utf-8", text, len);
	return 0;
}

/* Which name and address this node gets, where the request leaves them out. */
struct self {
	char name[256];
	char *address;
};

static int find_self(struct daemon *daemon, const json_t *body, const char *address_key,
	const char *peer, struct self *self, struct error **err)
{
	const char *name, *address;
	int port = address_port(daemon->config->listen, err);

	if (port < 0 || json_opt_string(body, "name", NULL, &name, err) < 0 ||
		json_opt_string(body, address_key, daemon->config->address, &address, err) < 0)
		return -1;
	if (name) {
		snprintf(self->name, sizeof(self->name), "%s", name);
	} else {
		if (gethostname(self->name, sizeof(self->name)) < 0)
			self->name[0] = 0;
		self->name[sizeof(self->name) - 1] = 0;
		self->name[strcspn(self->name, ".")] = 0;
	}
	self->address = address ? fs_format("%s", address) : address_find(peer, port, err);
	return self->address ? 0 : -1;
}

static int come_up(struct daemon *daemon, const char *name, struct error **err)
{
	if (daemon_try_now(daemon, err) == 0)
		return 0;
	return error_prefix(err, "%s is in the cluster now, but cannot work in it yet", name);
}

/* {"token","command","expires"} */
static json_t *make_token(struct daemon *daemon, struct error **err)
{
	struct cluster *c = daemon_cluster(daemon, err);
	char fingerprint[PKI_FINGERPRINT_SIZE], text[TOKEN_TEXT_SIZE], expires[32];
	cleanup_free char *command = NULL;
	int64_t now = clock_wall_ms();

	if (!c)
		return NULL;
	if (!c->identity->ca_key_pem) {
		error_set(err, ERROR_REFUSED, 0,
			"%s cannot sign certificates: make tokens on the node where `drover init` "
			"was run",
			c->identity->name);
		return NULL;
	}
	if (pki_fingerprint(c->identity->ca_pem, fingerprint, err) < 0 ||
		token_issue(daemon->db, fingerprint, c->identity->name, now, text, err) < 0)
		return NULL;
	command = fs_format("drover join %s --token %s", c->identity->address, text);
	clock_format(now + TOKEN_LIFE_MS, expires);
	return json_pack("{s:s, s:s, s:s}", "token", text, "command", command, "expires", expires);
}

static int init_locked(
	struct daemon *daemon, const json_t *body, json_t **answer, struct error **err)
{
	const char *pool = json_get_string(body, "pool", err);
	struct self self = {.address = NULL};
	struct identity *id = NULL;

	if (!pool)
		return -1;
	if (pool[0] != '/')
		return error_set(
			err, ERROR_USAGE, 0, "the pool must be an absolute path, not \"%s\"", pool);
	if (find_self(daemon, body, "address", NULL, &self, err) == 0)
		id = join_init(daemon->config->state, self.name, self.address, pool, err);
	free_pointer(&self.address);
	if (!id)
		return -1;
	log_info("made cluster %s with its pool in %s", id->cluster_id, pool);
	*answer = come_up(daemon, id->name, err) == 0 ? make_token(daemon, err) : NULL;
	if (*answer) {
		json_object_set_new(*answer, "node", json_string(id->name));
		json_object_set_new(*answer, "cluster", json_string(id->cluster_id));
	}
	identity_free(id);
	return *answer ? 0 : -1;
}

/* What this node lacks of what the others can give to guests; NULL: nothing, or not known yet. */
static json_t *own_cpu_lacks(struct daemon *daemon, const char *name)
{
	struct machine *m = atomic_load(&daemon->machine);
	cleanup_json json_t *lacks = m ? vms_cpu_lacks(m->vms, NULL) : NULL;

	return json_incref(json_object_get(lacks, name));
}

static int join_locked(
	struct daemon *daemon, const json_t *body, json_t **answer, struct error **err)
{
	const char *address = json_get_string(body, "address", err);
	const char *token = address ? json_get_string(body, "token", err) : NULL;
	const char *pool;
	struct self self = {.address = NULL};
	struct identity *id = NULL;

	if (!token || json_opt_string(body, "pool", NULL, &pool, err) < 0)
		return -1;
	if (pool && pool[0] != '/')
		return error_set(
			err, ERROR_USAGE, 0, "the pool must be an absolute path, not \"%s\"", pool);
	if (find_self(daemon, body, "own_address", address, &self, err) == 0)
		id = join_cluster(
			daemon->config->state, address, token, self.name, self.address, pool, err);
	free_pointer(&self.address);
	if (!id)
		return -1;
	log_info("joined cluster %s as %s", id->cluster_id, id->name);
	if (come_up(daemon, id->name, err) == 0)
		*answer = json_pack("{s:s, s:s, s:s, s:o*}", "node", id->name, "cluster",
			id->cluster_id, "pool", id->pool_dir, "cpu_lacks",
			own_cpu_lacks(daemon, id->name));
	identity_free(id);
	return *answer ? 0 : -1;
}

typedef int enter_fn(
	struct daemon *daemon, const json_t *body, json_t **answer, struct error **err);

/* One at a time: the second of two finds the first one's identity. */
static int enter(
	enter_fn *how, struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	json_t *answer = NULL;
	int rc;

	pthread_mutex_lock(&daemon->joining);
	rc = how(daemon, request_body(request), &answer, err);
	pthread_mutex_unlock(&daemon->joining);
	return rc < 0 ? -1 : api_answer(response, answer);
}

static int init(struct request *request, struct response *response, struct error **err)
{
	return enter(init_locked, request, response, err);
}

static int join(struct request *request, struct response *response, struct error **err)
{
	return enter(join_locked, request, response, err);
}

static int new_token(struct request *request, struct response *response, struct error **err)
{
	return api_answer(response, make_token(api_daemon(request), err));
}

static int ca(struct request *request, struct response *response, struct error **err)
{
	struct cluster *c = daemon_cluster_even_removed(api_daemon(request), err);
	json_t *answer = NULL;

	if (!c || join_answer_ca(c->identity, &answer, err) < 0)
		return -1;
	return api_answer(response, answer);
}

static int new_member(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct cluster *c = daemon_cluster(daemon, err);
	json_t *answer = NULL;

	if (!c || join_answer(c->identity, c->pool, daemon->db, request_body(request), &answer,
			  err) < 0)
		return -1;
	return api_answer(response, answer);
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_node_routes[] = {ROUTES(API_ROUTE_ROW){0}};
