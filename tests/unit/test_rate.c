#include "wire/rate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_what_came_first_does_not_count(void **state)
{
	struct rate r = {0};
	struct rate_found found;

	(void)state;
	/* A burst, then a MB each 10 ms. */
	rate_arrived(&r, 50000000, 1000);
	for (int i = 1; i <= 40; i++)
		rate_arrived(&r, 50000000 + (uint64_t)i * 1000000, 1000 + i * 10000);
	found = rate_find(&r);
	assert_int_equal(found.bps, 100000000);
	assert_int_equal(found.least_bps, 100000000);
	assert_int_equal(found.most_bps, 100000000);
}

static void test_a_rate_that_changes_has_a_least_and_a_most(void **state)
{
	struct rate r = {0};
	struct rate_found found;
	uint64_t bytes = 1;

	(void)state;
	for (int i = 0; i <= 40; i++, bytes += i <= 30 ? 1000000 : 500000)
		rate_arrived(&r, bytes, 5 + i * 10000);
	found = rate_find(&r);
	assert_int_equal(found.least_bps, 50000000);
	assert_int_equal(found.most_bps, 100000000);
	assert_true(found.bps > found.least_bps && found.bps < found.most_bps);
}

static void test_too_little_tells_nothing(void **state)
{
	struct rate r = {0};

	(void)state;
	assert_int_equal(rate_find(&r).bps, 0);
	rate_arrived(&r, 1000, 0);
	assert_int_equal(rate_find(&r).bps, 0);
	rate_arrived(&r, 2000, RATE_LEAST_US - 1);
	assert_int_equal(rate_find(&r).bps, 0);
}

static void test_few_tell_all_the_same(void **state)
{
	struct rate r = {0};

	(void)state;
	rate_arrived(&r, 1000000, 0);
	rate_arrived(&r, 5000000, 4000);
	assert_int_equal(rate_find(&r).bps, 1000000000);
	assert_int_equal(rate_find(&r).least_bps, 1000000000);
}

static void test_only_so_many_are_kept(void **state)
{
	struct rate r = {0};

	(void)state;
	for (unsigned i = 1; i <= 2 * RATE_POINTS; i++)
		rate_arrived(&r, i * 1000, (int64_t)i * RATE_STEP_US);
	assert_int_equal(r.count, RATE_POINTS);
	assert_int_equal(rate_find(&r).bps, 1000 * 1000000ll / RATE_STEP_US);
	/* One that says less than another, or comes at once after it. */
	r.count = 10;
	rate_arrived(&r, 1, 1000000000);
	rate_arrived(&r, 11000, r.points[9].us + 1);
	assert_int_equal(r.count, 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_came_first_does_not_count),
		cmocka_unit_test(test_a_rate_that_changes_has_a_least_and_a_most),
		cmocka_unit_test(test_too_little_tells_nothing),
		cmocka_unit_test(test_few_tell_all_the_same),
		cmocka_unit_test(test_only_so_many_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
