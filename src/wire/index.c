#include "wire/index.h"

#include "base/buf.h"
#include "base/fs.h"
#include "wire/hash.h"
#include "wire/index_format.h"
#include "wire/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define EDGE (1u << 20)

struct index {
	struct mapping *mapping;
	uint64_t buckets, entries;
	uint64_t blocks; /* whole ones of the image */
};

/* Adds the piece of the image to the hash; false when it cannot be read whole. */
static bool hash_piece(struct hash *hash, int fd, uint8_t *room, uint64_t at, size_t len)
{
	while (len > 0) {
		ssize_t n = pread(fd, room, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		hash_update(hash, room, (size_t)n);
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

static int hash_edges(int fd, uint64_t size, uint64_t *edges)
{
	size_t edge = size < EDGE ? (size_t)size : EDGE;
	cleanup_free uint8_t *room = malloc(EDGE);
	struct hash *hash = hash_open();
	bool read;

	if (!room)
		abort();
	errno = 0;
	read = hash_piece(hash, fd, room, 0, edge) && hash_piece(hash, fd, room, size - edge, edge);
	*edges = hash_digest(hash);
	hash_close(hash);
	return read ? 0 : -1;
}

int index_identity_read(
	int fd, const char *path, struct index_identity *identity, struct error **err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set(err, ERROR_DISK, errno, "cannot read %s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERROR_DISK, 0, "%s is no regular file", path);
	identity->size = (uint64_t)st.st_size;
	identity->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	if (hash_edges(fd, identity->size, &identity->edges) < 0)
		return error_set(err, ERROR_DISK, errno, "cannot read %s", path);
	return 0;
}

bool index_identity_equal(const struct index_identity *a, const struct index_identity *b)
{
	return a->size == b->size && a->mtime_ns == b->mtime_ns && a->edges == b->edges;
}

char *index_path(const char *image)
{
	return fs_format("%s" INDEX_SUFFIX, image);
}

static int wrong(const char *path, const char *why, struct error **err)
{
	return error_set(err, ERROR_REQUEST, 0,
		"%s cannot be used: %s; `drover image index` makes it again", path, why);
}

/* Reads the header of an open index file and checks every number in it. */
static int read_header(int fd, const char *path, const struct index_identity *identity,
	struct index *index, struct error **err)
{
	uint8_t header[INDEX_HEADER_USED];
	struct index_identity of;
	const uint8_t *magic;
	struct reader r;
	struct stat st;
	uint32_t version, block;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
		pread(fd, header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return wrong(path, "it is no whole file", err);
	reader_init(&r, header, sizeof(header));
	magic = reader_bytes(&r, 8);
	version = reader_be32(&r);
	block = reader_be32(&r);
	of.size = reader_be64(&r);
	of.mtime_ns = (int64_t)reader_be64(&r);
	of.edges = reader_be64(&r);
	index->buckets = reader_be64(&r);
	index->entries = reader_be64(&r);
	if (memcmp(magic, INDEX_MAGIC, 8))
		return wrong(path, "it is no index", err);
	if (version != INDEX_VERSION || block != INDEX_BLOCK)
		return wrong(path, "it is of another version", err);
	if (!index_identity_equal(&of, identity))
		return wrong(path, "it was made of another image, or the image has changed", err);
	if (index->buckets < 1 || index->buckets > INDEX_BUCKETS_MAX ||
		index->entries > index->buckets * INDEX_SLOTS ||
		(uint64_t)st.st_size != INDEX_HEADER + index->buckets * INDEX_BUCKET)
		return wrong(path, "its numbers do not fit its size", err);
	index->blocks = identity->size / INDEX_BLOCK;
	return 0;
}

static int open_file(const char *path, struct error **err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);

	if (fd < 0)
		error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_REQUEST, errno,
			"cannot open %s", path);
	return fd;
}

struct index *index_open_file(
	int fd, const char *path, const struct index_identity *identity, struct error **err)
{
	struct index *index = calloc(1, sizeof(*index));

	if (!index)
		abort();
	if (read_header(fd, path, identity, index, err) == 0)
		index->mapping =
			mapping_open(fd, INDEX_HEADER + index->buckets * INDEX_BUCKET, path, err);
	if (index->mapping)
		return index;
	free(index);
	return NULL;
}

struct index *index_open(
	const char *image, const struct index_identity *identity, struct error **err)
{
	cleanup_free char *path = index_path(image);
	cleanup_fd int fd = open_file(path, err);

	return fd < 0 ? NULL : index_open_file(fd, path, identity, err);
}

void index_close(struct index *index)
{
	if (!index)
		return;
	mapping_close(index->mapping);
	free(index);
}

uint64_t index_count(const struct index *index)
{
	return index->entries;
}

bool index_find(const struct index *index, uint64_t fingerprint, uint64_t *block)
{
	const uint8_t *table = mapping_data(index->mapping) + INDEX_HEADER;
	uint64_t at = index_bucket(fingerprint, index->buckets);
	uint32_t tag = index_tag(fingerprint);

	for (unsigned probe = 0; probe < INDEX_PROBES; probe++) {
		uint8_t bucket[INDEX_BUCKET];

		memcpy(bucket, table + at * INDEX_BUCKET, INDEX_BUCKET);
		for (unsigned slot = 0; slot < INDEX_SLOTS; slot++) {
			uint32_t number = index_slot(bucket, 1, slot);

			if (number == 0)
				return false;
			if (index_slot(bucket, 0, slot) == tag && number <= index->blocks) {
				*block = number - 1;
				return true;
			}
		}
		at = at + 1 < index->buckets ? at + 1 : 0;
	}
	return false;
}

const char *index_state_name(enum index_state state)
{
	static const char *const names[] = {
		[INDEX_NONE] = "none", [INDEX_FRESH] = "fresh", [INDEX_STALE] = "stale"};

	return names[state];
}

int index_look(const char *image, enum index_state *state, struct error **err)
{
	cleanup_free char *path = index_path(image);
	cleanup_fd int fd = open(image, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	cleanup_fd int index_fd = -1;
	cleanup_error struct error *e = NULL;
	struct index_identity identity;
	struct index index;

	if (fd < 0)
		return error_set(err, ERROR_DISK, errno, "cannot open %s", image);
	*state = INDEX_STALE;
	index_fd = open_file(path, &e);
	if (index_fd < 0) {
		*state = e->kind == ERROR_NOT_FOUND ? INDEX_NONE : INDEX_STALE;
		return 0;
	}
	if (index_identity_read(fd, image, &identity, err) < 0)
		return -1;
	if (read_header(index_fd, path, &identity, &index, NULL) == 0)
		*state = INDEX_FRESH;
	return 0;
}
