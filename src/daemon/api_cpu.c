/* What guests can be given: CPUs across the cluster, and this node's topology with its VMs. */
#include "daemon/api.h"

#include "host/host.h"

#define ROUTES(X) \
	X(cpu, "GET", "/v1/cpu", SERVER_LOCAL, "nodes", "") \
	X(topology, "GET", "/v1/topology", API_ANY_NODE, "", "")

static int cpu(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);

	if (!m)
		return -1;
	return api_answer(response, vms_cpu_report(m->vms, request_query(request, "nodes"), err));
}

/* A number that is hidden is null. */
static json_t *number_or_null(int number)
{
	return number < 0 ? json_null() : json_integer(number);
}

static json_t *host_json(const struct host_topology *t, const char *node)
{
	json_t *cpus = json_array(), *numas = json_array();

	for (size_t i = 0; i < t->cpus_count; i++)
		json_array_append_new(cpus, json_pack("{s:i, s:o, s:o, s:o}", "cpu", t->cpus[i].cpu,
						    "socket", number_or_null(t->cpus[i].socket),
						    "core", number_or_null(t->cpus[i].core), "numa",
						    number_or_null(t->cpus[i].numa)));
	for (size_t i = 0; i < t->numas_count; i++)
		json_array_append_new(
			numas, json_pack("{s:i, s:I, s:I}", "numa", t->numas[i].numa, "memory",
				       (json_int_t)t->numas[i].memory_bytes, "memory_free",
				       (json_int_t)t->numas[i].free_bytes));
	return json_pack("{s:s, s:o, s:o, s:s?}", "node", node, "cpus", cpus, "numas", numas,
		"hidden", t->hidden[0] ? t->hidden : NULL);
}

/* Those with a process here, and which of the node's CPUs that may use. */
static json_t *vms_json(struct machine *m)
{
	static const char *const copied[] = {
		"name", "state", "memory", "sockets", "cores", "threads"};
	cleanup_json json_t *all = vms_list(m->vms, NULL);
	json_t *list = json_array(), *vm;
	size_t i;

	json_array_foreach(json_object_get(all, "vms"), i, vm)
	{
		json_int_t pid = json_integer_value(json_object_get(vm, "pid"));
		json_t *one;
		char allowed[64];

		if (pid <= 0)
			continue;
		one = json_object();
		for (size_t j = 0; j < sizeof(copied) / sizeof(copied[0]); j++)
			json_object_set(one, copied[j], json_object_get(vm, copied[j]));
		host_process_cpus((int)pid, allowed);
		json_object_set_new(one, "allowed", json_string(allowed));
		json_array_append_new(list, one);
	}
	return list;
}

static int topology(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine_even_removed(api_daemon(request), err);
	struct cluster *c = atomic_load(&api_daemon(request)->cluster);
	struct host_topology t;
	json_t *answer;

	if (!m)
		return -1;
	if (host_topology_read("/sys", &t, err) < 0) {
		host_topology_free(&t);
		return -1;
	}
	answer = host_json(&t, c->identity->name);
	host_topology_free(&t);
	json_object_set_new(answer, "vms", vms_json(m));
	return api_answer(response, answer);
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_cpu_routes[] = {ROUTES(API_ROUTE_ROW){0}};
