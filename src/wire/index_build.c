#include "wire/index.h"

#include "base/buf.h"
#include "base/fs.h"
#include "wire/hash.h"
#include "wire/index_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (1u << 20)

struct builder {
	const char *image;
	int fd;
	const volatile sig_atomic_t *stop;
	uint64_t blocks; /* whole ones of the image */
	uint64_t read_bytes;
	uint8_t *chunk;
	/* Blocks that are not zeros. */
	uint64_t *fingerprints;
	uint32_t *numbers;
	size_t count, room;
	uint8_t *table;
	uint64_t buckets, entries;
};

static int check_stop(const struct builder *b, struct error **err)
{
	if (!b->stop || !*b->stop)
		return 0;
	return error_set(err, ERROR_CANCELLED, 0, "indexing of %s was stopped", b->image);
}

static bool is_zeros(const uint8_t *block)
{
	static const uint8_t zeros[16];

	return !memcmp(block, zeros, sizeof(zeros)) &&
	       !memcmp(block, block + sizeof(zeros), INDEX_BLOCK - sizeof(zeros));
}

static void grow(struct builder *b)
{
	size_t room = b->room ? 2 * b->room : 1u << 16;
	uint64_t *fingerprints = reallocarray(b->fingerprints, room, sizeof(*fingerprints));
	uint32_t *numbers = reallocarray(b->numbers, room, sizeof(*numbers));

	if (!fingerprints || !numbers)
		abort();
	b->fingerprints = fingerprints;
	b->numbers = numbers;
	b->room = room;
}

static void take_blocks(struct builder *b, uint64_t number, size_t count)
{
	for (size_t i = 0; i < count && b->count < INDEX_BLOCKS_MAX; i++) {
		const uint8_t *block = b->chunk + i * INDEX_BLOCK;

		if (is_zeros(block))
			continue;
		if (b->count == b->room)
			grow(b);
		b->fingerprints[b->count] = hash_of(block, INDEX_BLOCK);
		b->numbers[b->count++] = (uint32_t)(number + i);
	}
}

/* Reads just `len` bytes. */
static int read_chunk(struct builder *b, uint64_t at, size_t len, struct error **err)
{
	size_t used = 0;

	while (used < len) {
		ssize_t n = pread(b->fd, b->chunk + used, len - used, (off_t)(at + used));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, ERROR_DISK, errno, "cannot read %s", b->image);
		if (n == 0)
			return error_set(err, ERROR_BUSY, 0,
				"%s became shorter while it was indexed", b->image);
		used += (size_t)n;
	}
	return 0;
}

static int read_blocks(struct builder *b, uint64_t from, uint64_t to, struct error **err)
{
	while (from < to && b->count < INDEX_BLOCKS_MAX) {
		uint64_t left = to - from;
		size_t count = left < CHUNK / INDEX_BLOCK ? (size_t)left : CHUNK / INDEX_BLOCK;

		if (check_stop(b, err) < 0 ||
			read_chunk(b, from * INDEX_BLOCK, count * INDEX_BLOCK, err) < 0)
			return -1;
		take_blocks(b, from, count);
		b->read_bytes += count * INDEX_BLOCK;
		from += count;
	}
	return 0;
}

/* The next piece of the image that is no hole, at or behind `at`, in bytes; false: there is none.
 */
static bool next_data(int fd, off_t at, off_t *data, off_t *hole)
{
	*data = lseek(fd, at, SEEK_DATA);
	if (*data < 0 && errno == ENXIO)
		return false;
	*hole = *data < 0 ? -1 : lseek(fd, *data, SEEK_HOLE);
	if (*hole > *data)
		return true;
	/* The file system does not tell. */
	*data = at;
	*hole = INT64_MAX - INDEX_BLOCK;
	return true;
}

static int read_image(struct builder *b, struct error **err)
{
	uint64_t done = 0; /* blocks */
	off_t data, hole;

	posix_fadvise(b->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	while (done < b->blocks && next_data(b->fd, (off_t)(done * INDEX_BLOCK), &data, &hole)) {
		uint64_t from = (uint64_t)data / INDEX_BLOCK;
		uint64_t to = ((uint64_t)hole + INDEX_BLOCK - 1) / INDEX_BLOCK;

		to = to < b->blocks ? to : b->blocks;
		if (read_blocks(b, from, to, err) < 0)
			return -1;
		done = to;
	}
	return 0;
}

/* Puts a content in unless it is there already; one that finds no place is left out. */
static void put(struct builder *b, uint64_t fingerprint, uint32_t number)
{
	uint64_t at = index_bucket(fingerprint, b->buckets);

	for (unsigned probe = 0; probe < INDEX_PROBES; probe++) {
		uint8_t *bucket = b->table + at * INDEX_BUCKET;

		for (unsigned slot = 0; slot < INDEX_SLOTS; slot++) {
			if (index_slot(bucket, 1, slot) == 0) {
				index_slot_set(bucket, 0, slot, index_tag(fingerprint));
				index_slot_set(bucket, 1, slot, number + 1);
				b->entries++;
				return;
			}
			if (index_slot(bucket, 0, slot) == index_tag(fingerprint))
				return;
		}
		at = at + 1 < b->buckets ? at + 1 : 0;
	}
}

static void fill(struct builder *b, uint64_t contents)
{
	free(b->table);
	b->buckets = contents / INDEX_FILL + 1;
	b->entries = 0;
	b->table = calloc(b->buckets, INDEX_BUCKET);
	if (!b->table)
		abort();
	for (size_t i = 0; i < b->count; i++)
		put(b, b->fingerprints[i], b->numbers[i]);
}

static void make_table(struct builder *b)
{
	fill(b, b->count);
	/* Full of repetitions. */
	if (b->entries < b->count / 2)
		fill(b, b->entries);
}

static void make_header(
	const struct builder *b, const struct index_identity *of, uint8_t header[INDEX_HEADER])
{
	memset(header, 0, INDEX_HEADER);
	memcpy(header, INDEX_MAGIC, 8);
	put_be32(header + 8, INDEX_VERSION);
	put_be32(header + 12, INDEX_BLOCK);
	put_be64(header + 16, of->size);
	put_be64(header + 24, (uint64_t)of->mtime_ns);
	put_be64(header + 32, of->edges);
	put_be64(header + 40, b->buckets);
	put_be64(header + 48, b->entries);
}

static int write_failed(const char *path, struct error **err)
{
	return error_set(err, errno == ENOSPC || errno == EDQUOT ? ERROR_NO_SPACE : ERROR_FAILED,
		errno, "cannot write %s", path);
}

static int write_file(const struct builder *b, const struct index_identity *of, int fd,
	const char *path, struct error **err)
{
	uint8_t header[INDEX_HEADER];
	size_t len = b->buckets * INDEX_BUCKET;
	struct stat st;

	make_header(b, of, header);
	if (fs_write_all(fd, header, sizeof(header)) < 0)
		return write_failed(path, err);
	for (size_t at = 0; at < len; at += CHUNK) {
		if (check_stop(b, err) < 0)
			return -1;
		if (fs_write_all(fd, b->table + at, len - at < CHUNK ? len - at : CHUNK) < 0)
			return write_failed(path, err);
	}
	/* Where the owner cannot be given, those whom the mode lets read it can. */
	if (fstat(b->fd, &st) < 0 || (fchown(fd, st.st_uid, st.st_gid) < 0 && errno != EPERM) ||
		fchmod(fd, st.st_mode & 0644) < 0 || fsync(fd) < 0)
		return write_failed(path, err);
	return check_stop(b, err);
}

/* The image as it was when its reading began. */
static int check_same(const struct builder *b, const struct index_identity *of, struct error **err)
{
	struct index_identity now;

	if (index_identity_read(b->fd, b->image, &now, err) < 0)
		return -1;
	if (index_identity_equal(of, &now))
		return 0;
	return error_set(err, ERROR_BUSY, 0,
		"%s changed while it was indexed: only images that nobody writes to can be",
		b->image);
}

static int publish(const struct builder *b, const struct index_identity *of, struct error **err)
{
	cleanup_free char *path = index_path(b->image), *temp = NULL;
	const char *slash = strrchr(path, '/');
	cleanup_free char *dir =
		slash ? fs_format("%.*s", (int)(slash - path) + 1, path) : fs_format("./");
	cleanup_fd int fd = -1;
	char unique[17];

	fs_random_hex(unique, 8);
	temp = fs_format("%s.tmp.didx.%s", dir, unique);
	fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return write_failed(path, err);
	if (write_file(b, of, fd, path, err) < 0 || check_same(b, of, err) < 0 ||
		(rename(temp, path) < 0 && write_failed(path, err) < 0)) {
		unlink(temp);
		return -1;
	}
	return fs_sync_dir(dir, err);
}

static int build(struct builder *b, struct error **err)
{
	struct index_identity of;

	b->chunk = malloc(CHUNK);
	if (!b->chunk)
		abort();
	if (index_identity_read(b->fd, b->image, &of, err) < 0)
		return -1;
	b->blocks = of.size / INDEX_BLOCK;
	if (b->blocks >= UINT32_MAX)
		return error_set(err, ERROR_REFUSED, 0,
			"%s is larger than 16 TiB, which an index cannot tell of", b->image);
	if (read_image(b, err) < 0)
		return -1;
	make_table(b);
	return publish(b, &of, err);
}

int index_build(const char *image, const volatile sig_atomic_t *stop, struct index_built *built,
	struct error **err)
{
	struct builder b = {.image = image, .stop = stop};
	cleanup_fd int fd = open(image, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int rc;

	if (fd < 0)
		return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_DISK, errno,
			"cannot open %s", image);
	b.fd = fd;
	rc = build(&b, err);
	if (rc == 0)
		*built = (struct index_built){.image_bytes = b.blocks * INDEX_BLOCK,
			.read_bytes = b.read_bytes,
			.entries = b.entries,
			.index_bytes = INDEX_HEADER + b.buckets * INDEX_BUCKET};
	free(b.chunk);
	free(b.fingerprints);
	free(b.numbers);
	free(b.table);
	return rc;
}
