#include "vm/internal.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "host/host.h"

#include <dirent.h>
#include <signal.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define END_MS 5000
/* How long a watcher waits before it looks whether droverd stops. */
#define WATCH_MS 500
/* Between tries to put a saved state in order. */
#define SETTLE_MS 2000

struct vms *vms_open(const struct pool *pool, struct hv *hv, const char *node, const char *run_dir,
	struct error **err)
{
	struct vms *vms;

	if (fs_mkdirs(run_dir, 0755, err) < 0)
		return NULL;
	vms = calloc(1, sizeof(*vms));
	if (!vms)
		abort();
	vms->pool = pool;
	vms->hv = hv;
	vms->node = node;
	vms->run_dir = fs_format("%s", run_dir);
	pthread_mutex_init(&vms->lock, NULL);
	cond_init(&vms->changed);
	return vms;
}

/* With the lock held. */
static struct vm *find_entry(struct vms *vms, const char *name)
{
	struct vm *vm = vms->list;

	while (vm && strcmp(vm->name, name))
		vm = vm->next;
	return vm;
}

static struct vm *add_entry(struct vms *vms, const char *name)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		abort();
	vm->vms = vms;
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	vm->run_dir = fs_format("%s/%s", vms->run_dir, name);
	vm->refs = 1; /* the list's */
	vm->listed = true;
	vm->next = vms->list;
	vms->list = vm;
	return vm;
}

/* Drops the list's reference; the caller holds one of its own. */
static void unlist(struct vm *vm)
{
	struct vm **at = &vm->vms->list;

	while (*at && *at != vm)
		at = &(*at)->next;
	if (*at)
		*at = vm->next;
	vm->listed = false;
	vm->refs--;
}

static void unref_locked(struct vm *vm)
{
	if (--vm->refs > 0)
		return;
	if (vm->hv)
		hv_vm_close(vm->hv);
	vm_def_free(vm->def);
	free(vm->run_dir);
	free(vm);
}

void vm_unref(struct vm *vm)
{
	struct vms *vms = vm->vms;

	pthread_mutex_lock(&vms->lock);
	unref_locked(vm);
	pthread_mutex_unlock(&vms->lock);
}

struct vm *vms_find(struct vms *vms, const char *name)
{
	struct vm *vm;

	pthread_mutex_lock(&vms->lock);
	vm = find_entry(vms, name);
	if (vm && !vm->hv)
		vm = NULL;
	if (vm)
		vm->refs++;
	pthread_mutex_unlock(&vms->lock);
	return vm;
}

bool vm_wait_unlisted(const struct vm *vm, int64_t deadline_ms)
{
	struct vms *vms = vm->vms;
	bool unlisted;

	pthread_mutex_lock(&vms->lock);
	while (vm->listed && cond_wait_until(&vms->changed, &vms->lock, deadline_ms))
		;
	unlisted = !vm->listed;
	pthread_mutex_unlock(&vms->lock);
	return unlisted;
}

/* The lock is held. */
static int busy(const struct vm *vm, struct error **err)
{
	return error_set(err, ERROR_BUSY, 0, "%s is %s on %s; wait until that has ended", vm->name,
		vm->operation, vm->vms->node);
}

int vms_check_free(struct vms *vms, const char *name, struct error **err)
{
	const struct vm *vm;
	int rc = 0;

	pthread_mutex_lock(&vms->lock);
	vm = find_entry(vms, name);
	if (vm && *vm->operation)
		rc = busy(vm, err);
	pthread_mutex_unlock(&vms->lock);
	return rc;
}

struct vm *vms_reserve(struct vms *vms, const char *name, const char *operation, struct error **err)
{
	struct vm *vm;

	if (fs_check_name("VM", name, err) < 0)
		return NULL;
	pthread_mutex_lock(&vms->lock);
	vm = find_entry(vms, name);
	if (vm && *vm->operation) {
		busy(vm, err);
		vm = NULL;
	} else {
		if (!vm)
			vm = add_entry(vms, name);
		snprintf(vm->operation, sizeof(vm->operation), "%s", operation);
		vm->refs++;
	}
	pthread_mutex_unlock(&vms->lock);
	return vm;
}

void vm_give_back(struct vm *vm)
{
	struct vms *vms = vm->vms;

	pthread_mutex_lock(&vms->lock);
	*vm->operation = 0;
	if (!vm->hv && vm->listed)
		unlist(vm);
	unref_locked(vm);
	pthread_cond_broadcast(&vms->changed);
	pthread_mutex_unlock(&vms->lock);
}

void vm_remove_run_dir(const struct vm *vm)
{
	static const char *const files[] = {
		"vm.conf", "epoch", "migrate.sock", "wire.log", "sample", "saving", "resuming"};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		cleanup_free char *path = fs_format("%s/%s", vm->run_dir, files[i]);

		unlink(path);
	}
	rmdir(vm->run_dir);
}

void vm_end(struct vm *vm)
{
	struct vms *vms = vm->vms;
	cleanup_error struct error *e = NULL;

	/* Nobody's guest is in it any more, and asking it to quit takes a while. */
	if (vm->hv)
		process_signal(hv_vm_process(vm->hv), SIGKILL);
	if (vm->hv && hv_vm_end(vm->hv, clock_ms() + END_MS, &e) < 0)
		log_error("%s: its hypervisor did not end: %s", vm->name, e->message);
	vm_remove_run_dir(vm);
	pthread_mutex_lock(&vms->lock);
	*vm->operation = 0;
	if (vm->listed)
		unlist(vm);
	unref_locked(vm);
	pthread_cond_broadcast(&vms->changed);
	pthread_mutex_unlock(&vms->lock);
}

int vm_release(struct vms *vms, const char *name, const char *why, struct error **err)
{
	struct pool_owner owner;

	if (pool_owner_read(vms->pool, name, &owner, err) < 0)
		return -1;
	if (strcmp(owner.node, vms->node))
		return 0;
	return pool_owner_claim(vms->pool, name, owner.epoch + 1, "", why, NULL, err);
}

/* What its guest has left in the pool is put in order before anybody else may start it. False when
 * droverd stops before that could be done: the next one does it. */
static bool settle(struct vm *vm)
{
	struct vms *vms = vm->vms;
	struct error *e = NULL;
	bool closing = false;

	while (!closing && vm_settle_saved(vm, false, &e) < 0) {
		log_error("%s has ended, and its saved state cannot be put in order: %s", vm->name,
			e->message);
		error_free(&e);
		pthread_mutex_lock(&vms->lock);
		cond_wait_until(&vms->changed, &vms->lock, clock_ms() + SETTLE_MS);
		closing = vms->closing;
		pthread_mutex_unlock(&vms->lock);
	}
	return !closing;
}

/* The guest has powered off, or its hypervisor has ended: nothing of it is left here. */
static void clean_up_ended(struct vm *vm)
{
	cleanup_error struct error *e = NULL;

	log_info("%s: its guest has ended; releasing it", vm->name);
	hv_vm_end(vm->hv, clock_ms() + END_MS, NULL);
	if (!settle(vm)) {
		vm_unref(vm);
		return;
	}
	if (vm_release(vm->vms, vm->name, "stop", &e) < 0)
		log_error("%s has ended, but could not be released: %s", vm->name, e->message);
	vm_end(vm);
}

/* One thread a VM: waits for its end, and takes it then, when nobody else works on it. */
static void *watch(void *arg)
{
	struct vm *vm = arg;
	struct vms *vms = vm->vms;
	bool off = false, ours = false;

	for (;;) {
		off = off || hv_vm_wait_off(vm->hv, clock_ms() + WATCH_MS);
		pthread_mutex_lock(&vms->lock);
		while (off && vm->listed && (*vm->operation || vms->recovering) && !vms->closing)
			pthread_cond_wait(&vms->changed, &vms->lock);
		if (!vm->listed || vms->closing)
			break;
		if (off) {
			snprintf(vm->operation, sizeof(vm->operation), "being cleaned up");
			vm->refs++;
			ours = true;
			break;
		}
		pthread_mutex_unlock(&vms->lock);
	}
	pthread_mutex_unlock(&vms->lock);
	if (ours)
		clean_up_ended(vm);
	pthread_mutex_lock(&vms->lock);
	unref_locked(vm);
	vms->watchers--;
	pthread_cond_broadcast(&vms->changed);
	pthread_mutex_unlock(&vms->lock);
	return NULL;
}

void vm_set_running(struct vm *vm, struct hv_vm *hv, struct vm_def *def)
{
	struct vms *vms = vm->vms;
	pthread_t thread;

	pthread_mutex_lock(&vms->lock);
	vm->hv = hv;
	vm->def = def;
	vm->since_ms = clock_wall_ms();
	vm->refs++;
	vms->watchers++;
	if (pthread_create(&thread, NULL, watch, vm) != 0)
		abort();
	pthread_detach(thread);
	pthread_mutex_unlock(&vms->lock);
}

struct vm_def *vm_read_running_def(const struct vm *vm, struct error **err)
{
	cleanup_free char *path = fs_format("%s/vm.conf", vm->run_dir);
	cleanup_free char *text = fs_read(path, VM_DEF_TEXT_MAX, NULL, err);

	return text ? vm_def_parse(vm->name, text, err) : NULL;
}

static bool has_run(struct hv_vm *hv)
{
	enum hv_state state = hv_vm_state(hv);

	return state != HV_PAUSED && state != HV_INCOMING && state != HV_STARTING;
}

/* Of a hypervisor whose definition cannot be read. It has ended; or it was started and never let run:
 * droverd died before it had kept the definition. */
static bool is_of_no_use(struct hv_vm *hv, const struct error *unread)
{
	return hv_vm_state(hv) == HV_GONE || (unread->kind == ERROR_NOT_FOUND && !has_run(hv));
}

/* Whether nothing runs, and what the guest has left in the pool is in order: else *e says why. */
static bool is_settled(struct vm *vm, struct error **e)
{
	struct error *unsettled = NULL;

	if ((*e)->kind != ERROR_NOT_RUNNING)
		return false;
	if (vm_settle_saved(vm, true, &unsettled) == 0)
		return true;
	error_free(e);
	*e = unsettled;
	return false;
}

static void find_one_again(struct vms *vms, const char *name)
{
	cleanup_error struct error *e = NULL;
	struct vm *vm = vms_reserve(vms, name, "being found again", &e);
	struct vm_def *def;
	struct hv_vm *hv;

	if (!vm)
		return;
	hv = hv_vm_attach(vms->hv, vm->run_dir, &e);
	def = hv ? vm_read_running_def(vm, &e) : NULL;
	if (def && hv_vm_state(hv) == HV_STARTING) {
		/* droverd died in the middle of its start, which nobody takes up again. */
		log_warning("%s: its start was not finished; ending its hypervisor", name);
		vm_def_free(def);
		def = NULL;
		error_set(&e, ERROR_NOT_FOUND, 0, "its start was not finished");
	}
	if (def && !vm_follow_resume(vm, hv)) {
		vm_def_free(def);
		def = NULL;
		error_set(&e, ERROR_NOT_RUNNING, 0, "its start was not finished");
	}
	if (def) {
		if (hv_vm_state(hv) != HV_GONE)
			log_info("%s: found again, process %d", name, (int)hv_vm_process(hv)->pid);
		vm->epoch = vm_last_epoch(vm);
		vm_set_running(vm, hv, def);
		if (!vm_follow_suspend(vm))
			vm_give_back(vm);
		return;
	}
	if (hv && is_of_no_use(hv, e) && hv_vm_end(hv, clock_ms() + END_MS, NULL) == 0)
		e->kind = ERROR_NOT_RUNNING;
	if (hv)
		hv_vm_close(hv);
	if (!is_settled(vm, &e)) {
		/* The entry stays taken: nobody starts a second copy of what may be running. */
		log_error("%s: its hypervisor may run, or its guest may be saved, but that cannot "
			  "be told: %s",
			name, e->message);
		snprintf(vm->operation, sizeof(vm->operation), "out of reach (see the log)");
		return;
	}
	vm_remove_run_dir(vm);
	vm_give_back(vm);
}

int vms_find_again(struct vms *vms, struct error **err)
{
	DIR *dir = opendir(vms->run_dir);
	struct pool_names names;
	struct dirent *entry;

	if (!dir)
		return error_set(err, ERROR_FAILED, errno, "cannot read %s", vms->run_dir);
	vms->recovering = true;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			find_one_again(vms, entry->d_name);
	closedir(dir);
	if (pool_vm_list(vms->pool, &names, err) < 0)
		return -1;
	for (size_t i = 0; i < names.count; i++) {
		cleanup_error struct error *e = NULL;
		bool here;

		pthread_mutex_lock(&vms->lock);
		here = find_entry(vms, names.names[i]) != NULL;
		pthread_mutex_unlock(&vms->lock);
		if (!here && vm_release(vms, names.names[i], "stop", &e) < 0)
			log_error("%s cannot be released: %s", names.names[i], e->message);
	}
	pool_names_free(&names);
	return 0;
}

void vms_recovered(struct vms *vms)
{
	pthread_mutex_lock(&vms->lock);
	vms->recovering = false;
	pthread_cond_broadcast(&vms->changed);
	pthread_mutex_unlock(&vms->lock);
}

void vms_close(struct vms *vms)
{
	if (!vms)
		return;
	pthread_mutex_lock(&vms->lock);
	vms->closing = true;
	pthread_cond_broadcast(&vms->changed);
	while (vms->watchers > 0)
		pthread_cond_wait(&vms->changed, &vms->lock);
	while (vms->list) {
		struct vm *vm = vms->list;

		vm->refs++;
		unlist(vm);
		unref_locked(vm);
	}
	pthread_mutex_unlock(&vms->lock);
	pthread_cond_destroy(&vms->changed);
	pthread_mutex_destroy(&vms->lock);
	free(vms->run_dir);
	free(vms);
}

int vms_where(struct vms *vms, const char *name, struct pool_owner *owner, struct error **err)
{
	if (fs_check_name("VM", name, err) < 0)
		return -1;
	if (!pool_vm_exists(vms->pool, name))
		return pool_no_vm(vms->pool, name, err);
	return pool_owner_read(vms->pool, name, owner, err);
}

/* `ended`: also one that has ended, where its guest has certainly never run. */
static struct vm *take(
	struct vms *vms, const char *name, const char *operation, bool ended, struct error **err)
{
	struct vm *vm = vms_reserve(vms, name, operation, err);

	if (!vm)
		return NULL;
	if (vm->hv && (hv_vm_state(vm->hv) != HV_GONE || (ended && hv_vm_never_ran(vm->hv))))
		return vm;
	vm_give_back(vm);
	vms_not_running(vms, name, err);
	return NULL;
}

struct vm *vms_take(struct vms *vms, const char *name, const char *operation, struct error **err)
{
	struct pool_owner owner;

	if (vms_where(vms, name, &owner, err) < 0)
		return NULL;
	if (!*owner.node) {
		vms_not_running(vms, name, err);
		return NULL;
	}
	if (strcmp(owner.node, vms->node)) {
		error_set(err, ERROR_NOT_OWNER, 0, "%s is on %s, not on %s", name, owner.node,
			vms->node);
		return NULL;
	}
	return take(vms, name, operation, false, err);
}

struct vm *vms_take_again(
	struct vms *vms, const char *name, const char *operation, struct error **err)
{
	return take(vms, name, operation, true, err);
}

struct hv_vm *vm_hv(struct vm *vm)
{
	return vm->hv;
}

const struct vm_def *vm_definition(const struct vm *vm)
{
	return vm->def;
}

const char *vm_run_dir(const struct vm *vm)
{
	return vm->run_dir;
}
