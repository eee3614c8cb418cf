/*
 * The files of a guest that moves as files, and the thread that sends or receives them.
 *
 * They are DIR/VM.HOST.HEX, HEX being of 16 hexadecimal digits: two nodes may have one directory,
 * and a destination never writes over what a source has.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/fs.h"
#include "base/log.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEX 16

/* "VM.HOST." */
static char *prefix(const struct hv_vm *vm)
{
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	for (char *c = host; *c; c++)
		if (*c == '/')
			*c = '-';
	return fs_format("%s.%.64s.", vm->bhyve->vm_name, host);
}

int bhyve_files_choose(struct hv_vm *vm, struct error **err)
{
	struct bhyve_files *f = &vm->bhyve->files;
	const char *dir = vm->hv->set.suspend_dir;
	cleanup_free char *name = prefix(vm);
	char hex[HEX + 1];
	int len;

	if (fs_mkdirs(dir, 0700, err) < 0)
		return -1;
	fs_random_hex(hex, HEX / 2);
	len = snprintf(f->path, sizeof(f->path), "%s/%s%s", dir, name, hex);
	/* With room for the longest suffix. */
	if (len < 0 || (size_t)len + sizeof(".kern") > sizeof(f->path))
		return error_set(err, ERROR_FAILED, 0,
			"the path %s is too long for suspended guests; set a shorter suspend_dir "
			"in "
			"drover.conf",
			dir);
	f->restoring = f->ordered = false;
	f->used = true;
	return 0;
}

static bool is_stale(const char *name, const char *start)
{
	size_t len = strlen(start);
	const char *rest = name + len + HEX;

	if (strncmp(name, start, len) != 0 || strspn(name + len, "0123456789abcdef") != HEX)
		return false;
	return !*rest || !strcmp(rest, ".kern") || !strcmp(rest, ".meta");
}

void bhyve_files_remove_stale(const struct hv_vm *vm)
{
	const char *where = vm->hv->set.suspend_dir;
	DIR *dir = where ? opendir(where) : NULL;
	cleanup_free char *start = prefix(vm);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		cleanup_free char *path = fs_format("%s/%s", where, entry->d_name);

		if (!is_stale(entry->d_name, start))
			continue;
		log_warning("%s: removing %s, left of a move that was not ended", vm->name, path);
		unlink(path);
	}
	if (dir)
		closedir(dir);
}

void bhyve_files_forget(struct hv_vm *vm)
{
	struct bhyve_files *f = &vm->bhyve->files;

	if (!f->used)
		return;
	bhyve_checkpoint_remove(f->path);
	f->used = f->restoring = false;
	vm->bhyve->phase = HV_MIGRATE_NONE;
}

void bhyve_files_spawn(struct hv_vm *vm, int fd, void *(*body)(void *))
{
	struct bhyve_files *f = &vm->bhyve->files;

	bhyve_files_stop(vm);
	f->stop = false;
	f->fd = fd;
	f->threaded = true;
	if (pthread_create(&f->thread, NULL, body, vm) != 0)
		abort();
}

void bhyve_files_stop(struct hv_vm *vm)
{
	struct bhyve_files *f = &vm->bhyve->files;

	if (!f->threaded)
		return;
	f->stop = true;
	shutdown(f->fd, SHUT_RDWR);
	pthread_join(f->thread, NULL);
	f->threaded = false;
	close_fd(&f->fd);
}

void bhyve_files_phase(struct hv_vm *vm, enum hv_migrate_phase phase, struct error *e)
{
	struct bhyve_files *f = &vm->bhyve->files;

	pthread_mutex_lock(&f->lock);
	snprintf(f->failure, sizeof(f->failure), "%.511s", e ? e->message : "");
	vm->bhyve->phase = phase;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	error_free(&e);
}

void bhyve_files_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms)
{
	struct bhyve_files *f = &vm->bhyve->files;

	pthread_mutex_lock(&f->lock);
	while (vm->bhyve->phase == phase && cond_wait_until(&f->changed, &f->lock, deadline_ms))
		;
	pthread_mutex_unlock(&f->lock);
}

void bhyve_files_status(struct hv_vm *vm, struct hv_migrate_status *status)
{
	struct bhyve_files *f = &vm->bhyve->files;

	pthread_mutex_lock(&f->lock);
	*status = (struct hv_migrate_status){.phase = vm->bhyve->phase,
		.total_bytes = f->total_bytes,
		.sent_bytes = f->done_bytes,
		.remaining_bytes = f->total_bytes - f->done_bytes,
		.round = 1};
	snprintf(status->failure, sizeof(status->failure), "%s", f->failure);
	pthread_mutex_unlock(&f->lock);
}
