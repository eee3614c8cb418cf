/*
 * A suspended guest in a file: a migration whose stream goes into it, of a guest that was paused
 * before, so that QEMU never lets it go on by itself.
 *
 * QEMU gets the file opened, over its control socket: its user needs no rights in the pool. From
 * 9.1 on (docs/about/deprecated) `fd:` is for sockets only, and a file comes as a set of
 * descriptors.
 */
#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define FD_NAME "drover-state"
#define DESCRIPTOR_SET 77
#define LOAD_MS 600000

static bool by_set(const struct hv_facts *facts)
{
	return facts->major > 9 || (facts->major == 9 && facts->minor >= 1);
}

/* The arguments of migrate or migrate-incoming for an open file; NULL: an error. */
static json_t *pass(struct hv_vm *vm, int fd, struct error **err)
{
	bool set = by_set(&vm->hv->facts);
	json_t *name = set ? json_pack("{s:i}", "fdset-id", DESCRIPTOR_SET)
			   : json_pack("{s:s}", "fdname", FD_NAME);

	if (qmp_pass_fd(vm->qmp, fd, err) < 0) {
		json_decref(name);
		return NULL;
	}
	if (qemu_run(vm, set ? "add-fd" : "getfd", name, NULL, err) < 0)
		return NULL;
	return set ? json_pack("{s:o}", "uri", json_sprintf("file:/dev/fdset/%d", DESCRIPTOR_SET))
		   : json_pack("{s:s}", "uri", "fd:" FD_NAME);
}

/* What was passed, where it was not used up. */
static void take_back(struct hv_vm *vm)
{
	if (by_set(&vm->hv->facts))
		qemu_run(vm, "remove-fd", json_pack("{s:i}", "fdset-id", DESCRIPTOR_SET), NULL,
			NULL);
	else
		qemu_run(vm, "closefd", json_pack("{s:s}", "fdname", FD_NAME), NULL, NULL);
}

int qemu_check_suspend(const struct hv *hv, struct error **err)
{
	(void)hv;
	(void)err;
	return 0;
}

/* Back to where it was; the error is the one that there is. */
static int go_on(struct hv_vm *vm, struct error **err)
{
	take_back(vm);
	if (qemu_vm_resume(vm, NULL) < 0)
		return error_prefix(err, "%s cannot be let run again", vm->name);
	return -1;
}

static int order(struct hv_vm *vm, const char *file, struct error **err)
{
	/* Nothing keeps it from writing as fast as it can. */
	static const struct hv_migrate_params fast = {.downtime_limit_ms = 300};
	cleanup_fd int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	json_t *arguments;

	if (fd < 0)
		return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_POOL, errno,
			"cannot make %s", file);
	if (qemu_migrate_prepare(vm, &fast, err) < 0)
		return -1;
	arguments = pass(vm, fd, err);
	return arguments ? qemu_run(vm, "migrate", arguments, NULL, err) : -1;
}

/* Where the stream into the file stands. A guest that was received has a migration of its own that
 * is completed: only one that went out leaves the guest in "postmigrate". */
static int look(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err)
{
	char state[QMP_NAME_MAX];

	if (qemu_vm_migrate_status(vm, status, err) < 0)
		return -1;
	if (status->phase != HV_MIGRATE_COMPLETED)
		return 0;
	if (qemu_settled_state(vm, state, err) < 0)
		return -1;
	if (strcmp(state, "postmigrate") != 0)
		status->phase = HV_MIGRATE_NONE;
	return 0;
}

int qemu_vm_checkpoint_wait(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err)
{
	struct hv_migrate_status status, ignored;

	(void)suspend;
	for (;;) {
		if (look(vm, &status, err) < 0)
			return -1;
		if (status.phase == HV_MIGRATE_COMPLETED)
			return 0;
		if (status.phase == HV_MIGRATE_NONE || status.phase == HV_MIGRATE_FAILED ||
			status.phase == HV_MIGRATE_CANCELLED)
			break;
		if (clock_ms() >= deadline_ms)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its state %s was not complete in time", vm->name, file);
		if (qemu_vm_migrate_wait(vm, status.phase, deadline_ms, &ignored, err) < 0)
			return -1;
	}
	error_set(err, ERROR_HYPERVISOR, 0, "%s: QEMU did not write its state into %s: %s",
		vm->name, file, status.failure[0] ? status.failure : "it was not told to");
	return go_on(vm, err);
}

int qemu_vm_checkpoint(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err)
{
	if (!suspend)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s: there are no checkpoints of a guest that goes on with QEMU", vm->name);
	if (qemu_vm_check_movable(vm, err) < 0 || qemu_vm_pause(vm, err) < 0)
		return -1;
	if (order(vm, file, err) < 0)
		return go_on(vm, err);
	return qemu_vm_checkpoint_wait(vm, file, suspend, deadline_ms, err);
}

int qemu_load(struct hv_vm *vm, const char *file, struct error **err)
{
	cleanup_fd int fd = open(file, O_RDONLY | O_CLOEXEC);
	struct hv_migrate_status status = {.phase = HV_MIGRATE_NONE};
	int64_t deadline = clock_ms() + LOAD_MS;
	json_t *arguments;

	if (fd < 0)
		return error_set(err, ERROR_POOL, errno, "cannot open %s", file);
	if (qemu_incoming_prepare(vm, err) < 0 || !(arguments = pass(vm, fd, err)) ||
		qemu_run(vm, "migrate-incoming", arguments, NULL, err) < 0)
		return -1;
	while (status.phase != HV_MIGRATE_COMPLETED) {
		if (qemu_vm_migrate_wait(vm, status.phase, deadline, &status, err) < 0)
			return -1;
		if (status.phase == HV_MIGRATE_FAILED || clock_ms() >= deadline)
			return error_set(err, ERROR_HYPERVISOR, 0,
				"%s: QEMU cannot load its state from %s: %s", vm->name, file,
				status.failure[0] ? status.failure : "it takes too long");
	}
	/* A file that is open cannot be removed everywhere (NFS). */
	take_back(vm);
	return 0;
}
