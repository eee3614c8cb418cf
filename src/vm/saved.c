#include "vm/saved.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "host/host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FORMAT 1
#define RECORD_MAX (64u << 10)
/* What devices take, and what is written about it. */
#define ROOM_BESIDE (64ull << 20)
#define UNFINISHED ".tmp.saved."

void saved_free(struct saved *saved)
{
	if (!saved)
		return;
	free(saved->hypervisor);
	free(saved->version);
	free(saved->accel);
	free(saved->cpu_model);
	free(saved->node);
	vm_def_free(saved->def);
	free(saved);
}

void saved_cleanup(struct saved **saved)
{
	saved_free(*saved);
}

static char *path_of(const struct vms *vms, const char *name, const char *file)
{
	cleanup_free char *below = file ? fs_format("saved/%s", file) : fs_format("saved");

	return pool_vm_path(vms->pool, name, below);
}

char *saved_state_path(const struct vms *vms, const char *name)
{
	return path_of(vms, name, "state");
}

char *saved_begun_path(const struct vms *vms, const char *name, const char *id)
{
	cleanup_free char *below = fs_format(UNFINISHED "%s/state", id);

	return pool_vm_path(vms->pool, name, below);
}

bool saved_exists(const struct vms *vms, const char *name)
{
	cleanup_free char *path = path_of(vms, name, NULL);

	return fs_exists(path);
}

int saved_look(const struct vms *vms, const char *name, struct error **err)
{
	cleanup_free char *dir = path_of(vms, name, NULL);
	struct stat st;

	if (stat(dir, &st) == 0)
		return 1;
	if (errno == ENOENT)
		return 0;
	return error_set(err, ERROR_POOL, errno, "cannot look at %s", dir);
}

/*
 * The record.
 */

/* A disk that cannot be looked at is an error: it is not "no file". */
static int look_at_disk(const struct vms *vms, const struct vm_def *def, int i,
	struct saved_disk *disk, struct error **err)
{
	cleanup_free char *path = pool_disk_path(vms->pool, def->name, def->disks[i].file, err);
	cleanup_fd int fd = -1;
	struct stat st;

	*disk = (struct saved_disk){0};
	if (!path)
		return -1;
	/* Opened, so that NFS asks its server, and synced, so that the time is the last one. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || (fsync(fd) < 0 && errno != EINVAL) || fstat(fd, &st) < 0)
		return error_set(err, ERROR_DISK, errno, "cannot look at %s", path);
	disk->is_file = S_ISREG(st.st_mode);
	if (!disk->is_file)
		return 0;
	disk->size_bytes = st.st_size;
	disk->mtime_s = st.st_mtim.tv_sec;
	disk->mtime_ns = st.st_mtim.tv_nsec;
	return 0;
}

static json_t *disks_json(const struct vms *vms, const struct vm_def *def, struct error **err)
{
	json_t *list = json_array();

	for (int i = 0; i < def->disks_count; i++) {
		struct saved_disk disk;

		if (look_at_disk(vms, def, i, &disk, err) < 0) {
			json_decref(list);
			return NULL;
		}
		json_array_append_new(list,
			json_pack("{s:b, s:I, s:I, s:I}", "is_file", disk.is_file, "size",
				(json_int_t)disk.size_bytes, "mtime_s", (json_int_t)disk.mtime_s,
				"mtime_ns", (json_int_t)disk.mtime_ns));
	}
	return list;
}

static int64_t bytes_in(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	int64_t sum = 0;
	struct stat st;

	while (d && (entry = readdir(d)))
		if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			S_ISREG(st.st_mode))
			sum += st.st_size;
	if (d)
		closedir(d);
	return sum;
}

static char *record_text(
	const struct vms *vms, const struct vm_def *def, const char *dir, struct error **err)
{
	const struct hv_facts *hv = hv_get_facts(vms->hv);
	json_t *disks = disks_json(vms, def, err);
	cleanup_json json_t *record = NULL;
	struct host_facts host;

	if (!disks)
		return NULL;
	if (host_facts_read(&host, err) < 0) {
		json_decref(disks);
		return NULL;
	}
	record = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "format", FORMAT,
		"hypervisor", hv->driver, "version", hv->version, "accel", hv->accel, "cpu_model",
		host.cpu_model, "node", vms->node, "when_ms", (json_int_t)clock_wall_ms(), "bytes",
		(json_int_t)bytes_in(dir), "disks", disks);
	if (record)
		return json_text(record);
	error_set(err, ERROR_FAILED, 0, "%s: its state cannot be described", def->name);
	return NULL;
}

static int read_disks(struct saved *saved, const json_t *list, struct error **err)
{
	json_t *item;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) != (size_t)saved->def->disks_count)
		return error_set(err, ERROR_POOL, 0, "it does not have the disks of its vm.conf");
	json_array_foreach(list, i, item)
	{
		struct saved_disk *d = &saved->disks[saved->disks_count++];

		if (json_opt_bool(item, "is_file", false, &d->is_file, err) < 0 ||
			json_get_int(item, "size", 0, INT64_MAX, &d->size_bytes, err) < 0 ||
			json_get_int(item, "mtime_s", INT64_MIN, INT64_MAX, &d->mtime_s, err) < 0 ||
			json_get_int(item, "mtime_ns", 0, 999999999, &d->mtime_ns, err) < 0)
			return -1;
	}
	return 0;
}

static int take_text(const json_t *record, const char *key, char **out, struct error **err)
{
	const char *text = json_get_string(record, key, err);

	*out = text ? fs_format("%s", text) : NULL;
	return text ? 0 : -1;
}

static int read_record(struct saved *saved, const json_t *record, struct error **err)
{
	int64_t format;

	if (json_get_int(record, "format", FORMAT, FORMAT, &format, err) < 0 ||
		take_text(record, "hypervisor", &saved->hypervisor, err) < 0 ||
		take_text(record, "version", &saved->version, err) < 0 ||
		take_text(record, "accel", &saved->accel, err) < 0 ||
		take_text(record, "cpu_model", &saved->cpu_model, err) < 0 ||
		take_text(record, "node", &saved->node, err) < 0 ||
		json_get_int(record, "when_ms", 0, INT64_MAX, &saved->when_ms, err) < 0 ||
		json_get_int(record, "bytes", 0, INT64_MAX, &saved->bytes, err) < 0)
		return -1;
	return read_disks(saved, json_object_get(record, "disks"), err);
}

static struct saved *read_both(const struct vms *vms, const char *name, struct error **err)
{
	cleanup_free char *conf = path_of(vms, name, "vm.conf");
	cleanup_free char *path = path_of(vms, name, "saved.json");
	cleanup_free char *definition = fs_read(conf, VM_DEF_TEXT_MAX, NULL, err);
	size_t len = 0;
	cleanup_free char *text = definition ? fs_read(path, RECORD_MAX, &len, err) : NULL;
	cleanup_json json_t *record = text ? json_parse(path, text, len, err) : NULL;
	struct saved *saved;

	if (!record)
		return NULL;
	saved = calloc(1, sizeof(*saved));
	if (!saved)
		abort();
	saved->def = vm_def_parse(name, definition, err);
	if (saved->def && read_record(saved, record, err) == 0)
		return saved;
	saved_free(saved);
	return NULL;
}

struct saved *saved_read(const struct vms *vms, const char *name, struct error **err)
{
	struct error *why = NULL;
	struct saved *saved;
	int there = saved_look(vms, name, err);

	if (there == 0)
		error_set(err, ERROR_NOT_FOUND, 0, "%s has no saved state", name);
	if (there <= 0)
		return NULL;
	saved = read_both(vms, name, &why);
	if (saved)
		return saved;
	error_set(err, ERROR_POOL, 0,
		"the saved state of %s cannot be read: %s; `drover start %s --discard` throws it "
		"away and boots the VM",
		name, why->message, name);
	error_free(&why);
	return NULL;
}

/*
 * Making one.
 */

static int check_room(const char *dir, uint64_t memory_bytes, struct error **err)
{
	uint64_t needed = memory_bytes + ROOM_BESIDE, room;
	struct statvfs st;

	if (statvfs(dir, &st) < 0)
		return error_set(err, ERROR_POOL, errno, "cannot look at %s", dir);
	room = (uint64_t)st.f_bavail * st.f_frsize;
	if (room >= needed)
		return 0;
	return error_set(err, ERROR_NO_SPACE, 0,
		"the pool has no room for its state, which may need %llu MiB: %llu MiB are free "
		"there",
		(unsigned long long)(needed >> 20), (unsigned long long)(room >> 20));
}

void saved_drop_unfinished(const struct vms *vms, const char *name)
{
	cleanup_free char *dir = pool_vm_path(vms->pool, name, NULL);
	DIR *d = opendir(dir);
	struct dirent *entry;

	while (d && (entry = readdir(d)))
		if (!strncmp(entry->d_name, UNFINISHED, strlen(UNFINISHED)) &&
			pool_remove_tree(dirfd(d), entry->d_name) < 0)
			log_warning("%s: cannot remove %s/%s, which nobody needs: %s", name, dir,
				entry->d_name, strerror(errno));
	if (d)
		closedir(d);
}

int saved_begin(const struct vms *vms, const char *name, uint64_t memory_bytes,
	char id[SAVED_ID_SIZE], char **file, struct error **err)
{
	cleanup_free char *dir = pool_vm_path(vms->pool, name, NULL), *temporary = NULL;

	saved_drop_unfinished(vms, name);
	if (saved_remove(vms, name, err) < 0 || check_room(dir, memory_bytes, err) < 0)
		return -1;
	fs_random_hex(id, (SAVED_ID_SIZE - 1) / 2);
	temporary = fs_format("%s/" UNFINISHED "%s", dir, id);
	if (mkdir(temporary, 0700) < 0)
		return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_POOL, errno,
			"cannot make %s", temporary);
	*file = saved_begun_path(vms, name, id);
	return 0;
}

/* Of a write that the file system put off, the error comes here. */
static int sync_files(const char *dir, struct error **err)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	int rc = d ? 0 : -1;

	while (rc == 0 && (errno = 0, entry = readdir(d))) {
		cleanup_fd int fd = -1;

		if (entry->d_name[0] == '.')
			continue;
		fd = openat(dirfd(d), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		rc = fd >= 0 ? fsync(fd) : -1;
	}
	if (rc < 0)
		error_set(err, errno == ENOSPC || errno == EDQUOT ? ERROR_NO_SPACE : ERROR_POOL,
			errno, "cannot sync the state in %s", dir);
	if (d)
		closedir(d);
	return rc < 0 ? -1 : fs_sync_dir(dir, err);
}

static int describe(
	const struct vms *vms, const struct vm_def *def, const char *dir, struct error **err)
{
	cleanup_free char *conf = fs_format("%s/vm.conf", dir);
	cleanup_free char *path = fs_format("%s/saved.json", dir);
	cleanup_free char *text = vm_def_format(def);
	cleanup_free char *record = bytes_in(dir) ? record_text(vms, def, dir, err) : NULL;

	if (!bytes_in(dir))
		return error_set(err, ERROR_FAILED, 0, "there is nothing in %s", dir);
	if (!record || fs_write(conf, text, strlen(text), 0644, err) < 0)
		return -1;
	return fs_write(path, record, strlen(record), 0644, err);
}

int saved_publish(
	const struct vms *vms, const struct vm_def *def, const char *id, struct error **err)
{
	cleanup_free char *vm_dir = pool_vm_path(vms->pool, def->name, NULL);
	cleanup_free char *dir = fs_format("%s/" UNFINISHED "%s", vm_dir, id);
	cleanup_free char *saved = path_of(vms, def->name, NULL);
	struct pool_owner owner;

	if (describe(vms, def, dir, err) < 0 || sync_files(dir, err) < 0 ||
		pool_owner_read(vms->pool, def->name, &owner, err) < 0)
		return -1;
	if (strcmp(owner.node, vms->node))
		return error_set(err, ERROR_NOT_OWNER, 0, "%s belongs to %s by now", def->name,
			*owner.node ? owner.node : "no node");
	if (rename(dir, saved) < 0)
		return error_set(err, ERROR_POOL, errno, "cannot rename %s to %s", dir, saved);
	return fs_sync_dir(vm_dir, err);
}

/*
 * Using it.
 */

int saved_mark_begun(const struct vms *vms, const char *name, struct error **err)
{
	cleanup_free char *path = path_of(vms, name, "begun");

	return fs_write(path, vms->node, strlen(vms->node), 0644, err);
}

void saved_unmark_begun(const struct vms *vms, const char *name)
{
	cleanup_free char *path = path_of(vms, name, "begun");

	unlink(path);
}

int saved_remove(const struct vms *vms, const char *name, struct error **err)
{
	cleanup_free char *dir = pool_vm_path(vms->pool, name, NULL);
	cleanup_free char *saved = path_of(vms, name, NULL), *away = NULL;
	char unique[17];

	fs_random_hex(unique, 8);
	away = fs_format("%s/" UNFINISHED "%s", dir, unique);
	if (rename(saved, away) < 0)
		return errno == ENOENT ? 0
				       : error_set(err, ERROR_POOL, errno,
						 "cannot remove the saved state %s", saved);
	saved_drop_unfinished(vms, name);
	return fs_sync_dir(dir, err);
}

static int refuse(const char *name, const char *why, struct error **err)
{
	return error_set(err, ERROR_REFUSED, 0,
		"%s cannot go on from its saved state: %s; `drover start %s --discard` throws the "
		"state away and boots the VM, as after a power cut",
		name, why, name);
}

static int refuse_here(
	const char *name, const struct saved *saved, const char *why, struct error **err)
{
	return error_set(err, ERROR_REFUSED, 0,
		"%s cannot go on from its saved state here: %s; start it on %s or a node like that",
		name, why, saved->node);
}

static int check_disks(
	struct vms *vms, const char *name, const struct saved *saved, struct error **err)
{
	cleanup_free char *mark = path_of(vms, name, "begun");
	bool begun = fs_exists(mark);

	for (int i = 0; i < saved->disks_count; i++) {
		const struct saved_disk *then = &saved->disks[i];
		cleanup_free char *why = NULL;
		struct saved_disk now;

		if (look_at_disk(vms, saved->def, i, &now, err) < 0)
			return -1;
		if (now.is_file != then->is_file || now.size_bytes != then->size_bytes ||
			now.mtime_s != then->mtime_s || now.mtime_ns != then->mtime_ns)
			why = fs_format("its disk%d (%s) has been written to since", i,
				saved->def->disks[i].file);
		else if (!now.is_file && begun)
			why = fs_format("a start from it was cut off, and whether its guest has "
					"run and written to disk%d (%s) cannot be told of a device",
				i, saved->def->disks[i].file);
		if (why)
			return refuse(name, why, err);
	}
	return 0;
}

/* Formats of bhyve's state, and what QEMU's older versions make of that of newer ones, are not to
 * be relied on. */
static int check_version(
	const struct vms *vms, const char *name, const struct saved *saved, struct error **err)
{
	const struct hv_facts *hv = hv_get_facts(vms->hv);
	cleanup_free char *why = NULL;
	int major = 0, minor = 0;

	if (strcmp(saved->hypervisor, hv->driver) || strcmp(saved->accel, hv->accel))
		why = fs_format("it was made with %s, %s, and %s has %s, %s", saved->hypervisor,
			saved->accel, vms->node, hv->driver, hv->accel);
	else if (hv->runs_at_once && strcmp(saved->version, hv->version))
		why = fs_format("it was made with %s of %s, and %s has %s", saved->hypervisor,
			saved->version, vms->node, hv->version);
	else if (!hv->runs_at_once &&
		 (sscanf(saved->version, "%d.%d", &major, &minor) != 2 || hv->major < major ||
			 (hv->major == major && hv->minor < minor)))
		why = fs_format("it was made with %s %s, and %s has %s, which is older",
			saved->hypervisor, saved->version, vms->node, hv->version);
	return why ? refuse_here(name, saved, why, err) : 0;
}

static int check_cpu(
	struct vms *vms, const char *name, const struct saved *saved, struct error **err)
{
	cleanup_free char *why = NULL;
	struct host_facts host;

	if (!hv_get_facts(vms->hv)->runs_at_once)
		return hv_check_cpu(vms->hv, saved->def, err);
	/* A guest of bhyve has the host's. */
	if (host_facts_read(&host, err) < 0)
		return -1;
	if (!strcmp(saved->cpu_model, host.cpu_model))
		return 0;
	why = fs_format("it was made on CPU \"%s\", and %s has \"%s\"", saved->cpu_model, vms->node,
		host.cpu_model);
	return refuse_here(name, saved, why, err);
}

int saved_check(struct vms *vms, const char *name, const struct saved *saved, struct error **err)
{
	if (check_version(vms, name, saved, err) < 0 || check_cpu(vms, name, saved, err) < 0 ||
		hv_check_def(vms->hv, saved->def, err) < 0 ||
		vms_check_paths(vms, saved->def, err) < 0)
		return -1;
	return check_disks(vms, name, saved, err);
}
