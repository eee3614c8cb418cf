/*
 * A destination that receives a guest as files. What comes was sent by another node: its lengths
 * are bounded by the VM's definition before anything is written.
 */
#include "hv/bhyve/bhyve.h"

#include "base/buf.h"
#include "base/fs.h"
#include "hv/bhyve/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (1u << 20)
/* Zeros of so many bytes are left out of a file, which has a hole there. */
#define HOLE (64u << 10)
#define FILES 3
/* Memory that bhyve may write besides what the guest was given. */
#define MEMORY_MORE (16u << 20)
#define KERN_MAX (256u << 20)
#define META_MAX (1u << 20)

static const char *const suffixes[FILES] = {"", ".kern", ".meta"};

static int read_all(struct hv_vm *vm, uint8_t *data, size_t len, struct error **err)
{
	struct bhyve_files *f = &vm->bhyve->files;
	size_t done = 0;

	while (done < len) {
		ssize_t n = read(f->fd, data + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, ERROR_FAILED, n < 0 ? errno : 0,
				"the guest's files are not all here: the data mover has ended");
		done += (size_t)n;
	}
	f->done_bytes += (long long)len;
	return 0;
}

static bool is_zero(const uint8_t *data, size_t len)
{
	return len > 0 && !data[0] && !memcmp(data, data + 1, len - 1);
}

static int put(int fd, const uint8_t *data, size_t len)
{
	for (size_t at = 0; at < len; at += HOLE) {
		size_t n = len - at < HOLE ? len - at : HOLE;
		int rc = is_zero(data + at, n) ? (lseek(fd, (off_t)n, SEEK_CUR) < 0 ? -1 : 0)
					       : fs_write_all(fd, data + at, n);

		if (rc < 0)
			return -1;
	}
	return 0;
}

static int receive_file(struct hv_vm *vm, const char *suffix, uint64_t size, struct error **err)
{
	cleanup_free char *path = fs_format("%s%s", vm->bhyve->files.path, suffix);
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	cleanup_free uint8_t *chunk = malloc(CHUNK);

	if (!chunk)
		abort();
	for (uint64_t left = size; fd >= 0 && left > 0;) {
		size_t n = left < CHUNK ? (size_t)left : CHUNK;

		if (read_all(vm, chunk, n, err) < 0)
			return -1;
		if (put(fd, chunk, n) < 0)
			return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_FAILED,
				errno, "cannot write %s", path);
		left -= n;
	}
	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
		return 0;
	return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_FAILED, errno,
		"cannot make %s", path);
}

static int read_header(struct hv_vm *vm, uint64_t sizes[FILES], struct error **err)
{
	static const uint8_t magic[BHYVE_TRANSFER_MAGIC_SIZE] = BHYVE_TRANSFER_MAGIC;
	const uint64_t most[FILES] = {vm->bhyve->memory_bytes + MEMORY_MORE, KERN_MAX, META_MAX};
	uint8_t header[BHYVE_TRANSFER_HEADER];
	struct reader r;

	if (read_all(vm, header, sizeof(header), err) < 0)
		return -1;
	if (memcmp(header, magic, sizeof(magic)) != 0)
		return error_set(err, ERROR_REQUEST, 0, "what comes is no guest's files");
	reader_init(&r, header + sizeof(magic), sizeof(header) - sizeof(magic));
	for (int i = 0; i < FILES; i++) {
		sizes[i] = reader_be64(&r);
		if (sizes[i] == 0 || sizes[i] > most[i])
			return error_set(err, ERROR_REQUEST, 0,
				"the guest's file %s would have %llu bytes, and may have %llu",
				*suffixes[i] ? suffixes[i] : "of memory",
				(unsigned long long)sizes[i], (unsigned long long)most[i]);
	}
	return 0;
}

static int receive(struct hv_vm *vm, struct error **err)
{
	struct bhyve_files *f = &vm->bhyve->files;
	uint64_t sizes[FILES];

	if (read_header(vm, sizes, err) < 0)
		return -1;
	f->done_bytes = 0;
	f->total_bytes = (long long)(sizes[0] + sizes[1] + sizes[2]);
	for (int i = 0; i < FILES; i++)
		if (receive_file(vm, suffixes[i], sizes[i], err) < 0)
			return -1;
	if (bhyve_checkpoint_complete(f->path))
		return 0;
	return error_set(err, ERROR_REQUEST, 0, "the guest's files do not fit together");
}

void *bhyve_files_receive(void *arg)
{
	struct hv_vm *vm = arg;
	struct error *e = NULL;
	int rc = receive(vm, &e);

	bhyve_files_phase(vm, rc == 0 ? HV_MIGRATE_COMPLETED : HV_MIGRATE_FAILED, e);
	return NULL;
}
