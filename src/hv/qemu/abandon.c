/*
 * The way back that QEMU does not offer.
 *
 * A source whose switch to post-copy cannot be brought to its end has all of its guest's memory,
 * and refuses to let it run: in "postcopy-paused" by design, and (10.0) when the stream broke
 * during the switch itself, because its migration then never ends ("device", "cancelling"). QEMU's
 * debugger stub is not asked whether a migration is over: a debugger that detaches lets the guest
 * go on.
 */
#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET "gdb.sock"
/* The packet of a debugger that detaches: 'D' and its checksum; the stub confirms it by '+'. */
#define DETACH "$D#44"

static int monitor(struct hv_vm *vm, const char *line, struct error **err)
{
	return qemu_run(
		vm, "human-monitor-command", json_pack("{s:s}", "command-line", line), NULL, err);
}

static int detach(struct hv_vm *vm, const char *path, struct error **err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd confirmed = {.fd = fd, .events = POLLIN};

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, ERROR_FAILED, 0, "%s: the path %s is too long for a socket",
			vm->name, path);
	strcpy(addr.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
		send(fd, DETACH, strlen(DETACH), MSG_NOSIGNAL) != (ssize_t)strlen(DETACH) ||
		poll(&confirmed, 1, HV_ANSWER_MS) <= 0)
		return error_set(err, ERROR_HYPERVISOR, errno,
			"%s: QEMU's debugger stub does not answer", vm->name);
	return 0;
}

/* The guest's disks were given away with the switch. */
static int take_images(struct hv_vm *vm, struct error **err)
{
	struct error *why = NULL;

	if (qemu_run(vm, "blockdev-set-active", json_pack("{s:b}", "active", 1), NULL, &why) == 0)
		return 0;
	if (why->kind != ERROR_HYPERVISOR)
		return error_move(err, why);
	if (strstr(why->message, "not been found"))
		error_set(err, ERROR_REFUSED, 0,
			"%s: QEMU %s cannot take its disks back after a switch to post-copy",
			vm->name, vm->hv->facts.version);
	else
		qemu_explain(vm->name, "run", why->message, &vm->hv->set, err);
	error_free(&why);
	return -1;
}

int qemu_vm_migrate_abandon(struct hv_vm *vm, struct error **err)
{
	cleanup_free char *path = qemu_path(vm->run_dir, SOCKET);
	cleanup_free char *serve = fs_format("gdbserver unix:%s,server=on,wait=off", path);
	char state[QMP_NAME_MAX];
	int rc;

	/* No page goes out any more; refused when none did. */
	qmp_run_oob(vm->qmp, "migrate-pause", NULL, clock_ms() + HV_ANSWER_MS, NULL);
	if (take_images(vm, err) < 0 || monitor(vm, serve, err) < 0)
		return -1;
	rc = detach(vm, path, err);
	monitor(vm, "gdbserver none", NULL);
	unlink(path);
	if (rc < 0 || qemu_run_state(vm, state, err) < 0)
		return -1;
	if (strcmp(state, "running"))
		return error_set(err, ERROR_HYPERVISOR, 0, "%s: its guest does not go on, it is %s",
			vm->name, state);
	return 0;
}
