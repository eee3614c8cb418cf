#include "pool/image.h"

#include "pool/internal.h"
#include "pool/qcow2.h"

#include "base/log.h"
#include "host/host.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".didx"
#define COPY_MAX ((size_t)16 << 20) /* between two looks at `stop` */

int image_check_name(const char *name, struct error **err)
{
	size_t len = strlen(name), tail = strlen(SUFFIX);

	if (len == 0 || len > IMAGE_NAME_MAX)
		return error_set(err, ERROR_NAME, 0,
			"an image's name has 1 to %d characters, this one has %zu", IMAGE_NAME_MAX,
			len);
	if (!isalnum((unsigned char)name[0]))
		return error_set(err, ERROR_NAME, 0,
			"an image's name starts with a letter or a digit: \"%s\" does not", name);
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._+-", *c))
			return error_set(err, ERROR_NAME, 0,
				"an image's name holds only letters, digits, '.', '_', '+' and "
				"'-': \"%s\" does not",
				name);
	if (len >= tail && !strcmp(name + len - tail, SUFFIX))
		return error_set(err, ERROR_NAME, 0,
			"\"%s\" would be the name of an index; name the image itself", name);
	return 0;
}

static char *images_dir(const struct pool *pool)
{
	return fs_format("%s/images", pool->dir);
}

char *image_path(const struct pool *pool, const char *name)
{
	return fs_format("%s/images/%s", pool->dir, name);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int image_list(const struct pool *pool, struct pool_names *names, struct error **err)
{
	cleanup_free char *dir = images_dir(pool);
	struct dirent *entry;
	struct stat st;
	DIR *d = opendir(dir);

	*names = (struct pool_names){0};
	if (!d)
		return error_set(err, ERROR_POOL, errno, "cannot read directory %s", dir);
	while ((entry = readdir(d))) {
		if (image_check_name(entry->d_name, NULL) < 0 ||
			fstatat(dirfd(d), entry->d_name, &st, 0) < 0 || !S_ISREG(st.st_mode))
			continue;
		names->names = reallocarray(names->names, names->count + 1, sizeof(*names->names));
		if (!names->names)
			abort();
		names->names[names->count++] = fs_format("%s", entry->d_name);
	}
	closedir(d);
	if (names->count > 0)
		qsort(names->names, names->count, sizeof(*names->names), compare_names);
	return 0;
}

int image_read_facts(const char *path, struct image_facts *facts, struct error **err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct qcow2 q;
	struct stat st;

	*facts = (struct image_facts){.format = "raw"};
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_DISK, errno,
			"cannot open %s", path);
	facts->size = facts->virtual_size = (uint64_t)st.st_size;
	facts->allocated = (uint64_t)st.st_blocks * 512;
	if (qcow2_read(fd, path, &q, err) < 0)
		return -1;
	if (!q.is)
		return 0;
	facts->format = "qcow2";
	facts->virtual_size = q.virtual_size;
	facts->backing = qcow2_backing_path(path, q.backing);
	return 0;
}

struct copying {
	int from, to;
	image_stop_fn *stop;
	void *arg;
	const char *source, *name; /* for messages */
};

static int copy_failed(const struct copying *c, struct error **err)
{
	return error_set(err, errno == ENOSPC || errno == EDQUOT ? ERROR_NO_SPACE : ERROR_DISK,
		errno, "cannot copy %s to images/%s", c->source, c->name);
}

/* By hand, where the kernel cannot between these two file systems. */
static ssize_t copy_by_hand(const struct copying *c, off_t at, size_t len)
{
	cleanup_free char *room = malloc(1u << 20);
	ssize_t n, written = 0;

	if (!room)
		abort();
	n = pread(c->from, room, len < 1u << 20 ? len : 1u << 20, at);
	while (n > 0 && written < n) {
		ssize_t w = pwrite(c->to, room + written, (size_t)(n - written), at + written);

		if (w < 0 && errno != EINTR)
			return -1;
		written += w > 0 ? w : 0;
	}
	return n;
}

static ssize_t copy_some(const struct copying *c, off_t at, size_t len)
{
	off_t from = at, to = at;
	ssize_t n = copy_file_range(c->from, &from, c->to, &to, len, 0);

	if (n < 0 && (errno == EXDEV || errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP ||
			     errno == EBADF || errno == EPERM))
		n = copy_by_hand(c, at, len);
	return n;
}

static int copy_range(const struct copying *c, off_t at, off_t end, struct error **err)
{
	while (at < end) {
		size_t left = (size_t)(end - at);
		ssize_t n;

		if (c->stop && c->stop(c->arg))
			return error_set(err, ERROR_CANCELLED, 0,
				"copying %s to images/%s was stopped", c->source, c->name);
		n = copy_some(c, at, left < COPY_MAX ? left : COPY_MAX);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return copy_failed(c, err);
		if (n == 0)
			return error_set(err, ERROR_BUSY, 0,
				"%s became shorter while it was copied", c->source);
		at += n;
	}
	return 0;
}

static int copy_data(const struct copying *c, off_t size, struct error **err)
{
	off_t at = 0;

	if (ftruncate(c->to, size) < 0)
		return copy_failed(c, err);
	while (at < size) {
		off_t data = lseek(c->from, at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(c->from, data, SEEK_HOLE);

		if (data < 0 && errno == ENXIO)
			return 0; /* the rest is a hole */
		if (hole <= data) {
			data = at; /* the file system does not tell */
			hole = size;
		}
		hole = hole < size ? hole : size;
		if (copy_range(c, data, hole, err) < 0)
			return -1;
		at = hole;
	}
	return 0;
}

static int copy_whole(const struct copying *c, const struct stat *before, struct error **err)
{
	struct stat after;

	if (copy_data(c, before->st_size, err) < 0)
		return -1;
	if (fstat(c->from, &after) < 0)
		return copy_failed(c, err);
	if (after.st_size != before->st_size || after.st_mtim.tv_sec != before->st_mtim.tv_sec ||
		after.st_mtim.tv_nsec != before->st_mtim.tv_nsec)
		return error_set(err, ERROR_BUSY, 0,
			"%s changed while it was copied; copy it when nobody writes to it",
			c->source);
	return fchmod(c->to, 0644) < 0 || fsync(c->to) < 0 ? copy_failed(c, err) : 0;
}

static int check_backing(
	const struct pool *pool, int fd, const char *from, const char *name, struct error **err)
{
	cleanup_free char *path = image_path(pool, name), *backing = NULL;
	struct qcow2 q;

	if (qcow2_read(fd, from, &q, err) < 0)
		return -1;
	backing = q.is && q.backing[0] ? qcow2_backing_path(path, q.backing) : NULL;
	if (!backing || fs_exists(backing))
		return 0;
	return error_set(err, ERROR_DISK, 0,
		"%s is based on %s, which is not there: add that first, or make one image of both "
		"with `qemu-img convert`",
		from, backing);
}

static int exists_already(const char *name, struct error **err)
{
	return error_set(err, ERROR_EXISTS, 0, "there is an image %s already", name);
}

/* What a kernel makes up while it is read (/proc/kmsg, /proc/kcore) calls itself a regular file. */
static bool is_made_up(const char *path)
{
	static const char *const types[] = {"proc", "procfs", "linprocfs", "sysfs", "linsysfs"};
	char type[32];

	if (host_fs_type(path, type, NULL) < 0)
		return false;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(type, types[i]))
			return true;
	return false;
}

static int check_copied(int fd, const char *from, struct stat *st, struct error **err)
{
	if (fstat(fd, st) < 0 || !S_ISREG(st->st_mode) || is_made_up(from))
		return error_set(err, ERROR_DISK, 0,
			"%s is no regular file: an image is copied from a file on a disk", from);
	if (st->st_size == 0)
		return error_set(err, ERROR_DISK, 0, "%s is empty, and no image", from);
	return 0;
}

int image_add(const struct pool *pool, int fd, const char *from, const char *name,
	image_stop_fn *stop, void *arg, struct error **err)
{
	struct copying c = {.from = fd, .stop = stop, .arg = arg, .source = from, .name = name};
	cleanup_free char *path = image_path(pool, name), *dir = images_dir(pool), *temp = NULL;
	cleanup_fd int to = -1;
	char unique[17];
	struct stat st;
	int rc;

	if (image_check_name(name, err) < 0)
		return -1;
	if (check_copied(fd, from, &st, err) < 0)
		return -1;
	if (fs_exists(path))
		return exists_already(name, err);
	if (check_backing(pool, fd, from, name, err) < 0)
		return -1;
	fs_random_hex(unique, 8);
	temp = fs_format("%s/.tmp.add.%s", dir, unique);
	to = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (to < 0)
		return error_set(err, pool_error_kind(errno), errno, "cannot make %s", path);
	c.to = to;
	rc = copy_whole(&c, &st, err);
	/* link(2) does not replace a name that somebody else has made meanwhile. */
	if (rc == 0 && link(temp, path) < 0)
		rc = errno == EEXIST ? exists_already(name, err)
				     : error_set(err, pool_error_kind(errno), errno,
					       "cannot make %s", path);
	unlink(temp);
	return rc < 0 ? -1 : fs_sync_dir(dir, err);
}

static int check_unused(
	const struct pool *pool, const char *name, const char *path, struct error **err)
{
	cleanup_free char *real = realpath(path, NULL), *own = fs_format("images/%s", name);
	struct image_uses uses;
	struct stat st;
	int rc = 0;

	if (!real || stat(real, &st) < 0)
		return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_POOL, 0,
			"no image named %s; `drover image ls` lists the images", name);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERROR_NOT_FOUND, 0,
			"no image named %s: what has this name in images/ is %s; `drover image "
			"ls` lists the images",
			name, S_ISDIR(st.st_mode) ? "a directory" : "no regular file");
	if (image_uses(pool, &uses, err) < 0)
		return -1;
	for (size_t i = 0; rc == 0 && i < uses.count; i++)
		if (!strcmp(uses.list[i].path, real) && strcmp(uses.list[i].user, own) != 0)
			rc = error_set(err, ERROR_REFUSED, 0, "%s %s image %s", uses.list[i].user,
				uses.list[i].backing ? "is based on" : "has as its disk", name);
	if (rc == 0 && uses.unknown)
		rc = error_set(err, ERROR_REFUSED, 0,
			"it cannot be told whether somebody uses image %s: %s", name,
			uses.unknown->message);
	image_uses_free(&uses);
	return rc;
}

int image_remove(const struct pool *pool, const char *name, struct error **err)
{
	cleanup_free char *path = image_path(pool, name), *dir = images_dir(pool);
	cleanup_free char *index = fs_format("%s" SUFFIX, path);

	if (image_check_name(name, err) < 0 || check_unused(pool, name, path, err) < 0)
		return -1;
	if (unlink(path) < 0)
		return error_set(
			err, pool_error_kind(errno), errno, "cannot remove image %s", name);
	if (unlink(index) < 0 && errno != ENOENT)
		log_warning("cannot remove %s: %s", index, strerror(errno));
	return fs_sync_dir(dir, err);
}

void image_sweep(const struct pool *pool)
{
	cleanup_free char *dir = images_dir(pool);
	struct dirent *entry;
	struct stat st;
	DIR *d = opendir(dir);

	while (d && (entry = readdir(d)))
		if ((!strncmp(entry->d_name, ".tmp.add.", 9) ||
			    !strncmp(entry->d_name, ".tmp.didx.", 10)) &&
			fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			S_ISREG(st.st_mode) && pool_is_left_over(&st))
			unlinkat(dirfd(d), entry->d_name, 0);
	if (d)
		closedir(d);
}
