/* Migrations: what a user asks, and what the source's droverd asks of the destination's. */
#include "daemon/api.h"

#include "daemon/indexer.h"
#include "migrate/estimating.h"
#include "migrate/preflight.h"
#include "migrate/probe.h"
#include "migrate/way.h"
#include "node/member.h"

#include <string.h>

#define ROUTES(X) \
	X(start, "POST", "/v1/migrations", API_ANY_NODE, "", "vm node options check") \
	X(preflight, "POST", "/v1/preflight", SERVER_PEER, "", \
		"vm definition epoch nonce postcopy warm") \
	X(probe, "POST", "/v1/probes", SERVER_PEER, "", "id") \
	X(list, "GET", "/v1/migrations", API_ANY_NODE, "", "") \
	X(show, "GET", "/v1/migrations/{id}", API_ANY_NODE, "", "") \
	X(events, "GET", "/v1/migrations/{id}/events", API_ANY_NODE, "after wait_ms", "") \
	X(cancel, "POST", "/v1/migrations/{id}/cancel", API_ANY_NODE, "", "") \
	X(receive, "POST", "/v1/migrations/{id}/receive", SERVER_LOCAL, "", "") \
	X(expect, "POST", "/v1/migrations/{id}/expect", SERVER_PEER, "", \
		"id vm definition epoch pause postcopy warm reconnect_s force") \
	X(ready, "GET", "/v1/migrations/{id}/ready", SERVER_PEER, "hypervisor wait_ms", "") \
	X(handover, "POST", "/v1/migrations/{id}/handover", SERVER_PEER, "", "") \
	X(recover, "POST", "/v1/migrations/{id}/recover", SERVER_PEER, "", "") \
	X(give_up, "POST", "/v1/migrations/{id}/abort", SERVER_PEER, "", "")

/* NULL and an error where there are none. What has begun is brought to its end by a node that has
 * been removed meanwhile, too: it must not depend on one more look at the pool. */
static struct migrations *all(const struct request *request, struct error **err)
{
	struct machine *m = daemon_machine_even_removed(api_daemon(request), err);

	return m ? m->migrations : NULL;
}

/* What can be said of a move before the node that has the VM is asked. A check has no table of what
 * it would have asked of a node that is none. */
static int check_move(const struct pool *pool, const char *vm, const char *to,
	struct pool_owner *owner, struct machine *m, struct error **err)
{
	struct pool_node *node;

	if (fs_check_name("node", to, err) < 0 || vms_where(m->vms, vm, owner, err) < 0)
		return -1;
	node = member_read(pool, to, err);
	if (!node)
		return -1;
	pool_node_free(node);
	if (!strcmp(owner->node, to))
		return error_set(err, ERROR_ALREADY_THERE, 0, "%s is on %s already", vm, to);
	return 0;
}

static int start_here(struct request *request, struct response *response, const char *vm,
	const char *to, const struct migrate_options *options, struct error **err)
{
	struct cluster *c = atomic_load(&api_daemon(request)->cluster);
	struct migrations *m = all(request, err);
	json_t *warnings = NULL;
	char id[33];

	if (!m || migrations_start(m, vm, to, options, id, &warnings, err) < 0)
		return -1;
	/* For its next move, where this one has come too early. */
	indexer_look_at(api_daemon(request)->indexer, c->pool, vm);
	return api_answer(response, json_pack("{s:s, s:s, s:o}", "id", id, "node",
					    c->identity->name, "warnings", warnings));
}

/* The checks, and beside them the estimate. */
static json_t *check_here(struct migrations *m, const char *vm, const char *to,
	struct migrate_options *options, struct error **err)
{
	struct estimating *estimating = NULL;
	cleanup_json json_t *estimate = NULL;
	json_t *report;

	options->files = migrate_way(m, to, options) == HV_WAY_FILES;
	if (!options->no_estimate)
		estimating = estimating_start(m, vm, to, options, ESTIMATING_WELL);
	report = preflight_run(m, vm, to, options, err);
	estimate = report && estimating ? estimating_finish(estimating, 0, false) : NULL;
	if (report)
		migrate_way_say(report, estimate);
	if (estimate) {
		estimating_remember(m, vm, to, options, estimate);
		json_object_set(report, "estimate", estimate);
	}
	estimating_free(estimating);
	return report;
}

static int start(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	struct cluster *c = atomic_load(&api_daemon(request)->cluster);
	const json_t *body = request_body(request);
	const char *vm = m ? json_get_string(body, "vm", err) : NULL;
	const char *to = vm ? json_get_string(body, "node", err) : NULL;
	struct migrate_options options;
	struct pool_owner owner;
	bool check;

	if (!to || migrate_options_parse(json_object_get(body, "options"), &options, err) < 0 ||
		json_opt_bool(body, "check", false, &check, err) < 0 ||
		check_move(c->pool, vm, to, &owner, m, err) < 0)
		return -1;
	/* It is started where the VM is. */
	if (*owner.node && strcmp(owner.node, c->identity->name) && !request_peer(request))
		return api_pass_on(
			request, response, owner.node, "POST", "/v1/migrations", body, err);
	if (check)
		return api_answer(response, check_here(m->migrations, vm, to, &options, err));
	return start_here(request, response, vm, to, &options, err);
}

static int preflight(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);

	return m ? api_answer(response, preflight_answer(m->migrations, request_peer(request),
						request_body(request), err))
		 : -1;
}

static int probe(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);

	return m ? api_answer(response, probe_receive(m->migrations, request_peer(request),
						request_body(request), err))
		 : -1;
}

static int list(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	return m ? api_answer(response, migrations_list(m, err)) : -1;
}

static int show(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	return m ? api_answer(response, migrations_show(m, request_param(request, "id"), err)) : -1;
}

static int events(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);
	int64_t after, wait_ms;

	if (!m || api_query_int(request, "after", 0, INT64_MAX, 0, &after, err) < 0 ||
		api_query_int(request, "wait_ms", 0, API_WAIT_MAX_MS, 0, &wait_ms, err) < 0)
		return -1;
	return api_answer(
		response, migrations_events(m, request_param(request, "id"), after, wait_ms, err));
}

static int cancel(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	(void)response;
	return m ? migrations_cancel(m, request_param(request, "id"), err) : -1;
}

static int receive(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	(void)response;
	return m ? migrations_receive(m, request_param(request, "id"), err) : -1;
}

static int expect(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	const json_t *body = request_body(request);
	const char *id = m ? json_get_string(body, "id", err) : NULL;

	(void)response;
	if (!id)
		return -1;
	if (strcmp(id, request_param(request, "id")))
		return error_set(err, ERROR_REQUEST, 0, "\"id\" is not the one of the path");
	return migrations_expect(m->migrations, request_peer(request), body, err);
}

static int ready(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);
	bool hypervisor;
	int64_t wait_ms;

	if (!m || api_query_bool(request, "hypervisor", false, &hypervisor, err) < 0 ||
		api_query_int(request, "wait_ms", 0, API_WAIT_MAX_MS, 0, &wait_ms, err) < 0)
		return -1;
	return api_answer(
		response, migrations_wait_ready(m, request_peer(request),
				  request_param(request, "id"), hypervisor, wait_ms, err));
}

static int handover(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	return m ? api_answer(response, migrations_handover(m, request_peer(request),
						request_param(request, "id")))
		 : -1;
}

static int recover(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	return m ? api_answer(response, migrations_renew_lane(m, request_peer(request),
						request_param(request, "id"), err))
		 : -1;
}

static int give_up(struct request *request, struct response *response, struct error **err)
{
	struct migrations *m = all(request, err);

	return m ? api_answer(response,
			   migrations_abort(m, request_peer(request), request_param(request, "id")))
		 : -1;
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_migration_routes[] = {ROUTES(API_ROUTE_ROW){0}};
