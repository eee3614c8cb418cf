/*
 * The QMP client and a QEMU that does not answer: it is not there, it is silent, or it hangs.
 */
#include "test_qmp_support.h"

#include <sys/un.h>

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
		cmocka_unit_test(test_nobody_there_is_not_running),
		cmocka_unit_test(test_a_silent_peer_is_a_timeout),
		cmocka_unit_test(test_a_peer_that_hangs_is_silent_until_it_answers),
		cmocka_unit_test(test_a_peer_that_refuses_its_capabilities_is_asked_no_more),
		cmocka_unit_test(test_a_peer_that_reads_nothing_does_not_block_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
