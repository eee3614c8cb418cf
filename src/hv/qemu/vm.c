#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* A closed connection comes a moment before the end of the process. */
#define GONE_MS 2000
/* Between looks at a state whose end QEMU tells by no event (state_after). */
#define LOOK_MS 2
#define KILL_MS 10000

int qemu_run_for(struct hv_vm *vm, int64_t limit_ms, const char *command, json_t *arguments,
	json_t **result, struct error **err)
{
	struct error *why = NULL;
	char said[512];

	if (qmp_run(vm->qmp, command, arguments, clock_ms() + limit_ms, result, &why) == 0)
		return 0;
	if (why->kind == ERROR_NOT_RUNNING)
		qemu_log_tail(vm->run_dir, said);
	if (why->kind != ERROR_NOT_RUNNING || !said[0])
		return error_move(err, why);
	error_set(err, ERROR_NOT_RUNNING, 0, "%s; it said: %s", why->message, said);
	error_free(&why);
	return -1;
}

int qemu_run(struct hv_vm *vm, const char *command, json_t *arguments, json_t **result,
	struct error **err)
{
	return qemu_run_for(vm, HV_ANSWER_MS, command, arguments, result, err);
}

void qemu_last_migration(struct hv_vm *vm, char status[QMP_NAME_MAX])
{
	struct qmp_event last = {0};
	cleanup_json json_t *data = NULL;
	const char *said;

	status[0] = 0;
	if (!qmp_last_event(vm->qmp, "MIGRATION", &last))
		return;
	data = last.data;
	said = json_string_value(json_object_get(data, "status"));
	snprintf(status, QMP_NAME_MAX, "%s", said ? said : "");
}

bool qemu_migrates(struct hv_vm *vm)
{
	char status[QMP_NAME_MAX];

	qemu_last_migration(vm, status);
	return !strcmp(status, "active") || !strcmp(status, "device") ||
	       !strncmp(status, "postcopy-", 9);
}

int qemu_run_state(struct hv_vm *vm, char state[QMP_NAME_MAX], struct error **err)
{
	int64_t limit_ms = qemu_migrates(vm) ? QEMU_BUSY_MS : HV_ANSWER_MS;
	cleanup_json json_t *status = NULL;
	const char *said;

	if (qemu_run_for(vm, limit_ms, "query-status", NULL, &status, err) < 0)
		return -1;
	said = json_get_string(status, "status", err);
	if (!said)
		return -1;
	snprintf(state, QMP_NAME_MAX, "%s", said);
	return 0;
}

/* Waits until the run state is another than `passing`, which QEMU leaves by itself. */
static int state_after(
	struct hv_vm *vm, const char *passing, char state[QMP_NAME_MAX], struct error **err)
{
	int64_t deadline = clock_ms() + HV_ANSWER_MS;

	for (;;) {
		uint64_t seq = qmp_event_seq(vm->qmp);

		if (qemu_run_state(vm, state, err) < 0)
			return -1;
		if (strcmp(state, passing))
			return 0;
		if (clock_ms() >= deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its migration has not come to its end in time", vm->name);
		/* There is an event when the guest runs again, and none when it stays paused. */
		qmp_wait_event(vm->qmp, seq, clock_ms() + LOOK_MS, NULL);
	}
}

int qemu_settled_state(struct hv_vm *vm, char state[QMP_NAME_MAX], struct error **err)
{
	return state_after(vm, "finish-migrate", state, err);
}

int qemu_loaded_state(struct hv_vm *vm, char state[QMP_NAME_MAX], struct error **err)
{
	return state_after(vm, "inmigrate", state, err);
}

bool qemu_gone(struct hv_vm *vm)
{
	return qmp_ended(vm->qmp) && process_wait(&vm->id, clock_ms() + GONE_MS, NULL);
}

/* "completed" of a migration is what makes a stopped guest one whose state has gone out. */
static bool has_migrated(struct hv_vm *vm)
{
	struct hv_migrate_status status;

	return qemu_vm_migrate_status(vm, &status, NULL) == 0 &&
	       status.phase == HV_MIGRATE_COMPLETED;
}

enum hv_state qemu_vm_state(struct hv_vm *vm)
{
	static const struct {
		const char *name;
		enum hv_state state;
	} states[] = {
		{"running", HV_RUNNING}, {"suspended", HV_RUNNING}, {"paused", HV_PAUSED},
		{"prelaunch", HV_STARTING}, {"debug", HV_PAUSED}, {"save-vm", HV_PAUSED},
		{"restore-vm", HV_PAUSED}, {"colo", HV_PAUSED}, {"finish-migrate", HV_PAUSED},
		{"postmigrate", HV_PAUSED}, {"inmigrate", HV_INCOMING}, {"shutdown", HV_OFF},
		/* and "internal-error", "io-error", "watchdog", "guest-panicked" */
	};
	cleanup_error struct error *why = NULL;
	char name[QMP_NAME_MAX];

	if (qmp_silent(vm->qmp))
		return HV_SILENT;
	if (qemu_run_state(vm, name, &why) < 0) {
		if (why->kind == ERROR_TIMEOUT && qemu_migrates(vm))
			return HV_PAUSED;
		return qemu_gone(vm) ? HV_GONE : HV_FAILED;
	}
	for (size_t i = 0; i < sizeof(states) / sizeof(*states); i++) {
		if (strcmp(name, states[i].name))
			continue;
		if ((!strcmp(name, "postmigrate") || !strcmp(name, "finish-migrate")) &&
			has_migrated(vm))
			return HV_MIGRATED;
		return states[i].state;
	}
	return HV_FAILED;
}

bool qemu_vm_hangs(struct hv_vm *vm)
{
	cleanup_error struct error *why = NULL;

	return qmp_silent(vm->qmp) ||
	       (qemu_run(vm, "query-status", NULL, NULL, &why) < 0 && why->kind == ERROR_TIMEOUT);
}

/* QEMU's own words of a refused `cont`. */
static int explain_cont(struct hv_vm *vm, struct error *why, struct error **err)
{
	const char *said = strstr(why->message, "cont: ");

	if (why->kind != ERROR_HYPERVISOR || !said)
		return error_move(err, why);
	qemu_explain(vm->name, "run", said + strlen("cont: "), &vm->hv->set, err);
	error_free(&why);
	return -1;
}

int qemu_vm_resume(struct hv_vm *vm, struct error **err)
{
	struct error *why = NULL;
	char state[QMP_NAME_MAX];

	if (qemu_settled_state(vm, state, err) < 0)
		return -1;
	if (!strcmp(state, "running"))
		return 0;
	/* There QEMU would take `cont` as an order for the time after the stream. */
	if (!strcmp(state, "inmigrate"))
		return error_set(err, ERROR_BUSY, 0, "%s: it has not been loaded yet", vm->name);
	if (!strcmp(state, "shutdown"))
		return error_set(
			err, ERROR_NOT_RUNNING, 0, "%s: its guest has powered off", vm->name);
	if (qemu_run(vm, "cont", NULL, NULL, &why) < 0)
		return explain_cont(vm, why, err);
	return 0;
}

int qemu_vm_pause(struct hv_vm *vm, struct error **err)
{
	return qemu_run(vm, "stop", NULL, NULL, err);
}

int qemu_vm_powerdown(struct hv_vm *vm, struct error **err)
{
	return qemu_run(vm, "system_powerdown", NULL, NULL, err);
}

int qemu_vm_announce(struct hv_vm *vm, struct error **err)
{
	/* QEMU's own defaults after a migration: five times within a second. */
	json_t *how = json_pack(
		"{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5, "step", 100);

	return qemu_run(vm, "announce-self", how, NULL, err);
}

bool qemu_vm_wait_off(struct hv_vm *vm, int64_t deadline_ms)
{
	for (;;) {
		uint64_t seq = qmp_event_seq(vm->qmp);
		enum hv_state state = qemu_vm_state(vm);

		if (state == HV_OFF || state == HV_GONE)
			return true;
		if (qmp_ended(vm->qmp))
			return process_wait(&vm->id, deadline_ms, NULL);
		if (!qmp_wait_event(vm->qmp, seq, deadline_ms, NULL) && !qmp_ended(vm->qmp))
			return false;
	}
}

int qemu_vm_end(struct hv_vm *vm, int64_t deadline_ms, struct error **err)
{
	if (qmp_silent(vm->qmp))
		process_signal(&vm->id, SIGKILL);
	else
		qmp_run(vm->qmp, "quit", NULL, deadline_ms, NULL, NULL);
	if (!process_wait(&vm->id, deadline_ms, NULL)) {
		process_signal(&vm->id, SIGKILL);
		/* A process in an NFS call that does not end cannot be killed either. */
		if (!process_wait(&vm->id, clock_ms() + KILL_MS, NULL))
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its hypervisor (process %d) cannot be ended: it hangs in the "
				"kernel, probably for a disk that does not answer",
				vm->name, (int)vm->id.pid);
	}
	qemu_clean(vm->run_dir);
	return 0;
}
