/* VMs: this node's, and the whole pool's as their owners see them. */
#include "daemon/api.h"

#include "daemon/indexer.h"

#include <stdlib.h>
#include <string.h>

#define ROUTES(X) \
	X(list, "GET", "/v1/vms", API_ANY_NODE, "all", "") \
	X(create, "POST", "/v1/vms", SERVER_LOCAL, "", "name set disks nics") \
	X(show, "GET", "/v1/vms/{vm}", API_ANY_NODE, "", "") \
	X(set, "PATCH", "/v1/vms/{vm}", SERVER_LOCAL, "", "set") \
	X(remove_vm, "DELETE", "/v1/vms/{vm}", SERVER_LOCAL, "discard", "") \
	X(start, "POST", "/v1/vms/{vm}/start", API_ANY_NODE, "", "discard") \
	X(suspend, "POST", "/v1/vms/{vm}/suspend", API_ANY_NODE, "", "") \
	X(stop, "POST", "/v1/vms/{vm}/stop", API_ANY_NODE, "", "timeout_ms") \
	X(rename_vm, "POST", "/v1/vms/{vm}/rename", SERVER_LOCAL, "", "to") \
	X(console, "GET", "/v1/vms/{vm}/console", SERVER_LOCAL, "", "")

/* How long another node has to tell of its VMs. */
#define OWNER_MS 1000
/* What a guest is given to power off where the request does not say. */
#define STOP_MS 60000
#define DISK_SIZE_MAX (1ull << 50)

static const char *text_of(const json_t *info, const char *key)
{
	const char *text = json_string_value(json_object_get(info, key));

	return text ? text : "";
}

/* Puts what is known of the move into an error of a VM that is busy with one. */
static int say_move(struct machine *m, const char *vm, int rc, struct error **err)
{
	struct error *busy = NULL;

	if (rc < 0 && (*err)->kind == ERROR_BUSY && migrations_say_busy(m->migrations, vm, &busy)) {
		error_free(err);
		*err = busy;
	}
	return rc;
}

static bool elsewhere(const json_t *info)
{
	return !strcmp(text_of(info, "state"), "elsewhere");
}

/* Whether another node is to tell of it: its owner. What a migration has here of a VM that is
 * another's is a copy that does not run. */
static bool is_told(struct machine *m, const char *self, const json_t *info)
{
	const char *node = text_of(info, "node");

	return elsewhere(info) ||
	       (*node && strcmp(node, self) &&
		       migrations_have(m->migrations, text_of(info, "name"), NULL));
}

/* What its owner says. */
static void set_told(json_t *info, const json_t *told)
{
	json_object_del(info, "pid");
	json_object_del(info, "uptime_s");
	json_object_update(info, (json_t *)told);
}

/* What is said of a VM whose owner does not tell; what is here of it stays said. */
static void set_unknown(json_t *info, const struct error *problem)
{
	if (elsewhere(info))
		json_object_set_new(info, "state", json_string("unknown"));
	json_object_set_new(info, "problem",
		problem ? json_string(problem->message)
			: json_sprintf(
				  "%s does not have it at this moment", text_of(info, "node")));
}

/* The entry of a VM in a node's list. */
static json_t *entry_of(const json_t *answer, const char *name)
{
	json_t *entry;
	size_t i;

	json_array_foreach(json_object_get(answer, "vms"), i,
		entry) if (!strcmp(text_of(entry, "name"), name)) return entry;
	return NULL;
}

static struct api_ask *find_ask(struct api_ask *asks, size_t count, const char *node)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(asks[i].node, node))
			return &asks[i];
	return NULL;
}

/* Puts what their owners say into the entries of VMs that are on other nodes. */
static void ask_owners(struct machine *m, struct cluster *c, json_t *vms)
{
	const char *self = c->identity->name;
	struct api_ask *asks = calloc(json_array_size(vms) + 1, sizeof(*asks));
	/* Of the names that `asks` point to: those in `vms` are replaced by what is told. */
	cleanup_json json_t *names = json_array();
	size_t i, count = 0;
	json_t *info;

	if (!asks)
		abort();
	json_array_foreach(vms, i, info)
	{
		if (!is_told(m, self, info) || find_ask(asks, count, text_of(info, "node")))
			continue;
		json_array_append(names, json_object_get(info, "node"));
		asks[count++].node = text_of(info, "node");
	}
	api_ask_nodes(c->peers, asks, count, "/v1/vms?all=0", OWNER_MS);
	json_array_foreach(vms, i, info)
	{
		struct api_ask *ask = is_told(m, self, info)
					      ? find_ask(asks, count, text_of(info, "node"))
					      : NULL;
		json_t *told = ask ? entry_of(ask->answer, text_of(info, "name")) : NULL;

		if (told)
			set_told(info, told);
		else if (ask)
			set_unknown(info, ask->problem);
	}
	api_ask_free(asks, count);
}

static json_t *only_of(const json_t *vms, const char *node)
{
	json_t *some = json_array(), *info;
	size_t i;

	json_array_foreach(vms, i,
		info) if (!strcmp(text_of(info, "node"), node) || json_object_get(info, "pid"))
		json_array_append(some, info);
	return some;
}

static int list(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine_even_removed(api_daemon(request), err);
	struct cluster *c = atomic_load(&api_daemon(request)->cluster);
	json_t *answer = NULL;
	bool all;

	if (!m || api_query_bool(request, "all", true, &all, err) < 0)
		return -1;
	answer = vms_list(m->vms, err);
	if (answer && all)
		ask_owners(m, c, json_object_get(answer, "vms"));
	else if (answer)
		json_object_set_new(
			answer, "vms", only_of(json_object_get(answer, "vms"), c->identity->name));
	return api_answer(response, answer);
}

static int show(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine_even_removed(api_daemon(request), err);
	struct cluster *c = atomic_load(&api_daemon(request)->cluster);
	cleanup_free char *escaped = NULL, *path = NULL;
	cleanup_json json_t *told = NULL;
	cleanup_error struct error *e = NULL;
	json_t *info = m ? vms_info(m->vms, request_param(request, "vm"), err) : NULL;

	/* A node that is asked by another tells what it knows itself. */
	if (!info || request_peer(request) || !is_told(m, c->identity->name, info))
		return api_answer(response, info);
	escaped = http_escape(request_param(request, "vm"));
	path = fs_format("/v1/vms/%s", escaped);
	if (node_call(c->peers, text_of(info, "node"), "GET", path, NULL, OWNER_MS, &told, &e) < 0)
		set_unknown(info, e);
	else if (elsewhere(told))
		set_unknown(info, NULL);
	else
		set_told(info, told);
	return api_answer(response, info);
}

static int set_keys(struct vm_def *def, const json_t *keys, struct error **err)
{
	const char *key;
	json_t *value;

	if (keys && !json_is_object(keys))
		return error_set(err, ERROR_REQUEST, 0, "\"set\" is not an object");
	json_object_foreach((json_t *)keys, key, value)
	{
		if (!json_is_string(value) && !json_is_null(value))
			return error_set(
				err, ERROR_REQUEST, 0, "\"%s\" is not a string or null", key);
		if (vm_def_set(def, key, json_string_value(value), err) < 0)
			return -1;
	}
	return 0;
}

/* Sets KIND N's keys from an object; those not in `keys` are the caller's. */
static int set_device(struct vm_def *def, const char *kind, int n, const char *const *keys,
	const json_t *object, struct error **err)
{
	for (; *keys; keys++) {
		cleanup_free char *full = fs_format("%s%d.%s", kind, n, *keys);
		const char *value;

		if (json_opt_string(object, *keys, NULL, &value, err) < 0)
			return error_prefix(err, "%s%d", kind, n);
		if (value && vm_def_set(def, full, value, err) < 0)
			return -1;
	}
	return 0;
}

/* "10G" or a number of bytes. */
static int disk_size(const json_t *disk, int n, uint64_t *bytes, struct error **err)
{
	const json_t *size = json_object_get(disk, "size");
	cleanup_free char *what = fs_format("the size of disk%d", n);
	int64_t number;

	*bytes = 0;
	if (json_is_string(size))
		return fs_parse_size(what, json_string_value(size), DISK_SIZE_MAX, bytes, err);
	if (!size || json_is_null(size))
		return 0;
	if (json_get_int(disk, "size", 1, DISK_SIZE_MAX, &number, err) < 0)
		return error_prefix(err, "disk%d", n);
	*bytes = (uint64_t)number;
	return 0;
}

static int add_disk(
	struct vm_def *def, struct vm_new_disk *fresh, const json_t *disk, struct error **err)
{
	static const char *const known[] = {
		"file", "format", "cache", "model", "size", "backing", "backing_format", NULL};
	static const char *const keys[] = {"file", "format", "cache", "model", NULL};
	int n = def->disks_count;

	if (n == VM_DEF_DISKS_MAX)
		return error_set(
			err, ERROR_DEFINITION, 0, "a VM has at most %d disks", VM_DEF_DISKS_MAX);
	if (json_only_known(disk, known, err) < 0 || !json_get_string(disk, "file", err) ||
		json_opt_string(disk, "backing", NULL, &fresh[n].backing, err) < 0 ||
		json_opt_string(disk, "backing_format", NULL, &fresh[n].backing_format, err) < 0)
		return error_prefix(err, "disk%d", n);
	if (disk_size(disk, n, &fresh[n].size_bytes, err) < 0)
		return -1;
	return set_device(def, "disk", n, keys, disk, err);
}

static int add_nic(struct vm_def *def, const json_t *nic, struct error **err)
{
	static const char *const known[] = {"bridge", "mac", "model", NULL};
	int n = def->nics_count;

	if (n == VM_DEF_NICS_MAX)
		return error_set(
			err, ERROR_DEFINITION, 0, "a VM has at most %d nics", VM_DEF_NICS_MAX);
	if (json_only_known(nic, known, err) < 0 || !json_get_string(nic, "bridge", err))
		return error_prefix(err, "nic%d", n);
	return set_device(def, "nic", n, known, nic, err);
}

/* The definition and the disks that a request describes. `fresh` has VM_DEF_DISKS_MAX. */
static int describe(
	struct vm_def *def, struct vm_new_disk *fresh, const json_t *body, struct error **err)
{
	const json_t *disks = json_object_get(body, "disks"), *nics = json_object_get(body, "nics");
	const json_t *one;
	size_t i;

	if ((disks && !json_is_array(disks)) || (nics && !json_is_array(nics)))
		return error_set(err, ERROR_REQUEST, 0, "\"%s\" is not an array",
			disks && !json_is_array(disks) ? "disks" : "nics");
	if (set_keys(def, json_object_get(body, "set"), err) < 0)
		return -1;
	json_array_foreach(disks, i, one) if (add_disk(def, fresh, one, err) < 0) return -1;
	json_array_foreach(nics, i, one) if (add_nic(def, one, err) < 0) return -1;
	return 0;
}

static int create(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	const json_t *body = request_body(request);
	const char *name = m ? json_get_string(body, "name", err) : NULL;
	struct vm_new_disk fresh[VM_DEF_DISKS_MAX] = {{0}};
	cleanup_vm_def struct vm_def *def = NULL;

	if (!name || fs_check_name("VM", name, err) < 0)
		return -1;
	def = vm_def_new(name);
	if (describe(def, fresh, body, err) < 0 || vms_create(m->vms, def, fresh, err) < 0)
		return -1;
	return api_answer(response, json_pack("{s:s}", "name", name));
}

static int set(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	const json_t *keys = json_object_get(request_body(request), "set");
	enum vms_set_guest guest = VMS_SET_NONE;
	const char *vm = request_param(request, "vm");

	if (!m)
		return -1;
	if (!json_object_size(keys))
		return error_set(
			err, ERROR_REQUEST, 0, "\"set\" must be an object with at least one key");
	if (say_move(m, vm, vms_set(m->vms, vm, keys, &guest, err), err) < 0)
		return -1;
	return api_answer(response, json_pack("{s:b, s:b}", "running", guest == VMS_SET_RUNNING,
					    "suspended", guest == VMS_SET_SUSPENDED));
}

static int remove_vm(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	const char *vm = request_param(request, "vm");
	bool discard;

	(void)response;
	if (!m || api_query_bool(request, "discard", false, &discard, err) < 0)
		return -1;
	return say_move(m, vm, vms_remove(m->vms, vm, discard, err), err);
}

static int start(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct machine *m = daemon_machine(daemon, err);
	const char *vm = request_param(request, "vm");
	bool discard;

	if (!m || json_opt_bool(request_body(request), "discard", false, &discard, err) < 0 ||
		say_move(m, vm, vms_start(m->vms, vm, discard, err), err) < 0)
		return -1;
	indexer_look_at(daemon->indexer, atomic_load(&daemon->cluster)->pool, vm);
	return api_answer(response, json_pack("{s:s}", "state", hv_state_name(HV_RUNNING)));
}

/* The node to ask for a VM: its owner where that is another one; "" for this node. */
static int find_owner(const struct request *request, struct machine *m, const char *vm,
	struct pool_owner *owner, struct error **err)
{
	struct cluster *c = atomic_load(&api_daemon(request)->cluster);

	if (vms_where(m->vms, vm, owner, err) < 0)
		return -1;
	if (request_peer(request) || !strcmp(owner->node, c->identity->name))
		owner->node[0] = 0;
	return 0;
}

static int stop(struct request *request, struct response *response, struct error **err)
{
	/* A node that was removed by force must still be able to end what it runs. */
	struct machine *m = daemon_machine_even_removed(api_daemon(request), err);
	const char *vm = request_param(request, "vm");
	const json_t *body = request_body(request);
	struct pool_owner owner;
	int64_t timeout_ms;
	bool forced = false;

	if (!m ||
		json_opt_int(body, "timeout_ms", 0, API_STOP_MAX_MS, STOP_MS, &timeout_ms, err) <
			0 ||
		find_owner(request, m, vm, &owner, err) < 0)
		return -1;
	if (*owner.node) {
		cleanup_free char *escaped = http_escape(vm);
		cleanup_free char *path = fs_format("/v1/vms/%s/stop", escaped);

		return api_pass_on(request, response, owner.node, "POST", path, body, err);
	}
	if (say_move(m, vm, vms_stop(m->vms, vm, timeout_ms, &forced, err), err) < 0)
		return -1;
	return api_answer(response, json_pack("{s:b}", "forced", forced));
}

static int suspend(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	const char *vm = request_param(request, "vm");
	struct pool_owner owner;

	if (!m || find_owner(request, m, vm, &owner, err) < 0)
		return -1;
	if (*owner.node) {
		cleanup_free char *escaped = http_escape(vm);
		cleanup_free char *path = fs_format("/v1/vms/%s/suspend", escaped);

		return api_pass_on(request, response, owner.node, "POST", path, NULL, err);
	}
	return say_move(m, vm, vms_suspend(m->vms, vm, err), err);
}

static int rename_vm(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine(api_daemon(request), err);
	const char *to = m ? json_get_string(request_body(request), "to", err) : NULL;

	const char *vm = request_param(request, "vm");

	(void)response;
	return to ? say_move(m, vm, vms_rename(m->vms, vm, to, err), err) : -1;
}

static int console(struct request *request, struct response *response, struct error **err)
{
	struct machine *m = daemon_machine_even_removed(api_daemon(request), err);
	cleanup_free char *path = m ? vms_console(m->vms, request_param(request, "vm"), err) : NULL;

	return path ? api_answer(response, json_pack("{s:s}", "path", path)) : -1;
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_vm_routes[] = {ROUTES(API_ROUTE_ROW){0}};
