#include "migrate/converge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_an_idle_guest_is_asked_for_little(void **state)
{
	(void)state;
	assert_int_equal(converge_downtime_ms(300, 1), 30);
	assert_int_equal(converge_downtime_ms(300, 2), 30);
	assert_int_equal(converge_downtime_ms(100, 1), 20);
}

static void test_the_limit_grows_with_rounds_up_to_the_users(void **state)
{
	(void)state;
	assert_int_equal(converge_downtime_ms(300, 3), 60);
	assert_int_equal(converge_downtime_ms(300, 5), 240);
	assert_int_equal(converge_downtime_ms(300, 6), 300);
	assert_int_equal(converge_downtime_ms(300, 1000000), 300);
}

static void test_a_limit_below_the_first_step_is_kept(void **state)
{
	(void)state;
	assert_int_equal(converge_downtime_ms(5, 1), 5);
	assert_int_equal(converge_downtime_ms(5, 9), 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_idle_guest_is_asked_for_little),
		cmocka_unit_test(test_the_limit_grows_with_rounds_up_to_the_users),
		cmocka_unit_test(test_a_limit_below_the_first_step_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
