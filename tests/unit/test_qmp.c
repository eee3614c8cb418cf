/*
 * The QMP client against a QEMU that the test plays on the other end of a socket pair.
 */
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "hv/qemu/qmp.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define LONG_MS 20000

/* The other end: a socket, and what was read from it. */
struct fake {
	int fd;
	FILE *in;
};

struct opening {
	int fd;
	struct qmp *q;
	struct error *err;
};

static void *open_thread(void *arg)
{
	struct opening *o = arg;

	o->q = qmp_open(o->fd, "VM web1", clock_ms() + LONG_MS, &o->err);
	return NULL;
}

static void say(struct fake *f, const char *text)
{
	fs_write_all(f->fd, text, strlen(text));
}

static void say_many(struct fake *f, const char *text, size_t count)
{
	for (size_t i = 0; i < count; i++)
		say(f, text);
}

/* Reads a command and gives its id; `name` must be its name. */
static json_int_t hear_as(struct fake *f, const char *how, const char *name)
{
	cleanup_free char *line = NULL;
	cleanup_json json_t *json = NULL;
	size_t size = 0;
	ssize_t n = getline(&line, &size, f->in);

	assert_true(n > 0);
	json = json_parse("command", line, (size_t)n, NULL);
	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, how)), name);
	return json_integer_value(json_object_get(json, "id"));
}

static json_int_t hear(struct fake *f, const char *name)
{
	return hear_as(f, "execute", name);
}

static void answer(struct fake *f, json_int_t id, const char *value)
{
	cleanup_free char *line =
		fs_format("{\"return\": %s, \"id\": %lld}\r\n", value, (long long)id);

	say(f, line);
}

static struct qmp *begin(struct fake *f)
{
	struct opening o = {0};
	pthread_t thread;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	o.fd = pair[0];
	f->fd = pair[1];
	f->in = fdopen(dup(pair[1]), "r");
	pthread_create(&thread, NULL, open_thread, &o);
	say(f, GREETING);
	answer(f, hear(f, "qmp_capabilities"), "{}");
	pthread_join(thread, NULL);
	assert_non_null(o.q);
	return o.q;
}

static void hang_up(struct fake *f)
{
	if (f->in)
		fclose(f->in);
	f->in = NULL;
	close_fd(&f->fd);
}

/* A command run by a thread of its own. */
struct running {
	struct qmp *q;
	const char *command;
	int64_t deadline_ms;
	json_t *result;
	struct error *err;
	int rc;
	pthread_t thread;
};

static void *run_thread(void *arg)
{
	struct running *r = arg;

	r->rc = qmp_run(r->q, r->command, NULL, r->deadline_ms, &r->result, &r->err);
	return NULL;
}

static void start(struct running *r, struct qmp *q, const char *command)
{
	*r = (struct running){.q = q, .command = command, .deadline_ms = clock_ms() + LONG_MS};
	pthread_create(&r->thread, NULL, run_thread, r);
}

static void finish(struct running *r)
{
	pthread_join(r->thread, NULL);
}

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

static void test_nobody_there_is_not_running(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_null(qmp_connect("/nonexistent/qmp.sock", "VM web1", clock_ms() + 1000, &err));
	assert_int_equal(err->kind, ERROR_NOT_RUNNING);
	error_free(&err);
}

static void test_a_silent_peer_is_a_timeout(void **state)
{
	struct error *err = NULL;
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_null(qmp_open(pair[0], "VM web1", clock_ms() + 20, &err));
	assert_int_equal(err->kind, ERROR_TIMEOUT);
	error_free(&err);
	close_fd(&pair[1]);
}

/* Its socket is listened on, and nobody accepts: what a QEMU looks like that hangs. */
struct listening {
	char dir[64], path[80];
	int fd;
};

static void begin_listening(struct listening *l)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	strcpy(l->dir, "/tmp/drover-qmp-XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	snprintf(l->path, sizeof(l->path), "%s/qmp.sock", l->dir);
	strcpy(addr.sun_path, l->path);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(l->fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(l->fd, 1), 0);
}

static void wake(struct listening *l, struct fake *f)
{
	f->fd = accept(l->fd, NULL, NULL);
	assert_true(f->fd >= 0);
	f->in = fdopen(dup(f->fd), "r");
	say(f, GREETING);
}

static void end_listening(struct listening *l)
{
	close_fd(&l->fd);
	unlink(l->path);
	rmdir(l->dir);
}

static void test_a_peer_that_hangs_is_silent_until_it_answers(void **state)
{
	struct listening l;
	struct fake f;
	struct running a;
	struct error *err = NULL;
	struct qmp *q;

	(void)state;
	begin_listening(&l);
	q = qmp_connect_silent(l.path, "VM web1", clock_ms() + 20, &err);
	assert_non_null(q);
	assert_true(qmp_silent(q));
	assert_int_equal(qmp_run(q, "stop", NULL, clock_ms() + 20, NULL, &err), -1);
	assert_int_equal(err->kind, ERROR_TIMEOUT);
	error_free(&err);
	start(&a, q, "cont");
	wake(&l, &f);
	answer(&f, hear(&f, "qmp_capabilities"), "{}");
	answer(&f, hear(&f, "cont"), "{}");
	finish(&a);
	assert_int_equal(a.rc, 0);
	json_decref(a.result);
	assert_false(qmp_silent(q));
	hang_up(&f);
	qmp_close(q);
	end_listening(&l);
}

static void test_a_peer_that_refuses_its_capabilities_is_asked_no_more(void **state)
{
	struct listening l;
	struct fake f;
	struct running a;
	struct qmp *q;

	(void)state;
	begin_listening(&l);
	q = qmp_connect_silent(l.path, "VM web1", clock_ms() + 20, NULL);
	start(&a, q, "cont");
	wake(&l, &f);
	cleanup_free char *line = fs_format("{\"error\": {\"desc\": \"no\"}, \"id\": %lld}\n",
		(long long)hear(&f, "qmp_capabilities"));
	say(&f, line);
	finish(&a);
	assert_int_equal(a.err->kind, ERROR_HYPERVISOR);
	error_free(&a.err);
	hang_up(&f);
	qmp_close(q);
	end_listening(&l);
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

/* Reads nothing, so that commands pile up in the socket until it is full. */
static void test_a_peer_that_reads_nothing_does_not_block_for_ever(void **state)
{
	struct fake f;
	struct qmp *q = begin(&f);
	struct error *err = NULL;
	cleanup_free char *large = calloc(1, 1 << 20);

	(void)state;
	memset(large, 'x', (1 << 20) - 1);
	assert_int_equal(
		qmp_run(q, "large", json_pack("{s:s}", "x", large), clock_ms() + 50, NULL, &err),
		-1);
	assert_int_equal(err->kind, ERROR_HYPERVISOR);
	assert_non_null(strstr(err->message, "hangs"));
	error_free(&err);
	hang_up(&f);
	qmp_close(q);
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
		cmocka_unit_test(test_nobody_there_is_not_running),
		cmocka_unit_test(test_a_silent_peer_is_a_timeout),
		cmocka_unit_test(test_a_peer_that_hangs_is_silent_until_it_answers),
		cmocka_unit_test(test_a_peer_that_refuses_its_capabilities_is_asked_no_more),
		cmocka_unit_test(test_an_answer_to_an_earlier_connection_is_nobodys),
		cmocka_unit_test(test_a_peer_that_reads_nothing_does_not_block_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
