/*
 * A QMP connection over FIFOs that another program has left: the test is the QEMU on the other
 * side.
 */
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "hv/qemu/qmp.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LONG_MS 20000

/* What QEMU reads and writes. */
struct far_side {
	int orders, answers;
};

static struct qmp *reopen(struct far_side *f)
{
	int to[2], from[2];
	struct qmp *q;

	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	assert_int_equal(pipe2(from, O_CLOEXEC), 0);
	fcntl(to[1], F_SETFL, O_NONBLOCK);
	fcntl(from[0], F_SETFL, O_NONBLOCK);
	f->orders = to[0];
	f->answers = from[1];
	q = qmp_reopen_fifos(from[0], to[1], "VM web1", NULL);
	assert_non_null(q);
	return q;
}

static void say(struct far_side *f, const char *text)
{
	assert_int_equal(fs_write_all(f->answers, text, strlen(text)), 0);
}

struct running {
	struct qmp *q;
	struct error *err;
	int rc;
	pthread_t thread;
};

static void *run_thread(void *arg)
{
	struct running *r = arg;

	r->rc = qmp_run_oob(r->q, "migrate-pause", NULL, clock_ms() + LONG_MS, &r->err);
	return NULL;
}

static void start(struct running *r, struct qmp *q)
{
	*r = (struct running){.q = q};
	pthread_create(&r->thread, NULL, run_thread, r);
}

/* Reads one order, and gives its id. */
static json_int_t hear(struct far_side *f)
{
	char line[512];
	ssize_t n = read(f->orders, line, sizeof(line));
	cleanup_json json_t *json = n > 0 ? json_parse("order", line, (size_t)n, NULL) : NULL;

	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, "exec-oob")), "migrate-pause");
	return json_integer_value(json_object_get(json, "id"));
}

/* An earlier droverd has read the beginning of a line. */
static void test_it_is_taken_up_amid_a_line(void **state)
{
	struct far_side f;
	struct qmp *q = reopen(&f);
	struct running r;

	(void)state;
	assert_false(qmp_silent(q));
	say(&f, "s\": {\"seconds\": 1}}\r\n{\"event\": \"STOP\"}\r\n");
	assert_true(qmp_wait_event(q, 0, clock_ms() + LONG_MS, NULL));
	start(&r, q);
	cleanup_free char *line =
		fs_format("{\"return\": {}, \"id\": %lld}\r\n", (long long)hear(&f));
	say(&f, line);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.rc, 0);
	qmp_close(q);
	close_fd(&f.orders);
	close_fd(&f.answers);
}

/* A beginning that is missing is no leave for more. */
static void test_a_second_line_that_is_none_ends_it(void **state)
{
	struct far_side f;
	struct qmp *q = reopen(&f);

	(void)state;
	say(&f, "half}\r\nhalf}\r\n");
	qmp_wait_event(q, 0, clock_ms() + LONG_MS, NULL);
	assert_true(qmp_ended(q));
	qmp_close(q);
	close_fd(&f.orders);
	close_fd(&f.answers);
}

static void test_a_qemu_that_ends_ends_it(void **state)
{
	struct far_side f;
	struct qmp *q = reopen(&f);
	struct running r;

	(void)state;
	start(&r, q);
	hear(&f);
	close_fd(&f.answers);
	close_fd(&f.orders);
	pthread_join(r.thread, NULL);
	assert_int_equal(r.err->kind, ERROR_NOT_RUNNING);
	error_free(&r.err);
	assert_int_equal(qmp_run_oob(q, "yank", NULL, clock_ms() + LONG_MS, &r.err), -1);
	assert_int_equal(r.err->kind, ERROR_NOT_RUNNING);
	error_free(&r.err);
	qmp_close(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_is_taken_up_amid_a_line),
		cmocka_unit_test(test_a_second_line_that_is_none_ends_it),
		cmocka_unit_test(test_a_qemu_that_ends_ends_it),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
