/*
 * Moves: see "Hypervisors that run a guest at once" in hv.h, and docs/bhyve.md.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fs.h"
#include "hv/bhyve/answer.h"

#include <stdio.h>
#include <string.h>

#define LOOK_MS 10
/* What a cancelled move still sends is read at 100 MB/s at least, and a while. */
#define DROP_MIN_MS 10000
#define DROP_BYTES_PER_MS 100000

static int no_postcopy(struct error **err)
{
	return error_set(err, ERROR_HYPERVISOR, 0, "bhyve has no post-copy");
}

int bhyve_check_postcopy(const struct hv *hv, struct error **err)
{
	(void)hv;
	return no_postcopy(err);
}

/* It could not be started again from its files. */
static int check_arguments(const struct hv_vm *vm, struct error **err)
{
	if (vm->bhyve->argv)
		return 0;
	return error_set(err, ERROR_REFUSED, 0,
		"%s was started by an older drover, which has not kept how; stop it and start it "
		"before it is moved by suspending it",
		vm->name);
}

int bhyve_vm_check_movable(struct hv_vm *vm, struct error **err)
{
	unsigned abilities = vm->hv->abilities;

	if (vm->bhyve->phase != HV_MIGRATE_NONE)
		return error_set(err, ERROR_BUSY, 0, "%s is being moved already", vm->name);
	if (process_stopped(&vm->id))
		return error_set(err, ERROR_REFUSED, 0,
			"%s is paused, and bhyve cannot move a guest that is; let it run first",
			vm->name);
	if (abilities & (BHYVE_MIGRATE | BHYVE_MIGRATE_LIVE))
		return 0;
	if ((abilities & BHYVE_SNAPSHOT) && (abilities & BHYVE_RESTORE))
		return check_arguments(vm, err);
	return error_set(err, ERROR_HYPERVISOR, 0, "%s cannot be moved: %s", vm->name,
		vm->hv->facts.no_live);
}

/* hv.json tells of the files before the order is given, which the thread does when it has the data
 * mover's connection. */
static int migrate_files(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;

	if (check_arguments(vm, err) < 0 || bhyve_files_choose(vm, err) < 0)
		return -1;
	b->files.total_bytes = (long long)b->memory_bytes;
	b->files.done_bytes = 0;
	b->phase = HV_MIGRATE_ACTIVE;
	if (bhyve_write_identity(vm, err) == 0)
		return 0;
	bhyve_files_forget(vm);
	return -1;
}

/* bhyvectl only gives the order; bhyve connects by itself, and says in its log how that went. */
int bhyve_vm_migrate(struct hv_vm *vm, const char *path, const struct hv_migrate_params *params,
	struct error **err)
{
	unsigned needed = params->still ? BHYVE_MIGRATE : BHYVE_MIGRATE_LIVE;
	cleanup_free char *order =
		fs_format(params->still ? "--migrate=%s" : "--migrate-live=%s", path);

	if (params->postcopy)
		return no_postcopy(err);
	if (params->files)
		return migrate_files(vm, err);
	if (!(vm->hv->abilities & needed))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s cannot be moved %s: bhyvectl has no %s", vm->name,
			params->still ? "while it stands still" : "while it runs",
			params->still ? "--migrate" : "--migrate-live");
	if (bhyve_ctl(vm, order, NULL, err) < 0)
		return -1;
	vm->bhyve->phase = HV_MIGRATE_ACTIVE;
	return 0;
}

/* It takes no limits: of rounds there are as many as it was built with. */
int bhyve_vm_migrate_set(
	struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err)
{
	(void)vm;
	(void)params;
	(void)err;
	return 0;
}

int bhyve_vm_migrate_incoming(struct hv_vm *vm, const char *path, bool postcopy, struct error **err)
{
	(void)path;
	vm->bhyve->phase = HV_MIGRATE_ACTIVE;
	return postcopy ? no_postcopy(err) : 0;
}

int bhyve_vm_migrate_port(const struct hv_vm *vm)
{
	return vm->bhyve->port;
}

void bhyve_vm_migrate_connected(struct hv_vm *vm, int fd)
{
	if (bhyve_vm_is_files(vm)) {
		bhyve_files_spawn(
			vm, fd, vm->bhyve->incoming ? bhyve_files_receive : bhyve_files_send);
		return;
	}
	close_fd(&vm->bhyve->stream_fd);
	vm->bhyve->stream_fd = fd;
}

int bhyve_vm_migrate_seen(struct hv_vm *vm, enum hv_migrate_phase phase, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;

	if (b->phase >= phase)
		return 0;
	if (phase == HV_MIGRATE_COMPLETED && !b->incoming && bhyve_vm_pause(vm, err) < 0)
		return -1;
	b->phase = phase;
	return 0;
}

int bhyve_vm_migrate_status(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err)
{
	(void)err;
	if (bhyve_vm_is_files(vm)) {
		bhyve_files_status(vm, status);
		return 0;
	}
	*status = (struct hv_migrate_status){.phase = vm->bhyve->phase,
		.total_bytes = (int64_t)vm->bhyve->memory_bytes,
		.remaining_bytes = (int64_t)vm->bhyve->memory_bytes};
	if (process_alive(&vm->id))
		return 0;
	status->phase = HV_MIGRATE_FAILED;
	bhyve_log_tail(vm->run_dir, status->failure);
	return 0;
}

/* There are no events but the end of the process: what changes the phase is seen elsewhere. */
int bhyve_vm_migrate_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
	struct hv_migrate_status *status, struct error **err)
{
	if (bhyve_vm_is_files(vm))
		bhyve_files_wait(vm, phase, deadline_ms);
	else if (vm->bhyve->phase == phase)
		process_wait(&vm->id, deadline_ms, NULL);
	return bhyve_vm_migrate_status(vm, status, err);
}

int bhyve_vm_migrate_follow(
	struct hv_vm *vm, int64_t deadline_ms, struct hv_migrate_status *status, struct error **err)
{
	return bhyve_vm_migrate_wait(vm, status->phase, deadline_ms, status, err);
}

/* Its guest goes on with the answer "no", which it reads when it has sent everything, or stops at.
 */
int bhyve_vm_migrate_cancel(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;
	int64_t limit_ms = DROP_MIN_MS + (int64_t)(b->memory_bytes / DROP_BYTES_PER_MS);

	if (bhyve_vm_is_files(vm))
		return bhyve_files_cancel(vm, err);
	if (b->phase == HV_MIGRATE_COMPLETED || b->phase == HV_MIGRATE_NONE)
		return 0;
	if (b->stream_fd >= 0 && !bhyve_refuse(b->stream_fd, clock_ms() + limit_ms))
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s: bhyve does not leave off from its move", vm->name);
	close_fd(&b->stream_fd);
	b->phase = HV_MIGRATE_NONE;
	return 0;
}

int bhyve_vm_migrate_abandon(struct hv_vm *vm, struct error **err)
{
	(void)vm;
	return no_postcopy(err);
}

int bhyve_vm_migrate_postcopy(struct hv_vm *vm, struct error **err)
{
	(void)vm;
	return no_postcopy(err);
}

int bhyve_vm_migrate_recover(struct hv_vm *vm, const char *path, struct error **err)
{
	(void)vm;
	(void)path;
	return no_postcopy(err);
}

int bhyve_vm_migrate_resume(struct hv_vm *vm, const char *path, struct error **err)
{
	(void)vm;
	(void)path;
	return no_postcopy(err);
}
