#include "vm/cpu.h"
#include "vm/saved.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "host/host.h"
#include "pool/image.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define END_MS 5000
#define NOTICE_MS 30000

static void free_paths(char **paths)
{
	for (char **p = paths; *p; p++)
		free(*p);
	free(paths);
}

/* Absolute paths of the disks, NULL at the end. */
static char **disk_paths(const struct pool *pool, const struct vm_def *def, struct error **err)
{
	char **paths = calloc(VM_DEF_DISKS_MAX + 1, sizeof(*paths));

	if (!paths)
		abort();
	for (int i = 0; i < def->disks_count; i++) {
		paths[i] = pool_disk_path(pool, def->name, def->disks[i].file, err);
		if (!paths[i]) {
			free_paths(paths);
			return NULL;
		}
	}
	return paths;
}

/* What the nics of a VM are connected by: descriptors, or names for a driver that wants these. */
struct taps {
	bool by_name;
	int fds[VM_DEF_NICS_MAX];
	char names[VM_DEF_NICS_MAX][32];
	const char *list[VM_DEF_NICS_MAX];
	int count;
};

/* Those with names stay where the hypervisor has them (`kept`). */
static void close_taps(struct taps *taps, bool kept)
{
	for (int i = 0; i < taps->count; i++)
		if (!taps->by_name)
			close_fd(&taps->fds[i]);
		else if (!kept)
			host_tap_remove(taps->names[i]);
}

static int open_taps(const struct vm_def *def, struct taps *taps, struct error **err)
{
	for (taps->count = 0; taps->count < def->nics_count; taps->count++) {
		int i = taps->count;

		taps->list[i] = taps->names[i];
		if (taps->by_name)
			taps->fds[i] = host_tap_create(def->nics[i].bridge, taps->names[i], err);
		else
			taps->fds[i] = host_tap_open(def->nics[i].bridge, taps->names[i], err);
		if (taps->fds[i] < 0) {
			close_taps(taps, false);
			return error_prefix(err, "nic%d of %s", i, def->name);
		}
	}
	return 0;
}

void vms_allow_paths(struct vms *vms, const char *directories)
{
	vms->allowed_paths = directories;
}

int vms_check_paths(const struct vms *vms, const struct vm_def *def, struct error **err)
{
	return image_check_places(vms->pool, def, vms->allowed_paths, err);
}

static int keep_definition(const struct vm *vm, const struct vm_def *def, struct error **err)
{
	cleanup_free char *path = fs_format("%s/vm.conf", vm->run_dir);
	cleanup_free char *text = vm_def_format(def);

	return fs_write(path, text, strlen(text), 0644, err);
}

struct hv_vm *vm_spawn(
	struct vm *vm, const struct vm_def *def, const struct hv_start *as, struct error **err)
{
	struct hv_start how = {.def = def,
		.run_dir = vm->run_dir,
		.incoming = as->incoming,
		.files = as->files,
		.restore = as->restore};
	cleanup_free char *nvram = pool_vm_path(vm->vms->pool, def->name, "nvram.fd");
	char **paths = disk_paths(vm->vms->pool, def, err);
	struct taps taps = {.by_name = hv_get_facts(vm->vms->hv)->taps_by_name};
	struct hv_vm *hv = NULL;

	if (!paths)
		return NULL;
	if (open_taps(def, &taps, err) == 0) {
		how.disk_paths = (const char *const *)paths;
		how.tap_fds = taps.fds;
		how.tap_names = taps.list;
		how.nvram = nvram;
		hv = hv_vm_start(vm->vms->hv, &how, err);
		close_taps(&taps, hv != NULL);
	}
	free_paths(paths);
	if (hv && keep_definition(vm, def, err) < 0) {
		hv_vm_end(hv, clock_ms() + END_MS, NULL);
		hv_vm_close(hv);
		return NULL;
	}
	return hv;
}

/* Makes one disk of a new VM; `made` gets its path when this call made the file. */
static int create_disk(struct vms *vms, const struct vm_def *def, int i,
	const struct vm_new_disk *new_disk, char **made, struct error **err)
{
	const struct vm_disk *disk = &def->disks[i];
	cleanup_free char *path = pool_disk_path(vms->pool, def->name, disk->file, err);
	cleanup_free char *backing = NULL;

	if (!path)
		return -1;
	if (!new_disk->size_bytes && !new_disk->backing) {
		if (!fs_exists(path))
			return error_set(err, ERROR_DISK, 0,
				"disk%d of %s is not there: %s; give its size to have it made", i,
				def->name, path);
		return 0;
	}
	if (fs_exists(path))
		return error_set(err, ERROR_EXISTS, 0,
			"disk%d of %s exists: %s; leave its size out to use it as it is", i,
			def->name, path);
	if (new_disk->backing) {
		backing = pool_disk_path(vms->pool, def->name, new_disk->backing, err);
		if (!backing)
			return -1;
		if (!fs_exists(backing))
			return error_set(err, ERROR_DISK, 0,
				"the backing file of disk%d is not there: %s", i, backing);
	}
	if (hv_image_create(vms->hv, path, disk->format, new_disk->size_bytes, backing,
		    new_disk->backing_format, err) < 0)
		return -1;
	*made = path;
	path = NULL;
	return 0;
}

static int create_files(struct vms *vms, const struct vm_def *def, const struct vm_new_disk *disks,
	struct error **err)
{
	cleanup_free char *text = vm_def_format(def);
	char *made[VM_DEF_DISKS_MAX] = {NULL};
	int rc = pool_vm_create(vms->pool, def->name, text, err);

	if (rc < 0)
		return -1;
	for (int i = 0; rc == 0 && i < def->disks_count; i++)
		rc = create_disk(vms, def, i, &disks[i], &made[i], err);
	for (int i = 0; i < def->disks_count; i++) {
		if (rc < 0 && made[i])
			unlink(made[i]);
		free(made[i]);
	}
	if (rc < 0)
		pool_vm_remove(vms->pool, def->name, NULL);
	return rc;
}

static int create_checked(
	struct vms *vms, struct vm_def *def, const struct vm_new_disk *disks, struct error **err)
{
	hv_complete_def(vms->hv, def);
	if (vm_def_check(def, err) < 0 || hv_check_def(vms->hv, def, err) < 0 ||
		vms_check_paths(vms, def, err) < 0)
		return -1;
	return create_files(vms, def, disks, err);
}

int vms_create(
	struct vms *vms, struct vm_def *def, const struct vm_new_disk *disks, struct error **err)
{
	struct vm *vm = vms_reserve(vms, def->name, "being created", err);
	int rc = -1;

	if (!vm)
		return -1;
	if (pool_vm_exists(vms->pool, def->name))
		error_set(err, ERROR_EXISTS, 0, "a VM named %s exists already", def->name);
	else
		rc = create_checked(vms, def, disks, err);
	vm_give_back(vm);
	return rc;
}

struct vm *vms_take_incoming(
	struct vms *vms, const struct vm_def *def, const char *operation, struct error **err)
{
	struct vm *vm = vms_reserve(vms, def->name, operation, err);

	if (!vm)
		return NULL;
	if (vm->hv)
		error_set(err, ERROR_ALREADY_THERE, 0, "%s has a hypervisor on %s already",
			def->name, vms->node);
	else if (fs_mkdirs(vm->run_dir, 0755, err) == 0)
		return vm;
	vm_give_back(vm);
	return NULL;
}

int vm_start_incoming(struct vm *vm, const struct vm_def *def, bool files, struct error **err)
{
	const struct hv_start as = {.incoming = true, .files = files};
	cleanup_free char *text = vm_def_format(def);
	struct vm_def *copy = vm_def_parse(def->name, text, err);
	struct hv_vm *hv = copy ? vm_spawn(vm, copy, &as, err) : NULL;

	if (!hv) {
		vm_def_free(copy);
		return -1;
	}
	vm_set_running(vm, hv, copy);
	return 0;
}

/* Who works on a VM notices within this time that its hypervisor is gone, and leaves off. */
static int wait_left_off(struct vms *vms, const struct vm *vm, struct error **err)
{
	struct pool_owner owner;
	char operation[128];

	if (!vm_wait_unlisted(vm, clock_ms() + NOTICE_MS)) {
		vms_operation(vms, vm->name, operation);
		return error_set(err, ERROR_TIMEOUT, 0,
			"the hypervisor of %s hung and has been killed, and it is still %s on %s",
			vm->name, *operation ? operation : "there", vms->node);
	}
	if (vms_where(vms, vm->name, &owner, err) < 0)
		return -1;
	if (*owner.node && strcmp(owner.node, vms->node))
		return error_set(err, ERROR_NOT_OWNER, 0,
			"the hypervisor of %s on %s hung and has been killed; it is on %s now",
			vm->name, vms->node, owner.node);
	return 0;
}

/* The VM is busy, maybe for ever, because what works on it waits for a hypervisor that hangs. Takes
 * `busy` over, which is the error when it does not hang. */
static int stop_hung(struct vms *vms, const char *name, struct error *busy, struct error **err)
{
	struct vm *vm = vms_find(vms, name);
	bool hangs = vm && hv_vm_hangs(vm->hv);
	int rc;

	if (hangs) {
		log_warning("%s is to be stopped at once, and hangs: killing process %d", name,
			(int)hv_vm_process(vm->hv)->pid);
		process_signal(hv_vm_process(vm->hv), SIGKILL);
		error_free(&busy);
		rc = wait_left_off(vms, vm, err);
	} else {
		rc = error_move(err, busy);
	}
	if (vm)
		vm_unref(vm);
	return rc;
}

int vms_stop(
	struct vms *vms, const char *name, int64_t timeout_ms, bool *forced, struct error **err)
{
	struct error *e = NULL;
	struct vm *vm = vms_take(vms, name, "being stopped", &e);
	bool off = false;
	int rc;

	if (forced)
		*forced = true;
	if (!vm && e->kind == ERROR_BUSY && timeout_ms == 0)
		return stop_hung(vms, name, e, err);
	if (!vm)
		return error_move(err, e);
	if (timeout_ms > 0 && hv_vm_powerdown(vm->hv, NULL) == 0)
		off = hv_vm_wait_off(vm->hv, clock_ms() + timeout_ms);
	if (forced)
		*forced = !off;
	rc = hv_vm_end(vm->hv, clock_ms() + END_MS, err);
	if (rc < 0) {
		vm_give_back(vm);
		return -1;
	}
	if (fault_point("vm.stop.before_release", err) < 0 || vm_settle_saved(vm, false, err) < 0 ||
		vm_release(vms, name, "stop", err) < 0)
		rc = error_prefix(err, "%s was stopped, but not released", name);
	vm_end(vm);
	return rc;
}

/* A VM that runs nowhere and that this node may change. */
static struct vm *reserve_stopped(
	struct vms *vms, const char *name, const char *operation, struct error **err)
{
	struct pool_owner owner;
	struct vm *vm;

	vm = vms_reserve(vms, name, operation, err);
	if (!vm)
		return NULL;
	/* Asked after it was reserved: before, it could have been moved away meanwhile. */
	if (vms_where(vms, name, &owner, err) < 0) {
		vm_give_back(vm);
		return NULL;
	}
	if (vm->hv || (*owner.node && strcmp(owner.node, vms->node))) {
		error_set(err, ERROR_RUNNING, 0, "%s is on %s; stop it first: `drover stop %s`",
			name, vm->hv ? vms->node : owner.node, name);
		vm_give_back(vm);
		return NULL;
	}
	/* Claimed while it is changed, so that no other node starts it meanwhile. */
	if (!*owner.node && pool_owner_claim(vms->pool, name, owner.epoch + 1, vms->node, "change",
				    NULL, err) < 0) {
		vm_give_back(vm);
		return NULL;
	}
	return vm;
}

/* A state is a guest that has not ended. */
static int refuse_saved(struct vms *vms, const char *name, struct error **err)
{
	int there = saved_look(vms, name, err);

	if (there <= 0)
		return there;
	return error_set(err, ERROR_REFUSED, 0,
		"%s is suspended, and its guest would be lost: `drover start %s` lets it go on, "
		"with --discard boots it anew; `drover rm %s --discard` removes it all the same",
		name, name, name);
}

int vms_remove(struct vms *vms, const char *name, bool discard, struct error **err)
{
	struct vm *vm = reserve_stopped(vms, name, "being removed", err);
	int rc;

	if (!vm)
		return -1;
	rc = discard ? 0 : refuse_saved(vms, name, err);
	if (rc == 0)
		rc = pool_vm_remove(vms->pool, name, err);
	if (rc < 0)
		vm_release(vms, name, "stop", NULL);
	vm_give_back(vm);
	return rc;
}

int vms_rename(struct vms *vms, const char *name, const char *to, struct error **err)
{
	struct vm *vm, *target;
	int rc;

	if (fs_check_name("VM", to, err) < 0)
		return -1;
	if (!strcmp(name, to))
		return error_set(err, ERROR_REFUSED, 0, "%s has that name already", name);
	vm = reserve_stopped(vms, name, "being renamed", err);
	if (!vm)
		return -1;
	target = vms_reserve(vms, to, "being made by a rename", err);
	rc = target ? saved_look(vms, name, err) : -1;
	/* Its name is in the state. */
	if (rc > 0)
		rc = error_set(err, ERROR_REFUSED, 0,
			"%s is suspended, and its state would not fit another name; start and stop "
			"it first, or start it with --discard",
			name);
	if (rc == 0)
		rc = pool_vm_rename(vms->pool, name, to, err);
	vm_release(vms, rc == 0 ? to : name, "stop", NULL);
	if (target)
		vm_give_back(target);
	vm_give_back(vm);
	return rc;
}

/* The exact CPU of a guest that runs, or is suspended and goes on; NULL where there is none. The
 * caller frees it. A state that cannot be read is as vm.conf has it. */
static char *cpu_of_guest(
	const struct vm *vm, enum vms_set_guest guest, const struct vm_def *before)
{
	cleanup_saved struct saved *saved =
		guest == VMS_SET_SUSPENDED ? saved_read(vm->vms, vm->name, NULL) : NULL;
	const struct vm_def *def = vm->hv ? vm->def : saved ? saved->def : before;
	const char *exact = guest == VMS_SET_NONE ? NULL : vm_def_exact_cpu(def);

	return exact ? fs_format("%s", exact) : NULL;
}

/* What a guest has stays said when `cpu` says something else from now on. */
static void pin_cpu(struct vm_def *def, const char *exact)
{
	if (exact && def->cpu && strcmp(exact, def->cpu) != 0)
		def->cpu_in_force = fs_format("%s", exact);
}

static int set_keys(struct vm *vm, const json_t *keys, enum vms_set_guest guest, struct error **err)
{
	struct vms *vms = vm->vms;
	cleanup_vm_def struct vm_def *def = vm_def_load(vms->pool, vm->name, err);
	cleanup_free char *exact = def ? cpu_of_guest(vm, guest, def) : NULL;
	const char *key;
	json_t *value;

	if (!def)
		return -1;
	json_object_foreach((json_t *)keys, key, value)
	{
		if (!json_is_string(value) && !json_is_null(value))
			return error_set(
				err, ERROR_REQUEST, 0, "\"%s\" is not a string or null", key);
		if (vm_def_set(def, key, json_string_value(value), err) < 0)
			return -1;
	}
	/* It is the next start that all this must be fit for. */
	free(def->cpu_in_force);
	def->cpu_in_force = NULL;
	if (vm_def_check(def, err) < 0 || hv_check_def(vms->hv, def, err) < 0 ||
		vms_check_paths(vms, def, err) < 0)
		return -1;
	pin_cpu(def, exact);
	return vm_def_save(vms->pool, def, err);
}

int vms_set(struct vms *vms, const char *name, const json_t *keys, enum vms_set_guest *guest,
	struct error **err)
{
	struct vm *vm = vms_reserve(vms, name, "being set", err);
	struct pool_owner owner;
	int rc;

	if (!vm)
		return -1;
	rc = vms_where(vms, name, &owner, err);
	if (rc == 0 && *owner.node && strcmp(owner.node, vms->node))
		rc = error_set(
			err, ERROR_NOT_OWNER, 0, "%s is on %s; set it there", name, owner.node);
	if (rc == 0)
		rc = vm->hv ? 0 : saved_look(vms, name, err);
	if (rc >= 0) {
		*guest = vm->hv ? VMS_SET_RUNNING : rc > 0 ? VMS_SET_SUSPENDED : VMS_SET_NONE;
		rc = set_keys(vm, keys, *guest, err);
	}
	vm_give_back(vm);
	return rc;
}

char *vms_console(struct vms *vms, const char *name, struct error **err)
{
	struct pool_owner owner;
	struct vm *vm;
	char *path;

	if (vms_where(vms, name, &owner, err) < 0)
		return NULL;
	vm = vms_find(vms, name);
	if (!vm) {
		if (*owner.node && strcmp(owner.node, vms->node))
			error_set(err, ERROR_NOT_OWNER, 0, "%s is on %s; open its console there",
				name, owner.node);
		else
			vms_not_running(vms, name, err);
		return NULL;
	}
	path = fs_format("%s", hv_vm_console(vm->hv));
	vm_unref(vm);
	return path;
}
