#include "pool/owner.h"

#include "pool/internal.h"
#include "pool/settings.h"

#include "base/clock.h"
#include "base/fault.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "owner."
#define TEMP_PREFIX ".tmp.owner."
#define FILE_MAX 1024
#define NOBODY "-" /* said, and no name of a node: a lost name must not read as nobody */
#define EPOCH_MAX 999999999999999999ull /* 18 digits */
#define WHEN_MAX 253402300799999ll      /* the year 9999 */
#define KEEP 64                         /* epochs below the highest whose files stay */
#define READ_TRIES 16

/* What one owner file says. `claim` is random and its claimer's alone: by it the claimer knows its
 * own file again. */
struct owner_file {
	struct pool_owner owner;
	char claim[33];
};

static int open_dir(const struct pool *pool, const char *vm, struct error **err)
{
	cleanup_free char *path = pool_vm_path(pool, vm, NULL);
	int fd;

	if (fs_check_name("VM", vm, err) < 0)
		return -1;
	/* Opened anew for each look: NFS asks the server then, and not its cache. */
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENOTDIR)
		return pool_no_vm(pool, vm, err);
	return error_set(err, ERROR_POOL, errno, "cannot open directory %s", path);
}

/*
 * The epoch of a name. 1 for owner.E; 0 for other names; -1 for a name that might have been meant
 * as an epoch ("owner.007", 30 digits): who made it cannot be asked.
 */
static int parse_name(const char *name, uint64_t *epoch)
{
	const char *digits = name + strlen(PREFIX);
	size_t len;

	if (strncmp(name, PREFIX, strlen(PREFIX)) != 0)
		return 0;
	len = strlen(digits);
	if (len == 0 || strspn(digits, "0123456789") != len)
		return 0;
	if (len > 18 || digits[0] == '0')
		return -1;
	*epoch = strtoull(digits, NULL, 10);
	return 1;
}

/* The highest epoch in the directory, 0 for none. */
static int find_highest(int dir, const char *vm, uint64_t *highest, struct error **err)
{
	struct dirent *entry;
	uint64_t epoch;
	DIR *d;
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;

	*highest = 0;
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		error_set(err, ERROR_POOL, errno, "cannot read the directory of VM %s", vm);
		close_fd(&fd);
		return -1;
	}
	while (result == 0 && (errno = 0, entry = readdir(d))) {
		int is = parse_name(entry->d_name, &epoch);

		if (is < 0)
			result = error_set(err, ERROR_POOL, 0,
				"VM %s has an owner file with a name that drover does not make, "
				"%s: find out who made it, and remove it",
				vm, entry->d_name);
		else if (is > 0 && epoch > *highest)
			*highest = epoch;
	}
	if (result == 0 && errno)
		result =
			error_set(err, ERROR_POOL, errno, "cannot read the directory of VM %s", vm);
	closedir(d);
	return result;
}

static bool is_word(const char *text, size_t max)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return false;
	return len > 0 && len <= max;
}

static int take_epoch(struct owner_file *file, const char *value, struct error **err)
{
	int64_t number;

	if (fs_parse_number("epoch", value, 1, (int64_t)EPOCH_MAX, &number, err) < 0)
		return -1;
	file->owner.epoch = (uint64_t)number;
	return 0;
}

static int take_node(struct owner_file *file, const char *value, struct error **err)
{
	bool nobody = !strcmp(value, NOBODY);

	if (!nobody && fs_check_name("node", value, err) < 0)
		return -1;
	snprintf(file->owner.node, sizeof(file->owner.node), "%s", nobody ? "" : value);
	return 0;
}

static int take_why(struct owner_file *file, const char *value, struct error **err)
{
	if (!is_word(value, sizeof(file->owner.why) - 1))
		return error_set(err, ERROR_POOL, 0, "why is one word, not \"%s\"", value);
	snprintf(file->owner.why, sizeof(file->owner.why), "%s", value);
	return 0;
}

static int take_when(struct owner_file *file, const char *value, struct error **err)
{
	return fs_parse_number("when_ms", value, 0, WHEN_MAX, &file->owner.when_ms, err);
}

static int take_claim(struct owner_file *file, const char *value, struct error **err)
{
	if (!pool_is_hex(value, 32))
		return error_set(err, ERROR_POOL, 0, "claim is 32 hexadecimal digits");
	memcpy(file->claim, value, sizeof(file->claim));
	return 0;
}

/* All must be there: a file without its node must never read as "nobody". */
static const struct {
	const char *key;
	int (*take)(struct owner_file *file, const char *value, struct error **err);
} keys[] = {
	{"epoch", take_epoch},
	{"node", take_node},
	{"why", take_why},
	{"when_ms", take_when},
	{"claim", take_claim},
};

#define KEYS (sizeof(keys) / sizeof(keys[0]))

struct parse {
	struct owner_file *file;
	size_t seen;
};

static int take_key(const struct settings_key *key, void *arg, struct error **err)
{
	struct parse *parse = arg;

	if (strcmp(key->section, "owner") != 0)
		return error_set(err, ERROR_POOL, 0, "the section is [owner]");
	for (size_t i = 0; i < KEYS; i++) {
		if (strcmp(keys[i].key, key->key) != 0)
			continue;
		parse->seen++;
		return keys[i].take(parse->file, key->value, err);
	}
	return error_set(err, ERROR_POOL, 0, "the key \"%s\" is not known", key->key);
}

static char *format_file(const struct owner_file *file)
{
	char when[32];

	clock_format(file->owner.when_ms, when);
	return fs_format("# %s\n[owner]\nepoch = %" PRIu64
			 "\nnode = %s\nwhy = %s\nwhen_ms = %" PRId64 "\nclaim = %s\n",
		when, file->owner.epoch, file->owner.node[0] ? file->owner.node : NOBODY,
		file->owner.why, file->owner.when_ms, file->claim);
}

static int parse_file(const char *what, const char *text, size_t len, uint64_t epoch,
	struct owner_file *file, struct error **err)
{
	struct parse parse = {.file = file};

	*file = (struct owner_file){0};
	if (settings_read(what, text, len, 0, take_key, &parse, err) < 0)
		return -1;
	/* No key can come twice, so that many keys are all of them. */
	if (parse.seen != KEYS)
		return error_set(err, ERROR_POOL, 0, "%s is cut short or not whole", what);
	if (file->owner.epoch != epoch)
		return error_set(err, ERROR_POOL, 0, "%s says that it is of epoch %" PRIu64, what,
			file->owner.epoch);
	return 0;
}

/* Bytes read, FILE_MAX + 1 for a file that is too large; -1 with errno. */
static ssize_t read_file(int dir, const char *name, char *text)
{
	/* Neither a link nor a FIFO that somebody has put there may lead or hold us anywhere. */
	cleanup_fd int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	size_t used = 0;
	ssize_t n = 1;

	if (fd < 0)
		return -1;
	while (n != 0 && used <= FILE_MAX) {
		n = read(fd, text + used, FILE_MAX + 1 - used);
		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0)
			used += (size_t)n;
	}
	return (ssize_t)used;
}

/* 0; 1 when the file has gone; -1 and *err. */
static int read_epoch(
	int dir, const char *vm, uint64_t epoch, struct owner_file *file, struct error **err)
{
	cleanup_free char *name = fs_format(PREFIX "%" PRIu64, epoch);
	cleanup_free char *what = fs_format("vms/%s/%s", vm, name);
	char text[FILE_MAX + 1];
	struct error *why = NULL;
	ssize_t len = read_file(dir, name, text);

	if (len < 0 && (errno == ENOENT || errno == ESTALE))
		return 1;
	if (len < 0)
		error_set(&why, ERROR_POOL, errno, "cannot read %s", what);
	else if (len > FILE_MAX)
		error_set(&why, ERROR_POOL, 0, "%s is larger than %d bytes", what, FILE_MAX);
	else if (parse_file(what, text, (size_t)len, epoch, file, &why) == 0)
		return 0;
	why->kind = ERROR_POOL;
	error_prefix(
		&why, "it cannot be told who owns VM %s (docs/pool.md says how to mend it)", vm);
	return error_move(err, why);
}

static int read_owner(
	const struct pool *pool, const char *vm, struct owner_file *file, struct error **err)
{
	for (int i = 0; i < READ_TRIES; i++) {
		cleanup_fd int dir = open_dir(pool, vm, err);
		uint64_t highest;
		int rc;

		if (dir < 0 || find_highest(dir, vm, &highest, err) < 0)
			return -1;
		*file = (struct owner_file){0};
		if (highest == 0)
			return 0;
		rc = read_epoch(dir, vm, highest, file, err);
		if (rc <= 0)
			return rc;
		/* Gone between two looks: claims have passed it by, and it was pruned. */
	}
	return error_set(err, ERROR_POOL, 0,
		"it cannot be told who owns VM %s: its owner files come and go", vm);
}

int pool_owner_read(
	const struct pool *pool, const char *vm, struct pool_owner *owner, struct error **err)
{
	struct owner_file file;

	if (read_owner(pool, vm, &file, err) < 0)
		return -1;
	*owner = file.owner;
	return 0;
}

/* A claim on its way. */
struct claim {
	const struct pool *pool;
	const char *vm;
	int dir;
	struct owner_file file;
	char *name, *temp; /* in dir */
};

static int lost(const struct claim *c, const struct pool_owner *owner, struct pool_owner *now,
	struct error **err)
{
	if (now)
		*now = *owner;
	return error_set(err, ERROR_NOT_OWNER, 0,
		"VM %s is owned by %s%s since epoch %" PRIu64 " (%s), so epoch %" PRIu64
		" cannot be claimed",
		c->vm, owner->node[0] ? "node " : "nobody", owner->node, owner->epoch, owner->why,
		c->file.owner.epoch);
}

static int pool_failed(const struct claim *c, int errnum, const char *what, struct error **err)
{
	return error_set(err, pool_error_kind(errnum), errnum,
		"cannot claim VM %s: %s in %s/vms/%s", c->vm, what, c->pool->dir, c->vm);
}

/* The finished file under its temporary name, on the disk, and closed: NFS renames a file that is
 * removed while it is open, and a link that is still on its way would then find it. */
static int write_temp(const struct claim *c, struct error **err)
{
	cleanup_free char *text = format_file(&c->file);
	int fd =
		openat(c->dir, c->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	int errnum = 0;

	if (fd < 0)
		return pool_failed(c, errno, "cannot make a file", err);
	if (fault_point("pool.claim.before_write", err) < 0) {
		close(fd);
		return -1;
	}
	if (fs_write_all(fd, text, strlen(text)) < 0 || fsync(fd) < 0)
		errnum = errno;
	if (close(fd) < 0 && errnum == 0)
		errnum = errno;
	return errnum ? pool_failed(c, errnum, "cannot write a file", err) : 0;
}

/* Whether the temporary file has a second name. Opened for it: NFS asks the server then. */
static bool temp_is_linked(const struct claim *c)
{
	cleanup_fd int fd = openat(c->dir, c->temp, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 2;
}

/* What the pool says after link(2) has been tried, whatever its answer was. */
static int decide(const struct claim *c, int link_errno, struct pool_owner *now, struct error **err)
{
	struct owner_file highest, own;
	uint64_t epoch = c->file.owner.epoch;

	if (read_owner(c->pool, c->vm, &highest, err) < 0)
		return -1;
	if (highest.owner.epoch == epoch && !strcmp(highest.claim, c->file.claim))
		return 0;
	if (highest.owner.epoch >= epoch) {
		if (highest.owner.epoch > epoch &&
			read_epoch(c->dir, c->vm, epoch, &own, NULL) == 0 &&
			!strcmp(own.claim, c->file.claim))
			unlinkat(c->dir, c->name, 0);
		return lost(c, &highest.owner, now, err);
	}
	if (link_errno && !temp_is_linked(c))
		return pool_failed(c, link_errno, "cannot make a hard link", err);
	return error_set(err, ERROR_POOL, 0,
		"VM %s was claimed, but the claim cannot be seen in %s/vms/%s yet", c->vm,
		c->pool->dir, c->vm);
}

static int try_link(const struct claim *c, struct pool_owner *now, struct error **err)
{
	int link_errno = 0;

	if (fault_point("pool.claim.before_link", err) < 0)
		return -1;
	if (linkat(c->dir, c->temp, c->dir, c->name, 0) < 0)
		link_errno = errno;
	if (fault_point("pool.claim.after_link", err) < 0)
		return -1;
	/* EINVAL: a file system that has nothing to sync for a directory. */
	if (fsync(c->dir) < 0 && errno != EINVAL)
		return pool_failed(c, errno, "cannot sync the directory", err);
	return decide(c, link_errno, now, err);
}

/* Removes what no reader will look at again: epochs far below ours, and temporary files of claims
 * that ended a day ago without removing them. Failing is no harm: the next claim tries again. */
static void prune(const struct claim *c)
{
	int fd = openat(c->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	struct stat st;
	uint64_t epoch;

	if (!d) {
		close_fd(&fd);
		return;
	}
	while ((entry = readdir(d))) {
		bool old =
			parse_name(entry->d_name, &epoch) > 0 && epoch + KEEP < c->file.owner.epoch;

		if (!strncmp(entry->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) &&
			fstatat(c->dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			old = pool_is_left_over(&st);
		if (old)
			unlinkat(c->dir, entry->d_name, 0);
	}
	closedir(d);
}

static int check_arguments(
	const char *vm, uint64_t epoch, const char *node, const char *why, struct error **err)
{
	if (fs_check_name("VM", vm, err) < 0 || (*node && fs_check_name("node", node, err) < 0))
		return -1;
	if (epoch == 0 || epoch > EPOCH_MAX)
		return error_set(err, ERROR_USAGE, 0, "there is no epoch %" PRIu64, epoch);
	if (!is_word(why, sizeof(((struct pool_owner *)0)->why) - 1))
		return error_set(
			err, ERROR_USAGE, 0, "the reason of a claim is one word, not \"%s\"", why);
	return 0;
}

/* A claim that is too late, or that skips an epoch, is not even tried. */
static int check_epoch(const struct claim *c, struct pool_owner *now, struct error **err)
{
	struct pool_owner owner;

	if (pool_owner_read(c->pool, c->vm, &owner, err) < 0)
		return -1;
	if (owner.epoch >= c->file.owner.epoch)
		return lost(c, &owner, now, err);
	if (owner.epoch + 1 == c->file.owner.epoch)
		return 0;
	return error_set(err, ERROR_POOL, 0,
		"epoch %" PRIu64 " of VM %s cannot be claimed: the pool's highest is %" PRIu64
		", owner files have been removed",
		c->file.owner.epoch, c->vm, owner.epoch);
}

int pool_owner_claim(const struct pool *pool, const char *vm, uint64_t epoch, const char *node,
	const char *why, struct pool_owner *now, struct error **err)
{
	cleanup_free char *name = fs_format(PREFIX "%" PRIu64, epoch), *temp = NULL;
	struct claim c = {.pool = pool, .vm = vm, .dir = -1, .name = name};
	int result;

	if (check_arguments(vm, epoch, node, why, err) < 0)
		return -1;
	c.file.owner = (struct pool_owner){.epoch = epoch, .when_ms = clock_wall_ms()};
	snprintf(c.file.owner.node, sizeof(c.file.owner.node), "%s", node);
	snprintf(c.file.owner.why, sizeof(c.file.owner.why), "%s", why);
	fs_random_hex(c.file.claim, 16);
	c.temp = temp = fs_format(TEMP_PREFIX "%s", c.file.claim);
	if (check_epoch(&c, now, err) < 0)
		return -1;
	c.dir = open_dir(pool, vm, err);
	if (c.dir < 0)
		return -1;
	result = write_temp(&c, err);
	if (result == 0)
		result = try_link(&c, now, err);
	unlinkat(c.dir, c.temp, 0);
	if (result == 0)
		prune(&c);
	close(c.dir);
	return result;
}
