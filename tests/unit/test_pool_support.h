/*
 * For the tests of src/pool and src/host: a scratch directory with a pool in it, errors that are
 * expected, and children that may change their namespaces or be killed.
 */
#ifndef DROVER_TEST_POOL_SUPPORT_H
#define DROVER_TEST_POOL_SUPPORT_H

#include "base/fs.h"
#include "pool/owner.h"
#include "pool/pool.h"
#include "pool/vm_def.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define CLUSTER_ID "0123456789abcdef0123456789abcdef"
#define CA_PEM \
	"-----BEGIN CERTIFICATE-----\n" \
	"MIIBszCCAVmgAwIBAgIUQXJlIHlvdSByZWFkaW5nIHRoaXM/AAAwCgYIKoZIzj0E\n" \
	"AwIwEjEQMA4GA1UEAwwHZHJvdmVyMB4XDTI2MDEwMTAwMDAwMFoXDTM2MDEwMTAw==\n" \
	"-----END CERTIFICATE-----\n"

/* Seconds that the whole program's time(2) is ahead, where a test says so. */
static time_t time_ahead_s;

time_t time(time_t *out)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (out)
		*out = now.tv_sec + time_ahead_s;
	return now.tv_sec + time_ahead_s;
}

static char scratch[64];
static struct pool *pool;

static inline int make_pool(void **state)
{
	(void)state;
	time_ahead_s = 0;
	strcpy(scratch, "/tmp/drover-test-XXXXXX");
	if (!mkdtemp(scratch) || pool_create(scratch, CLUSTER_ID, CA_PEM, NULL) < 0)
		return -1;
	pool = pool_open(scratch, NULL);
	return pool ? 0 : -1;
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

static inline int remove_pool(void **state)
{
	(void)state;
	pool_close(pool);
	pool = NULL;
	return nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* A path in the pool; the caller frees it. */
static inline char *in_pool(const char *name)
{
	return fs_format("%s/%s", scratch, name);
}

static inline void put_bytes(const char *name, const void *data, size_t len)
{
	cleanup_free char *path = in_pool(name);
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static inline void put_text(const char *name, const char *text)
{
	put_bytes(name, text, strlen(text));
}

/* Entries of a directory in the pool whose names start with `prefix`. */
static inline int count_entries(const char *name, const char *prefix)
{
	cleanup_free char *path = in_pool(name);
	DIR *d = opendir(path);
	struct dirent *entry;
	int count = 0;

	if (!d)
		return -1;
	while ((entry = readdir(d)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
			!strncmp(entry->d_name, prefix, strlen(prefix)))
			count++;
	closedir(d);
	return count;
}

/* The error must be there, be of that kind and say `part`; it is freed. */
static inline void expect_error(struct error **err, enum error_kind kind, const char *part)
{
	if (!*err)
		fail_msg("no error, where one with \"%s\" was expected", part);
	else if ((*err)->kind != kind || !strstr((*err)->message, part))
		fail_msg("\"%s\" (%s), where %s with \"%s\" was expected", (*err)->message,
			error_kind_name((*err)->kind), error_kind_name(kind), part);
	error_free(err);
}

/* The VM of the tests of ownership. */
#define VM "web1"
#define VM_DIR "vms/" VM

static inline int claim(uint64_t epoch, const char *node, struct error **err)
{
	return pool_owner_claim(pool, VM, epoch, node, "start", NULL, err);
}

static inline void expect_owner(uint64_t epoch, const char *node)
{
	cleanup_error struct error *err = NULL;
	struct pool_owner owner;

	if (pool_owner_read(pool, VM, &owner, &err) < 0)
		fail_msg("%s", err->message);
	assert_int_equal(owner.epoch, epoch);
	assert_string_equal(owner.node, node);
}

/* What a child found wrong, as its exit text. Asserts of cmocka belong to the parent only. */
typedef const char *child_fn(void);

/* What `check` says in a child with namespaces of its own; its mounts are its own too. Skips the
 * test where that is not allowed. */
static inline void in_namespaces(int flags, child_fn *check)
{
	char text[1200] = "";
	const char *wrong;
	int status, answer[2];
	ssize_t len;
	pid_t pid;

	assert_int_equal(pipe(answer), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(flags) < 0 ||
			((flags & CLONE_NEWNS) &&
				mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
			_exit(77);
		wrong = check();
		if (wrong && write(answer[1], wrong, strlen(wrong)) < 0)
			_exit(2);
		_exit(wrong ? 1 : 0);
	}
	close(answer[1]);
	len = read(answer[0], text, sizeof(text) - 1);
	close(answer[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (len < 0)
		fail_msg("the child's answer cannot be read");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	if (len > 0 || status != 0)
		fail_msg("%s (wait status %d)", len > 0 ? text : "the child failed", status);
}

/* For a child_fn: NULL when the error is as expected, else what is wrong. */
static inline const char *unexpected(struct error *err, enum error_kind kind, const char *part)
{
	if (err && err->kind == kind && strstr(err->message, part))
		return NULL;
	return fs_format("%s, where %s with \"%s\" was expected", err ? err->message : "no error",
		error_kind_name(kind), part);
}

#endif
