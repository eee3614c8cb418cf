#include "test_index_support.h"

#include "wire/index_format.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

static struct index *open_index(const char *path)
{
	struct index_identity identity = identity_of(path);
	struct error *err = NULL;
	struct index *index = index_open(path, &identity, &err);

	if (!index)
		fail_msg("%s", err->message);
	return index;
}

/* Opening it must fail so. */
static void expect_refused(const char *path, enum error_kind kind, const char *part)
{
	struct index_identity identity = identity_of(path);
	struct error *err = NULL;

	assert_null(index_open(path, &identity, &err));
	expect_error(&err, kind, part);
}

static void test_every_block_is_found_where_it_is(void **state)
{
	struct index_built built;
	struct index *index;
	uint64_t block, found = 0;

	(void)state;
	make_image(image, BLOCKS);
	build(image, &built);
	index = open_index(image);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		if (!index_find(index, fingerprint_of(i), &block))
			continue;
		found++;
		assert_int_equal(block, i);
	}
	assert_int_equal(found, BLOCKS);
	assert_int_equal(index_count(index), BLOCKS);
	assert_int_equal(built.entries, BLOCKS);
	assert_int_equal(built.read_bytes, BLOCKS * INDEX_BLOCK);
	for (uint64_t i = BLOCKS; i < 20 * BLOCKS; i++)
		assert_false(index_find(index, fingerprint_of(i), &block));
	index_close(index);
}

static void test_index_takes_less_than_four_thousandths_of_its_image(void **state)
{
	struct index_built built;
	struct stat st;
	cleanup_free char *path = index_path(image);

	(void)state;
	make_image(image, BLOCKS);
	build(image, &built);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, built.index_bytes);
	assert_true(built.index_bytes - INDEX_HEADER < BLOCKS * INDEX_BLOCK / 250);
}

static void test_zeros_are_left_out_and_of_repeated_contents_the_first_is_found(void **state)
{
	static const uint8_t zeros[INDEX_BLOCK];
	struct index_built built;
	struct index *index;
	uint64_t block;

	(void)state;
	for (uint64_t i = 0; i < 4000; i++)
		write_block(image, i, i % 7);
	write_at(image, 4000 * INDEX_BLOCK, zeros, sizeof(zeros));
	build(image, &built);
	assert_int_equal(built.entries, 7);
	assert_int_equal(built.index_bytes, INDEX_HEADER + 2 * INDEX_BUCKET);
	index = open_index(image);
	for (uint64_t i = 0; i < 7; i++) {
		assert_true(index_find(index, fingerprint_of(i), &block));
		assert_int_equal(block, i);
	}
	assert_false(index_find(index, hash_of(zeros, sizeof(zeros)), &block));
	index_close(index);
}

static void test_holes_are_not_read(void **state)
{
	struct index_built built;
	struct index *index;
	uint64_t block;

	(void)state;
	write_block(image, 3, 1);
	write_block(image, 500000, 2);
	assert_int_equal(truncate(image, 1000000 * (off_t)INDEX_BLOCK), 0);
	build(image, &built);
	assert_int_equal(built.image_bytes, 1000000 * (uint64_t)INDEX_BLOCK);
	assert_true(built.read_bytes < 16u << 20);
	index = open_index(image);
	assert_true(index_find(index, fingerprint_of(2), &block));
	assert_int_equal(block, 500000);
	index_close(index);
}

static void test_a_block_that_the_image_ends_in_is_left_out(void **state)
{
	struct index_built built;
	struct index *index;
	uint8_t part[INDEX_BLOCK];
	uint64_t block;

	(void)state;
	write_block(image, 0, 0);
	make_block(1, part);
	write_at(image, INDEX_BLOCK, part, 4095);
	build(image, &built);
	assert_int_equal(built.entries, 1);
	index = open_index(image);
	assert_false(index_find(index, hash_of(part, 4095), &block));
	index_close(index);
}

static void test_an_empty_image_has_an_index_too(void **state)
{
	struct index *index;
	uint64_t block;

	(void)state;
	write_at(image, 0, "", 0);
	build(image, NULL);
	index = open_index(image);
	assert_int_equal(index_count(index), 0);
	assert_false(index_find(index, 0, &block));
	index_close(index);
}

static void test_the_file_is_laid_out_as_documented(void **state)
{
	struct index_identity of;
	uint64_t print = fingerprint_of(5);
	uint8_t wanted[56] = "DROVERIX", got[INDEX_HEADER + INDEX_BUCKET];
	cleanup_free char *path = index_path(image);
	cleanup_fd int fd = -1;

	(void)state;
	write_block(image, 0, 5);
	build(image, NULL);
	of = identity_of(image);
	memcpy(wanted + 8, "\0\0\0\1\0\0\x10\0\0\0\0\0\0\0\x10\0", 16);
	for (int i = 0; i < 8; i++) {
		wanted[24 + i] = (uint8_t)((uint64_t)of.mtime_ns >> (56 - 8 * i));
		wanted[32 + i] = (uint8_t)(of.edges >> (56 - 8 * i));
	}
	wanted[47] = 1;
	wanted[55] = 1;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, got, sizeof(got)), sizeof(got));
	assert_memory_equal(got, wanted, sizeof(wanted));
	for (int i = 0; i < 4; i++)
		assert_int_equal(got[INDEX_HEADER + i], (uint8_t)(print >> (24 - 8 * i)));
	assert_memory_equal(got + INDEX_HEADER + 32, "\0\0\0\1\0\0\0\0", 8);
}

static void test_without_an_index_it_is_not_found(void **state)
{
	enum index_state how = INDEX_FRESH;

	(void)state;
	make_image(image, 4);
	expect_refused(image, ERROR_NOT_FOUND, "base.qcow2.didx");
	assert_int_equal(index_look(image, &how, NULL), 0);
	assert_int_equal(how, INDEX_NONE);
}

static void set_mtime(const char *path, int64_t seconds)
{
	struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};

	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_an_image_that_was_changed_makes_its_index_stale(void **state)
{
	enum index_state how;

	(void)state;
	make_image(image, 1000);
	set_mtime(image, 1000000);
	build(image, NULL);
	assert_int_equal(index_look(image, &how, NULL), 0);
	assert_int_equal(how, INDEX_FRESH);

	set_mtime(image, 1000001);
	expect_refused(image, ERROR_REQUEST, "has changed");
	assert_int_equal(index_look(image, &how, NULL), 0);
	assert_int_equal(how, INDEX_STALE);

	/* At its beginning and at its end, with the same mtime. */
	for (int i = 0; i < 2; i++) {
		set_mtime(image, 1000000);
		build(image, NULL);
		write_block(image, i ? 999 : 0, 77);
		set_mtime(image, 1000000);
		expect_refused(image, ERROR_REQUEST, "has changed");
	}
	build(image, NULL);
	write_at(image, 1000 * INDEX_BLOCK, "x", 1);
	expect_refused(image, ERROR_REQUEST, "has changed");
	build(image, NULL);
	index_close(open_index(image));
}

static void test_the_index_of_another_image_is_refused(void **state)
{
	cleanup_free char *other = fs_format("%s/other.raw", scratch);
	cleanup_free char *from = index_path(image), *to = index_path(other);

	(void)state;
	make_image(image, 100);
	for (uint64_t i = 0; i < 100; i++)
		write_block(other, i, 100 + i);
	set_mtime(image, 5);
	set_mtime(other, 5);
	build(image, NULL);
	assert_int_equal(rename(from, to), 0);
	expect_refused(other, ERROR_REQUEST, "another image");
}

static void test_a_copy_with_the_same_contents_and_time_may_use_the_same_index(void **state)
{
	cleanup_free char *other = fs_format("%s/other.qcow2", scratch);
	cleanup_free char *from = index_path(image), *to = index_path(other);

	(void)state;
	make_image(image, 100);
	make_image(other, 100);
	set_mtime(image, 5);
	set_mtime(other, 5);
	build(image, NULL);
	assert_int_equal(rename(from, to), 0);
	index_close(open_index(other));
}

static void test_every_number_of_the_header_is_checked(void **state)
{
	/* Offset of the last byte of each number: one more is a wrong one. */
	static const int at[] = {7, 11, 15, 23, 31, 39, 47};
	cleanup_free char *path = index_path(image);
	uint8_t header[INDEX_HEADER_USED];
	cleanup_fd int fd = -1;

	(void)state;
	make_image(image, 100);
	build(image, NULL);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		uint8_t wrong = header[at[i]] + 1;

		write_at(path, (uint64_t)at[i], &wrong, 1);
		expect_refused(image, ERROR_REQUEST, "cannot be used");
		write_at(path, (uint64_t)at[i], &header[at[i]], 1);
	}
	/* More contents than there are slots; 2^64 buckets that seem to fit by overflow. */
	write_at(path, 48, "\0\0\0\0\0\1\0\0", 8);
	expect_refused(image, ERROR_REQUEST, "do not fit");
	write_at(path, 48, header + 48, 8);
	write_at(path, 40, "\4\0\0\0\0\0\0\x1a", 8);
	expect_refused(image, ERROR_REQUEST, "do not fit");
	write_at(path, 40, "\0\0\0\0\0\0\0\0", 8);
	assert_int_equal(ftruncate(fd, INDEX_HEADER), 0);
	expect_refused(image, ERROR_REQUEST, "do not fit");
}

static void test_an_index_of_any_other_length_is_refused(void **state)
{
	static const long cuts[] = {-1, -64, 1, 64};
	cleanup_free char *path = index_path(image);
	struct stat st;

	(void)state;
	make_image(image, 100);
	build(image, NULL);
	assert_int_equal(stat(path, &st), 0);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		assert_int_equal(truncate(path, st.st_size + cuts[i]), 0);
		expect_refused(image, ERROR_REQUEST, "do not fit");
	}
	for (off_t len = 0; len < 56; len += 5) {
		assert_int_equal(truncate(path, len), 0);
		expect_refused(image, ERROR_REQUEST, "no whole file");
	}
}

static void test_what_is_no_regular_file_is_no_index(void **state)
{
	cleanup_free char *path = index_path(image);

	(void)state;
	make_image(image, 4);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_refused(image, ERROR_REQUEST, "no whole file");
	unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	expect_refused(image, ERROR_REQUEST, "cannot open");
}

static void test_a_hostile_table_gives_no_block_that_the_image_has_not(void **state)
{
	static const uint8_t fillings[] = {0xff, 0x01, 0x7f};
	cleanup_free char *path = index_path(image);
	uint8_t table[26 * INDEX_BUCKET];
	uint64_t x = 88172645463325252ull, block;

	(void)state;
	make_image(image, 100);
	build(image, NULL);
	for (int round = 0; round < 20; round++) {
		struct index *index;

		for (size_t i = 0; i < sizeof(table); i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			table[i] = round < 3 ? fillings[round] : (uint8_t)(x & (x >> 8));
		}
		write_at(path, INDEX_HEADER, table, sizeof(table));
		index = open_index(image);
		/* Every tag that is there, in every bucket. */
		for (uint64_t i = 0; i < 26 * 26 * INDEX_SLOTS; i++) {
			uint64_t bucket = i / INDEX_SLOTS / 26;
			uint32_t tag = index_slot(table + i / INDEX_SLOTS % 26 * INDEX_BUCKET, 0,
				(unsigned)(i % INDEX_SLOTS));

			if (index_find(index, ((bucket << 32) / 26 + 1) << 32 | tag, &block))
				assert_true(block < 100);
		}
		assert_false(index_find(index, 0x0102030405060708ull, &block));
		index_close(index);
	}
}

static void test_an_index_that_is_cut_while_it_is_used_gives_misses(void **state)
{
	cleanup_free char *path = index_path(image);
	struct index *index, *other;
	uint64_t block;

	(void)state;
	make_image(image, BLOCKS);
	build(image, NULL);
	index = open_index(image);
	other = open_index(image);
	assert_true(index_find(index, fingerprint_of(3), &block));
	assert_int_equal(truncate(path, 0), 0);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		assert_false(index_find(index, fingerprint_of(i), &block));
		assert_false(index_find(other, fingerprint_of(i), &block));
	}
	index_close(index);
	index_close(other);
	build(image, NULL);
	index = open_index(image);
	assert_true(index_find(index, fingerprint_of(3), &block));
	index_close(index);
}

static void test_an_index_that_is_made_again_while_it_is_used_stays_as_it_was(void **state)
{
	struct index *index;
	uint64_t block;

	(void)state;
	make_image(image, 100);
	build(image, NULL);
	index = open_index(image);
	for (uint64_t i = 0; i < 100; i++)
		write_block(image, i, 1000 + i);
	build(image, NULL);
	assert_true(index_find(index, fingerprint_of(3), &block));
	assert_int_equal(block, 3);
	index_close(index);
}

/* A SIGBUS that is nobody's index's: of a file that somebody else mapped, or sent. */
static void die_of_bus_error(bool sent)
{
	struct rlimit none = {0, 0};
	char *mapped;
	int fd;

	setrlimit(RLIMIT_CORE, &none);
	/* What the compiler's sanitizers or cmocka do with it is not asked here. */
	signal(SIGBUS, SIG_DFL);
	make_image(image, 4);
	build(image, NULL);
	index_close(open_index(image));
	fd = open(image, O_RDONLY | O_CLOEXEC);
	mapped = mmap(NULL, INDEX_BLOCK, PROT_READ, MAP_SHARED, fd, 0);
	if (sent)
		raise(SIGBUS);
	else if (truncate(image, 0) == 0)
		_exit(*(volatile char *)mapped);
	_exit(0);
}

static void test_a_bus_error_of_anything_else_still_ends_the_process(void **state)
{
	(void)state;
	for (int sent = 0; sent < 2; sent++) {
		int status = 0;
		pid_t pid = fork();

		if (pid == 0)
			die_of_bus_error(sent);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGBUS);
	}
}

static void test_building_that_is_stopped_leaves_nothing_and_the_old_index_alone(void **state)
{
	volatile sig_atomic_t stop = SIGINT;
	struct error *err = NULL;
	struct index_built built;

	(void)state;
	make_image(image, 100);
	assert_int_equal(index_build(image, &stop, &built, &err), -1);
	expect_error(&err, ERROR_CANCELLED, "was stopped");
	assert_int_equal(count_files("."), 2); /* "." and ".." */
	assert_int_equal(count_files("base"), 1);
	build(image, NULL);
	assert_int_equal(index_build(image, &stop, &built, &err), -1);
	error_free(&err);
	index_close(open_index(image));
}

static void test_building_that_cannot_write_leaves_nothing(void **state)
{
	cleanup_free char *path = index_path(image);
	struct error *err = NULL;
	struct index_built built;

	(void)state;
	make_image(image, 100);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(index_build(image, NULL, &built, &err), -1);
	expect_error(&err, ERROR_FAILED, "cannot write");
	assert_int_equal(count_files("."), 2);
}

static void test_only_regular_files_are_indexed(void **state)
{
	struct error *err = NULL;
	struct index_built built;

	(void)state;
	assert_int_equal(index_build(image, NULL, &built, &err), -1);
	expect_error(&err, ERROR_NOT_FOUND, "cannot open");
	assert_int_equal(mkfifo(image, 0600), 0);
	assert_int_equal(index_build(image, NULL, &built, &err), -1);
	expect_error(&err, ERROR_DISK, "no regular file");
	assert_int_equal(index_build(scratch, NULL, &built, &err), -1);
	expect_error(&err, ERROR_DISK, "no regular file");
}

static void test_an_index_is_read_by_those_who_read_the_image(void **state)
{
	cleanup_free char *path = index_path(image);
	struct stat of_index;

	(void)state;
	make_image(image, 4);
	assert_int_equal(chmod(image, 0640), 0);
	if (geteuid() == 0)
		assert_int_equal(chown(image, 64055, 64056), 0);
	build(image, NULL);
	assert_int_equal(stat(path, &of_index), 0);
	assert_int_equal(of_index.st_mode & 0777, 0640);
	if (geteuid() == 0) {
		assert_int_equal(of_index.st_uid, 64055);
		assert_int_equal(of_index.st_gid, 64056);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_scratch, remove_scratch)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_every_block_is_found_where_it_is),
		TEST(test_index_takes_less_than_four_thousandths_of_its_image),
		TEST(test_zeros_are_left_out_and_of_repeated_contents_the_first_is_found),
		TEST(test_holes_are_not_read),
		TEST(test_a_block_that_the_image_ends_in_is_left_out),
		TEST(test_an_empty_image_has_an_index_too),
		TEST(test_the_file_is_laid_out_as_documented),
		TEST(test_without_an_index_it_is_not_found),
		TEST(test_an_image_that_was_changed_makes_its_index_stale),
		TEST(test_the_index_of_another_image_is_refused),
		TEST(test_a_copy_with_the_same_contents_and_time_may_use_the_same_index),
		TEST(test_every_number_of_the_header_is_checked),
		TEST(test_an_index_of_any_other_length_is_refused),
		TEST(test_what_is_no_regular_file_is_no_index),
		TEST(test_a_hostile_table_gives_no_block_that_the_image_has_not),
		TEST(test_an_index_that_is_cut_while_it_is_used_gives_misses),
		TEST(test_an_index_that_is_made_again_while_it_is_used_stays_as_it_was),
		TEST(test_a_bus_error_of_anything_else_still_ends_the_process),
		TEST(test_building_that_is_stopped_leaves_nothing_and_the_old_index_alone),
		TEST(test_building_that_cannot_write_leaves_nothing),
		TEST(test_only_regular_files_are_indexed),
		TEST(test_an_index_is_read_by_those_who_read_the_image),
	};

	return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
