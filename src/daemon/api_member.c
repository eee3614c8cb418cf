/* The members of the cluster: listed, shown, removed. */
#include "daemon/api.h"

#include "base/buf.h"
#include "base/log.h"
#include "pool/owner.h"

#include <stdlib.h>
#include <string.h>

#define ROUTES(X) \
	X(list, "GET", "/v1/nodes", SERVER_LOCAL, "", "") \
	X(show, "GET", "/v1/nodes/{node}", SERVER_LOCAL, "", "") \
	X(remove_node, "DELETE", "/v1/nodes/{node}", SERVER_LOCAL, "force", "")

/* How long each node has to say how it is. */
#define STATUS_MS 2000

/* What the pool says of a node; one whose record cannot be read is "broken". */
static json_t *from_record(const struct cluster *c, const char *name, bool with_facts)
{
	cleanup_error struct error *e = NULL;
	struct pool_node *record = pool_node_read(c->pool, name, &e);
	json_t *info;

	if (!record)
		return json_pack(
			"{s:s, s:s, s:s}", "name", name, "state", "broken", "problem", e->message);
	info = json_pack("{s:s, s:s, s:s, s:b}", "name", record->name, "address", record->address,
		"fingerprint", record->fingerprint, "self",
		!strcmp(record->name, c->identity->name));
	if (with_facts)
		json_object_set_new(info, "facts", json_loads(record->facts, 0, NULL));
	pool_node_free(record);
	return info;
}

/* Adds what the node itself said, or why it said nothing. */
static void add_status(json_t *info, const struct api_ask *ask)
{
	static const char *const copied[] = {
		"version", "ready", "problems", "hypervisor", "vms_running", "migrations_running"};
	const json_t *time_ms = json_object_get(ask->answer, "time_ms");

	if (json_object_get(info, "state"))
		return;
	json_object_set_new(info, "state", json_string(ask->answer ? "up" : "down"));
	if (ask->problem)
		json_object_set_new(info, "problem", json_string(ask->problem->message));
	for (size_t i = 0; ask->answer && i < sizeof(copied) / sizeof(copied[0]); i++)
		json_object_set(info, copied[i], json_object_get(ask->answer, copied[i]));
	if (json_is_integer(time_ms))
		json_object_set_new(info, "clock_difference_ms",
			json_integer(json_integer_value(time_ms) - (json_int_t)ask->asked_ms));
}

/* What each node lacks of what the others can give to guests; where this node can compare. */
static void add_cpu_lacks(struct daemon *daemon, json_t *nodes)
{
	struct machine *m = atomic_load(&daemon->machine);
	cleanup_json json_t *lacks = m ? vms_cpu_lacks(m->vms, NULL) : NULL;
	json_t *info;
	size_t i;

	json_array_foreach(nodes, i, info)
	{
		const char *name = json_string_value(json_object_get(info, "name"));
		json_t *of_node = json_object_get(lacks, name);

		if (of_node)
			json_object_set(info, "cpu_lacks", of_node);
	}
}

static int list(struct request *request, struct response *response, struct error **err)
{
	struct cluster *c = daemon_cluster(api_daemon(request), err);
	struct pool_names names;
	struct api_ask *asks;
	json_t *nodes;

	if (!c || pool_node_list(c->pool, &names, err) < 0)
		return -1;
	asks = calloc(names.count + 1, sizeof(*asks));
	if (!asks)
		abort();
	for (size_t i = 0; i < names.count; i++)
		asks[i].node = names.names[i];
	api_ask_nodes(c->peers, asks, names.count, "/v1/status", STATUS_MS);
	nodes = json_array();
	for (size_t i = 0; i < names.count; i++) {
		json_t *info = from_record(c, names.names[i], false);

		add_status(info, &asks[i]);
		json_array_append_new(nodes, info);
	}
	api_ask_free(asks, names.count);
	pool_names_free(&names);
	add_cpu_lacks(api_daemon(request), nodes);
	return api_answer(response, json_pack("{s:o}", "nodes", nodes));
}

static int show(struct request *request, struct response *response, struct error **err)
{
	struct cluster *c = daemon_cluster(api_daemon(request), err);
	struct api_ask ask = {.node = request_param(request, "node")};
	cleanup_json json_t *only = json_array();
	struct pool_node *record;
	json_t *info;

	if (!c || fs_check_name("node", ask.node, err) < 0)
		return -1;
	record = pool_node_read(c->pool, ask.node, err);
	if (!record)
		return -1;
	pool_node_free(record);
	api_ask_nodes(c->peers, &ask, 1, "/v1/status", STATUS_MS);
	info = from_record(c, ask.node, true);
	add_status(info, &ask);
	json_array_append(only, info);
	add_cpu_lacks(api_daemon(request), only);
	json_decref(ask.answer);
	error_free(&ask.problem);
	return api_answer(response, info);
}

/* Names of the VMs that `node` owns, "web1, web2", into `owned`; how many they are, or -1. */
static int owned_vms(
	const struct cluster *c, const char *node, struct buf *owned, struct error **err)
{
	struct pool_names names;
	struct pool_owner owner;
	int count = 0;

	if (pool_vm_list(c->pool, &names, err) < 0)
		return -1;
	for (size_t i = 0; count >= 0 && i < names.count; i++) {
		if (pool_owner_read(c->pool, names.names[i], &owner, err) < 0)
			count = -1;
		else if (!strcmp(owner.node, node))
			buf_printf(owned, count++ ? ", %s" : "%s", names.names[i]);
	}
	pool_names_free(&names);
	return count;
}

/* What a node that answers still does as a member; `status` is NULL of one that does not. */
static int check_idle(
	const char *node, const char *owned, bool force, const json_t *status, struct error **err)
{
	int64_t moves = 0;

	json_opt_int(status, "migrations_running", 0, INT64_MAX, 0, &moves, NULL);
	if (moves > 0)
		return error_set(err, ERROR_REFUSED, 0,
			"%s takes part in a migration: `drover migration ls --node %s` lists them; "
			"wait until they have ended, or cancel them",
			node, node);
	if (*owned && !force)
		return error_set(err, ERROR_REFUSED, 0,
			"%s owns %s: move or stop them first; if it is dead for good, remove it "
			"with --force",
			node, owned);
	if (*owned && status)
		return error_set(err, ERROR_REFUSED, 0,
			"%s answers and owns %s: a removed node could not stop them in order; move "
			"or stop them first",
			node, owned);
	return 0;
}

/* Forced or not: a node that answers and runs VMs, or is about to, would go on running them,
 * removed. */
static int may_remove(struct cluster *c, const char *node, bool force, struct error **err)
{
	struct api_ask ask = {.node = node};
	struct buf owned;
	int rc;

	buf_init(&owned, 512);
	rc = owned_vms(c, node, &owned, err) < 0 ? -1 : 0;
	if (rc == 0) {
		api_ask_nodes(c->peers, &ask, 1, "/v1/status", STATUS_MS);
		rc = check_idle(node, buf_string(&owned), force, ask.answer, err);
	}
	json_decref(ask.answer);
	error_free(&ask.problem);
	buf_free(&owned);
	return rc;
}

/* A record that is there and cannot be read can be removed by force. */
static int check_there(const struct cluster *c, const char *node, bool force, struct error **err)
{
	cleanup_error struct error *e = NULL;
	struct pool_node *record = pool_node_read(c->pool, node, &e);

	if (record) {
		pool_node_free(record);
		return 0;
	}
	if (force && e->kind == ERROR_DEFINITION)
		return 0;
	error_move(err, e);
	e = NULL;
	return -1;
}

static int remove_node(struct request *request, struct response *response, struct error **err)
{
	struct cluster *c = daemon_cluster(api_daemon(request), err);
	const char *node = request_param(request, "node");
	bool force;

	(void)response;
	if (!c || fs_check_name("node", node, err) < 0 ||
		api_query_bool(request, "force", false, &force, err) < 0 ||
		check_there(c, node, force, err) < 0)
		return -1;
	if (!strcmp(node, c->identity->name))
		return error_set(err, ERROR_REFUSED, 0,
			"%s is this node; remove it by a command on another node", node);
	if (may_remove(c, node, force, err) < 0 || pool_node_remove(c->pool, node, err) < 0)
		return -1;
	log_info("%s has been removed from the cluster", node);
	return 0;
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_member_routes[] = {ROUTES(API_ROUTE_ROW){0}};
