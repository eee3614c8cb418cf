/*
 * A bhyve that runs. It takes no orders but signals and, through bhyvectl, the kernel's; a pause is
 * SIGSTOP to the process, whose threads are the guest's CPUs.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "hv/bhyve/answer.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS 10
#define KILL_MS 5000
#define FILES_LOOK_MS 200
/* For what a source that is told "no" may still send. */
#define REFUSE_MS 20000
#define EXIT_REBOOT 0
/* Devices are restored meanwhile. Who waits asks again, and looks at the data mover in between. */
#define RUN_MS 3000
/* Its memory is read from a file before. */
#define RESTORE_MS 600000

static bool was_started(const struct hv_vm *vm)
{
	return vm->id.pid > 0;
}

static bool runs_by_now(struct hv_vm *vm)
{
	struct bhyve_vm *b = vm->bhyve;

	if (b->incoming && bhyve_has_run(vm) == 1) {
		b->incoming = false;
		bhyve_write_identity(vm, NULL);
	}
	return !b->incoming;
}

enum hv_state bhyve_vm_state(struct hv_vm *vm)
{
	if (bhyve_vm_is_files(vm))
		return bhyve_files_state(vm);
	if (!was_started(vm))
		return HV_STARTING;
	if (!process_alive(&vm->id))
		return HV_GONE;
	if (vm->bhyve->incoming && !runs_by_now(vm))
		return HV_INCOMING;
	if (!process_stopped(&vm->id))
		return HV_RUNNING;
	return vm->bhyve->phase == HV_MIGRATE_COMPLETED ? HV_MIGRATED : HV_PAUSED;
}

static int gone(const struct hv_vm *vm, struct error **err)
{
	char said[512];

	bhyve_log_tail(vm->run_dir, said);
	return error_set(err, ERROR_NOT_RUNNING, 0, "%s: its bhyve has ended%s%s", vm->name,
		said[0] ? "; it said: " : "", said);
}

/* A signal that stops or continues, and until it has. */
static int signal_until(struct hv_vm *vm, int number, bool stopped, struct error **err)
{
	int64_t deadline = clock_ms() + HV_ANSWER_MS;

	process_signal(&vm->id, number);
	while (process_stopped(&vm->id) != stopped) {
		if (process_wait(&vm->id, clock_ms() + LOOK_MS, NULL))
			return gone(vm, err);
		if (clock_ms() > deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: bhyve (process %d) does not %s", vm->name, (int)vm->id.pid,
				stopped ? "stop" : "go on");
	}
	return process_alive(&vm->id) ? 0 : gone(vm, err);
}

int bhyve_vm_pause(struct hv_vm *vm, struct error **err)
{
	return signal_until(vm, SIGSTOP, true, err);
}

/* A source that has sent everything waits for an answer. Where its connection is not ours any more
 * (another droverd made it), the data mover gives the answer when it is ended. */
int bhyve_go_on(struct hv_vm *vm, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;

	if (signal_until(vm, SIGCONT, false, err) < 0)
		return -1;
	if (b->stream_fd >= 0 && !bhyve_refuse(b->stream_fd, clock_ms() + REFUSE_MS))
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s: bhyve does not take it that its move came to nothing", vm->name);
	close_fd(&b->stream_fd);
	b->phase = HV_MIGRATE_NONE;
	return process_alive(&vm->id) ? 0 : gone(vm, err);
}

/* It tells nobody; the kernel counts. */
static int wait_runs(struct hv_vm *vm, int64_t limit_ms, struct error **err)
{
	int64_t deadline = clock_ms() + limit_ms;

	while (!runs_by_now(vm)) {
		if (process_wait(&vm->id, clock_ms() + LOOK_MS, NULL))
			return gone(vm, err);
		if (clock_ms() > deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its guest did not run within %lld s", vm->name,
				(long long)limit_ms / 1000);
	}
	close_fd(&vm->bhyve->stream_fd);
	vm->bhyve->phase = HV_MIGRATE_NONE;
	return 0;
}

int bhyve_vm_resume(struct hv_vm *vm, struct error **err)
{
	if (bhyve_vm_is_files(vm))
		return bhyve_files_resume(vm, err);
	if (!was_started(vm) && bhyve_launch(vm, err) < 0)
		return -1;
	if (vm->bhyve->incoming && vm->bhyve->restoring)
		return wait_runs(vm, RESTORE_MS, err);
	if (!process_alive(&vm->id))
		return gone(vm, err);
	if (vm->bhyve->incoming)
		return wait_runs(vm, RUN_MS, err);
	return process_stopped(&vm->id) ? bhyve_go_on(vm, err) : 0;
}

/* bhyve(8): SIGTERM is the power button. */
int bhyve_vm_powerdown(struct hv_vm *vm, struct error **err)
{
	if (!process_alive(&vm->id))
		return gone(vm, err);
	process_signal(&vm->id, SIGTERM);
	return 0;
}

bool bhyve_vm_hangs(struct hv_vm *vm)
{
	(void)vm;
	return false; /* it is never asked anything */
}

int bhyve_vm_announce(struct hv_vm *vm, struct error **err)
{
	(void)vm;
	(void)err;
	return 0; /* the guest's driver is told to by the device (VIRTIO_NET_S_ANNOUNCE), or not */
}

bool bhyve_vm_never_ran(struct hv_vm *vm)
{
	if (bhyve_vm_is_files(vm))
		return vm->bhyve->incoming && bhyve_files_have_run(vm) == 0;
	return vm->bhyve->incoming && bhyve_has_run(vm) == 0;
}

/* The guest wants to begin anew: what bhyve leaves to who has started it. */
static bool start_again(struct hv_vm *vm)
{
	cleanup_error struct error *e = NULL;

	log_info("%s: its guest restarts", vm->name);
	if (bhyve_destroy(vm, &e) == 0 && bhyve_launch(vm, &e) == 0)
		return true;
	log_error("%s does not restart: %s", vm->name, e->message);
	return false;
}

/* Of a guest that is files no process tells its end. */
static bool wait_off_files(struct hv_vm *vm, int64_t deadline_ms)
{
	while (bhyve_vm_is_files(vm)) {
		int64_t left = clock_left_ms(deadline_ms);

		if (bhyve_files_state(vm) == HV_GONE)
			return true;
		if (left <= 0)
			return false;
		poll(NULL, 0, (int)(left < FILES_LOOK_MS ? left : FILES_LOOK_MS));
	}
	return false;
}

bool bhyve_vm_wait_off(struct hv_vm *vm, int64_t deadline_ms)
{
	/* Another process takes its place when the guest goes on from files. */
	struct process_id id = vm->id;
	int status = -1;

	if (bhyve_vm_is_files(vm))
		return wait_off_files(vm, deadline_ms);
	if (!was_started(vm))
		return true;
	if (!process_wait(&id, deadline_ms, &status))
		return false;
	/* It has been suspended meanwhile, or is another one by now. */
	if (bhyve_vm_is_files(vm) || process_alive(&vm->id))
		return false;
	if (status < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != EXIT_REBOOT ||
		vm->bhyve->suspending || vm->bhyve->incoming ||
		vm->bhyve->phase != HV_MIGRATE_NONE || !vm->bhyve->argv)
		return true;
	return !start_again(vm);
}

int bhyve_vm_end(struct hv_vm *vm, int64_t deadline_ms, struct error **err)
{
	if (was_started(vm) && process_alive(&vm->id)) {
		if (process_stopped(&vm->id) || vm->bhyve->incoming)
			process_signal(&vm->id, SIGKILL);
		else
			bhyve_ctl(vm, "--force-poweroff", NULL, NULL);
	}
	if (was_started(vm) && !process_wait(&vm->id, deadline_ms, NULL)) {
		process_signal(&vm->id, SIGKILL);
		if (!process_wait(&vm->id, clock_ms() + KILL_MS, NULL))
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its bhyve (process %d) cannot be ended: it hangs in the "
				"kernel, probably for a disk that does not answer",
				vm->name, (int)vm->id.pid);
	}
	bhyve_clean(vm);
	return 0;
}
