#include "migrate/estimate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MB 1e6
#define GIB (1ull << 30)

/* An idle guest of 1 GiB, of which a fourth is in use, on a quiet machine with a link of 1 Gbit/s.
 */
static struct estimate_input idle(void)
{
	struct estimate_input in = {.memory_bytes = GIB,
		.processors = 2,
		.load = 0.2,
		.link_bps = {110 * MB, 122 * MB},
		.places = 256,
		.levels_count = 2,
		.sample_cpu_ns = 1e7,
		.sample_wall_ns = 1e7,
		.window_ms = 400,
		.seen_again = 4096,
		.dirty_bps = 0,
		.dirty_step_bps = 1 << 20,
		.downtime_limit_ms = 300};

	in.levels[0] = (struct estimate_pages){.pages = 4096,
		.bytes = 500e3,
		.ns = 3e6,
		.zero = 3072,
		.reference = 460,
		.data = 564};
	in.levels[1] = in.levels[0];
	in.levels[1].bytes = 450e3;
	in.levels[1].ns = 30e6;
	return in;
}

static struct estimate make(const struct estimate_input *in)
{
	struct estimate e;

	estimate_make(in, &e);
	return e;
}

static void assert_ordered(const struct estimate_range *r)
{
	assert_false(isnan(r->low) || isnan(r->high));
	assert_true(r->low >= 0);
	assert_true(r->low <= r->high);
}

static void assert_sane(const struct estimate *e)
{
	if (e->time_known)
		assert_ordered(&e->total_ms);
	if (e->bytes_known)
		assert_ordered(&e->wire_bytes);
	if (e->downtime_known)
		assert_ordered(&e->downtime_ms);
	assert_true(e->reasons_count <= ESTIMATE_REASONS);
}

static bool says(const struct estimate *e, const char *text)
{
	for (int i = 0; i < e->reasons_count; i++)
		if (strstr(e->because[i], text))
			return true;
	return false;
}

static void test_an_idle_guest_converges_in_a_narrow_range(void **state)
{
	struct estimate_input in = idle();
	struct estimate e = make(&in);

	(void)state;
	assert_sane(&e);
	assert_int_equal(e.converges, ESTIMATE_YES);
	assert_true(e.time_known && e.bytes_known && e.downtime_known);
	/* 32 MB at level 1. */
	assert_true(e.wire_bytes.low < 32 * MB && e.wire_bytes.high > 32 * MB);
	assert_true(e.wire_bytes.high < 2.5 * e.wire_bytes.low);
	assert_true(e.total_ms.low > 300 && e.total_ms.high < 2500);
}

static void test_a_slow_link_is_what_the_time_goes_by(void **state)
{
	struct estimate_input in = idle();
	struct estimate e;

	(void)state;
	in.link_bps = (struct estimate_range){1.2 * MB, 1.25 * MB};
	e = make(&in);
	assert_int_equal(e.converges, ESTIMATE_YES);
	/* 28.8 to 32 MB at 1.25 MB/s. */
	assert_true(e.total_ms.low < 26e3 && e.total_ms.high > 23e3);
	/* What it might change meanwhile makes it longer. */
	in.paused = true;
	e = make(&in);
	assert_true(e.total_ms.high < 2.5 * e.total_ms.low);
}

/* Changes so many MB/s, each page whole and of what cannot be compressed. */
static struct estimate_input dirty(double mb)
{
	struct estimate_input in = idle();
	double pages = mb * MB * 0.4 / 4096 * in.seen_again / (GIB / 4096);

	in.dirty_bps = mb * MB;
	in.whole = (struct estimate_pages){
		.pages = pages, .bytes = pages * 4100, .ns = pages * 1000, .data = pages};
	in.difference = in.whole;
	return in;
}

static void test_a_guest_that_changes_faster_than_the_link_does_not_converge(void **state)
{
	struct estimate_input in = dirty(400);
	struct estimate e;

	(void)state;
	in.link_bps = (struct estimate_range){11 * MB, 12.5 * MB};
	e = make(&in);
	assert_sane(&e);
	assert_int_equal(e.converges, ESTIMATE_NO);
	assert_false(e.time_known || e.bytes_known || e.downtime_known);
	assert_true(says(&e, "--postcopy"));
	assert_true(says(&e, "faster than it is sent"));
}

static void test_post_copy_and_a_pause_end_what_does_not_converge(void **state)
{
	struct estimate_input in = dirty(400);
	struct estimate e;

	(void)state;
	in.link_bps = (struct estimate_range){11 * MB, 12.5 * MB};
	in.postcopy = true;
	in.postcopy_rounds = 1;
	e = make(&in);
	assert_sane(&e);
	assert_int_equal(e.converges, ESTIMATE_YES);
	assert_true(e.time_known && isfinite(e.total_ms.high));
	in.postcopy_rounds = 0;
	assert_int_equal(make(&in).converges, ESTIMATE_YES);
	in.postcopy = false;
	in.pause = true;
	e = make(&in);
	assert_int_equal(e.converges, ESTIMATE_YES);
	/* It stands still for all of the one round. */
	assert_true(e.downtime_ms.low > 1500 && e.downtime_ms.high < e.total_ms.high);
}

static void test_near_the_link_s_rate_it_is_not_sure(void **state)
{
	struct estimate_input in = dirty(60);
	struct estimate e;

	(void)state;
	in.link_bps = (struct estimate_range){40 * MB, 80 * MB};
	e = make(&in);
	assert_sane(&e);
	assert_int_equal(e.converges, ESTIMATE_UNSURE);
	assert_true(e.time_known && isinf(e.total_ms.high));
	assert_true(says(&e, "about as fast as it is sent"));
}

static void test_a_zero_link_is_no_division(void **state)
{
	struct estimate_input in = idle();
	struct estimate e;

	(void)state;
	in.link_bps = (struct estimate_range){0, 0};
	e = make(&in);
	assert_sane(&e);
	in = dirty(50);
	in.link_bps = (struct estimate_range){0, 0};
	e = make(&in);
	assert_sane(&e);
	assert_int_equal(e.converges, ESTIMATE_NO);
}

static void test_what_is_not_known_is_said(void **state)
{
	struct estimate_input in = idle();
	struct estimate e, whole = make(&in);

	(void)state;
	strcpy(in.no_link, "it was cut");
	e = make(&in);
	assert_sane(&e);
	assert_false(e.time_known);
	assert_true(e.bytes_known);
	assert_true(says(&e, "it was cut"));
	in = idle();
	strcpy(in.no_sample, "nobody looked");
	e = make(&in);
	assert_sane(&e);
	assert_true(says(&e, "nobody looked"));
	assert_true(e.wire_bytes.low < whole.wire_bytes.low);
	assert_true(e.wire_bytes.high > whole.wire_bytes.high);
	assert_true(e.total_ms.high > whole.total_ms.high);
	strcpy(in.no_dirty, "nobody watched");
	e = make(&in);
	assert_sane(&e);
	assert_true(says(&e, "nobody watched"));
	assert_int_equal(e.converges, ESTIMATE_UNSURE);
}

static void test_a_paused_guest_changes_nothing(void **state)
{
	struct estimate_input in = dirty(400);
	struct estimate e;

	(void)state;
	in.paused = true;
	in.link_bps = (struct estimate_range){11 * MB, 12.5 * MB};
	strcpy(in.no_dirty, "not asked");
	e = make(&in);
	assert_sane(&e);
	assert_int_equal(e.converges, ESTIMATE_YES);
	assert_true(says(&e, "paused"));
	assert_false(says(&e, "not asked"));
}

static void test_a_busy_machine_widens_the_time(void **state)
{
	struct estimate_input in = idle();
	struct estimate quiet = make(&in), busy;

	(void)state;
	in.load = 8;
	in.sample_wall_ns = 3e7;
	busy = make(&in);
	assert_true(busy.total_ms.high > quiet.total_ms.high);
	assert_true(says(&busy, "others use the processors"));
	assert_false(says(&quiet, "others use the processors"));
}

static void test_a_bandwidth_bounds_the_stream(void **state)
{
	struct estimate_input in = idle();
	struct estimate e;

	(void)state;
	in.bandwidth_bps = (int64_t)(10 * MB);
	e = make(&in);
	/* A fourth of a GiB of stream at 10 MB/s. */
	assert_true(e.total_ms.low > 20e3 && e.total_ms.low < 27e3);
}

static void test_a_bandwidth_that_keeps_it_from_an_end_is_named(void **state)
{
	struct estimate_input in = dirty(20);
	struct estimate e;

	(void)state;
	assert_int_equal(make(&in).converges, ESTIMATE_YES);
	in.bandwidth_bps = (int64_t)(2 * MB);
	e = make(&in);
	assert_int_equal(e.converges, ESTIMATE_NO);
	assert_true(says(&e, "a --bandwidth above 2.0 MB/s"));
	assert_true(says(&e, "--pause moves it standing still"));
	/* One that the link keeps from it gains nothing by another limit. */
	in = dirty(400);
	in.link_bps = (struct estimate_range){11 * MB, 12.5 * MB};
	in.bandwidth_bps = (int64_t)(100 * MB);
	e = make(&in);
	assert_int_equal(e.converges, ESTIMATE_NO);
	assert_false(says(&e, "--bandwidth"));
}

static void test_a_time_limit_that_is_too_short_is_said(void **state)
{
	struct estimate_input in = idle();
	struct estimate e;

	(void)state;
	in.timeout_ms = 100;
	e = make(&in);
	assert_true(says(&e, "--timeout"));
}

/* Everything that it is given may be as wrong as it can be. */
static void test_absurd_values_give_ranges_all_the_same(void **state)
{
	static const double values[] = {0, 1, 4096, 1e6, 1e12, 1e15, -1, INFINITY, NAN};
	size_t n = sizeof(values) / sizeof(*values);

	(void)state;
	for (size_t i = 0; i < n * n * n; i++) {
		struct estimate_input in = idle();
		double a = values[i % n], b = values[i / n % n], c = values[i / n / n];
		struct estimate e;

		in.link_bps = (struct estimate_range){a, a};
		in.levels[0] = (struct estimate_pages){
			.pages = b, .bytes = c, .ns = a, .zero = c, .reference = b, .data = c};
		in.whole = (struct estimate_pages){.pages = c, .bytes = a, .ns = b};
		in.difference = in.whole;
		in.seen_again = b;
		in.places = c;
		in.load = a;
		in.sample_cpu_ns = b;
		in.sample_wall_ns = c;
		in.dirty_bps = b;
		in.dirty_step_bps = c;
		in.pause = i % 2;
		in.postcopy = !in.pause && i % 3;
		e = make(&in);
		assert_sane(&e);
		json_decref(estimate_json(&e));
	}
}

static void test_no_memory_at_all(void **state)
{
	struct estimate_input in = idle();
	struct estimate e;

	(void)state;
	in.memory_bytes = 0;
	e = make(&in);
	assert_sane(&e);
	in.memory_bytes = UINT64_MAX;
	e = make(&in);
	assert_sane(&e);
}

static json_t *read(const char *text)
{
	json_t *json = json_loads(text, 0, NULL);

	assert_non_null(json);
	return json;
}

static bool inside(const json_t *compared, const char *key, int off)
{
	const json_t *one = json_object_get(compared, key);

	assert_int_equal(json_integer_value(json_object_get(one, "off_percent")), off);
	return json_is_true(json_object_get(one, "inside"));
}

static void test_a_report_is_compared_with_it(void **state)
{
	json_t *e =
		read("{\"total_ms\":[1000,2000],\"wire_bytes\":[10,null],\"downtime_ms\":null}");
	json_t *report = read("{\"total_ms\":2500,\"wire_bytes\":99,\"downtime_ms\":5}");
	json_t *early = read("{\"total_ms\":500,\"wire_bytes\":5}"), *c;

	(void)state;
	c = estimate_compare(e, report);
	assert_false(inside(c, "total_ms", 25));
	assert_true(inside(c, "wire_bytes", 0));
	assert_null(json_object_get(c, "downtime_ms"));
	json_decref(c);
	c = estimate_compare(e, early);
	assert_false(inside(c, "total_ms", -50));
	assert_false(inside(c, "wire_bytes", -50));
	json_decref(c);
	json_decref(e);
	json_decref(report);
	json_decref(early);
}

static void test_what_has_no_end_is_null_in_json(void **state)
{
	struct estimate e = {.time_known = true,
		.total_ms = {1234.4, INFINITY},
		.converges = ESTIMATE_UNSURE,
		.reasons_count = 1,
		.because = {"so"}};
	json_t *json = estimate_json(&e);
	const json_t *total = json_object_get(json, "total_ms");
	char *text = estimate_text(json);

	(void)state;
	assert_int_equal(json_integer_value(json_array_get(total, 0)), 1234);
	assert_true(json_is_null(json_array_get(total, 1)));
	assert_true(json_is_null(json_object_get(json, "wire_bytes")));
	assert_string_equal(json_string_value(json_object_get(json, "converges")), "unsure");
	assert_string_equal(text, "1.2 s or more; converges: unsure");
	free(text);
	json_decref(json);
}

static void test_a_guest_that_moves_as_files_stands_still_for_all_of_it(void **state)
{
	struct estimate_input in = idle();
	struct estimate e, slow, unknown;

	(void)state;
	in.files = in.pause = true;
	in.files_bps = (struct estimate_range){100 * MB, 400 * MB};
	e = make(&in);
	assert_sane(&e);
	assert_true(e.downtime_known && e.converges == ESTIMATE_YES);
	/* Written here and read there, whatever the link does. */
	assert_true(e.downtime_ms.low > 2 * 1e3 * GIB / (400 * MB));
	assert_true(e.downtime_ms.high > 2 * 1e3 * GIB / (200 * MB));
	in.files_bps = (struct estimate_range){20 * MB, 40 * MB};
	slow = make(&in);
	assert_true(slow.downtime_ms.low > e.downtime_ms.high);
	snprintf(in.no_room, sizeof(in.no_room), "there is none");
	unknown = make(&in);
	assert_sane(&unknown);
	assert_true(unknown.downtime_ms.high / unknown.downtime_ms.low >
		    e.downtime_ms.high / e.downtime_ms.low);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_idle_guest_converges_in_a_narrow_range),
		cmocka_unit_test(test_a_slow_link_is_what_the_time_goes_by),
		cmocka_unit_test(test_a_guest_that_changes_faster_than_the_link_does_not_converge),
		cmocka_unit_test(test_post_copy_and_a_pause_end_what_does_not_converge),
		cmocka_unit_test(test_near_the_link_s_rate_it_is_not_sure),
		cmocka_unit_test(test_a_zero_link_is_no_division),
		cmocka_unit_test(test_what_is_not_known_is_said),
		cmocka_unit_test(test_a_paused_guest_changes_nothing),
		cmocka_unit_test(test_a_busy_machine_widens_the_time),
		cmocka_unit_test(test_a_bandwidth_bounds_the_stream),
		cmocka_unit_test(test_a_bandwidth_that_keeps_it_from_an_end_is_named),
		cmocka_unit_test(test_a_time_limit_that_is_too_short_is_said),
		cmocka_unit_test(test_absurd_values_give_ranges_all_the_same),
		cmocka_unit_test(test_no_memory_at_all),
		cmocka_unit_test(test_a_guest_that_moves_as_files_stands_still_for_all_of_it),
		cmocka_unit_test(test_a_report_is_compared_with_it),
		cmocka_unit_test(test_what_has_no_end_is_null_in_json),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
