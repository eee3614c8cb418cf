#include "pool/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Appends one component to `path`, or takes its last one off for "..". False when it would leave
 * the pool. */
static bool step(char *path, const char *component, size_t len)
{
	char *slash;

	if (len == 0 || (len == 1 && component[0] == '.'))
		return true;
	if (len == 2 && !memcmp(component, "..", 2)) {
		slash = strrchr(path, '/');
		if (!slash)
			return false;
		*slash = 0;
		return true;
	}
	strcat(path, "/");
	strncat(path, component, len);
	return true;
}

/* "/vms/VM/disk0.qcow2" for a relative name, without "." and ".."; NULL when it leaves the pool. */
static char *normalize(const char *vm, const char *disk)
{
	cleanup_free char *whole = !strncmp(disk, "images/", 7) ? fs_format("%s", disk)
								: fs_format("vms/%s/%s", vm, disk);
	char *path = calloc(1, strlen(whole) + 2);

	if (!path)
		abort();
	for (const char *at = whole; *at; at += *at == '/') {
		size_t len = strcspn(at, "/");

		if (!step(path, at, len)) {
			free(path);
			return NULL;
		}
		at += len;
	}
	return path;
}

/* A guest writes to its disk what it likes. */
bool pool_is_image_place(const char *path)
{
	const char *name;

	if (strncmp(path, "/images/", 8) != 0 &&
		(strncmp(path, "/vms/", 5) != 0 || !strchr(path + 5, '/')))
		return false;
	name = strrchr(path, '/') + 1;
	/* The VM's saved state (vm/saved.h). */
	if (path[1] == 'v' && !strncmp(strchr(path + 5, '/'), "/saved", 6) &&
		(!strchr(path + 5, '/')[6] || strchr(path + 5, '/')[6] == '/'))
		return false;
	return strcmp(name, "vm.conf") != 0 && strncmp(name, "owner.", 6) != 0 &&
	       strncmp(name, ".tmp.", 5) != 0;
}

/* Whether the directory or file that `path` leads to, links followed, is below `dir`. A path that
 * is not there yet is judged by its directory. */
static int check_resolved(const char *dir, const char *path, const char *disk, struct error **err)
{
	cleanup_free char *real_dir = realpath(dir, NULL), *real = NULL, *parent = NULL;
	struct stat st;
	size_t len;

	if (!real_dir)
		return error_set(err, ERROR_POOL, errno, "cannot resolve %s", dir);
	real = realpath(path, NULL);
	if (!real && errno == ENOENT && lstat(path, &st) == 0)
		return error_set(err, ERROR_DEFINITION, 0,
			"disk \"%s\" is a symbolic link to nothing", disk);
	if (!real && errno == ENOENT) {
		parent = fs_format("%.*s", (int)(strrchr(path, '/') - path), path);
		real = realpath(parent, NULL);
		if (!real && errno == ENOENT)
			return 0;
	}
	if (!real)
		return error_set(err, ERROR_POOL, errno, "cannot resolve %s", path);
	len = strlen(real_dir);
	if (strncmp(real, real_dir, len) == 0 && (real[len] == '/' || len == 1))
		return 0;
	return error_set(err, ERROR_DEFINITION, 0,
		"disk \"%s\" leads out of the pool, to %s, by a symbolic link: name that file by "
		"its absolute path if it is meant",
		disk, real);
}

char *pool_disk_path(const struct pool *pool, const char *vm, const char *disk, struct error **err)
{
	cleanup_free char *below = NULL;
	char *path;

	if (disk[0] == '/')
		return fs_format("%s", disk);
	if (fs_check_name("VM", vm, err) < 0)
		return NULL;
	if (disk[0] && strlen(disk) < PATH_MAX)
		below = normalize(vm, disk);
	if (!below || !pool_is_image_place(below)) {
		error_set(err, ERROR_DEFINITION, 0,
			"disk \"%s\" is no place for an image: a relative name stays below vms/%s "
			"or, with images/ in front, below images",
			disk, vm);
		return NULL;
	}
	path = fs_format("%s%s", strcmp(pool->dir, "/") ? pool->dir : "", below);
	if (check_resolved(pool->dir, path, disk, err) == 0)
		return path;
	free(path);
	return NULL;
}
