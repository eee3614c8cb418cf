/* The table of checks, what they find, and which can be overridden. */
#include "migrate/preflight_internal.h"

#include <stdio.h>
#include <string.h>

static void set_value(char out[PREFLIGHT_VALUE_SIZE], const char *fmt, va_list ap)
{
	vsnprintf(out, PREFLIGHT_VALUE_SIZE, fmt, ap);
}

void finding_here(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_value(f->here, fmt, ap);
	va_end(ap);
}

void finding_there(struct finding *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_value(f->there, fmt, ap);
	va_end(ap);
}

void finding_set(
	struct finding *f, enum preflight_result result, enum error_kind kind, const char *fmt, ...)
{
	va_list ap;

	f->known = true;
	f->result = result;
	f->kind = kind;
	va_start(ap, fmt);
	vsnprintf(f->message, sizeof(f->message), fmt, ap);
	va_end(ap);
}

void finding_fail(struct finding *f, struct error **e)
{
	finding_set(f, PREFLIGHT_FAILED, (*e)->kind, "%s", (*e)->message);
	error_free(e);
}

/* The order is that of a refusal's causes: what comes first makes the others fail. */
const struct preflight_check preflight_checks[] = {
	{"operation", "what is being done with it", "two operations would work on one VM",
		.source = preflight_check_operation},
	{"vm", "its state, and who owns it", "there is nothing to move",
		.source = preflight_check_vm},
	{"member", "the members of the cluster", "only a member can take a VM over",
		.source = preflight_check_member, .compare = preflight_compare_member},
	{"reachable", "whether the other droverd answers", "nothing can be moved without it",
		.compare = preflight_compare_reachable},
	{"version", "versions of drover", "both must mean the same by what they say",
		.compare = preflight_compare_version},
	{"pool", "the storage: each reads what the other writes",
		"it decides who runs the VM, and there could be two",
		.destination = preflight_check_pool_there, .compare = preflight_compare_pool},
	{"owner", "who owns it, as each node reads it", "there could be two of it",
		.destination = preflight_check_owner},
	{"vacant", "whether anything of it is on the other node", "there could be two of it",
		.destination = preflight_check_vacant},
	{"defect", "the hypervisor and what is known against it", "the guest would be damaged",
		.source = preflight_check_defect},
	{"warm", "how it is moved, and whether --warm accepts that",
		"it is accepted by --warm, and the guest would stand still for long",
		.driver = "bhyve", .source = preflight_check_warm},
	{"room", "room for its memory in files", "the guest would not be written, or read",
		.driver = "bhyve", .expected = true, .destination = preflight_check_room,
		.compare = preflight_compare_room},
	{"hypervisor", "hypervisors, versions, accelerators", "the guest would not be loaded",
		.compare = preflight_compare_hypervisor},
	{"architecture", "architectures and page sizes", "the guest would not be loaded",
		.compare = preflight_compare_architecture},
	{"model", "CPU models, architectures and page sizes",
		"bhyve itself refuses another: it cannot hide what a CPU has", .driver = "bhyve",
		.compare = preflight_compare_model},
	{"machine", "the machine type, in the other hypervisor", "the guest would not be loaded",
		.expected = true, .destination = preflight_check_machine},
	{"cpu", "the CPU, as the other hypervisor can give it",
		"the guest would miss what it uses, and crash", .expected = true,
		.destination = preflight_check_cpu},
	{"devices", "what the hypervisor says that it cannot move",
		"the hypervisor does not move it", .source = preflight_check_devices},
	{"postcopy", "whether post-copy is asked for, and allowed",
		"the other hypervisor would refuse it", .destination = preflight_check_postcopy},
	{"bridges", "bridges of its network cards, by name", "its hypervisor would not start",
		.expected = true, .destination = preflight_check_bridges},
	{"files", "where its files are, and where they may be",
		"it is the other node's own rule (allow_paths)", .expected = true,
		.destination = preflight_check_files},
	{"disks", "whether its files open for its hypervisor", "its hypervisor would not start",
		.destination = preflight_check_disks},
	{"cache", "its disks' host caches and the file systems",
		"the guest could read old data, and lose its disk",
		.destination = preflight_check_cache},
	{"memory", "memory that it needs, and that is free", .expected = true,
		.destination = preflight_check_memory},
	{"clock", "clocks", .compare = preflight_compare_clock},
	{0},
};

_Static_assert(sizeof(preflight_checks) / sizeof(preflight_checks[0]) <= PREFLIGHT_CHECKS_MAX,
	"a set of checks is an uint32_t");

int preflight_find(const char *id)
{
	for (int row = 0; preflight_checks[row].id; row++)
		if (!strcmp(preflight_checks[row].id, id))
			return row;
	return -1;
}

/* "memory, clock": what can be overridden. */
static void list_forcible(char *out, size_t size)
{
	size_t used = 0;

	for (int row = 0; preflight_checks[row].id; row++)
		if (!preflight_checks[row].no_force && used < size)
			used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "",
				preflight_checks[row].id);
}

static int force_one(const char *id, uint32_t *forced, struct error **err)
{
	int row = preflight_find(id);
	char list[256];

	list_forcible(list, sizeof(list));
	if (row < 0)
		return error_set(err, ERROR_USAGE, 0,
			"\"%.40s\" is no check; those that can be overridden are: %s", id, list);
	if (preflight_checks[row].no_force)
		return error_set(err, ERROR_REFUSED, 0,
			"check %s cannot be overridden: %s; those that can are: %s", id,
			preflight_checks[row].no_force, list);
	*forced |= 1u << row;
	return 0;
}

int preflight_parse_force(const json_t *list, uint32_t *forced, struct error **err)
{
	size_t i;
	json_t *id;

	*forced = 0;
	if (list && !json_is_array(list))
		return error_set(err, ERROR_REQUEST, 0, "\"force\" is not an array");
	json_array_foreach(list, i, id)
	{
		if (!json_is_string(id))
			return error_set(err, ERROR_REQUEST, 0, "\"force\" holds what is no text");
		if (force_one(json_string_value(id), forced, err) < 0)
			return -1;
	}
	return 0;
}

json_t *preflight_expected_force(uint32_t forced)
{
	json_t *list = json_array();

	for (int row = 0; preflight_checks[row].id; row++)
		if ((forced & 1u << row) && preflight_checks[row].expected)
			json_array_append_new(list, json_string(preflight_checks[row].id));
	if (json_array_size(list) > 0)
		return list;
	json_decref(list);
	return NULL;
}
