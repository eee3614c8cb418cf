#include "vm/internal.h"

#include "base/fault.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define EPOCH_TEXT_MAX 32

/* Disks that somebody writes to: on the pool, the lock of another node's hypervisor is seen. */
static int check_disks(struct vms *vms, const char *name, const char *owner, struct error **err)
{
	cleanup_vm_def struct vm_def *def = vm_def_load(vms->pool, name, err);

	if (!def)
		return -1;
	for (int i = 0; i < def->disks_count; i++) {
		cleanup_free char *path = pool_disk_path(vms->pool, name, def->disks[i].file, err);
		bool locked;

		if (!path || hv_image_locked(path, &locked, err) < 0)
			return -1;
		if (locked)
			return error_set(err, ERROR_REFUSED, 0,
				"%s is not taken over from %s: a hypervisor holds the lock of its "
				"disk %s; make sure that %s is off, then give --fenced",
				name, owner, path, owner);
	}
	return 0;
}

/* What is known here; the owner itself is asked by the caller. */
static int check_owner(struct vm *vm, const struct pool_owner *owner, struct error **err)
{
	struct vms *vms = vm->vms;

	if (vm->hv)
		return error_set(err, ERROR_RUNNING, 0,
			"%s has a hypervisor on %s; `drover show %s` shows it", vm->name, vms->node,
			vm->name);
	if (!*owner->node)
		return error_set(err, ERROR_REFUSED, 0,
			"%s belongs to no node, so there is nothing to recover; `drover start %s` "
			"starts it",
			vm->name, vm->name);
	if (!strcmp(owner->node, vms->node))
		return error_set(err, ERROR_REFUSED, 0,
			"%s belongs to %s already; `drover start %s` starts it", vm->name,
			vms->node, vm->name);
	return 0;
}

int vms_recover(struct vms *vms, const char *name, const struct vms_recover *how,
	struct pool_owner *owner, struct error **err)
{
	struct vm *vm = vms_reserve(vms, name, "being recovered", err);
	int rc;

	if (!vm)
		return -1;
	rc = vms_where(vms, name, owner, err);
	if (rc == 0)
		rc = check_owner(vm, owner, err);
	/* An owner that lives says more than its locks do. */
	if (rc == 0)
		rc = how->check(how->arg, name, owner->node, how->fenced, err);
	if (rc == 0 && !how->fenced)
		rc = check_disks(vms, name, owner->node, err);
	/* Of the epoch that was looked at: whatever the owner has done since makes it fail. */
	if (rc == 0 && !how->only_check)
		rc = fault_point("vm.recover.before_claim", err);
	if (rc == 0 && !how->only_check) {
		rc = pool_owner_claim(
			vms->pool, name, owner->epoch + 1, vms->node, "recover", NULL, err);
		if (rc == 0)
			log_warning("%s: taken over from %s, which is held for dead%s; it belongs "
				    "to %s since epoch %llu",
				name, owner->node, how->fenced ? " (--fenced)" : "", vms->node,
				(unsigned long long)owner->epoch + 1);
	}
	vm_give_back(vm);
	return rc;
}

uint64_t vm_last_epoch(const struct vm *vm)
{
	cleanup_free char *path = fs_format("%s/epoch", vm->run_dir);
	cleanup_free char *text = fs_read(path, EPOCH_TEXT_MAX, NULL, NULL);

	return text ? strtoull(text, NULL, 10) : 0;
}

void vm_keep_epoch(struct vm *vm)
{
	cleanup_free char *path = fs_format("%s/epoch", vm->run_dir), *text = NULL;
	struct pool_owner owner;

	if (pool_owner_read(vm->vms->pool, vm->name, &owner, NULL) < 0 ||
		strcmp(owner.node, vm->vms->node))
		return;
	vm->epoch = owner.epoch;
	text = fs_format("%llu\n", (unsigned long long)owner.epoch);
	fs_write(path, text, strlen(text), 0644, NULL);
}

/* An owner at an epoch that is older than ours: the pool is not the one that we claimed in. Said
 * once. */
static bool is_put_back(struct vm *vm, const struct pool_owner *owner)
{
	if (owner->epoch > vm->epoch)
		return false;
	if (!vm->put_back)
		log_error(
			"%s: the pool says that it belongs to %s since epoch %llu, but this node "
			"has owned it at epoch %llu: was the pool put back from a backup? Its copy "
			"here goes on",
			vm->name, *owner->node ? owner->node : "no node",
			(unsigned long long)owner->epoch, (unsigned long long)vm->epoch);
	vm->put_back = true;
	return true;
}

/* Ends the copy of a VM that this node owns no more. An owner that cannot be read, a pool that
 * knows no owner at all, and one that knows only older ones, prove nothing. */
static void end_if_lost(struct vms *vms, const char *name, const struct vms_spare *spare)
{
	struct pool_owner owner;
	struct vm *vm;

	/* Most are not lost: looked at first without taking them. */
	if (vms_where(vms, name, &owner, NULL) < 0 || !strcmp(owner.node, vms->node))
		return;
	vm = vms_reserve(vms, name, "being ended: this node has lost it", NULL);
	if (!vm)
		return;
	if (!vm->hv || spare->is_spared(spare->arg, name) ||
		vms_where(vms, name, &owner, NULL) < 0 || !strcmp(owner.node, vms->node) ||
		owner.epoch == 0 || is_put_back(vm, &owner)) {
		vm_give_back(vm);
		return;
	}
	fault_point("vm.lost.before_end", NULL);
	log_error("%s: ENDING its copy on %s: the VM belongs to %s since epoch %llu (%s)", name,
		vms->node, *owner.node ? owner.node : "no node", (unsigned long long)owner.epoch,
		owner.why);
	vm_end(vm);
}

void vms_end_lost(struct vms *vms, const struct vms_spare *spare)
{
	char(*names)[FS_NAME_MAX + 1] = NULL;
	size_t count = 0;

	pthread_mutex_lock(&vms->lock);
	for (const struct vm *vm = vms->list; vm; vm = vm->next)
		count += vm->hv && !*vm->operation;
	names = calloc(count + 1, sizeof(*names));
	if (!names)
		abort();
	count = 0;
	for (const struct vm *vm = vms->list; vm; vm = vm->next)
		if (vm->hv && !*vm->operation)
			memcpy(names[count++], vm->name, sizeof(*names));
	pthread_mutex_unlock(&vms->lock);
	for (size_t i = 0; i < count; i++)
		end_if_lost(vms, names[i], spare);
	free(names);
}
