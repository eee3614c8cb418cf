/*
 * For the tests of content indexes and sources: a scratch directory with disk images in it.
 */
#ifndef DROVER_TEST_INDEX_SUPPORT_H
#define DROVER_TEST_INDEX_SUPPORT_H

#include "base/fs.h"
#include "wire/hash.h"
#include "wire/index.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCKS 2000u

static char scratch[64], image[96];

static inline int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/drover-test-XXXXXX");
	if (!mkdtemp(scratch))
		return -1;
	snprintf(image, sizeof(image), "%s/base.qcow2", scratch);
	return 0;
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

static inline int remove_scratch(void **state)
{
	(void)state;
	return nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Contents of a block that no other has: each number its own. */
static inline void make_block(uint64_t number, uint8_t block[INDEX_BLOCK])
{
	uint64_t x = number * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < INDEX_BLOCK; i += sizeof(x)) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		memcpy(block + i, &x, sizeof(x));
	}
}

static inline void write_at(const char *path, uint64_t at, const void *data, size_t len)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, (off_t)at), len);
}

static inline void write_block(const char *path, uint64_t at, uint64_t contents)
{
	uint8_t block[INDEX_BLOCK];

	make_block(contents, block);
	write_at(path, at * INDEX_BLOCK, block, sizeof(block));
}

/* An image whose block N has the contents N. */
static inline void make_image(const char *path, uint64_t blocks)
{
	for (uint64_t i = 0; i < blocks; i++)
		write_block(path, i, i);
}

static inline void build(const char *path, struct index_built *built)
{
	struct error *err = NULL;
	struct index_built ignored;

	if (index_build(path, NULL, built ? built : &ignored, &err) < 0)
		fail_msg("%s", err->message);
}

static inline struct index_identity identity_of(const char *path)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct index_identity identity;

	assert_true(fd >= 0);
	assert_int_equal(index_identity_read(fd, path, &identity, NULL), 0);
	return identity;
}

static inline uint64_t fingerprint_of(uint64_t contents)
{
	uint8_t block[INDEX_BLOCK];

	make_block(contents, block);
	return hash_of(block, sizeof(block));
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

static inline int count_files(const char *prefix)
{
	DIR *d = opendir(scratch);
	struct dirent *entry;
	int count = 0;

	assert_non_null(d);
	while ((entry = readdir(d)))
		count += !strncmp(entry->d_name, prefix, strlen(prefix));
	closedir(d);
	return count;
}

#endif
