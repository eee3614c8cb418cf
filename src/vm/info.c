#include "vm/saved.h"

#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

static void set(json_t *info, const char *key, json_t *value)
{
	json_object_set_new(info, key, value);
}

static void add_definition(json_t *info, const struct vm_def *def)
{
	set(info, "memory", json_integer((json_int_t)def->memory_bytes));
	set(info, "cpus", json_integer(def->sockets * def->cores * def->threads));
	set(info, "sockets", json_integer(def->sockets));
	set(info, "cores", json_integer(def->cores));
	set(info, "threads", json_integer(def->threads));
}

bool vms_operation(struct vms *vms, const char *name, char out[128])
{
	struct vm *entry;

	out[0] = 0;
	pthread_mutex_lock(&vms->lock);
	for (entry = vms->list; entry && strcmp(entry->name, name); entry = entry->next)
		;
	if (entry)
		memcpy(out, entry->operation, sizeof(entry->operation));
	pthread_mutex_unlock(&vms->lock);
	return out[0] != 0;
}

/* What the entry here knows, when there is one: the operation, and the hypervisor's view. */
static bool add_here(struct vms *vms, const char *name, json_t *info)
{
	struct vm *vm = vms_find(vms, name);
	char operation[sizeof(vm->operation)];

	vms_operation(vms, name, operation);
	set(info, "operation", *operation ? json_string(operation) : json_null());
	if (!vm)
		return false;
	set(info, "state", json_string(hv_state_name(hv_vm_state(vm->hv))));
	set(info, "pid", json_integer(hv_vm_process(vm->hv)->pid));
	set(info, "uptime_s", json_integer((clock_wall_ms() - vm->since_ms) / 1000));
	add_definition(info, vm->def);
	vm_unref(vm);
	return true;
}

/* Its size is that of the guest, as with one that runs. */
static json_t *describe_saved(struct vms *vms, const char *name, json_t *info)
{
	cleanup_error struct error *e = NULL;
	cleanup_saved struct saved *saved = saved_read(vms, name, &e);

	if (!saved)
		return json_pack("{s:s}", "problem", e->message);
	add_definition(info, saved->def);
	return json_pack("{s:s, s:I, s:I, s:s}", "node", saved->node, "when_ms",
		(json_int_t)saved->when_ms, "bytes", (json_int_t)saved->bytes, "version",
		saved->version);
}

/* Not of one that runs, and has what it went on from only until that is removed. */
static bool may_have_saved(struct vms *vms, const char *name, const struct pool_owner *owner)
{
	struct vm *here;

	if (!*owner->node || strcmp(owner->node, vms->node))
		return !*owner->node;
	here = vms_find(vms, name);
	if (here)
		vm_unref(here);
	return !here;
}

static json_t *describe(struct vms *vms, const char *name)
{
	cleanup_error struct error *e = NULL;
	cleanup_vm_def struct vm_def *def = vm_def_load(vms->pool, name, &e);
	json_t *info = json_pack("{s:s}", "name", name);
	struct pool_owner owner;
	const char *state;

	if (def)
		add_definition(info, def);
	if (def && pool_owner_read(vms->pool, name, &owner, &e) == 0) {
		set(info, "node", *owner.node ? json_string(owner.node) : json_null());
		set(info, "epoch", json_integer((json_int_t)owner.epoch));
		state = !*owner.node                     ? "stopped"
			: !strcmp(owner.node, vms->node) ? "down"
							 : "elsewhere";
		if (may_have_saved(vms, name, &owner) && saved_exists(vms, name)) {
			set(info, "saved", describe_saved(vms, name, info));
			state = *owner.node ? "down" : "suspended";
		}
	} else {
		set(info, "problem", json_string(e->message));
		state = "broken";
	}
	set(info, "state", json_string(state));
	add_here(vms, name, info);
	return info;
}

json_t *vms_info(struct vms *vms, const char *name, struct error **err)
{
	struct pool_owner owner;
	cleanup_error struct error *e = NULL;
	cleanup_vm_def struct vm_def *def = NULL;
	cleanup_free char *conf = NULL;
	json_t *info;

	if (vms_where(vms, name, &owner, &e) < 0 &&
		(e->kind == ERROR_NO_VM || e->kind == ERROR_NAME)) {
		error_move(err, e);
		e = NULL;
		return NULL;
	}
	info = describe(vms, name);
	def = vm_def_load(vms->pool, name, NULL);
	conf = def ? vm_def_format(def) : NULL;
	set(info, "conf", conf ? json_string(conf) : json_null());
	return info;
}

json_t *vms_list(struct vms *vms, struct error **err)
{
	struct pool_names names;
	json_t *list;

	if (pool_vm_list(vms->pool, &names, err) < 0)
		return NULL;
	list = json_array();
	for (size_t i = 0; i < names.count; i++)
		json_array_append_new(list, describe(vms, names.names[i]));
	pool_names_free(&names);
	return json_pack("{s:o}", "vms", list);
}
