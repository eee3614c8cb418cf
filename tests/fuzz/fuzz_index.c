/*
 * The reader of content indexes, and of the list of sources that a peer sends. The input is an
 * index file of a fixed image; whatever it holds, a lookup ends and gives a block of that image, or
 * none. Its first 40 bytes are made those of a fresh one when its first byte is even, so that the
 * fuzzer need not find a hash.
 */
#include "base/buf.h"
#include "base/fs.h"
#include "wire/index.h"
#include "wire/source.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCKS 64u
#define INPUT_MAX (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char image[64], index_file[72];
static struct index_identity identity;

static void leave(void)
{
	unlink(image);
	unlink(index_file);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static uint8_t block[INDEX_BLOCK];
	int fd;

	(void)argc, (void)argv;
	strcpy(image, "/tmp/drover-fuzz-XXXXXX");
	fd = mkstemp(image);
	if (fd < 0)
		abort();
	snprintf(index_file, sizeof(index_file), "%s" INDEX_SUFFIX, image);
	for (unsigned i = 0; i < BLOCKS; i++) {
		memset(block, (int)i + 1, sizeof(block));
		if (fs_write_all(fd, block, sizeof(block)) < 0)
			abort();
	}
	if (index_identity_read(fd, image, &identity, NULL) < 0)
		abort();
	close(fd);
	atexit(leave);
	return 0;
}

static void write_index(const uint8_t *data, size_t len)
{
	uint8_t start[40];
	int fd = open(index_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	memcpy(start, "DROVERIX\0\0\0\1\0\0\x10", 16);
	put_be64(start + 16, identity.size);
	put_be64(start + 24, (uint64_t)identity.mtime_ns);
	put_be64(start + 32, identity.edges);
	if (fd < 0 || fs_write_all(fd, data, len) < 0 ||
		(len >= sizeof(start) && data[0] % 2 == 0 &&
			pwrite(fd, start, sizeof(start), 0) != (ssize_t)sizeof(start)))
		abort();
	close(fd);
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
	index = index_open(image, &identity, NULL);
	if (index)
		look_up(index, data, len);
	index_close(index);
	return 0;
}
