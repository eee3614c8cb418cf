#include "vm/saved.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/fault.h"
#include "base/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUSPEND_MS 600000
/* Between looks whether droverd stops: the hypervisor goes on writing then. */
#define LOOK_MS 500
#define END_MS 5000

static char *file_of(const struct vm *vm, const char *file)
{
	return fs_format("%s/%s", vm->run_dir, file);
}

static bool has_file(const struct vm *vm, const char *file)
{
	cleanup_free char *path = file_of(vm, file);

	return fs_exists(path);
}

static void remove_file(const struct vm *vm, const char *file)
{
	cleanup_free char *path = file_of(vm, file);

	unlink(path);
}

/* The id in the file `saving`: false when there is none. */
static bool read_saving(const struct vm *vm, char id[SAVED_ID_SIZE])
{
	cleanup_free char *path = file_of(vm, "saving");
	cleanup_free char *text = fs_read(path, SAVED_ID_SIZE, NULL, NULL);

	if (!text || strspn(text, "0123456789abcdef") != SAVED_ID_SIZE - 1)
		return false;
	memcpy(id, text, SAVED_ID_SIZE - 1);
	id[SAVED_ID_SIZE - 1] = 0;
	return true;
}

bool vms_is_suspended(const struct vms *vms, const char *name)
{
	return saved_exists(vms, name);
}

int vms_not_running(const struct vms *vms, const char *name, struct error **err)
{
	if (vms_is_suspended(vms, name))
		return error_set(err, ERROR_NOT_RUNNING, 0,
			"%s is suspended; `drover start %s` lets it go on, with --discard boots "
			"it anew",
			name, name);
	return error_set(err, ERROR_NOT_RUNNING, 0, "%s does not run; `drover start %s` starts it",
		name, name);
}

/*
 * Saving.
 */

static void give_up(struct vm *vm)
{
	saved_drop_unfinished(vm->vms, vm->name);
	remove_file(vm, "saving");
}

/* Its state is written, and its guest stands still or has ended. The file `saving` stays until all
 * is done: with it the state is the guest's newest. */
static int publish(struct vm *vm, const char *id, struct error **err)
{
	struct vms *vms = vm->vms;

	/* An older one was removed when this was begun: an earlier droverd has got so far. */
	if (vms_is_suspended(vms, vm->name))
		return 0;
	if (fault_point("vm.suspend.before_publish", err) < 0)
		return -1;
	return saved_publish(vms, vm->def, id, err);
}

static int finish(struct vm *vm, const char *id, struct error **err)
{
	struct vms *vms = vm->vms;

	if (publish(vm, id, err) < 0) {
		if (hv_vm_state(vm->hv) == HV_GONE || saved_remove(vms, vm->name, NULL) < 0 ||
			hv_vm_resume(vm->hv, NULL) < 0)
			return error_prefix(err,
				"the state of %s is written, and cannot be put in its place yet",
				vm->name);
		give_up(vm);
		return error_prefix(err, "%s is not suspended, and its guest goes on", vm->name);
	}
	if (fault_point("vm.suspend.before_release", err) < 0 ||
		hv_vm_end(vm->hv, clock_ms() + END_MS, err) < 0 ||
		vm_release(vms, vm->name, "suspend", err) < 0)
		return error_prefix(err, "%s was suspended, but not released", vm->name);
	log_info("%s: suspended", vm->name);
	return 0;
}

static bool is_closing(struct vms *vms)
{
	bool closing;

	pthread_mutex_lock(&vms->lock);
	closing = vms->closing;
	pthread_mutex_unlock(&vms->lock);
	return closing;
}

/* `ordered`: before, by another droverd. */
static int save(struct vm *vm, const char *file, bool ordered, struct error **err)
{
	int64_t deadline = clock_ms() + SUSPEND_MS;
	struct error *why = NULL;
	int rc = ordered ? hv_vm_checkpoint_wait(vm->hv, file, true, clock_ms() + LOOK_MS, &why)
			 : hv_vm_checkpoint(vm->hv, file, true, clock_ms() + LOOK_MS, &why);

	while (rc < 0 && why->kind == ERROR_TIMEOUT && clock_ms() < deadline &&
		!is_closing(vm->vms)) {
		error_free(&why);
		rc = hv_vm_checkpoint_wait(vm->hv, file, true, clock_ms() + LOOK_MS, &why);
	}
	return rc < 0 ? error_move(err, why) : 0;
}

/* True when the VM is suspended, and nothing of it is here any more. */
static bool save_and_finish(
	struct vm *vm, const char *id, const char *file, bool ordered, struct error **err)
{
	struct error *why = NULL;

	if (save(vm, file, ordered, &why) == 0)
		return finish(vm, id, err) == 0;
	if (why->kind != ERROR_TIMEOUT) {
		give_up(vm);
		error_move(err, why);
		return false;
	}
	error_set(err, ERROR_TIMEOUT, 0,
		"the state of %s is still being written; when it is whole, the VM is suspended",
		vm->name);
	error_free(&why);
	return false;
}

static int begin(struct vm *vm, char id[SAVED_ID_SIZE], char **file, struct error **err)
{
	cleanup_free char *mark = file_of(vm, "saving");
	enum hv_state state = hv_vm_state(vm->hv);

	if (hv_check_suspend(vm->vms->hv, err) < 0)
		return error_prefix(err, "%s", vm->name);
	if (state != HV_RUNNING)
		return error_set(err, ERROR_NOT_RUNNING, 0, "%s cannot be suspended while it is %s",
			vm->name, hv_state_name(state));
	if (has_file(vm, "saving"))
		return error_set(err, ERROR_BUSY, 0,
			"%s: its hypervisor has not finished an earlier suspend; "
			"`drover stop %s --hard` ends it",
			vm->name, vm->name);
	if (saved_begin(vm->vms, vm->name, vm->def->memory_bytes, id, file, err) < 0)
		return error_prefix(err, "%s is not suspended", vm->name);
	if (fs_write(mark, id, strlen(id), 0600, err) == 0 &&
		fault_point("vm.suspend.before_save", err) == 0)
		return 0;
	give_up(vm);
	return -1;
}

int vms_suspend(struct vms *vms, const char *name, struct error **err)
{
	struct vm *vm = vms_take(vms, name, "being suspended", err);
	cleanup_free char *file = NULL;
	char id[SAVED_ID_SIZE];

	if (!vm)
		return -1;
	if (begin(vm, id, &file, err) == 0 && save_and_finish(vm, id, file, false, err)) {
		vm_end(vm);
		return 0;
	}
	vm_give_back(vm);
	return -1;
}

/*
 * After droverd was started again, and after the end of a hypervisor.
 */

static void *follow(void *arg)
{
	struct vm *vm = arg;
	struct vms *vms = vm->vms;
	cleanup_error struct error *e = NULL;
	cleanup_free char *file = NULL;
	char id[SAVED_ID_SIZE];
	bool done = false;

	if (read_saving(vm, id)) {
		file = saved_begun_path(vms, vm->name, id);
		done = save_and_finish(vm, id, file, true, &e);
	}
	if (done) {
		vm_end(vm);
	} else {
		log_error("%s is not suspended: %s", vm->name, e ? e->message : "no state");
		vm_give_back(vm);
	}
	pthread_mutex_lock(&vms->lock);
	vms->watchers--;
	pthread_cond_broadcast(&vms->changed);
	pthread_mutex_unlock(&vms->lock);
	return NULL;
}

bool vm_follow_suspend(struct vm *vm)
{
	struct vms *vms = vm->vms;
	char id[SAVED_ID_SIZE];
	pthread_t thread;

	if (!read_saving(vm, id))
		return false;
	log_warning("%s: its suspend was not finished: going on with it", vm->name);
	pthread_mutex_lock(&vms->lock);
	snprintf(vm->operation, sizeof(vm->operation), "being suspended");
	vms->watchers++;
	pthread_mutex_unlock(&vms->lock);
	if (pthread_create(&thread, NULL, follow, vm) != 0)
		abort();
	pthread_detach(thread);
	return true;
}

int vm_mark_resuming(const struct vm *vm, struct error **err)
{
	cleanup_free char *path = file_of(vm, "resuming");

	if (fs_mkdirs(vm->run_dir, 0755, err) < 0)
		return -1;
	return fs_write(path, "", 0, 0600, err);
}

void vm_drop_used(const struct vm *vm)
{
	cleanup_error struct error *e = NULL;

	if (fault_point("vm.start.before_remove", &e) < 0 ||
		saved_remove(vm->vms, vm->name, &e) < 0)
		log_error("%s goes on, and its saved state is of no use any more: %s", vm->name,
			e->message);
	remove_file(vm, "resuming");
}

/* Whether its guest stands still, never having run, until it is let run. One that runs at once when
 * it has loaded all may do so at any moment. */
static bool waits_to_run(const struct vm *vm, struct hv_vm *hv)
{
	enum hv_state state = hv_vm_state(hv);

	return state == HV_STARTING ||
	       (state == HV_PAUSED && !hv_get_facts(vm->vms->hv)->runs_at_once);
}

void vm_end_resuming(const struct vm *vm, struct hv_vm *hv)
{
	bool waits = waits_to_run(vm, hv);

	if (hv_vm_process(hv)->pid > 0) {
		process_signal(hv_vm_process(hv), SIGKILL);
		process_wait(hv_vm_process(hv), clock_ms() + END_MS, NULL);
	}
	if (waits || hv_vm_never_ran(hv))
		saved_unmark_begun(vm->vms, vm->name);
}

bool vm_follow_resume(struct vm *vm, struct hv_vm *hv)
{
	if (!has_file(vm, "resuming"))
		return true;
	switch (hv_vm_state(hv)) {
	case HV_STARTING:
	case HV_INCOMING:
	case HV_GONE:
		break;
	case HV_PAUSED:
		if (waits_to_run(vm, hv))
			break;
		__attribute__((fallthrough));
	default:
		vm_drop_used(vm);
		__attribute__((fallthrough));
	case HV_SILENT: /* It cannot be told; when it is stopped, the state goes. */
		return true;
	}
	log_warning("%s: its start from its saved state was not finished; ending its hypervisor",
		vm->name);
	vm_end_resuming(vm, hv);
	hv_vm_end(hv, clock_ms() + END_MS, NULL);
	return false;
}

/* Of a VM that ran here, and was not being suspended: what it went on from is old. One that was
 * found dead in the middle of its start may not have run: its disks tell. */
static void drop_old(struct vm *vm, bool found_dead)
{
	cleanup_error struct error *e = NULL;

	if (found_dead && (has_file(vm, "resuming") || !has_file(vm, "vm.conf")))
		return;
	if (saved_remove(vm->vms, vm->name, &e) < 0)
		log_error("%s: its saved state is of no use any more: %s", vm->name, e->message);
}

int vm_settle_saved(struct vm *vm, bool found_dead, struct error **err)
{
	struct vms *vms = vm->vms;
	cleanup_vm_def struct vm_def *def = NULL;
	cleanup_free char *file = NULL;
	struct pool_owner owner;
	char id[SAVED_ID_SIZE];
	struct error *why = NULL;
	bool saving = read_saving(vm, id);

	if (vms_where(vms, vm->name, &owner, &why) < 0) {
		if (saving && why->kind != ERROR_NO_VM)
			return error_move(err, why);
		error_free(&why);
		return 0;
	}
	if (strcmp(owner.node, vms->node))
		return 0; /* it is for who has it */
	if (!saving) {
		drop_old(vm, found_dead);
		return 0;
	}
	file = saved_begun_path(vms, vm->name, id);
	if (!hv_checkpoint_is_whole(vms->hv, file)) {
		if (!vms_is_suspended(vms, vm->name))
			log_warning("%s ended before its state was saved", vm->name);
		saved_drop_unfinished(vms, vm->name);
		return 0;
	}
	def = vm_read_running_def(vm, err);
	if (!def || saved_publish(vms, def, id, err) < 0)
		return -1;
	log_info("%s: suspended", vm->name);
	return 0;
}
