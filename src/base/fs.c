#include "base/fs.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char size_units[] = "KMGTP";

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void free_pointer(void *p)
{
	free(*(void **)p);
}

int fs_check_name(const char *what, const char *name, struct error **err)
{
	size_t len = strlen(name);

	if (len == 0 || len > FS_NAME_MAX)
		return error_set(err, ERROR_NAME, 0,
			"a %s's name has 1 to %d characters, this one has %zu", what, FS_NAME_MAX,
			len);
	if (!isalnum((unsigned char)name[0]))
		return error_set(err, ERROR_NAME, 0,
			"a %s's name starts with a letter or a digit: \"%s\" does not", what, name);
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
			return error_set(err, ERROR_NAME, 0,
				"a %s's name holds only letters, digits, '.', '_' and '-': \"%s\" "
				"does not",
				what, name);
	return 0;
}

char *fs_format(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	return text;
}

char *fs_read(const char *path, size_t max_bytes, size_t *len, struct error **err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	cleanup_free char *text = NULL;
	char *result;
	size_t used = 0;
	ssize_t n;

	if (fd < 0) {
		error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_FAILED, errno,
			"cannot open %s", path);
		return NULL;
	}
	text = malloc(max_bytes + 1);
	if (!text) {
		error_set(err, ERROR_FAILED, ENOMEM, "cannot read %s", path);
		return NULL;
	}
	/* One byte more than allowed tells a file of just that size from a larger one. */
	while ((n = read(fd, text + used, max_bytes + 1 - used)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			error_set(err, ERROR_FAILED, errno, "cannot read %s", path);
			return NULL;
		}
		used += (size_t)n;
		if (used > max_bytes) {
			error_set(err, ERROR_DEFINITION, 0, "%s is larger than %zu bytes", path,
				max_bytes);
			return NULL;
		}
	}
	result = realloc(text, used + 1);
	if (result)
		text = NULL;
	else
		abort();
	result[used] = 0;
	if (len)
		*len = used;
	return result;
}

int fs_write_all(int fd, const void *data, size_t len)
{
	const char *at = data;

	while (len > 0) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int fs_sync_dir(const char *path, struct error **err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot sync directory %s", path);
	return 0;
}

static enum error_kind write_error_kind(int errnum)
{
	return errnum == ENOSPC || errnum == EDQUOT ? ERROR_NO_SPACE : ERROR_FAILED;
}

static int write_and_sync(int fd, const void *data, size_t len, mode_t mode)
{
	return fchmod(fd, mode) < 0 || fs_write_all(fd, data, len) < 0 || fsync(fd) < 0 ? -1 : 0;
}

int fs_write(const char *path, const void *data, size_t len, mode_t mode, struct error **err)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *dir =
		slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(".");
	cleanup_free char *temp = NULL;
	cleanup_fd int fd = -1;
	char unique[17];
	int errnum;

	fs_random_hex(unique, 8);
	temp = fs_format("%s/.tmp.%s", dir, unique);
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(err, write_error_kind(errno), errno, "cannot write %s", path);
	if (write_and_sync(fd, data, len, mode) < 0 || rename(temp, path) < 0) {
		errnum = errno;
		unlink(temp);
		return error_set(err, write_error_kind(errnum), errnum, "cannot write %s", path);
	}
	return fs_sync_dir(dir, err);
}

int fs_mkdirs(const char *path, mode_t mode, struct error **err)
{
	cleanup_free char *copy = strdup(path);
	struct stat st;

	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return error_set(err, write_error_kind(errno), errno,
				"cannot make directory %s", copy);
		*slash = '/';
	}
	if (mkdir(path, mode) == 0)
		return 0;
	if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return 0;
	return error_set(err, write_error_kind(errno), errno, "cannot make directory %s", path);
}

bool fs_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

bool fs_scan_size(const char *text, double *bytes)
{
	const char *unit;
	double value, scale = 1;
	char *end;

	errno = 0;
	value = isdigit((unsigned char)*text) ? strtod(text, &end) : -1;
	if (value < 0 || errno || !isfinite(value) || strpbrk(text, "xXeEnN"))
		return false;
	if (*end && (unit = strchr(size_units, toupper((unsigned char)*end)))) {
		scale = ldexp(1, 10 * (int)(unit - size_units + 1));
		end++;
		if (scale > 1 && (!strcasecmp(end, "ib") || !strcasecmp(end, "b")))
			end += strlen(end);
	}
	*bytes = value * scale;
	return !*end;
}

/* As it is written: 16T, 1P, 1000. */
static void format_size(uint64_t bytes, char out[32])
{
	int unit = 0;

	while (bytes && bytes % 1024 == 0 && size_units[unit]) {
		bytes /= 1024;
		unit++;
	}
	snprintf(out, 32, "%llu%.*s", (unsigned long long)bytes, unit > 0,
		unit ? size_units + unit - 1 : "");
}

int fs_parse_size(
	const char *what, const char *text, uint64_t max, uint64_t *bytes, struct error **err)
{
	char largest[32];
	double value;

	if (!fs_scan_size(text, &value))
		return error_set(err, ERROR_USAGE, 0, "%s is a size like 512M or 2G, not \"%s\"",
			what, text);
	format_size(max, largest);
	if (value < 1 || value > (double)max)
		return error_set(err, ERROR_USAGE, 0,
			"%s of %s is out of range: it is from 1 byte to %s", what, text, largest);
	*bytes = (uint64_t)value;
	return 0;
}

int fs_parse_number(const char *what, const char *text, int64_t min, int64_t max, int64_t *value,
	struct error **err)
{
	char *end;
	long long v;

	errno = 0;
	v = strtoll(text, &end, 10);
	if (end == text || *end || errno || isspace((unsigned char)*text) || v < min || v > max)
		return error_set(err, ERROR_USAGE, 0,
			"%s is a number from %lld to %lld, not \"%s\"", what, (long long)min,
			(long long)max, text);
	*value = v;
	return 0;
}

void fs_random_hex(char *out, size_t bytes)
{
	uint8_t random[64];

	if (bytes > sizeof(random) || getentropy(random, bytes) < 0)
		abort();
	for (size_t i = 0; i < bytes; i++)
		snprintf(out + 2 * i, 3, "%02x", random[i]);
}
