/* The destination's checks of a VM's files. */
#include "migrate/preflight_internal.h"

#include "base/clock.h"
#include "host/host.h"
#include "pool/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Disks, each with what it is based on, and a kernel with its initrd. */
#define FILES_MAX (VM_DEF_DISKS_MAX * (1 + IMAGE_CHAIN_MAX) + 2)

struct files {
	struct host_open open[FILES_MAX];
	char *paths[FILES_MAX];
	int disk[FILES_MAX]; /* its number; -1: kernel or initrd */
	size_t count;
	int now; /* the disk that is being collected, and how it is opened */
	bool direct, below;
};

static void free_files(struct files **files)
{
	for (size_t i = 0; *files && i < (*files)->count; i++)
		free((*files)->paths[i]);
	free(*files);
}
#define cleanup_files __attribute__((cleanup(free_files)))

static void add_file(struct files *files, const char *path, bool write)
{
	size_t i = files->count;

	if (i == FILES_MAX)
		return;
	files->paths[i] = fs_format("%s", path);
	files->open[i] = (struct host_open){
		.path = files->paths[i], .write = write, .direct = files->direct};
	files->disk[i] = files->now;
	files->count++;
}

/* What is no file ("nbd:…") is the files check's to tell. What lies below the disk itself is read
 * only, its own data file is written. */
static void add_below(const char *path, bool data, void *arg)
{
	struct files *files = arg;

	if (path[0] == '/')
		add_file(files, path, data && !files->below);
	files->below = files->below || !data;
}

static struct files *collect(struct preflight *p, struct error **err)
{
	struct files *files = calloc(1, sizeof(*files));
	int rc = 0;

	if (!files)
		abort();
	for (int i = 0; i < p->def->disks_count && rc == 0; i++) {
		const struct vm_disk *disk = &p->def->disks[i];
		cleanup_free char *path = pool_disk_path(p->all->set.pool, p->vm, disk->file, err);

		files->now = i;
		files->below = false;
		files->direct = strcmp(disk->cache, "writeback") != 0;
		if (path)
			add_file(files, path, true);
		rc = path ? image_follow_chain(path, disk->format, add_below, files, err) : -1;
	}
	files->now = -1;
	files->direct = false;
	if (p->def->kernel)
		add_file(files, p->def->kernel, false);
	if (p->def->initrd)
		add_file(files, p->def->initrd, false);
	if (rc == 0)
		return files;
	free_files(&files);
	return NULL;
}

/* What another node names is not touched where it may not be: it would be told what is there. */
static bool may_be_looked_at(struct preflight *p, struct finding *f)
{
	if (vms_check_paths(p->all->set.vms, p->def, NULL) == 0)
		return true;
	finding_set(f, PREFLIGHT_UNKNOWN, 0, "its files are not looked at: see files");
	return false;
}

void preflight_check_files(struct preflight *p, struct finding *f)
{
	struct error *e = NULL;

	finding_here(f, "%d disk%s", p->def->disks_count, p->def->disks_count == 1 ? "" : "s");
	if (vms_check_paths(p->all->set.vms, p->def, &e) < 0)
		finding_fail(f, &e);
	else
		finding_there(f, "all where they may be");
}

/* What is to be done about a file that does not open. */
static void advise(const struct preflight *p, const struct host_open *file, char out[256])
{
	const struct migrate_settings *set = &p->all->set;

	switch (file->errnum) {
	case EACCES:
	case EPERM:
		snprintf(out, 256,
			"give user %u (group %u) read%s access to it, and search access to its "
			"directories",
			(unsigned)set->vm_uid, (unsigned)set->vm_gid,
			file->write ? " and write" : "");
		break;
	case EROFS:
		snprintf(out, 256, "mount its file system for writing");
		break;
	case ESTALE:
	case ENOTCONN:
		snprintf(out, 256, "its mount is stale: unmount it and mount it again");
		break;
	default:
		snprintf(out, 256, "see that its file system is mounted there");
	}
}

static void say_not_opened(
	struct preflight *p, const struct files *files, size_t i, struct finding *f)
{
	const struct host_open *file = &files->open[i];
	int disk = files->disk[i];
	char what[32], advice[256];

	snprintf(what, sizeof(what),
		disk < 0      ? "a boot file"
		: file->write ? "disk%d"
			      : "an image under disk%d",
		disk);
	finding_there(f, "not %s: %s", what, strerror(file->errnum));
	if (file->direct && file->errnum == EINVAL) {
		finding_set(f, PREFLIGHT_FAILED, ERROR_DISK,
			"%s, %s, is on a file system that cannot do direct I/O (O_DIRECT), which "
			"cache=%s asks for; set disk%d.cache to writeback, which takes effect when "
			"the VM is started again",
			what, file->path, p->def->disks[disk].cache, disk);
		return;
	}
	advise(p, file, advice);
	finding_set(f, PREFLIGHT_FAILED, ERROR_DISK, "%s does not open: %s: %s; %s", what,
		file->path, strerror(file->errnum), advice);
}

static bool in_pool(const struct pool *pool, const char *path)
{
	cleanup_free char *dir = realpath(pool->dir, NULL), *real = realpath(path, NULL);
	size_t len = dir ? strlen(dir) : 0;

	return real && len && !strncmp(real, dir, len) && real[len] == '/';
}

/* The pool's probe says nothing of a disk outside of it: but the lock that its hypervisor holds on
 * the source is to be seen here, if it is the same file. */
static void check_outside(struct preflight *p, const struct files *files, struct finding *f)
{
	for (size_t i = 0; i < files->count; i++) {
		const char *path = files->paths[i];
		bool locked = false;

		if (!files->open[i].write || in_pool(p->all->set.pool, path) ||
			(hv_image_locked(path, &locked, NULL) == 0 && locked))
			continue;
		finding_there(f, "disk%d: its lock is not seen", files->disk[i]);
		finding_set(f, PREFLIGHT_WARNING, 0,
			"disk%d, %s, is outside the pool, and the lock that its hypervisor holds "
			"on %s is not seen: be sure that it is the same file on both nodes, or put "
			"it into the pool",
			files->disk[i], path, p->peer);
		return;
	}
}

void preflight_check_disks(struct preflight *p, struct finding *f)
{
	const struct migrate_settings *set = &p->all->set;
	struct error *e = NULL;
	cleanup_files struct files *files = NULL;
	unsigned uid = (unsigned)set->vm_uid, gid = (unsigned)set->vm_gid;

	if (!may_be_looked_at(p, f))
		return;
	files = collect(p, &e);
	if (!files || host_open_as(uid, gid, files->open, files->count, p->deadline_ms, &e) < 0) {
		finding_fail(f, &e);
		return;
	}
	finding_here(f, "%zu file%s", files->count, files->count == 1 ? "" : "s");
	for (size_t i = 0; i < files->count; i++)
		if (files->open[i].errnum) {
			say_not_opened(p, files, i, f);
			return;
		}
	finding_there(f, "all open for user %u", uid);
	check_outside(p, files, f);
}

/* The type of the file system of a disk; "block device" for one. */
static int find_type(struct preflight *p, int i, char type[32], struct error **err)
{
	cleanup_free char *path =
		pool_disk_path(p->all->set.pool, p->vm, p->def->disks[i].file, err);
	struct stat st;

	if (!path)
		return -1;
	if (stat(path, &st) < 0)
		return error_set(err, ERROR_DISK, errno, "disk%d is not there: %s", i, path);
	if (!S_ISBLK(st.st_mode))
		return host_fs_type(path, type, err);
	snprintf(type, 32, "block device");
	return 0;
}

/* False when there is no need to look further. */
static bool check_one_cache(struct preflight *p, int i, struct finding *f)
{
	bool cached = !strcmp(p->def->disks[i].cache, "writeback");
	struct error *e = NULL;
	char type[32];
	bool apart;

	if (find_type(p, i, type, &e) < 0) {
		finding_fail(f, &e);
		return false;
	}
	finding_here(f, "cache=%s", p->def->disks[i].cache);
	finding_there(f, "%s", type);
	if (!cached || host_fs_cache(type) == HOST_FS_LOCAL ||
		host_fs_cache(type) == HOST_FS_COHERENT)
		return true;
	apart = host_fs_cache(type) == HOST_FS_APART || !strcmp(type, "block device");
	finding_set(f, apart ? PREFLIGHT_FAILED : PREFLIGHT_WARNING, ERROR_DISK,
		"disk%d has cache=writeback, and %s %s the nodes' page caches alike: the guest "
		"could read old data; set disk%d.cache to none, which takes effect when the VM is "
		"started again",
		i, type, apart ? "does not keep" : "is not known to keep", i);
	return false;
}

void preflight_check_cache(struct preflight *p, struct finding *f)
{
	if (!may_be_looked_at(p, f))
		return;
	for (int i = 0; i < p->def->disks_count; i++)
		if (!check_one_cache(p, i, f))
			return;
}
