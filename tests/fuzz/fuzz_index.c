/*
 * The reader of content indexes, and of the list of sources that a peer sends. The input is an
 * index file of a fixed image; whatever it holds, a lookup ends and gives a block of that image, or
 * none. Its first 40 bytes are made those of a fresh one when its first byte is even, so that the
 * fuzzer need not find a hash. Both files are in memory.
 */
#include "base/buf.h"
#include "base/fs.h"
#include "wire/index_format.h"
#include "wire/source.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS 4u
#define INPUT_MAX (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char image[32];
static int index_fd;
static struct index_identity identity;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static uint8_t block[INDEX_BLOCK];
	int fd = memfd_create("image", MFD_CLOEXEC);

	(void)argc, (void)argv;
	index_fd = memfd_create("index", MFD_CLOEXEC);
	if (fd < 0 || index_fd < 0)
		abort();
	snprintf(image, sizeof(image), "/dev/fd/%d", fd);
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(block, (int)i + 1, sizeof(block));
		if (fs_write_all(fd, block, sizeof(block)) < 0)
			abort();
	}
	if (index_identity_read(fd, image, &identity, NULL) < 0)
		abort();
	return 0;
}

static void write_index(const uint8_t *data, size_t len)
{
	uint8_t start[40];

	memcpy(start, "DROVERIX\0\0\0\1\0\0\x10", 16);
	put_be64(start + 16, identity.size);
	put_be64(start + 24, (uint64_t)identity.mtime_ns);
	put_be64(start + 32, identity.edges);
	if (ftruncate(index_fd, 0) < 0 || pwrite(index_fd, data, len, 0) != (ssize_t)len ||
		(len >= sizeof(start) && data[0] % 2 == 0 &&
			pwrite(index_fd, start, sizeof(start), 0) != (ssize_t)sizeof(start)))
		abort();
}

static void look_up(const struct index *index, const uint8_t *data, size_t len)
{
	uint64_t block;

	index_count(index);
	/* What is in the file, among others. */
	for (size_t i = 0; i + 8 <= len; i += 4) {
		uint64_t fingerprint;

		memcpy(&fingerprint, data + i, sizeof(fingerprint));
		for (int turn = 0; turn < 64; turn += 32)
			if (index_find(index, fingerprint << turn | fingerprint >> (63 - turn) >> 1,
				    &block) &&
				block >= BLOCKS)
				abort();
	}
}

static void agree(const uint8_t *data, size_t len)
{
	struct source_set *set = source_set_open();
	uint32_t usable = 0;

	source_set_add(set, "a", image, false, NULL);
	source_set_add(set, "images/base.qcow2", image, false, NULL);
	if (source_set_agree(set, data, len, &usable, NULL) == 0)
		for (size_t i = 0; i < 32; i++)
			if ((source_set_name(set, i) != NULL) != (usable >> i & 1))
				abort();
	source_set_close(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct index *index;

	if (len > INPUT_MAX)
		return -1;
	agree(data, len);
	write_index(data, len);
	index = index_open_file(index_fd, "index", &identity, NULL);
	if (index)
		look_up(index, data, len);
	index_close(index);
	return 0;
}
