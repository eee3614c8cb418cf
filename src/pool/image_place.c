#include "pool/image.h"

#include "pool/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is being looked at, and where it may be. */
struct place {
	const struct pool *pool;
	const char *allowed;
	char what[40]; /* "disk0" */
	int disk;
	const char *vm;
	struct error *error;
};

/* What comes after the directory in a path without links: "/images/a.raw"; NULL when it is not
 * below it. */
static const char *below(const char *real, const char *dir, size_t dir_len)
{
	cleanup_free char *name = fs_format("%.*s", (int)dir_len, dir);
	cleanup_free char *real_dir = realpath(name, NULL);
	size_t len = real_dir && strcmp(real_dir, "/") ? strlen(real_dir) : 0;

	return real_dir && !strncmp(real, real_dir, len) && real[len] == '/' ? real + len : NULL;
}

static bool may_be_there(const struct place *p, const char *real)
{
	const char *in_pool = below(real, p->pool->dir, strlen(p->pool->dir));

	if (in_pool)
		return pool_is_image_place(in_pool);
	for (const char *dir = p->allowed; dir && *dir; dir += *dir == ':') {
		size_t len = strcspn(dir, ":");

		if (len > 0 && below(real, dir, len))
			return true;
		dir += len;
	}
	return false;
}

/* Where a path leads, links followed; of a file that is not there yet, its directory and name. NULL
 * when there is no such directory, where nothing can be opened either. */
static char *resolve(const char *path)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *parent = fs_format("%.*s", (int)(slash - path) + 1, path), *dir = NULL;
	char *real = realpath(path, NULL);

	if (real || errno != ENOENT)
		return real;
	dir = realpath(parent, NULL);
	/* A link to what is not there would be made there. */
	return dir && !fs_exists(path) ? fs_format("%s/%s", dir, slash + 1) : NULL;
}

static void look(const char *path, struct place *p)
{
	cleanup_free char *real = path[0] == '/' ? resolve(path) : NULL;

	if (p->error || (real && may_be_there(p, real)))
		return;
	if (!real && path[0] == '/')
		return; /* opening it says what is wrong */
	if (!real) {
		error_set(&p->error, ERROR_REFUSED, 0,
			"%s of %s is not an absolute path: %s; those of the pool are in its "
			"images/",
			p->what, p->vm, path);
		return;
	}
	error_set(&p->error, ERROR_REFUSED, 0,
		"%s of %s is outside the pool's images: %s; put it into images/ or the VM's own "
		"directory, or allow its directory on every node (allow_paths in drover.conf)",
		p->what, p->vm, real);
}

static void look_below(const char *path, bool data, void *arg)
{
	struct place *p = arg;

	if (p->error)
		return;
	snprintf(p->what, sizeof(p->what), data ? "a data file of disk%d" : "an image under disk%d",
		p->disk);
	look(path, p);
}

static void look_at(struct place *p, const char *what, const char *path)
{
	snprintf(p->what, sizeof(p->what), "%s", what);
	if (path)
		look(path, p);
}

int image_check_places(
	const struct pool *pool, const struct vm_def *def, const char *allowed, struct error **err)
{
	struct place p = {.pool = pool, .allowed = allowed, .vm = def->name};
	char what[32];

	look_at(&p, "the kernel", def->kernel);
	look_at(&p, "the initrd", def->initrd);
	for (int i = 0; i < def->disks_count && !p.error; i++) {
		cleanup_free char *path =
			pool_disk_path(pool, def->name, def->disks[i].file, &p.error);

		if (!path)
			break;
		snprintf(what, sizeof(what), "disk%d", i);
		look_at(&p, what, path);
		p.disk = i;
		/* What cannot be read is said when it is opened. */
		image_follow_chain(path, def->disks[i].format, look_below, &p, NULL);
	}
	return p.error ? error_move(err, p.error) : 0;
}
