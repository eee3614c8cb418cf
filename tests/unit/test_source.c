#include "test_index_support.h"

#include "wire/source.h"

static char other[96];

static int make_images(void **state)
{
	if (make_scratch(state) < 0)
		return -1;
	snprintf(other, sizeof(other), "%s/other.raw", scratch);
	make_image(image, 100);
	for (uint64_t i = 0; i < 50; i++)
		write_block(other, i, 1000 + i);
	build(image, NULL);
	build(other, NULL);
	return 0;
}

static void add(struct source_set *set, const char *name, const char *path, bool with_index)
{
	struct error *err = NULL;

	if (source_set_add(set, name, path, with_index, &err) < 0)
		fail_msg("%s", err->message);
}

static bool read_one(const struct source_set *set, uint8_t source, uint64_t block, uint8_t *page)
{
	return source_set_read(set, source, block, &page, 1) == 1;
}

/* The side that sends, with both images. */
static struct source_set *make_set(void)
{
	struct source_set *set = source_set_open();

	add(set, "images/base.qcow2", image, true);
	add(set, "images/other.raw", other, true);
	return set;
}

static void test_a_page_is_found_and_its_block_read(void **state)
{
	struct source_set *set = make_set();
	uint8_t page[STREAM_PAGE], read[STREAM_PAGE], source;
	uint64_t block, blocks, ns;

	(void)state;
	for (uint64_t i = 1000; i < 1050; i++) {
		make_block(i, page);
		assert_true(source_set_find(set, source_fingerprint(page), &source, &block));
		assert_int_equal(source, 1);
		assert_int_equal(block, i - 1000);
		assert_true(read_one(set, source, block, read));
		assert_memory_equal(read, page, STREAM_PAGE);
	}
	make_block(5000, page);
	assert_false(source_set_find(set, source_fingerprint(page), &source, &block));
	source_set_reading(set, &blocks, &ns);
	assert_int_equal(blocks, 50);
	assert_true(ns > 0);
	source_set_close(set);
}

static void test_blocks_that_follow_each_other_are_read_at_once(void **state)
{
	struct source_set *set = make_set();
	static uint8_t read[SOURCE_RUN + 1][STREAM_PAGE];
	uint8_t *pages[SOURCE_RUN + 1], page[STREAM_PAGE];

	(void)state;
	for (unsigned i = 0; i <= SOURCE_RUN; i++)
		pages[i] = read[SOURCE_RUN - i];
	assert_int_equal(source_set_read(set, 1, 7, pages, SOURCE_RUN + 1), SOURCE_RUN);
	for (unsigned i = 0; i < SOURCE_RUN; i++) {
		make_block(1007 + i, page);
		assert_memory_equal(pages[i], page, STREAM_PAGE);
	}
	/* It has 50. */
	assert_int_equal(source_set_read(set, 1, 47, pages, 8), 3);
	assert_int_equal(source_set_read(set, 1, 50, pages, 8), 0);
	assert_int_equal(source_set_read(set, 1, UINT64_MAX, pages, 8), 0);
	assert_int_equal(source_set_read(set, 1, 0, pages, 0), 0);
	source_set_close(set);
}

static void test_blocks_that_are_not_there_cannot_be_read(void **state)
{
	static const uint64_t numbers[] = {100, 101, 1ull << 52, (1ull << 52) + 1, UINT64_MAX};
	struct source_set *set = make_set();
	uint8_t page[STREAM_PAGE];

	(void)state;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		assert_false(read_one(set, 0, numbers[i], page));
	assert_false(read_one(set, 1, 50, page));
	for (unsigned source = 2; source < 256; source++)
		assert_false(read_one(set, (uint8_t)source, 0, page));
	assert_true(read_one(set, 0, 99, page));
	source_set_close(set);
}

static void test_an_image_that_changes_in_use_gives_another_page_and_never_an_old_one(void **state)
{
	struct source_set *set = make_set();
	uint8_t page[STREAM_PAGE], changed[STREAM_PAGE], read[STREAM_PAGE], source;
	uint64_t block;

	(void)state;
	make_block(7, page);
	make_block(9999, changed);
	write_block(image, 7, 9999);
	assert_true(source_set_find(set, source_fingerprint(page), &source, &block));
	assert_true(read_one(set, source, block, read));
	assert_memory_equal(read, changed, STREAM_PAGE);
	source_set_close(set);
}

static void test_an_image_that_is_cut_in_use_cannot_be_read(void **state)
{
	struct source_set *set = make_set();
	uint8_t page[STREAM_PAGE];

	(void)state;
	assert_int_equal(truncate(image, 50 * STREAM_PAGE + 100), 0);
	assert_true(read_one(set, 0, 49, page));
	assert_false(read_one(set, 0, 50, page));
	assert_false(read_one(set, 0, 99, page));
	source_set_close(set);
}

static void test_an_image_that_is_replaced_in_use_is_read_as_it_was(void **state)
{
	struct source_set *set = make_set();
	uint8_t page[STREAM_PAGE], read[STREAM_PAGE];

	(void)state;
	assert_int_equal(rename(other, image), 0);
	make_block(99, page);
	assert_true(read_one(set, 0, 99, read));
	assert_memory_equal(read, page, STREAM_PAGE);
	source_set_close(set);
}

static void test_only_images_with_a_fresh_index_are_taken_by_the_side_that_sends(void **state)
{
	struct source_set *set = source_set_open();
	cleanup_free char *path = index_path(image);
	struct error *err = NULL;

	(void)state;
	write_block(image, 3, 4000);
	assert_int_equal(source_set_add(set, "a", image, true, &err), -1);
	expect_error(&err, ERROR_REQUEST, "has changed");
	unlink(path);
	assert_int_equal(source_set_add(set, "a", image, true, &err), -1);
	expect_error(&err, ERROR_NOT_FOUND, ".didx");
	assert_int_equal(source_set_add(set, "a", "/nowhere/x", false, &err), -1);
	expect_error(&err, ERROR_DISK, "cannot open");
	assert_int_equal(source_set_add(set, "a", "/dev/null", false, &err), -1);
	expect_error(&err, ERROR_DISK, "no regular file");
	assert_int_equal(source_set_count(set), 0);
	assert_null(source_set_name(set, 0));
	add(set, "a", image, false);
	assert_string_equal(source_set_name(set, 0), "a");
	source_set_close(set);
}

static void test_names_and_their_number_are_bounded(void **state)
{
	struct source_set *set = source_set_open();
	char name[SOURCE_NAME_MAX + 2];
	struct error *err = NULL;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[SOURCE_NAME_MAX + 1] = 0;
	assert_int_equal(source_set_add(set, name, image, false, &err), -1);
	expect_error(&err, ERROR_NAME, "255");
	assert_int_equal(source_set_add(set, "", image, false, &err), -1);
	expect_error(&err, ERROR_NAME, "1 to");
	name[SOURCE_NAME_MAX] = 0;
	for (unsigned i = 0; i < SOURCE_MAX; i++) {
		name[0] = (char)('a' + i);
		add(set, name, image, false);
	}
	assert_int_equal(source_set_add(set, "more", image, false, &err), -1);
	expect_error(&err, ERROR_BUSY, "16");
	assert_int_equal(source_set_add(set, name, image, false, &err), -1);
	expect_error(&err, ERROR_EXISTS, "there already");
	assert_int_equal(source_set_count(set), SOURCE_MAX);
	source_set_close(set);
}

static void test_both_sides_agree_by_name_and_identity(void **state)
{
	struct source_set *source = make_set(), *destination = source_set_open();
	cleanup_free char *third = fs_format("%s/third.raw", scratch);
	uint8_t list[SOURCE_LIST_MAX], page[STREAM_PAGE], read[STREAM_PAGE], number;
	uint32_t usable = 99;
	uint64_t block;
	size_t len;

	(void)state;
	make_image(third, 10);
	build(third, NULL);
	add(source, "images/third.raw", third, true);
	/* The destination has them in another order; one that the source has not; and another image
	 * of the same name. */
	add(destination, "images/third.raw", third, false);
	add(destination, "images/unknown", image, false);
	add(destination, "images/other.raw", third, false);
	add(destination, "images/base.qcow2", image, false);
	len = source_set_encode(source, list);
	assert_int_equal(source_set_agree(destination, list, len, &usable, NULL), 0);
	assert_int_equal(usable, 5);
	source_set_keep(source, usable);
	assert_int_equal(source_set_count(destination), 3);
	assert_string_equal(source_set_name(destination, 0), "images/base.qcow2");
	assert_null(source_set_name(destination, 1));
	assert_string_equal(source_set_name(destination, 2), "images/third.raw");
	assert_null(source_set_name(source, 1));

	make_block(50, page);
	assert_true(source_set_find(source, source_fingerprint(page), &number, &block));
	assert_true(read_one(destination, number, block, read));
	assert_memory_equal(read, page, STREAM_PAGE);
	make_block(1000, page); /* was dropped */
	assert_false(source_set_find(source, source_fingerprint(page), &number, &block));
	assert_false(read_one(destination, 1, 0, read));
	assert_false(source_set_enabled(source, 1));
	source_set_close(source);
	source_set_close(destination);
}

static void test_lists_of_full_sets_fit(void **state)
{
	struct source_set *set = source_set_open();
	uint8_t list[SOURCE_LIST_MAX];
	char name[SOURCE_NAME_MAX + 1];
	uint32_t usable;
	size_t len;

	(void)state;
	memset(name, 'n', sizeof(name));
	name[SOURCE_NAME_MAX] = 0;
	for (unsigned i = 0; i < SOURCE_MAX; i++) {
		name[0] = (char)('a' + i);
		add(set, name, image, false);
	}
	len = source_set_encode(set, list);
	assert_int_equal(len, SOURCE_LIST_MAX);
	assert_int_equal(source_set_agree(set, list, len, &usable, NULL), 0);
	assert_int_equal(usable, 0xffff);
	source_set_close(set);
}

static void expect_list_refused(
	struct source_set *set, const uint8_t *list, size_t len, const char *part)
{
	/* Just as long as it is, so that a look behind its end is seen. */
	uint8_t *copy = malloc(len ? len : 1);
	struct error *err = NULL;
	uint32_t usable = 0;

	memcpy(copy, list, len);
	assert_int_equal(source_set_agree(set, copy, len, &usable, &err), -1);
	expect_error(&err, ERROR_REQUEST, part);
	assert_int_equal(source_set_count(set), 2);
	assert_non_null(source_set_name(set, 0));
	free(copy);
}

static void test_hostile_lists_are_refused_and_change_nothing(void **state)
{
	struct source_set *set = make_set();
	uint8_t list[SOURCE_LIST_MAX + 1], good[SOURCE_LIST_MAX];
	size_t len = source_set_encode(set, good), first = 2 + 2 + strlen("images/base.qcow2") + 24;

	(void)state;
	for (size_t cut = 0; cut < len; cut++)
		expect_list_refused(set, good, cut, "cannot be read");
	memcpy(list, good, len);
	list[len] = 0;
	expect_list_refused(set, list, len + 1, "follows");
	list[1] = 3;
	expect_list_refused(set, list, len, "cut off");
	list[1] = SOURCE_MAX + 1;
	expect_list_refused(set, list, len, "number");
	list[0] = 0xff;
	expect_list_refused(set, list, len, "number");
	memcpy(list, good, len);
	list[2] = 0xff; /* a name of 65,000 bytes */
	expect_list_refused(set, list, len, "cut off");
	memcpy(list, good, len);
	list[6] = 0;
	expect_list_refused(set, list, len, "name is not allowed");
	list[2] = list[3] = 0;
	expect_list_refused(set, list, len, "name is not allowed");
	memcpy(list, good, first);
	memcpy(list + first, good + 2, first - 2);
	expect_list_refused(set, list, 2 * first - 2, "twice");
	source_set_close(set);
}

static void test_a_source_that_is_off_is_not_found_in(void **state)
{
	struct source_set *set = make_set();
	uint8_t page[STREAM_PAGE], number;
	uint64_t block;

	(void)state;
	make_block(7, page);
	assert_true(source_set_enabled(set, 0));
	source_set_enable(set, 0, false);
	assert_false(source_set_enabled(set, 0));
	assert_false(source_set_find(set, source_fingerprint(page), &number, &block));
	assert_true(read_one(set, 0, 7, page));
	source_set_enable(set, 0, true);
	assert_true(source_set_find(set, source_fingerprint(page), &number, &block));
	source_set_enable(set, 77, true);
	assert_false(source_set_enabled(set, 77));
	source_set_close(set);
}

static void test_an_empty_set_finds_nothing(void **state)
{
	struct source_set *set = source_set_open();
	uint8_t list[SOURCE_LIST_MAX], page[STREAM_PAGE], number;
	uint64_t block;
	uint32_t usable = 1;

	(void)state;
	assert_int_equal(source_set_encode(set, list), 2);
	assert_int_equal(source_set_agree(set, list, 2, &usable, NULL), 0);
	assert_int_equal(usable, 0);
	assert_false(source_set_find(set, 0, &number, &block));
	assert_false(read_one(set, 0, 0, page));
	source_set_close(set);
	source_set_close(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_images, remove_scratch)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_page_is_found_and_its_block_read),
		TEST(test_blocks_that_follow_each_other_are_read_at_once),
		TEST(test_blocks_that_are_not_there_cannot_be_read),
		TEST(test_an_image_that_changes_in_use_gives_another_page_and_never_an_old_one),
		TEST(test_an_image_that_is_cut_in_use_cannot_be_read),
		TEST(test_an_image_that_is_replaced_in_use_is_read_as_it_was),
		TEST(test_only_images_with_a_fresh_index_are_taken_by_the_side_that_sends),
		TEST(test_names_and_their_number_are_bounded),
		TEST(test_both_sides_agree_by_name_and_identity),
		TEST(test_lists_of_full_sets_fit),
		TEST(test_hostile_lists_are_refused_and_change_nothing),
		TEST(test_a_source_that_is_off_is_not_found_in),
		TEST(test_an_empty_set_finds_nothing),
	};

	return cmocka_run_group_tests_name("source", tests, NULL, NULL);
}
