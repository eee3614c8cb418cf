/*
 * A source whose guest moves as files: bhyvectl --suspend=FILE, and the files sent.
 *
 * bhyve ends when it has written them all (usr.sbin/bhyve/snapshot.c: vm_destroy, exit). Where it
 * cannot, for want of room say, it lets the guest go on, and tells nobody: that is seen by files
 * that grow no more while the kernel counts exits of the guest, which has none while it stands
 * still.
 */
#include "hv/bhyve/bhyve.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fs.h"
#include "hv/bhyve/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 50
#define CHUNK (1u << 20)
#define FILES 3

static const char *const suffixes[FILES] = {"", ".kern", ".meta"};

int bhyve_files_ended_early(struct hv_vm *vm, struct error **err)
{
	char said[512];

	bhyve_log_tail(vm->run_dir, said);
	return error_set(err, ERROR_NOT_RUNNING, 0,
		"%s: its bhyve has ended before it had written the guest to %s%s%s", vm->name,
		vm->bhyve->files.path, said[0] ? "; it said: " : "", said);
}

int bhyve_files_settle(struct hv_vm *vm, int64_t deadline_ms, struct error **err)
{
	struct bhyve_files *f = &vm->bhyve->files;
	struct bhyve_watch watch = {0};

	for (;;) {
		if (process_wait(&vm->id, clock_ms() + LOOK_MS, NULL))
			return bhyve_checkpoint_complete(f->path)
				       ? 1
				       : bhyve_files_ended_early(vm, err);
		if (bhyve_has_given_up(vm, f->path, &watch))
			return 0;
		if (clock_ms() > deadline_ms || f->stop)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its bhyve is still writing the guest to %s", vm->name,
				f->path);
	}
}

static int suspend(struct hv_vm *vm, struct error **err)
{
	struct bhyve_files *f = &vm->bhyve->files;
	cleanup_free char *order = fs_format("--suspend=%s", f->path);
	char said[512];
	int done;

	if (fault_point("hv.suspend.before", err) < 0)
		return -1;
	if (f->stop)
		return error_set(err, ERROR_CANCELLED, 0, "%s: its move was given up", vm->name);
	f->ordered = true;
	if (bhyve_ctl(vm, order, NULL, err) < 0)
		return -1;
	done = bhyve_files_settle(vm, INT64_MAX, err);
	if (done != 0)
		return done < 0 ? -1 : fault_point("hv.suspend.after", err);
	bhyve_log_tail(vm->run_dir, said);
	return error_set(err, ERROR_HYPERVISOR, 0,
		"its bhyve could not write the guest to %s, and the guest goes on%s%s", f->path,
		said[0] ? "; it said: " : "", said);
}

static int send_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int send_file(struct hv_vm *vm, int file_fd, int64_t left, struct error **err)
{
	struct bhyve_files *f = &vm->bhyve->files;
	cleanup_free char *chunk = malloc(CHUNK);

	if (!chunk)
		abort();
	while (left > 0) {
		ssize_t n = read(file_fd, chunk, left < CHUNK ? (size_t)left : CHUNK);

		if (n <= 0)
			return error_set(err, ERROR_FAILED, n < 0 ? errno : 0,
				"cannot read all of %s", f->path);
		if (send_all(f->fd, chunk, (size_t)n) < 0)
			return error_set(err, ERROR_FAILED, errno,
				"the data mover does not take all of %s", f->path);
		left -= n;
		f->done_bytes += n;
	}
	return 0;
}

static int open_files(struct hv_vm *vm, int fds[FILES], int64_t sizes[FILES], struct error **err)
{
	for (int i = 0; i < FILES; i++) {
		cleanup_free char *path = fs_format("%s%s", vm->bhyve->files.path, suffixes[i]);
		struct stat st;

		fds[i] = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fds[i] < 0 || fstat(fds[i], &st) < 0)
			return error_set(err, ERROR_FAILED, errno, "cannot read %s", path);
		sizes[i] = (int64_t)st.st_size;
	}
	return 0;
}

static int send_files(struct hv_vm *vm, struct error **err)
{
	static const uint8_t magic[BHYVE_TRANSFER_MAGIC_SIZE] = BHYVE_TRANSFER_MAGIC;
	struct bhyve_files *f = &vm->bhyve->files;
	uint8_t header[BHYVE_TRANSFER_HEADER];
	int64_t sizes[FILES] = {0};
	int fds[FILES] = {-1, -1, -1};
	int rc = open_files(vm, fds, sizes, err);

	memcpy(header, magic, sizeof(magic));
	for (int i = 0; i < FILES; i++)
		put_be64(header + sizeof(magic) + 8 * i, (uint64_t)sizes[i]);
	if (rc == 0) {
		f->total_bytes = sizes[0] + sizes[1] + sizes[2];
		if (send_all(f->fd, header, sizeof(header)) < 0)
			rc = error_set(err, ERROR_FAILED, errno, "the data mover takes nothing");
	}
	for (int i = 0; i < FILES && rc == 0; i++)
		rc = send_file(vm, fds[i], sizes[i], err);
	for (int i = 0; i < FILES; i++)
		close_fd(&fds[i]);
	return rc;
}

void *bhyve_files_send(void *arg)
{
	struct hv_vm *vm = arg;
	struct error *e = NULL;

	if (suspend(vm, &e) < 0)
		bhyve_files_phase(vm, HV_MIGRATE_FAILED, e);
	else if (send_files(vm, &e) < 0)
		bhyve_files_phase(vm, HV_MIGRATE_CANCELLED, e);
	else
		bhyve_files_phase(vm, HV_MIGRATE_COMPLETED, NULL);
	shutdown(vm->bhyve->files.fd, SHUT_WR);
	return NULL;
}
