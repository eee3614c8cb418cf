/* The start of a VM: from its disks, or from its saved state. */
#include "vm/cpu.h"
#include "vm/saved.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define END_MS 5000

/* This node may run the VM, or may claim it: 0 with what is known of its owner. */
static int may_start(
	struct vms *vms, const char *name, struct pool_owner *owner, struct error **err)
{
	if (vms_where(vms, name, owner, err) < 0)
		return -1;
	if (*owner->node && strcmp(owner->node, vms->node))
		return error_set(err, ERROR_NOT_OWNER, 0,
			"%s belongs to %s; if it does not run there, `drover start %s --node %s` "
			"starts it",
			name, owner->node, name, owner->node);
	return 0;
}

static int claim_for_start(
	struct vms *vms, const char *name, const struct pool_owner *owner, struct error **err)
{
	if (!strcmp(owner->node, vms->node))
		return 0;
	return pool_owner_claim(vms->pool, name, owner->epoch + 1, vms->node, "start", NULL, err);
}

/* What a VM is started by: of a suspended one, the definition that its guest has, and the path of
 * its state. Else vm.conf, with its CPU made exact; `changed` tells whether that is not what
 * vm.conf has. */
struct starting {
	struct vm_def *def;
	char *restore;
	bool changed;
	bool discard; /* a state that there is, is not wanted */
};

static int take_saved(struct vm *vm, struct saved *saved, struct starting *s, struct error **err)
{
	if (saved_check(vm->vms, vm->name, saved, err) < 0)
		return -1;
	s->def = saved->def;
	saved->def = NULL;
	s->restore = saved_state_path(vm->vms, vm->name);
	return 0;
}

static int load_to_boot(struct vm *vm, struct starting *s, struct error **err)
{
	struct vms *vms = vm->vms;
	cleanup_free char *before = NULL, *after = NULL;

	s->def = vm_def_load(vms->pool, vm->name, err);
	if (!s->def)
		return -1;
	before = vm_def_format(s->def);
	if (vm_make_cpu_exact(vms, s->def, err) < 0 || hv_check_def(vms->hv, s->def, err) < 0 ||
		vms_check_paths(vms, s->def, err) < 0)
		return -1;
	after = vm_def_format(s->def);
	s->changed = strcmp(before, after) != 0;
	return 0;
}

/* A state that cannot be read is not "none". */
static int load(struct vm *vm, struct starting *s, struct error **err)
{
	struct error *why = NULL;
	cleanup_saved struct saved *saved = s->discard ? NULL : saved_read(vm->vms, vm->name, &why);

	if (saved)
		return take_saved(vm, saved, s, err);
	if (why && why->kind != ERROR_NOT_FOUND)
		return error_move(err, why);
	error_free(&why);
	return load_to_boot(vm, s, err);
}

/* From its claim to the guest's first step. A state is thrown away only as the owner. */
static int claim_and_run(struct vm *vm, const struct pool_owner *owner, const struct starting *s,
	struct hv_vm *hv, struct error **err)
{
	struct vms *vms = vm->vms;

	if (fault_point("vm.start.before_claim", err) < 0 ||
		claim_for_start(vms, vm->name, owner, err) < 0 ||
		fault_point("vm.start.after_claim", err) < 0 ||
		(s->changed && vm_def_save(vms->pool, s->def, err) < 0))
		return -1;
	if ((s->restore && saved_mark_begun(vms, vm->name, err) < 0) ||
		(s->discard && saved_remove(vms, vm->name, err) < 0))
		return -1;
	saved_drop_unfinished(vms, vm->name);
	return fault_point("vm.start.before_resume", err) < 0 ? -1 : hv_vm_resume(hv, err);
}

/* Of a guest that did not come to run, a state is as good as before. */
static void end_start(struct vm *vm, const struct starting *s, struct hv_vm *hv)
{
	if (s->restore)
		vm_end_resuming(vm, hv);
	hv_vm_end(hv, clock_ms() + END_MS, NULL);
	hv_vm_close(hv);
	vm_remove_run_dir(vm);
	vm_release(vm->vms, vm->name, "stop", NULL);
}

static int start_loaded(
	struct vm *vm, const struct pool_owner *owner, struct starting *s, struct error **err)
{
	struct hv_vm *hv;

	if (s->restore && vm_mark_resuming(vm, err) < 0)
		return -1;
	hv = vm_spawn(vm, s->def, &(struct hv_start){.restore = s->restore}, err);
	if (!hv) {
		vm_remove_run_dir(vm);
		return -1;
	}
	if (claim_and_run(vm, owner, s, hv, err) < 0) {
		end_start(vm, s, hv);
		return -1;
	}
	vm_set_running(vm, hv, s->def);
	s->def = NULL;
	vm_keep_epoch(vm);
	if (s->restore) {
		hv_vm_announce(hv, NULL);
		vm_drop_used(vm);
	}
	log_info("%s: %s, process %d", vm->name, s->restore ? "goes on" : "started",
		(int)hv_vm_process(hv)->pid);
	return 0;
}

static int start_reserved(struct vm *vm, bool discard, struct error **err)
{
	struct vms *vms = vm->vms;
	struct starting s = {.discard = discard};
	struct pool_owner owner;
	int rc;

	if (may_start(vms, vm->name, &owner, err) < 0)
		return -1;
	if (vm->hv)
		return error_set(
			err, ERROR_RUNNING, 0, "%s runs already on %s", vm->name, vms->node);
	rc = load(vm, &s, err);
	if (rc == 0)
		rc = start_loaded(vm, &owner, &s, err);
	vm_def_free(s.def);
	free(s.restore);
	return rc;
}

int vms_start(struct vms *vms, const char *name, bool discard, struct error **err)
{
	struct vm *vm = vms_reserve(vms, name, "being started", err);
	int rc;

	if (!vm)
		return -1;
	rc = start_reserved(vm, discard, err);
	vm_give_back(vm);
	return rc;
}
