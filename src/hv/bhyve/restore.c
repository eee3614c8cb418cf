/*
 * A guest that is files: what state it is in, and its start from them (bhyve -r FILE), at the
 * destination and, where a move came to nothing, at the source.
 *
 * It is never started from files that it has run from: its disks are newer than these.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <poll.h>

#define LOOK_MS 20
/* Whoever waits longer asks again: less than HV_ANSWER_MS. */
#define RUN_MS 8000
#define SETTLE_MS 8000
/* A bhyve that was started and not written down has its VM by then. */
#define APPEARS_MS 1000

bool bhyve_vm_is_files(struct hv_vm *vm)
{
	return vm->bhyve->files.used;
}

/* Only droverd removes what the kernel has of a VM, and it counts from its making on. */
int bhyve_files_have_run(struct hv_vm *vm)
{
	return bhyve_exists(vm) ? bhyve_has_run(vm) : 0;
}

/* Whether its process lives; one that is being started does. */
static bool lives(struct hv_vm *vm)
{
	struct bhyve_files *f = &vm->bhyve->files;
	struct process_id id;
	bool launching;

	pthread_mutex_lock(&f->lock);
	launching = f->launching;
	id = vm->id;
	pthread_mutex_unlock(&f->lock);
	return launching || process_alive(&id);
}

/* A source's files are as good as before when a bhyve has ended before the guest ran. Who waits for
 * the end of the VM believes HV_GONE for good: it is said only when it is known. */
static enum hv_state state_restoring(struct hv_vm *vm)
{
	bool alive = lives(vm), incoming = vm->bhyve->incoming;
	int has_run = bhyve_files_have_run(vm);

	if (!alive && (has_run == 1 || (incoming && has_run == 0)))
		return HV_GONE;
	if (has_run == 1)
		return HV_RUNNING;
	return incoming ? HV_INCOMING : HV_PAUSED;
}

/* A source that is being suspended counts as paused: it stands still or will. */
enum hv_state bhyve_files_state(struct hv_vm *vm)
{
	struct bhyve_vm *b = vm->bhyve;

	if (b->files.restoring)
		return state_restoring(vm);
	if (b->incoming)
		return b->phase == HV_MIGRATE_COMPLETED ? HV_PAUSED : HV_INCOMING;
	if (lives(vm))
		return HV_PAUSED;
	if (!bhyve_checkpoint_complete(b->files.path))
		return HV_GONE;
	return b->phase == HV_MIGRATE_COMPLETED ? HV_MIGRATED : HV_PAUSED;
}

static int not_restored(struct hv_vm *vm, enum error_kind kind, struct error **err)
{
	char said[512];

	bhyve_log_tail(vm->run_dir, said);
	return error_set(err, kind, 0, "%s: bhyve does not go on from %s%s%s", vm->name,
		vm->bhyve->files.path, said[0] ? "; it said: " : "", said);
}

/* The guest runs: what it came from is old from now on. */
static int finish(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;

	if (fault_point("hv.restore.after", err) < 0)
		return -1;
	bhyve_files_forget(vm);
	b->incoming = false;
	return bhyve_write_identity(vm, err);
}

/* It reads the guest's memory meanwhile, and tells nobody: the kernel counts. */
static int wait_runs(struct hv_vm *vm, struct error **err)
{
	int64_t deadline = clock_ms() + RUN_MS;

	while (bhyve_has_run(vm) != 1) {
		if (process_wait(&vm->id, clock_ms() + LOOK_MS, NULL))
			return not_restored(vm, ERROR_NOT_RUNNING, err);
		if (clock_ms() > deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its bhyve still reads the guest from %s", vm->name,
				vm->bhyve->files.path);
	}
	return finish(vm, err);
}

/* While it is `launching`, hv_vm.id becomes another one. */
static void set_launching(struct hv_vm *vm, bool launching)
{
	struct bhyve_files *f = &vm->bhyve->files;

	pthread_mutex_lock(&f->lock);
	f->launching = launching;
	if (launching)
		vm->id = (struct process_id){0};
	pthread_mutex_unlock(&f->lock);
}

static int launch(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;
	int rc;

	set_launching(vm, true);
	b->files.restoring = true;
	rc = bhyve_write_identity(vm, err);
	if (rc == 0) {
		bhyve_args_free(b->first);
		b->first = bhyve_args_restoring(b->argv, b->files.path);
		rc = bhyve_launch(vm, err);
	}
	set_launching(vm, false);
	return rc;
}

static int start(struct hv_vm *vm, struct error **err)
{
	if (!vm->bhyve->argv)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s: how its bhyve was started is not known", vm->name);
	if (fault_point("hv.restore.before", err) < 0 || bhyve_destroy(vm, err) < 0)
		return -1;
	return launch(vm, err) < 0 ? -1 : wait_runs(vm, err);
}

/* An earlier start of it: 0 when it was in vain, 1 when it goes on. */
static int look_at_start(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;
	int has_run;

	if (process_alive(&vm->id))
		return 1;
	has_run = bhyve_files_have_run(vm);
	if (has_run < 0)
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s: the kernel does not tell whether its guest has run", vm->name);
	if (b->incoming || has_run)
		return not_restored(vm, ERROR_NOT_RUNNING, err);
	b->files.restoring = false;
	return 0;
}

int bhyve_files_resume(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;
	int rc = 0;

	bhyve_files_stop(vm);
	b->files.stop = false;
	if (b->files.restoring)
		rc = look_at_start(vm, err);
	if (rc != 0)
		return rc < 0 ? -1 : wait_runs(vm, err);
	if (!b->incoming && process_alive(&vm->id)) {
		rc = !b->files.ordered ? 0 : bhyve_files_settle(vm, clock_ms() + SETTLE_MS, err);
		if (rc <= 0)
			return rc < 0 ? -1 : finish(vm, err);
	}
	if (!bhyve_checkpoint_complete(b->files.path))
		return bhyve_files_ended_early(vm, err);
	return start(vm, err);
}

int bhyve_files_cancel(struct hv_vm *vm, struct error **err)
{
	enum hv_migrate_phase phase = vm->bhyve->phase;

	return phase == HV_MIGRATE_COMPLETED ? 0 : bhyve_files_resume(vm, err);
}

/* Of one that an earlier droverd started and did not write down, nobody knows the process: it can
 * only be ended. False when the guest has run, and does no more. */
static bool is_whole_still(struct hv_vm *vm)
{
	int64_t deadline = clock_ms() + APPEARS_MS;
	cleanup_error struct error *e = NULL;
	int has_run;

	while (!vm->id.pid && !bhyve_exists(vm) && clock_ms() < deadline)
		poll(NULL, 0, LOOK_MS);
	has_run = bhyve_files_have_run(vm);
	if (has_run == 0 && bhyve_destroy(vm, &e) == 0)
		vm->bhyve->files.restoring = false;
	if (e)
		log_error("%s: %s", vm->name, e->message);
	return has_run != 1;
}

bool bhyve_files_found_again(struct hv_vm *vm)
{
	struct bhyve_vm *b = vm->bhyve;
	bool alive = process_alive(&vm->id);
	bool complete;

	if (alive && b->files.restoring && bhyve_has_run(vm) == 1)
		return finish(vm, NULL) == 0 || process_alive(&vm->id);
	if (!alive && b->files.restoring && !is_whole_still(vm))
		return false;
	complete = bhyve_checkpoint_complete(b->files.path);
	b->phase = complete && !alive ? HV_MIGRATE_COMPLETED : HV_MIGRATE_ACTIVE;
	return alive || complete;
}
