#include "pool/internal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TEXT_MAX 64

/* Locks that belong to the open file, as hypervisors use them; elsewhere the process's. */
#ifdef F_OFD_SETLK
#define SET_LOCK F_OFD_SETLK
#else
#define SET_LOCK F_SETLK
#endif

/* The files of one probe: the first node's, and three that the second makes. */
struct probe {
	char *begin, *writing, *answer, *linked;
};

static void probe_free(struct probe *p)
{
	free_pointer(&p->begin);
	free_pointer(&p->writing);
	free_pointer(&p->answer);
	free_pointer(&p->linked);
}
#define cleanup_probe __attribute__((cleanup(probe_free)))

static bool is_token(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)text[i]))
			return false;
	return len > 0 && len < TEXT_MAX;
}

static int probe_paths(struct probe *p, const char *dir, const char *nonce, struct error **err)
{
	*p = (struct probe){0};
	if (!pool_is_hex(nonce, 32))
		return error_set(
			err, ERROR_REQUEST, 0, "the nonce of a probe is 32 hexadecimal digits");
	p->begin = fs_format("%s/.tmp.probe.%s", dir, nonce);
	p->writing = fs_format("%s.writing", p->begin);
	p->answer = fs_format("%s.answer", p->begin);
	p->linked = fs_format("%s.link", p->begin);
	return 0;
}

/* What a node that died, or an answer that came too late, has left: nobody looks at it. */
static void sweep(const char *dir_path)
{
	DIR *dir = opendir(dir_path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		cleanup_free char *path = NULL;
		struct stat st;

		if (strncmp(entry->d_name, ".tmp.probe.", 11) != 0)
			continue;
		path = fs_format("%s/%s", dir_path, entry->d_name);
		if (lstat(path, &st) == 0 && pool_is_left_over(&st))
			unlink(path);
	}
	if (dir)
		closedir(dir);
}

static int check_content(const char *path, const char *expected, struct error **err)
{
	cleanup_error struct error *why = NULL;
	cleanup_free char *text = fs_read(path, TEXT_MAX, NULL, &why);

	if (!text && why->kind == ERROR_NOT_FOUND)
		return error_set(err, ERROR_POOL, 0,
			"%s, which the other node has written, is not there: the two nodes do not "
			"have the same storage mounted as their pool",
			path);
	if (!text)
		return error_set(err, ERROR_POOL, 0, "%s", why->message);
	if (strcmp(text, expected) != 0)
		return error_set(err, ERROR_POOL, 0,
			"%s does not hold what the other node has written: the storage is not "
			"coherent",
			path);
	return 0;
}

/* An open file that holds the lock of the whole of `path`. -1 with EAGAIN or EACCES: somebody else
 * holds it. */
static int take_lock(const char *path)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(path, O_RDWR | O_CLOEXEC), errnum;

	if (fd < 0 || fcntl(fd, SET_LOCK, &lock) == 0)
		return fd;
	errnum = errno;
	close(fd);
	errno = errnum;
	return -1;
}

static int no_locks(struct error **err)
{
	return error_set(err, ERROR_POOL, errno,
		"locks do not work on the pool (on NFS v3 they need rpc.statd and no \"nolock\")");
}

int pool_probe_begin(const struct pool *pool, const char *nonce, int *lock, struct error **err)
{
	cleanup_probe struct probe p;

	*lock = -1;
	if (probe_paths(&p, pool->dir, nonce, err) < 0)
		return -1;
	sweep(pool->dir);
	if (fs_write(p.begin, nonce, strlen(nonce), 0644, err) < 0)
		return -1;
	*lock = take_lock(p.begin);
	if (*lock >= 0)
		return 0;
	no_locks(err);
	unlink(p.begin);
	return -1;
}

/* Hypervisors keep each other off a disk by such locks. */
static int check_lock(const struct probe *p, struct error **err)
{
	cleanup_fd int theirs = take_lock(p->begin), ours = -1;

	if (theirs >= 0)
		return error_set(err, ERROR_POOL, 0,
			"a lock that the other node holds on the pool is not seen here: one of the "
			"two has mounted it so that locks stay on the node (NFS with \"nolock\" or "
			"\"local_lock\"), and both could open one disk; mount it without that on "
			"both "
			"nodes");
	if (errno != EAGAIN && errno != EACCES)
		return no_locks(err);
	ours = take_lock(p->answer);
	return ours >= 0 ? 0 : no_locks(err);
}

int pool_probe_answer(const char *dir, const char *nonce, const char *answer, struct error **err)
{
	cleanup_probe struct probe p;

	if (probe_paths(&p, dir, nonce, err) < 0)
		return -1;
	if (!is_token(answer))
		return error_set(err, ERROR_REQUEST, 0, "the answer of a probe is not allowed");
	if (check_content(p.begin, nonce, err) < 0 ||
		fs_write(p.writing, answer, strlen(answer), 0644, err) < 0)
		return -1;
	if (rename(p.writing, p.answer) < 0)
		return error_set(err, ERROR_POOL, errno, "cannot rename files in %s", dir);
	if (link(p.answer, p.linked) < 0)
		return error_set(err, ERROR_POOL, errno,
			"cannot make hard links in %s, which drover needs to decide who owns a VM",
			dir);
	return check_lock(&p, err);
}

static int check_link(const struct probe *p, struct error **err)
{
	struct stat answer, linked;

	if (lstat(p->linked, &linked) < 0 || lstat(p->answer, &answer) < 0)
		return error_set(err, ERROR_POOL, errno,
			"cannot see the hard link %s that the other node has made", p->linked);
	if (linked.st_nlink == 2 && linked.st_ino == answer.st_ino)
		return 0;
	return error_set(err, ERROR_POOL, 0,
		"%s is no hard link here: the pool's file system does not keep them coherent",
		p->linked);
}

int pool_probe_finish(
	const struct pool *pool, const char *nonce, const char *answer, struct error **err)
{
	cleanup_probe struct probe p;
	int result;

	if (probe_paths(&p, pool->dir, nonce, err) < 0)
		return -1;
	result = check_content(p.answer, answer, err);
	if (result == 0)
		result = check_link(&p, err);
	unlink(p.linked);
	unlink(p.answer);
	unlink(p.writing);
	unlink(p.begin);
	return result;
}
