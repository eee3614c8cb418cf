/*
 * The QMP client: answers, refusals, events, and what is no JSON.
 */
#include "test_qmp_support.h"

static void test_answers_find_their_commands_in_any_order(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running a, b;
	json_int_t ida, idb;

	(void)state;
	start(&a, q, "first");
	ida = hear(&f, "first");
	start(&b, q, "second");
	idb = hear(&f, "second");
	answer(&f, idb, "{\"n\": 2}");
	finish(&b);
	answer(&f, ida, "{\"n\": 1}");
	finish(&a);
	assert_int_equal(a.rc, 0);
	assert_int_equal(json_integer_value(json_object_get(a.result, "n")), 1);
	assert_int_equal(json_integer_value(json_object_get(b.result, "n")), 2);
	json_free(&a.result);
	json_free(&b.result);
	hang_up(&f);
	qmp_close(q);
}

static void test_a_refusal_gives_qemus_words(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running a;
	char line[256];

	(void)state;
	start(&a, q, "cont");
	snprintf(line, sizeof(line),
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\nway\"}, \"id\": "
		"%lld}\r\n",
		(long long)hear(&f, "cont"));
	say(&f, line);
	finish(&a);
	assert_int_equal(a.rc, -1);
	assert_int_equal(a.err->kind, ERROR_HYPERVISOR);
	assert_string_equal(a.err->message, "VM web1: QEMU refuses cont: no?way");
	error_free(&a.err);
	hang_up(&f);
	qmp_close(q);
}

static void test_an_answer_after_the_deadline_is_dropped(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct error *err = NULL;
	struct running b;
	json_int_t late;

	(void)state;
	assert_int_equal(qmp_run(q, "slow", NULL, clock_ms() + 20, NULL, &err), -1);
	assert_int_equal(err->kind, ERROR_TIMEOUT);
	error_free(&err);
	late = hear(&f, "slow");
	start(&b, q, "next");
	answer(&f, late, "{\"n\": 1}");
	answer(&f, hear(&f, "next"), "{\"n\": 2}");
	finish(&b);
	assert_int_equal(json_integer_value(json_object_get(b.result, "n")), 2);
	json_free(&b.result);
	hang_up(&f);
	qmp_close(q);
}

static void test_a_closed_connection_wakes_everybody(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running a, b;
	struct error *err = NULL;

	(void)state;
	start(&a, q, "one");
	hear(&f, "one");
	start(&b, q, "two");
	hear(&f, "two");
	hang_up(&f);
	finish(&a);
	finish(&b);
	assert_int_equal(a.err->kind, ERROR_NOT_RUNNING);
	assert_int_equal(b.err->kind, ERROR_NOT_RUNNING);
	error_free(&a.err);
	error_free(&b.err);
	assert_true(qmp_ended(q));
	assert_false(qmp_wait_event(q, 0, clock_ms() + LONG_MS, NULL));
	assert_int_equal(qmp_run(q, "three", NULL, clock_ms() + LONG_MS, NULL, &err), -1);
	assert_int_equal(err->kind, ERROR_NOT_RUNNING);
	error_free(&err);
	qmp_close(q);
}

static void test_events_are_numbered_and_waited_for(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct qmp_event e = {0};

	(void)state;
	assert_int_equal(qmp_event_seq(q), 0);
	assert_false(qmp_wait_event(q, 0, clock_ms() + 10, &e));
	say(&f, "{\"event\": \"STOP\"}\r\n{\"event\": \"MIGRATION\", \"data\": {\"status\": \"se");
	say(&f, "tup\"}}\r\n");
	assert_true(qmp_wait_event(q, 0, clock_ms() + LONG_MS, &e));
	assert_int_equal(e.seq, 1);
	assert_string_equal(e.name, "STOP");
	assert_null(e.data);
	assert_true(qmp_wait_event(q, 1, clock_ms() + LONG_MS, &e));
	assert_int_equal(e.seq, 2);
	assert_string_equal(json_string_value(json_object_get(e.data, "status")), "setup");
	json_free(&e.data);
	assert_false(qmp_wait_event(q, 2, clock_ms() + 10, &e));
	assert_true(qmp_last_event(q, "STOP", &e));
	assert_int_equal(e.seq, 1);
	assert_false(qmp_last_event(q, "RESUME", &e));
	hang_up(&f);
	qmp_close(q);
}

static void test_a_storm_of_events_keeps_the_newest(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct qmp_event e = {0};

	(void)state;
	say_many(&f, "{\"event\": \"X\", \"data\": {}}\n", QMP_EVENTS_KEPT * 3);
	assert_true(qmp_wait_event(q, QMP_EVENTS_KEPT * 3 - 1, clock_ms() + LONG_MS, NULL));
	assert_true(qmp_wait_event(q, 0, clock_ms() + LONG_MS, &e));
	assert_int_equal(e.seq, QMP_EVENTS_KEPT * 2 + 1);
	json_free(&e.data);
	hang_up(&f);
	qmp_close(q);
}

static void test_a_large_event_loses_its_data(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct qmp_event e = {0};

	(void)state;
	say(&f, "{\"event\": \"");
	say_many(&f, "0123456789abcdef", 16);
	say(&f, "\", \"data\": {\"x\": \"");
	say_many(&f, "0123456789abcdef", QMP_EVENT_MAX / 16);
	say(&f, "\"}}\n");
	assert_true(qmp_wait_event(q, 0, clock_ms() + LONG_MS, &e));
	assert_null(e.data);
	assert_int_equal(strlen(e.name), QMP_NAME_MAX - 1);
	hang_up(&f);
	qmp_close(q);
}

/* Says `text` and expects the connection to be ended for it. */
static void expect_break(const char *text, size_t times, const char *why)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running a;

	start(&a, q, "query-status");
	hear(&f, "query-status");
	say_many(&f, text, times);
	finish(&a);
	assert_int_equal(a.rc, -1);
	assert_int_equal(a.err->kind, ERROR_HYPERVISOR);
	assert_non_null(strstr(a.err->message, why));
	error_free(&a.err);
	hang_up(&f);
	qmp_close(q);
}

static void test_what_is_no_json_object_ends_the_connection(void **state)
{
	(void)state;
	expect_break("hello\n", 1, "not JSON");
	expect_break("[]\n", 1, "not a JSON object");
	expect_break("{\"a\": 1\n", 1, "not JSON");
	expect_break("\n", 1, "not JSON");
	expect_break("{\"a\": 1, \"a\": 2}\n", 1, "duplicate");
}

static void test_a_line_without_an_end_is_bounded(void **state)
{
	static char block[65537];

	(void)state;
	memset(block, '[', sizeof(block) - 1);
	expect_break(
		block, JSON_TEXT_MAX / (sizeof(block) - 1) + 1, "a line of over 4194304 bytes");
}

static void test_deep_nesting_is_refused(void **state)
{
	static char deep[10016] = "{\"a\":";

	(void)state;
	memset(deep + strlen(deep), '[', 10000);
	deep[strlen(deep)] = '\n';
	expect_break(deep, 1, "not JSON");
}

static void test_odd_but_harmless_messages_are_passed_over(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running a;
	json_int_t id;

	(void)state;
	start(&a, q, "query-status");
	id = hear(&f, "query-status");
	say(&f, "{}\n{\"return\": 1}\n{\"return\": 1, \"id\": \"x\"}\n{\"event\": 7}\n");
	say(&f, "{\"return\": 1, \"id\": 999999}\n{\"id\": null, \"error\": {}}\n");
	say(&f, "{\"event\": \"E\", \"data\": 5}\n");
	answer(&f, id, "{\"n\": 3}");
	answer(&f, id, "{\"n\": 4}");
	finish(&a);
	assert_int_equal(json_integer_value(json_object_get(a.result, "n")), 3);
	json_free(&a.result);
	hang_up(&f);
	qmp_close(q);
}

static void test_an_answer_that_is_neither_is_a_refusal(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running a;
	char line[64];

	(void)state;
	start(&a, q, "stop");
	snprintf(line, sizeof(line), "{\"id\": %lld}\n", (long long)hear(&f, "stop"));
	say(&f, line);
	finish(&a);
	assert_int_equal(a.err->kind, ERROR_HYPERVISOR);
	error_free(&a.err);
	hang_up(&f);
	qmp_close(q);
}

static void test_commands_go_out_of_band_where_offered(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct error *err = NULL;

	(void)state;
	assert_int_equal(qmp_run_oob(q, "yank", json_object(), clock_ms() + LONG_MS, &err), -1);
	assert_int_equal(err->kind, ERROR_HYPERVISOR);
	error_free(&err);
	say(&f, "{\"QMP\": {\"capabilities\": [1, \"oob\"]}}\n{\"event\": \"X\"}\n");
	assert_true(qmp_wait_event(q, 0, clock_ms() + LONG_MS, NULL));
	assert_int_equal(qmp_run_oob(q, "yank", json_object(), clock_ms() + 20, &err), -1);
	assert_int_equal(err->kind, ERROR_TIMEOUT);
	error_free(&err);
	hear_as(&f, "exec-oob", "yank");
	hang_up(&f);
	qmp_close(q);
}

/* QEMU would read none of them while its main thread waits and more than that are before them. */
static void test_few_commands_are_sent_before_they_are_answered(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct running late;
	struct error *err = NULL;
	json_int_t ids[4];

	(void)state;
	say(&f, "{\"QMP\": {\"capabilities\": [\"oob\"]}}\n{\"event\": \"X\"}\n");
	assert_true(qmp_wait_event(q, 0, clock_ms() + LONG_MS, NULL));
	for (int i = 0; i < 6; i++) {
		assert_int_equal(qmp_run(q, "look", NULL, clock_ms() + 20, NULL, &err), -1);
		assert_int_equal(err->kind, ERROR_TIMEOUT);
		error_free(&err);
	}
	qmp_run_oob(q, "urgent", NULL, clock_ms() + 20, NULL);
	for (int i = 0; i < 4; i++)
		ids[i] = hear(&f, "look");
	hear_as(&f, "exec-oob", "urgent");
	start(&late, q, "late");
	answer(&f, ids[0], "{}");
	answer(&f, hear(&f, "late"), "{}");
	finish(&late);
	assert_int_equal(late.rc, 0);
	json_decref(late.result);
	hang_up(&f);
	qmp_close(q);
}

/* What it answers to an earlier connection's command comes to this one. */
static void test_an_answer_to_an_earlier_connection_is_nobodys(void **state)
{
	struct fake first, second;
	struct qmp *q = begin(&first), *again;
	struct running a, b;
	json_int_t before;

	(void)state;
	start(&a, q, "stop");
	before = hear(&first, "stop");
	again = begin(&second);
	start(&b, again, "cont");
	answer(&second, before, "{\"late\": 1}");
	answer(&second, hear(&second, "cont"), "{}");
	finish(&b);
	assert_int_equal(json_object_size(b.result), 0);
	json_decref(b.result);
	hang_up(&first);
	finish(&a);
	error_free(&a.err);
	hang_up(&second);
	qmp_close(q);
	qmp_close(again);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers_find_their_commands_in_any_order),
		cmocka_unit_test(test_a_refusal_gives_qemus_words),
		cmocka_unit_test(test_an_answer_after_the_deadline_is_dropped),
		cmocka_unit_test(test_a_closed_connection_wakes_everybody),
		cmocka_unit_test(test_events_are_numbered_and_waited_for),
		cmocka_unit_test(test_a_storm_of_events_keeps_the_newest),
		cmocka_unit_test(test_a_large_event_loses_its_data),
		cmocka_unit_test(test_what_is_no_json_object_ends_the_connection),
		cmocka_unit_test(test_a_line_without_an_end_is_bounded),
		cmocka_unit_test(test_deep_nesting_is_refused),
		cmocka_unit_test(test_odd_but_harmless_messages_are_passed_over),
		cmocka_unit_test(test_an_answer_that_is_neither_is_a_refusal),
		cmocka_unit_test(test_commands_go_out_of_band_where_offered),
		cmocka_unit_test(test_few_commands_are_sent_before_they_are_answered),
		cmocka_unit_test(test_an_answer_to_an_earlier_connection_is_nobodys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
