#include "wire/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGES (CACHE_MIN / STREAM_PAGE)

static uint8_t page[STREAM_PAGE];

static struct page_cache *open_cache(uint64_t size)
{
	struct page_cache *c = page_cache_open(size, NULL);

	assert_non_null(c);
	return c;
}

static void put_once(struct page_cache *c, uint8_t block, uint64_t number, unsigned contents)
{
	memset(page, (int)contents, sizeof(page));
	page_cache_put(c, block, number * STREAM_PAGE, page);
}

/* Sent twice, which is when a page is kept. */
static void put(struct page_cache *c, uint8_t block, uint64_t number, unsigned contents)
{
	put_once(c, block, number, ~contents);
	put_once(c, block, number, contents);
}

static bool holds(struct page_cache *c, uint8_t block, uint64_t number, unsigned contents)
{
	const uint8_t *kept = page_cache_find(c, block, number * STREAM_PAGE);

	memset(page, (int)contents, sizeof(page));
	return kept && !memcmp(kept, page, sizeof(page));
}

static size_t count_kept(struct page_cache *c, uint64_t first, uint64_t end)
{
	size_t count = 0;

	for (; first < end; first++)
		count += page_cache_find(c, 0, first * STREAM_PAGE) != NULL;
	return count;
}

static void test_a_page_is_found_under_its_block_and_address_only(void **state)
{
	struct page_cache *c = open_cache(CACHE_MIN);

	(void)state;
	assert_null(page_cache_find(c, 0, 0));
	put(c, 0, 0, 1);
	put(c, 1, 0, 2);
	put(c, 254, 0xfffffffffffff, 3);
	assert_true(holds(c, 0, 0, 1));
	assert_true(holds(c, 1, 0, 2));
	assert_true(holds(c, 254, 0xfffffffffffff, 3));
	assert_null(page_cache_find(c, 2, 0));
	assert_null(page_cache_find(c, 0, STREAM_PAGE));
	page_cache_close(c);
}

static void test_a_new_version_replaces_the_old_one(void **state)
{
	struct page_cache *c = open_cache(CACHE_MIN);

	(void)state;
	put(c, 0, 7, 1);
	put(c, 0, 7, 2);
	assert_true(holds(c, 0, 7, 2));
	page_cache_close(c);
}

static void test_a_dropped_page_is_gone_and_its_room_is_used_again(void **state)
{
	struct page_cache *c = open_cache(CACHE_MIN);

	(void)state;
	/* More of them than there is room for: each comes, and goes again. */
	for (unsigned i = 0; i < 10 * PAGES; i++) {
		put(c, 0, i, i);
		assert_true(holds(c, 0, i, i));
		page_cache_drop(c, 0, i * (uint64_t)STREAM_PAGE);
		page_cache_drop(c, 0, i * (uint64_t)STREAM_PAGE);
		assert_null(page_cache_find(c, 0, i * (uint64_t)STREAM_PAGE));
	}
	page_cache_close(c);
}

static void test_pages_in_a_row_fill_nearly_all_of_it(void **state)
{
	struct page_cache *c = open_cache(64 * CACHE_MIN);

	(void)state;
	for (unsigned i = 0; i < 64 * PAGES; i++)
		put(c, 0, i, i);
	assert_in_range(count_kept(c, 0, 64 * PAGES), 60 * PAGES, 64 * PAGES);
	page_cache_close(c);
}

static void test_pages_that_are_sent_once_are_not_kept_and_displace_nothing(void **state)
{
	struct page_cache *c = open_cache(CACHE_MIN);

	(void)state;
	for (unsigned i = 0; i < PAGES / 2; i++) {
		put_once(c, 0, i, i);
		assert_null(page_cache_find(c, 0, i * (uint64_t)STREAM_PAGE));
		put_once(c, 0, i, i);
		assert_true(holds(c, 0, i, i));
	}
	for (unsigned i = PAGES; i < 100 * PAGES; i++)
		put_once(c, 0, i, i);
	assert_int_equal(count_kept(c, 0, PAGES / 2), PAGES / 2);
	assert_int_equal(count_kept(c, PAGES, 100 * PAGES), 0);
	page_cache_close(c);
}

/* Sends the pages as batch_plan does, as differences when they are kept; returns how many were. */
static size_t send_round(struct page_cache *c, uint64_t first, uint64_t end)
{
	size_t kept = 0;

	for (; first < end; first++)
		if (page_cache_find(c, 0, first * STREAM_PAGE)) {
			page_cache_renew(c, 0, first * STREAM_PAGE);
			kept++;
		} else {
			put_once(c, 0, first, 0);
		}
	return kept;
}

static void test_pages_that_come_again_displace_those_that_do_not_any_more(void **state)
{
	struct page_cache *c = open_cache(CACHE_MIN);

	(void)state;
	for (unsigned round = 0; round < 10; round++)
		send_round(c, 0, PAGES);
	assert_in_range(count_kept(c, 0, PAGES), PAGES * 9 / 10, PAGES);
	for (unsigned round = 0; round < 20; round++)
		send_round(c, PAGES, PAGES + PAGES / 2);
	assert_in_range(send_round(c, PAGES, PAGES + PAGES / 2), PAGES * 9 / 20, PAGES / 2);
	page_cache_close(c);
}

static void test_more_pages_that_come_again_than_it_holds_do_not_chase_each_other_out(void **state)
{
	struct page_cache *c = open_cache(CACHE_MIN);
	size_t kept = 0;

	(void)state;
	for (unsigned round = 0; round < 20; round++)
		send_round(c, 0, 2 * PAGES);
	for (unsigned round = 0; round < 20; round++)
		kept += send_round(c, 0, 2 * PAGES);
	/* Half of them fit; replacing the oldest always would find none at all. */
	assert_in_range(kept, 20 * PAGES * 7 / 10, 20 * PAGES);
	page_cache_close(c);
}

static void test_equal_operations_make_equal_caches(void **state)
{
	struct page_cache *a = open_cache(CACHE_MIN), *b = open_cache(CACHE_MIN);
	uint64_t random = 1;

	(void)state;
	for (unsigned i = 0; i < 100000; i++) {
		uint8_t block;
		uint64_t number;

		random = random * 6364136223846793005u + 1442695040888963407u;
		block = random >> 60 & 1;
		number = (random >> 33) % (random >> 63 ? 3 * PAGES : PAGES / 2);
		if (random >> 58 & 3) {
			put_once(a, block, number, i);
			put_once(b, block, number, i);
		} else {
			page_cache_drop(a, block, number * STREAM_PAGE);
			page_cache_drop(b, block, number * STREAM_PAGE);
		}
		/* Looking something up, at one end only, changes nothing. */
		page_cache_find(a, block, number * STREAM_PAGE);
	}
	for (unsigned i = 0; i < 2 * 3 * PAGES; i++) {
		const uint8_t *x = page_cache_find(a, i & 1, i / 2 * (uint64_t)STREAM_PAGE);
		const uint8_t *y = page_cache_find(b, i & 1, i / 2 * (uint64_t)STREAM_PAGE);

		assert_int_equal(!x, !y);
		assert_true(!x || !memcmp(x, y, STREAM_PAGE));
	}
	page_cache_close(a);
	page_cache_close(b);
}

static void test_sizes_outside_the_bounds_are_refused(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_null(page_cache_open(CACHE_MIN - 1, &err));
	assert_int_equal(err->kind, ERROR_USAGE);
	error_free(&err);
	assert_null(page_cache_open(CACHE_MAX + 1, NULL));
	assert_null(page_cache_open(0, NULL));
	page_cache_close(NULL);
}

static long resident_pages(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, resident = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld %ld", &size, &resident) != 2)
		resident = -1;
	fclose(f);
	return resident;
}

static void test_memory_is_taken_as_it_is_used(void **state)
{
	long before = resident_pages();
	struct page_cache *c;

	(void)state;
	if (before < 0)
		skip();
	c = open_cache(CACHE_MAX);
	for (unsigned i = 0; i < 16 * PAGES; i++)
		put(c, 0, i, i);
	/* 16 MiB of pages; all sets (64 MiB) may be touched, not the 16 GiB. */
	assert_in_range((resident_pages() - before) * sysconf(_SC_PAGESIZE) >> 20, 0, 100);
	page_cache_close(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_page_is_found_under_its_block_and_address_only),
		cmocka_unit_test(test_a_new_version_replaces_the_old_one),
		cmocka_unit_test(test_a_dropped_page_is_gone_and_its_room_is_used_again),
		cmocka_unit_test(test_pages_in_a_row_fill_nearly_all_of_it),
		cmocka_unit_test(test_pages_that_are_sent_once_are_not_kept_and_displace_nothing),
		cmocka_unit_test(test_pages_that_come_again_displace_those_that_do_not_any_more),
		cmocka_unit_test(
			test_more_pages_that_come_again_than_it_holds_do_not_chase_each_other_out),
		cmocka_unit_test(test_equal_operations_make_equal_caches),
		cmocka_unit_test(test_sizes_outside_the_bounds_are_refused),
		cmocka_unit_test(test_memory_is_taken_as_it_is_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
