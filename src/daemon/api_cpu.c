/* What guests can be given: CPUs across the cluster, and this node's topology. */
#include "daemon/api.h"

#define ROUTES(X) X(cpu, "GET", "/v1/cpu", SERVER_LOCAL, "nodes", "")

static int cpu(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);

	if (!m)
		return -1;
	return api_answer(response, vms_cpu_report(m->vms, request_query(request, "nodes"), err));
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_cpu_routes[] = {ROUTES(API_ROUTE_ROW){0}};
