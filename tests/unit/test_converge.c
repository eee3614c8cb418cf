#include "migrate/converge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_an_idle_guest_is_asked_for_little(void **state)
{
	(void)state;
	assert_int_equal(converge_downtime_ms(300, 1), 20);
	assert_int_equal(converge_downtime_ms(300, 2), 20);
	assert_int_equal(converge_downtime_ms(100, 1), 20);
}

static void test_the_limit_grows_with_rounds_up_to_the_users(void **state)
{
	(void)state;
	assert_int_equal(converge_downtime_ms(300, 3), 40);
	assert_int_equal(converge_downtime_ms(300, 5), 160);
	assert_int_equal(converge_downtime_ms(300, 6), 300);
	assert_int_equal(converge_downtime_ms(300, 1000000), 300);
}

static void test_a_limit_below_the_first_step_is_kept(void **state)
{
	(void)state;
	assert_int_equal(converge_downtime_ms(5, 1), 5);
	assert_int_equal(converge_downtime_ms(5, 9), 5);
}

static void test_the_user_says_after_how_many_rounds_to_switch(void **state)
{
	(void)state;
	assert_false(converge_needs_postcopy(1, 1, 0, 1000));
	assert_true(converge_needs_postcopy(1, 2, 1000, 1));
	assert_false(converge_needs_postcopy(5, 5, 1000, 1000));
	assert_true(converge_needs_postcopy(5, 6, 1000, 1000));
}

static void test_a_guest_that_leaves_less_each_round_is_not_switched(void **state)
{
	(void)state;
	assert_false(converge_needs_postcopy(0, 4, 1000, 700));
	assert_false(converge_needs_postcopy(0, 50, 1000, 800));
	assert_false(converge_needs_postcopy(0, 4, 1000, 0));
}

static void test_a_guest_that_leaves_as_much_as_before_is_switched(void **state)
{
	(void)state;
	assert_true(converge_needs_postcopy(0, 4, 1000, 1000));
	assert_true(converge_needs_postcopy(0, 4, 1000, 810));
	assert_true(converge_needs_postcopy(0, 4, 1000, 2000));
	assert_true(converge_needs_postcopy(0, 9, INT64_MAX, INT64_MAX));
}

static void test_the_first_rounds_tell_nothing_yet(void **state)
{
	(void)state;
	for (int round = 1; round <= CONVERGE_ROUNDS; round++)
		assert_false(converge_needs_postcopy(0, round, 1000, 2000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_idle_guest_is_asked_for_little),
		cmocka_unit_test(test_the_limit_grows_with_rounds_up_to_the_users),
		cmocka_unit_test(test_a_limit_below_the_first_step_is_kept),
		cmocka_unit_test(test_the_user_says_after_how_many_rounds_to_switch),
		cmocka_unit_test(test_a_guest_that_leaves_less_each_round_is_not_switched),
		cmocka_unit_test(test_a_guest_that_leaves_as_much_as_before_is_switched),
		cmocka_unit_test(test_the_first_rounds_tell_nothing_yet),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
