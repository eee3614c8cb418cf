#include "pool/image.h"

#include "pool/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_BYTES_MAX 255 /* of a content source, for the data mover */

/* What the image at `path` is based on, or nothing; `format` NULL: as its first bytes say. A file
 * that is not there is based on nothing. */
static int read_backing(
	const char *path, const char *format, struct qcow2 *q, char **backing, struct error **err)
{
	cleanup_fd int fd = -1;
	struct stat st;

	*backing = NULL;
	*q = (struct qcow2){.is = false};
	if (format && strcmp(format, "qcow2") != 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && (errno == ENOENT || errno == ENXIO))
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(err, ERROR_DISK, errno, "cannot open %s", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return 0;
	if (qcow2_read(fd, path, q, err) < 0)
		return -1;
	if (!q->is || !q->backing[0])
		return 0;
	*backing = qcow2_backing_path(path, q->backing);
	if (!*backing)
		*backing = fs_format("%s", q->backing);
	return 0;
}

int image_follow_chain(
	const char *path, const char *format, image_backing_fn *take, void *arg, struct error **err)
{
	cleanup_free char *at = fs_format("%s", path);
	struct qcow2 q = {.backing_format = ""};

	for (int depth = 0; depth < IMAGE_CHAIN_MAX; depth++) {
		char *backing, next[sizeof(q.backing_format)];

		memcpy(next, q.backing_format, sizeof(next));
		if (read_backing(at,
			    depth == 0 ? format
			    : *next    ? next
				       : NULL,
			    &q, &backing, err) < 0)
			return -1;
		if (q.has_data_file)
			take(*q.data_file ? q.data_file : "(a data file without a name)", true,
				arg);
		if (!backing)
			return 0;
		take(backing, false, arg);
		free(at);
		at = backing;
	}
	return 0;
}

struct collecting {
	char *pool_dir; /* links followed */
	struct image_files *files;
};

void image_files_free(struct image_files *files)
{
	for (size_t i = 0; i < files->count; i++) {
		free(files->list[i].name);
		free(files->list[i].path);
	}
	free(files->list);
	*files = (struct image_files){0};
}

static void collect_file(const char *path, bool data, void *arg)
{
	struct collecting *c = arg;
	struct image_files *f = c->files;
	cleanup_free char *real = realpath(path, NULL);
	size_t len = strlen(c->pool_dir);
	const char *name;
	struct stat st;
	bool in_pool;

	/* A data file may be the disk itself, which the guest writes. */
	if (data || !real || stat(real, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	in_pool = !strncmp(real, c->pool_dir, len) && real[len] == '/';
	name = in_pool ? real + len + 1 : real;
	if (strlen(name) > NAME_BYTES_MAX)
		return;
	for (size_t i = 0; i < f->count; i++)
		if (!strcmp(f->list[i].path, real))
			return;
	f->list = reallocarray(f->list, f->count + 1, sizeof(*f->list));
	if (!f->list)
		abort();
	f->list[f->count++] = (struct image_file){
		.name = fs_format("%s", name), .path = real, .in_pool = in_pool};
	real = NULL;
}

int image_backing_files(const struct pool *pool, const struct vm_def *def,
	struct image_files *files, struct error **err)
{
	struct collecting c = {.pool_dir = realpath(pool->dir, NULL), .files = files};
	int rc = 0;

	*files = (struct image_files){0};
	if (!c.pool_dir)
		return error_set(err, ERROR_POOL, errno, "cannot resolve %s", pool->dir);
	for (int i = 0; i < def->disks_count; i++) {
		cleanup_free char *path = pool_disk_path(pool, def->name, def->disks[i].file, err);

		if (!path ||
			image_follow_chain(path, def->disks[i].format, collect_file, &c, err) < 0)
			rc = -1;
	}
	free(c.pool_dir);
	return rc;
}

void image_uses_free(struct image_uses *uses)
{
	for (size_t i = 0; i < uses->count; i++) {
		free(uses->list[i].user);
		free(uses->list[i].path);
	}
	free(uses->list);
	error_free(&uses->unknown);
	*uses = (struct image_uses){0};
}

struct using
{
	struct image_uses *uses;
	const char *user;
};

static void add_use(struct image_uses *uses, const char *user, bool backing, const char *path)
{
	char *real = realpath(path, NULL);

	if (!real)
		return;
	for (size_t i = 0; i < uses->count; i++) {
		const struct image_use *use = &uses->list[i];

		if (use->backing == backing && !strcmp(use->user, user) &&
			!strcmp(use->path, real)) {
			free(real);
			return;
		}
	}
	uses->list = reallocarray(uses->list, uses->count + 1, sizeof(*uses->list));
	if (!uses->list)
		abort();
	uses->list[uses->count++] =
		(struct image_use){.user = fs_format("%s", user), .backing = backing, .path = real};
}

static void add_backing(const char *path, bool data, void *arg)
{
	struct using *u = arg;

	(void)data;
	add_use(u->uses, u->user, true, path);
}

/* Of `def`, NULL: of nothing. */
static void add_disks(const struct pool *pool, const struct vm_def *def, struct image_uses *uses)
{
	struct error **unknown = &uses->unknown;

	for (int i = 0; def && i < def->disks_count; i++) {
		const struct vm_disk *disk = &def->disks[i];
		cleanup_free char *path = pool_disk_path(pool, def->name, disk->file, unknown);
		struct using u = {uses, def->name};

		if (!path)
			continue;
		add_use(uses, def->name, false, path);
		image_follow_chain(path, disk->format, add_backing, &u, unknown);
	}
}

/* The definition that a suspended guest goes on by: vm.conf may say something else by now. NULL
 * where there is none, or *err is set. */
static struct vm_def *load_saved(const struct pool *pool, const char *vm, struct error **err)
{
	cleanup_free char *path = pool_vm_path(pool, vm, "saved/vm.conf");
	struct error *e = NULL;
	cleanup_free char *text = fs_read(path, VM_DEF_TEXT_MAX, NULL, &e);
	struct vm_def *def = text ? vm_def_parse(vm, text, &e) : NULL;

	if (def)
		return def;
	if (e->errnum == ENOENT) {
		error_free(&e);
		return NULL;
	}
	error_prefix(&e, "the saved state of %s", vm);
	error_move(err, e);
	return NULL;
}

static void add_vm(const struct pool *pool, const char *vm, struct image_uses *uses)
{
	cleanup_vm_def struct vm_def *def = vm_def_load(pool, vm, &uses->unknown);
	cleanup_vm_def struct vm_def *saved = load_saved(pool, vm, &uses->unknown);

	add_disks(pool, def, uses);
	add_disks(pool, saved, uses);
}

/* What a VM is not based on yet can be based on an image that is. */
static void add_image(const struct pool *pool, const char *name, struct image_uses *uses)
{
	cleanup_free char *path = image_path(pool, name), *user = fs_format("images/%s", name);
	struct using u = {uses, user};

	image_follow_chain(path, NULL, add_backing, &u, &uses->unknown);
}

int image_uses(const struct pool *pool, struct image_uses *uses, struct error **err)
{
	struct pool_names vms, images;

	*uses = (struct image_uses){0};
	if (pool_vm_list(pool, &vms, err) < 0)
		return -1;
	if (image_list(pool, &images, err) < 0) {
		pool_names_free(&vms);
		return -1;
	}
	for (size_t i = 0; i < vms.count; i++)
		add_vm(pool, vms.names[i], uses);
	for (size_t i = 0; i < images.count; i++)
		add_image(pool, images.names[i], uses);
	pool_names_free(&vms);
	pool_names_free(&images);
	return 0;
}
