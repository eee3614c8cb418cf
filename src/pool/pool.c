#include "pool/pool.h"

#include "pool/internal.h"
#include "pool/settings.h"

#include "base/buf.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <time.h>

#define LEFT_OVER_S 86400
#define CONF_MAX (64u << 10) /* bytes of pool.conf: an id and a certificate or two */

enum error_kind pool_error_kind(int errnum)
{
	return errnum == ENOSPC || errnum == EDQUOT ? ERROR_NO_SPACE : ERROR_POOL;
}

bool pool_is_left_over(const struct stat *st)
{
	return st->st_ctime + LEFT_OVER_S < time(NULL);
}

bool pool_is_hex(const char *text, size_t digits)
{
	for (size_t i = 0; i < digits; i++)
		if (!isdigit((unsigned char)text[i]) && (text[i] < 'a' || text[i] > 'f'))
			return false;
	return text[digits] == 0;
}

/* inih gives a certificate back line by line: only lines of base64 and the two around them. */
static int check_pem(const char *pem, struct error **err)
{
	static const char base64[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
	int certificates = 0;

	if (strlen(pem) > CONF_MAX / 2)
		return error_set(err, ERROR_DEFINITION, 0, "the CA's certificate is too large");
	for (const char *line = pem; *line;) {
		size_t len = strcspn(line, "\n");

		if (len == 27 && !memcmp(line, "-----BEGIN CERTIFICATE-----", len))
			certificates++;
		else if ((len != 25 || memcmp(line, "-----END CERTIFICATE-----", len)) &&
			 (len > 80 || strspn(line, base64) < len))
			return error_set(err, ERROR_DEFINITION, 0,
				"the CA's certificate is not PEM: it has a line that is no base64");
		line += line[len] ? len + 1 : len;
	}
	if (certificates == 0)
		return error_set(err, ERROR_DEFINITION, 0, "the CA's certificate is not PEM");
	return 0;
}

/* pool.conf's text: the certificate's lines, but for the first, are indented. */
static char *format_conf(const char *cluster_id, const char *ca_pem)
{
	struct buf text;

	buf_init(&text, CONF_MAX);
	buf_printf(&text,
		"# The pool of a drover cluster. Every node reads this.\n"
		"[pool]\nformat = 1\ncluster_id = %s\nca =",
		cluster_id);
	for (const char *line = ca_pem; *line;) {
		size_t len = strcspn(line, "\n");

		if (len > 0)
			buf_printf(&text, "%s%.*s\n", line == ca_pem ? " " : "\t", (int)len, line);
		line += line[len] ? len + 1 : len;
	}
	buf_string(&text);
	return (char *)text.data;
}

/* Names that may be in a directory that becomes a pool: those of a pool that was not finished, and
 * what a file system puts into its root. */
static bool may_be_there(const char *name)
{
	static const char *const names[] = {"nodes", "images", "vms", "lost+found"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(name, names[i]))
			return true;
	return name[0] == '.';
}

static int check_empty(const char *dir, struct error **err)
{
	struct dirent *entry;
	DIR *d = opendir(dir);
	int result = 0;

	if (!d)
		return error_set(err, ERROR_POOL, errno, "cannot read directory %s", dir);
	while (result == 0 && (errno = 0, entry = readdir(d)))
		if (!may_be_there(entry->d_name))
			result = error_set(err, ERROR_EXISTS, 0,
				"%s is not empty (it holds %s): name an empty directory for the "
				"pool",
				dir, entry->d_name);
	if (result == 0 && errno)
		result = error_set(err, ERROR_POOL, errno, "cannot read directory %s", dir);
	closedir(d);
	return result;
}

/* Writes a file that must not be there yet: of two who make one pool, one gets ERROR_EXISTS. */
static int write_first(const char *dir, const char *text, struct error **err)
{
	cleanup_free char *path = fs_format("%s/pool.conf", dir), *temp = NULL;
	char unique[17];
	int errnum = 0;

	fs_random_hex(unique, 8);
	temp = fs_format("%s/.tmp.pool.%s", dir, unique);
	if (fs_write(temp, text, strlen(text), 0644, err) < 0)
		return -1;
	if (link(temp, path) < 0)
		errnum = errno;
	unlink(temp);
	if (errnum == EEXIST)
		return error_set(err, ERROR_EXISTS, 0, "%s is a pool already", dir);
	if (errnum)
		return error_set(err, pool_error_kind(errnum), errnum,
			"cannot make %s (the pool's file system must have hard links)", path);
	return fs_sync_dir(dir, err);
}

static int make_dirs(const char *dir, struct error **err)
{
	static const char *const names[] = {"nodes", "images", "vms"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		cleanup_free char *path = fs_format("%s/%s", dir, names[i]);

		if (fs_mkdirs(path, 0755, err) < 0)
			return -1;
	}
	return 0;
}

/* What `dir` means whatever the working directory is then, without a slash at its end. */
static char *absolute(const char *dir, struct error **err)
{
	char *path;
	size_t len;

	if (dir[0] != '/') {
		error_set(err, ERROR_USAGE, 0,
			"the pool's directory must be an absolute path, \"%s\" is not", dir);
		return NULL;
	}
	path = fs_format("%s", dir);
	len = strlen(path);
	while (len > 1 && path[len - 1] == '/')
		path[--len] = 0;
	return path;
}

int pool_create(const char *dir, const char *cluster_id, const char *ca_pem, struct error **err)
{
	cleanup_free char *path = absolute(dir, err), *conf = NULL, *text = NULL;

	if (!path)
		return -1;
	if (!pool_is_hex(cluster_id, 32))
		return error_set(err, ERROR_USAGE, 0, "a cluster id is 32 hexadecimal digits");
	if (check_pem(ca_pem, err) < 0 || fs_mkdirs(path, 0755, err) < 0)
		return -1;
	conf = fs_format("%s/pool.conf", path);
	if (fs_exists(conf))
		return error_set(err, ERROR_EXISTS, 0, "%s is a pool already", path);
	if (check_empty(path, err) < 0 || make_dirs(path, err) < 0)
		return -1;
	text = format_conf(cluster_id, ca_pem);
	return write_first(path, text, err);
}

struct conf {
	struct pool *pool;
	struct buf ca;
	bool format;
};

static int take_conf(const struct settings_key *key, void *arg, struct error **err)
{
	struct conf *conf = arg;

	if (strcmp(key->section, "pool") != 0)
		return error_set(err, ERROR_DEFINITION, 0, "the section is [pool]");
	if (!strcmp(key->key, "ca")) {
		if (!buf_printf(&conf->ca, "%s\n", key->value))
			return error_set(err, ERROR_DEFINITION, 0, "ca is too large");
		return 0;
	}
	if (key->more)
		return error_set(err, ERROR_DEFINITION, 0, "only ca has more than one line");
	if (!strcmp(key->key, "cluster_id") && pool_is_hex(key->value, 32)) {
		memcpy(conf->pool->cluster_id, key->value, 33);
		return 0;
	}
	if (!strcmp(key->key, "format") && !strcmp(key->value, "1")) {
		conf->format = true;
		return 0;
	}
	if (!strcmp(key->key, "format"))
		return error_set(err, ERROR_POOL, 0,
			"the pool has format %s, this drover knows format 1: upgrade drover here",
			key->value);
	return error_set(
		err, ERROR_DEFINITION, 0, "\"%s = %s\" is not valid here", key->key, key->value);
}

static int read_conf(struct pool *pool, struct error **err)
{
	cleanup_free char *path = fs_format("%s/pool.conf", pool->dir), *text = NULL;
	struct conf conf = {.pool = pool};
	struct error *why = NULL;
	size_t len;
	int result = 0;

	text = fs_read(path, CONF_MAX, &len, &why);
	if (!text && why->kind == ERROR_NOT_FOUND) {
		error_free(&why);
		return error_set(err, ERROR_POOL, 0,
			"%s is no pool: it has no pool.conf (is the shared storage mounted?)",
			pool->dir);
	}
	buf_init(&conf.ca, CONF_MAX);
	if (!text ||
		settings_read(path, text, len, SETTINGS_MULTILINE, take_conf, &conf, &why) < 0) {
		why->kind = ERROR_POOL;
		result = error_move(err, why);
	} else if (!conf.format || !pool->cluster_id[0] || conf.ca.len == 0) {
		result = error_set(err, ERROR_POOL, 0,
			"%s is not whole: it must have format, cluster_id and ca", path);
	}
	if (result == 0)
		pool->ca_pem = fs_format("%s", buf_string(&conf.ca));
	buf_free(&conf.ca);
	return result;
}

struct pool *pool_open(const char *dir, struct error **err)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		abort();
	pool->dir = absolute(dir, err);
	if (!pool->dir || read_conf(pool, err) < 0) {
		pool_close(pool);
		return NULL;
	}
	return pool;
}

void pool_close(struct pool *pool)
{
	if (!pool)
		return;
	free(pool->dir);
	free(pool->ca_pem);
	free(pool);
}

void pool_names_free(struct pool_names *names)
{
	for (size_t i = 0; i < names->count; i++)
		free(names->names[i]);
	free(names->names);
	*names = (struct pool_names){0};
}

static void add_name(struct pool_names *names, const char *name, size_t len)
{
	char **grown = realloc(names->names, (names->count + 1) * sizeof(*grown));

	if (!grown)
		abort();
	names->names = grown;
	names->names[names->count++] = fs_format("%.*s", (int)len, name);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int pool_names_read(const char *dir, const char *what, const char *suffix, mode_t type,
	struct pool_names *names, struct error **err)
{
	size_t tail = strlen(suffix);
	struct dirent *entry;
	struct stat st;
	DIR *d = opendir(dir);
	int errnum;

	*names = (struct pool_names){0};
	if (!d)
		return error_set(err, ERROR_POOL, errno, "cannot read directory %s", dir);
	while (errno = 0, entry = readdir(d)) {
		size_t len = strlen(entry->d_name);
		cleanup_free char *name = NULL;

		if (len <= tail || strcmp(entry->d_name + len - tail, suffix) != 0)
			continue;
		name = fs_format("%.*s", (int)(len - tail), entry->d_name);
		if (fs_check_name(what, name, NULL) < 0)
			continue;
		if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			(st.st_mode & S_IFMT) != type)
			continue;
		add_name(names, name, len - tail);
	}
	errnum = errno;
	closedir(d);
	if (errnum) {
		pool_names_free(names);
		return error_set(err, ERROR_POOL, errnum, "cannot read directory %s", dir);
	}
	if (names->count > 0)
		qsort(names->names, names->count, sizeof(*names->names), compare_names);
	return 0;
}
