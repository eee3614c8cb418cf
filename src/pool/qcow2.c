#include "pool/qcow2.h"

#include "base/buf.h"
#include "base/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC 0x514649fbu
#define HEADER_2 72u           /* bytes of a header of version 2 */
#define START (64u << 10)      /* header and its extensions are looked for here */
#define CLUSTER_MAX (2u << 20) /* the name of the backing file is in the first cluster */
#define EXTENSIONS_MAX 64
#define EXTENSION_END 0u
#define EXTENSION_BACKING_FORMAT 0xe2792acau
#define EXTENSION_DATA_FILE 0x44415441u
#define FEATURE_DATA_FILE (1u << 2) /* of the incompatible ones */

static int broken(const char *path, const char *why, struct error **err)
{
	return error_set(err, ERROR_DISK, 0, "%s is a broken qcow2 image: %s", path, why);
}

/* As many bytes as there are, up to `len`; -1 with errno. */
static ssize_t read_at(int fd, uint8_t *out, size_t len, uint64_t at)
{
	size_t used = 0;

	while (used < len) {
		ssize_t n = pread(fd, out + used, len - used, (off_t)(at + used));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return (ssize_t)used;
}

static int read_name(
	int fd, const char *path, uint64_t at, uint32_t len, struct qcow2 *q, struct error **err)
{
	if (at == 0)
		return 0;
	if (len == 0 || len > QCOW2_NAME_MAX || at > CLUSTER_MAX)
		return broken(path, "the name of its backing file is out of bounds", err);
	if (read_at(fd, (uint8_t *)q->backing, len, at) != (ssize_t)len)
		return broken(path, "the name of its backing file is cut off", err);
	if (memchr(q->backing, 0, len))
		return broken(path, "the name of its backing file has a NUL in it", err);
	return 0;
}

/* Extensions are hints: what cannot be read is none. */
static void read_extensions(struct reader *r, struct qcow2 *q)
{
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		uint32_t type = reader_be32(r), len = reader_be32(r);
		const uint8_t *data = reader_bytes(r, ((size_t)len + 7) & ~(size_t)7);

		if (!data || type == EXTENSION_END)
			return;
		if (type == EXTENSION_BACKING_FORMAT && len < sizeof(q->backing_format) &&
			!memchr(data, 0, len))
			memcpy(q->backing_format, data, len);
		if (type == EXTENSION_DATA_FILE && len < sizeof(q->data_file) &&
			!memchr(data, 0, len))
			memcpy(q->data_file, data, len);
	}
}

int qcow2_read(int fd, const char *path, struct qcow2 *q, struct error **err)
{
	cleanup_free uint8_t *start = malloc(START);
	uint32_t version, name_len, header_len = HEADER_2;
	uint64_t name_at;
	struct reader r;
	ssize_t len;

	if (!start)
		abort();
	memset(q, 0, sizeof(*q));
	len = read_at(fd, start, START, 0);
	if (len < 0)
		return error_set(err, ERROR_DISK, errno, "cannot read %s", path);
	reader_init(&r, start, (size_t)len);
	if (reader_be32(&r) != MAGIC)
		return 0;
	q->is = true;
	version = reader_be32(&r);
	name_at = reader_be64(&r);
	name_len = reader_be32(&r);
	reader_be32(&r); /* cluster bits */
	q->virtual_size = reader_be64(&r);
	if (version >= 3) {
		reader_bytes(&r, 72 - 32);
		q->has_data_file = reader_be64(&r) & FEATURE_DATA_FILE;
		reader_bytes(&r, 100 - 80);
		header_len = reader_be32(&r);
	}
	if (r.failed || header_len < HEADER_2 || header_len > (size_t)len)
		return broken(path, "its header is cut off", err);
	if (read_name(fd, path, name_at, name_len, q, err) < 0)
		return -1;
	reader_init(&r, start + header_len, (size_t)len - header_len);
	read_extensions(&r, q);
	return 0;
}

char *qcow2_backing_path(const char *path, const char *backing)
{
	const char *colon, *slash = strrchr(path, '/');

	if (!strncmp(backing, "file:", 5))
		backing += 5;
	colon = strchr(backing, ':');
	/* "PROTOCOL:…", as QEMU tells it. */
	if (!*backing || (colon && strcspn(backing, "/") > (size_t)(colon - backing)))
		return NULL;
	if (*backing == '/' || !slash)
		return fs_format("%s", backing);
	return fs_format("%.*s%s", (int)(slash - path) + 1, path, backing);
}
