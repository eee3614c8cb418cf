#include "pool/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Directories within directories that pool_remove_tree goes into: a VM's has two levels. */
#define TREE_DEPTH_MAX 32

static char *vms_path(const struct pool *pool)
{
	return fs_format("%s/vms", pool->dir);
}

int pool_vm_list(const struct pool *pool, struct pool_names *names, struct error **err)
{
	cleanup_free char *vms = vms_path(pool);

	return pool_names_read(vms, "VM", "", S_IFDIR, names, err);
}

char *pool_vm_path(const struct pool *pool, const char *vm, const char *file)
{
	return file ? fs_format("%s/vms/%s/%s", pool->dir, vm, file)
		    : fs_format("%s/vms/%s", pool->dir, vm);
}

bool pool_vm_exists(const struct pool *pool, const char *vm)
{
	cleanup_free char *path = pool_vm_path(pool, vm, NULL);
	struct stat st;

	return fs_check_name("VM", vm, NULL) == 0 && lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int pool_no_vm(const struct pool *pool, const char *vm, struct error **err)
{
	cleanup_free char *conf = fs_format("%s/pool.conf", pool->dir);

	if (!fs_exists(conf))
		return error_set(err, ERROR_POOL, 0,
			"the pool %s is not there: it has no pool.conf (is the shared storage "
			"mounted?)",
			pool->dir);
	return error_set(err, ERROR_NO_VM, 0, "no VM named %s; `drover ls` lists the VMs", vm);
}

static int vm_exists_already(const char *vm, struct error **err)
{
	return error_set(err, ERROR_EXISTS, 0, "there is a VM named %s already", vm);
}

/* rename(2) of a directory: over an empty directory it succeeds, and a VM's is never empty. */
static bool is_taken(int errnum)
{
	return errnum == ENOTEMPTY || errnum == EEXIST || errnum == ENOTDIR;
}

/* A name in vms/ that no VM has; *path is its path. */
static char *temporary(const struct pool *pool, const char *purpose, char **path)
{
	char unique[17], *name;

	fs_random_hex(unique, 8);
	name = fs_format(".tmp.%s.%s", purpose, unique);
	*path = pool_vm_path(pool, name, NULL);
	return name;
}

static int open_vms(const struct pool *pool, struct error **err)
{
	cleanup_free char *vms = vms_path(pool);
	int fd = open(vms, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		error_set(err, ERROR_POOL, errno, "cannot open directory %s", vms);
	return fd;
}

int pool_vm_create(const struct pool *pool, const char *vm, const char *vm_conf, struct error **err)
{
	cleanup_free char *temp = NULL, *temp_path = NULL, *conf = NULL;
	cleanup_fd int vms = -1;
	int errnum;

	if (fs_check_name("VM", vm, err) < 0)
		return -1;
	if (pool_vm_exists(pool, vm))
		return vm_exists_already(vm, err);
	vms = open_vms(pool, err);
	if (vms < 0)
		return -1;
	temp = temporary(pool, "create", &temp_path);
	conf = fs_format("%s/vm.conf", temp_path);
	if (mkdirat(vms, temp, 0755) < 0)
		return error_set(err, pool_error_kind(errno), errno, "cannot make VM %s in %s", vm,
			pool->dir);
	if (fs_write(conf, vm_conf, strlen(vm_conf), 0644, err) < 0) {
		pool_remove_tree(vms, temp);
		return -1;
	}
	if (renameat(vms, temp, vms, vm) < 0) {
		errnum = errno;
		pool_remove_tree(vms, temp);
		if (is_taken(errnum))
			return vm_exists_already(vm, err);
		return error_set(err, pool_error_kind(errnum), errnum, "cannot make VM %s in %s",
			vm, pool->dir);
	}
	if (fsync(vms) < 0 && errno != EINVAL)
		return error_set(
			err, pool_error_kind(errno), errno, "cannot sync %s/vms", pool->dir);
	return 0;
}

static int remove_tree(int dir_fd, const char *name, int depth);

static int remove_entries(int fd, int depth)
{
	struct dirent *entry;
	DIR *d = fdopendir(fd);
	int result = 0, errnum;

	if (!d) {
		close(fd);
		return -1;
	}
	while (result == 0 && (errno = 0, entry = readdir(d))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		result = remove_tree(dirfd(d), entry->d_name, depth + 1);
	}
	errnum = errno;
	closedir(d);
	errno = errnum;
	return errnum ? -1 : result;
}

/* Unlinks first: only what is a directory itself, and no link to one, is gone into. */
static int remove_tree(int dir_fd, const char *name, int depth)
{
	int fd;

	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -1;
	if (depth > TREE_DEPTH_MAX) {
		errno = ELOOP;
		return -1;
	}
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || remove_entries(fd, depth) < 0)
		return -1;
	return unlinkat(dir_fd, name, AT_REMOVEDIR);
}

int pool_remove_tree(int dir_fd, const char *name)
{
	return remove_tree(dir_fd, name, 0);
}

int pool_vm_remove(const struct pool *pool, const char *vm, struct error **err)
{
	cleanup_free char *temp = NULL, *temp_path = NULL;
	cleanup_fd int vms = -1;

	if (fs_check_name("VM", vm, err) < 0)
		return -1;
	vms = open_vms(pool, err);
	if (vms < 0)
		return -1;
	temp = temporary(pool, "remove", &temp_path);
	if (renameat(vms, vm, vms, temp) < 0)
		return errno == ENOENT ? pool_no_vm(pool, vm, err)
				       : error_set(err, pool_error_kind(errno), errno,
						 "cannot remove VM %s", vm);
	if (pool_remove_tree(vms, temp) < 0)
		return error_set(err, pool_error_kind(errno), errno,
			"VM %s is gone, but what is left of it is in the way: remove %s", vm,
			temp_path);
	if (fsync(vms) < 0 && errno != EINVAL)
		return error_set(
			err, pool_error_kind(errno), errno, "cannot sync %s/vms", pool->dir);
	return 0;
}

int pool_vm_rename(const struct pool *pool, const char *from, const char *to, struct error **err)
{
	cleanup_fd int vms = -1;

	if (fs_check_name("VM", from, err) < 0 || fs_check_name("VM", to, err) < 0)
		return -1;
	if (pool_vm_exists(pool, to))
		return vm_exists_already(to, err);
	vms = open_vms(pool, err);
	if (vms < 0)
		return -1;
	if (renameat(vms, from, vms, to) < 0) {
		if (errno == ENOENT)
			return pool_no_vm(pool, from, err);
		if (is_taken(errno))
			return vm_exists_already(to, err);
		return error_set(
			err, pool_error_kind(errno), errno, "cannot rename VM %s to %s", from, to);
	}
	if (fsync(vms) < 0 && errno != EINVAL)
		return error_set(
			err, pool_error_kind(errno), errno, "cannot sync %s/vms", pool->dir);
	return 0;
}
