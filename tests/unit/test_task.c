#include "task/task.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/process.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 20000

/*
 * In place of `drover`: a program that does what its arguments say. `start` and the others of
 * task_verb_check are its verbs, as the queue takes no other.
 *     start say TEXT         prints it
 *     start exit N           ends with N
 *     start wait FILE        touches FILE.started, ends when FILE is there
 *     start stubborn FILE    the same, and takes no SIGINT
 *     start env              prints DROVER_SOCKET
 *     start flood            prints 6 MiB
 */
static const char program[] = "#!/bin/sh\n"
			      "shift\n"
			      "case $1 in\n"
			      "say) printf '%s' \"$2\" ;;\n"
			      "exit) exit $2 ;;\n"
			      "stubborn) trap '' INT ;;\n"
			      "env) printf '%s' \"$DROVER_SOCKET\" ;;\n"
			      "flood) head -c 6291456 /dev/zero | tr '\\0' x ;;\n"
			      "bytes) printf 'a\\377b\\303\\251c' ;;\n"
			      "esac\n"
			      "case $1 in wait|stubborn)\n"
			      "touch \"$2.started\"\n"
			      "while [ ! -e \"$2\" ]; do sleep 0.02; done ;;\n"
			      "esac\n";

struct fixture {
	char dir[64];
	char *program, *db_path, *log_dir;
	struct db *db;
	struct task_queue *queue;
};

static char *in_dir(const struct fixture *f, const char *name)
{
	return fs_format("%s/%s", f->dir, name);
}

static void open_queue(struct fixture *f)
{
	struct error *e = NULL;

	f->db = db_open(f->db_path, task_schema, &e);
	assert_non_null(f->db);
	f->queue = task_queue_open(f->db, f->program, "/run/test.sock", f->log_dir, &e);
	assert_non_null(f->queue);
}

static void close_queue(struct fixture *f)
{
	task_queue_close(f->queue);
	db_close(f->db);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/drover-test-task.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->program = in_dir(f, "program");
	f->db_path = in_dir(f, "db");
	f->log_dir = in_dir(f, "logs");
	assert_int_equal(fs_write(f->program, program, sizeof(program) - 1, 0755, NULL), 0);
	open_queue(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	const char *argv[] = {"/bin/rm", "-rf", f->dir, NULL};
	int status;

	close_queue(f);
	process_run(argv, clock_ms() + WAIT_MS, 100, NULL, NULL, &status, NULL);
	free(f->program);
	free(f->db_path);
	free(f->log_dir);
	free(f);
	return 0;
}

static int add(struct fixture *f, int64_t *id, const struct task_new *how, const char *verb,
	const char *a, const char *b, struct error **err)
{
	cleanup_json json_t *argv = json_pack("[s, s*, s*]", verb, a, b);
	struct task_new task = how ? *how : (struct task_new){0};

	task.argv = argv;
	return task_add(f->queue, &task, id, err);
}

static int64_t must_add(struct fixture *f, const struct task_new *how, const char *a, const char *b)
{
	struct error *e = NULL;
	int64_t id = 0;

	if (add(f, &id, how, "start", a, b, &e) < 0)
		fail_msg("%s", e->message);
	return id;
}

static char *state_of(struct fixture *f, int64_t id)
{
	cleanup_json json_t *task = task_show(f->queue, id, NULL);

	assert_non_null(task);
	return strdup(json_string_value(json_object_get(task, "state")));
}

static void expect_state(struct fixture *f, int64_t id, const char *state)
{
	cleanup_free char *now = state_of(f, id);

	assert_string_equal(now, state);
}

/* Follows its output to its end; the text so far may be NULL. */
static char *output_to_end(struct fixture *f, int64_t id)
{
	int64_t deadline = clock_ms() + WAIT_MS, offset = 0;
	char *all = strdup("");
	bool ended = false;

	while (!ended) {
		cleanup_json json_t *log = task_log(f->queue, id, offset, 5000, NULL);
		char *longer;

		assert_non_null(log);
		assert_true(clock_ms() < deadline);
		longer = fs_format("%s%s", all, json_string_value(json_object_get(log, "text")));
		free(all);
		all = longer;
		offset = json_integer_value(json_object_get(log, "offset"));
		ended = json_is_true(json_object_get(log, "ended"));
	}
	return all;
}

static void expect_end(struct fixture *f, int64_t id, const char *state)
{
	free(output_to_end(f, id));
	expect_state(f, id, state);
}

/* A file of the program: waits until it is there. */
static void wait_for_file(const char *path)
{
	int64_t deadline = clock_ms() + WAIT_MS;

	while (!fs_exists(path)) {
		assert_true(clock_ms() < deadline);
		usleep(2000);
	}
}

static void touch(const char *path)
{
	assert_int_equal(fs_write(path, "", 0, 0600, NULL), 0);
}

/* A task that runs until *release is touched; it runs when this returns. */
static int64_t add_waiting(
	struct fixture *f, const struct task_new *how, const char *name, char **release)
{
	cleanup_free char *started = fs_format("%s/%s.started", f->dir, name);
	int64_t id;

	*release = in_dir(f, name);
	id = must_add(f, how, "wait", *release);
	wait_for_file(started);
	return id;
}

static void test_output_and_exit_status_are_kept(void **state)
{
	struct fixture *f = *state;
	int64_t id = must_add(f, NULL, "say", "two words"), bad = must_add(f, NULL, "exit", "7");
	cleanup_free char *text = output_to_end(f, id);
	cleanup_json json_t *task = NULL;

	assert_string_equal(text, "two words");
	expect_state(f, id, "done");
	expect_end(f, bad, "failed");
	task = task_show(f->queue, bad, NULL);
	assert_int_equal(json_integer_value(json_object_get(task, "exit")), 7);
	assert_true(json_is_integer(json_object_get(task, "started_ms")));
	assert_true(json_is_integer(json_object_get(task, "ended_ms")));
}

static void test_arguments_reach_the_program_without_a_shell(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *mark = in_dir(f, "mark");
	cleanup_free char *evil = fs_format("$(touch %s); `touch %s` | \"'", mark, mark);
	cleanup_free char *text = output_to_end(f, must_add(f, NULL, "say", evil));

	assert_string_equal(text, evil);
	assert_false(fs_exists(mark));
}

static void test_a_task_is_a_client_of_this_node(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *text = output_to_end(f, must_add(f, NULL, "env", NULL));

	assert_string_equal(text, "/run/test.sock");
}

static void test_bytes_that_are_not_utf8_do_not_break_the_log(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *text = output_to_end(f, must_add(f, NULL, "bytes", NULL));

	assert_string_equal(text, "a?b\303\251c");
}

static void test_output_is_cut_at_the_limit_and_the_task_goes_on(void **state)
{
	struct fixture *f = *state;
	int64_t id = must_add(f, NULL, "flood", NULL);
	cleanup_free char *text = output_to_end(f, id);
	const char *note = strstr(text, "not kept");

	expect_state(f, id, "done");
	assert_non_null(note);
	assert_true(strlen(text) > TASK_LOG_MAX && strlen(text) < TASK_LOG_MAX + 100);
}

static void test_only_verbs_can_be_queued(void **state)
{
	struct fixture *f = *state;
	const char *const refused[] = {"/bin/sh", "console", "task", "", "start;", "init", NULL};
	int64_t id;

	for (int i = 0; refused[i]; i++) {
		cleanup_error struct error *e = NULL;

		assert_int_equal(add(f, &id, NULL, refused[i], "web1", NULL, &e), -1);
		assert_int_equal(e->kind, ERROR_REFUSED);
		assert_non_null(strstr(e->message, "migrate"));
	}
}

static void test_another_node_queues_only_what_it_may_ask_for(void **state)
{
	struct fixture *f = *state;
	struct task_new from = {.from = "node2"};
	cleanup_error struct error *e = NULL;
	cleanup_json json_t *task = NULL;
	int64_t id = 0;

	assert_int_equal(add(f, &id, &from, "rm", "web1", "--yes", &e), -1);
	assert_int_equal(e->kind, ERROR_REFUSED);
	assert_int_equal(add(f, &id, &from, "start", "say", "x", NULL), 0);
	task = task_show(f->queue, id, NULL);
	assert_string_equal(json_string_value(json_object_get(task, "from")), "node2");
}

static void test_a_bad_list_of_words_is_refused(void **state)
{
	struct fixture *f = *state;
	const char *const bad[] = {"[]", "{}", "[1]", "[\"start\", null]", "[[\"start\"]]", NULL};
	cleanup_free char *big = fs_format("%*s", TASK_ARG_MAX + 1, "x");
	cleanup_json json_t *many = json_array();
	int64_t id;

	for (int i = 0; i <= TASK_ARGS_MAX; i++)
		json_array_append_new(many, json_string("start"));
	for (int i = 0; bad[i]; i++) {
		cleanup_json json_t *argv = json_loads(bad[i], JSON_DECODE_ANY, NULL);
		cleanup_error struct error *e = NULL;

		assert_int_equal(task_add(f->queue, &(struct task_new){.argv = argv}, &id, &e), -1);
		assert_int_equal(e->kind, ERROR_REQUEST);
	}
	assert_int_equal(add(f, &id, NULL, "start", big, NULL, NULL), -1);
	assert_int_equal(task_add(f->queue, &(struct task_new){.argv = many}, &id, NULL), -1);
	assert_int_equal(add(f, &id, NULL, "start", "--socket=/tmp/x", NULL, NULL), -1);
}

static void test_after_runs_when_the_other_is_done(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *release = NULL;
	int64_t first = add_waiting(f, NULL, "first", &release);
	int64_t second = must_add(f, &(struct task_new){.after = first}, "say", "x");

	expect_state(f, second, "waiting");
	touch(release);
	expect_end(f, second, "done");
	expect_state(f, first, "done");
}

static void test_a_chain_behind_a_failed_task_is_skipped(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *release = NULL;
	int64_t gate = add_waiting(f, NULL, "gate", &release);
	int64_t bad = must_add(f, &(struct task_new){.after = gate}, "exit", "1");
	int64_t second = must_add(f, &(struct task_new){.after = bad}, "say", "x");
	int64_t third = must_add(f, &(struct task_new){.after = second}, "say", "x");

	touch(release);
	expect_end(f, third, "skipped");
	expect_state(f, bad, "failed");
	expect_state(f, second, "skipped");
}

static void test_after_an_unknown_task_is_an_error(void **state)
{
	struct fixture *f = *state;
	cleanup_error struct error *e = NULL;
	int64_t id;

	assert_int_equal(
		add(f, &id, &(struct task_new){.after = 999}, "start", "say", "x", &e), -1);
	assert_int_equal(e->kind, ERROR_NOT_FOUND);
}

static void test_at_is_waited_for(void **state)
{
	struct fixture *f = *state;
	int64_t at = clock_wall_ms() + 300;
	int64_t id = must_add(f, &(struct task_new){.at_ms = at}, "say", "x");
	cleanup_json json_t *task = NULL;

	expect_state(f, id, "waiting");
	expect_end(f, id, "done");
	task = task_show(f->queue, id, NULL);
	assert_true(json_integer_value(json_object_get(task, "started_ms")) >= at);
}

static void test_an_exclusive_task_runs_alone_and_is_not_overtaken(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *first_release = NULL, *alone = in_dir(f, "alone");
	cleanup_free char *alone_started = in_dir(f, "alone.started");
	int64_t first = add_waiting(f, NULL, "first", &first_release);
	int64_t exclusive = must_add(f, &(struct task_new){.exclusive = true}, "wait", alone);
	int64_t behind = must_add(f, NULL, "say", "x");

	expect_state(f, exclusive, "queued");
	expect_state(f, behind, "queued");
	touch(first_release);
	wait_for_file(alone_started);
	expect_state(f, first, "done");
	expect_state(f, behind, "queued");
	touch(alone);
	expect_end(f, behind, "done");
	expect_state(f, exclusive, "done");
}

static void test_tasks_run_side_by_side_up_to_the_limit(void **state)
{
	struct fixture *f = *state;
	char *release[TASK_PARALLEL];
	int64_t ids[TASK_PARALLEL], over;

	for (int i = 0; i < TASK_PARALLEL; i++) {
		cleanup_free char *name = fs_format("t%d", i);

		ids[i] = add_waiting(f, NULL, name, &release[i]);
	}
	over = must_add(f, NULL, "say", "x");
	expect_state(f, over, "queued");
	for (int i = 0; i < TASK_PARALLEL; i++)
		expect_state(f, ids[i], "running");
	touch(release[0]);
	expect_end(f, over, "done");
	for (int i = 0; i < TASK_PARALLEL; i++) {
		touch(release[i]);
		expect_end(f, ids[i], "done");
		free(release[i]);
	}
}

static void test_receive_is_never_held_back(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *release = NULL;
	int64_t alone = add_waiting(f, &(struct task_new){.exclusive = true}, "alone", &release);
	cleanup_error struct error *e = NULL;
	int64_t id;

	assert_int_equal(add(f, &id, NULL, "receive", "say", "x", &e), -1);
	assert_int_equal(e->kind, ERROR_REFUSED);
	assert_null(strstr(strstr(e->message, "these can"), "receive"));
	assert_int_equal(
		add(f, &id, &(struct task_new){.from = "node2"}, "receive", "say", "x", NULL), 0);
	expect_end(f, id, "done");
	expect_state(f, alone, "running");
	touch(release);
	expect_end(f, alone, "done");
}

static void test_cancel_takes_a_queued_task_out_and_skips_those_behind(void **state)
{
	struct fixture *f = *state;
	int64_t late = clock_wall_ms() + 3600000;
	int64_t id = must_add(f, &(struct task_new){.at_ms = late}, "say", "x");
	int64_t behind = must_add(f, &(struct task_new){.after = id}, "say", "x");
	cleanup_error struct error *e = NULL;

	assert_int_equal(task_cancel(f->queue, id, NULL), 0);
	expect_state(f, id, "cancelled");
	expect_end(f, behind, "skipped");
	assert_int_equal(task_cancel(f->queue, id, &e), -1);
	assert_int_equal(e->kind, ERROR_REFUSED);
}

static void test_cancel_ends_a_running_task(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *release = NULL;
	int64_t id = add_waiting(f, NULL, "run", &release);

	assert_int_equal(task_cancel(f->queue, id, NULL), 0);
	expect_end(f, id, "cancelled");
}

static void test_close_ends_what_runs_and_it_is_seen_as_interrupted(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *release = in_dir(f, "run"), *started = in_dir(f, "run.started");
	int64_t late = clock_wall_ms() + 3600000;
	int64_t queued = must_add(f, &(struct task_new){.at_ms = late}, "say", "x");
	int64_t id = must_add(f, NULL, "stubborn", release);
	int64_t behind = must_add(f, &(struct task_new){.after = id}, "say", "x");

	wait_for_file(started);
	close_queue(f);
	open_queue(f);
	expect_state(f, id, "interrupted");
	expect_state(f, queued, "waiting");
	expect_end(f, behind, "skipped");
}

static void test_a_task_that_lost_its_droverd_is_interrupted_not_failed(void **state)
{
	struct fixture *f = *state;

	/* 3 is the exit status for a droverd that does not answer. */
	assert_int_equal(error_kind_exit(ERROR_DAEMON), 3);
	expect_end(f, must_add(f, NULL, "exit", "3"), "interrupted");
}

static void test_a_running_task_of_a_killed_droverd_is_interrupted_and_its_child_ended(void **state)
{
	struct fixture *f = *state;
	const char *argv[] = {"/bin/sleep", "1000", NULL};
	struct process_options options = {
		.argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
	struct process_id child, other;

	assert_int_equal(process_start(&options, &child, NULL), 0);
	assert_int_equal(process_start(&options, &other, NULL), 0);
	assert_int_equal(
		db_run(f->db, NULL, NULL,
			"INSERT INTO task (id, argv, verb, state, after, at_ms, exclusive, "
			"created_ms, pid, pid_start) VALUES (77, '[\"start\"]', 'start', "
			"'running', 0, 0, 0, 1, ?, ?), (78, '[\"start\"]', 'start', "
			"'running', 0, 0, 0, 1, ?, ?)",
			"iiii", (int64_t)child.pid, (int64_t)child.start, (int64_t)other.pid,
			(int64_t)other.start + 1),
		0);
	close_queue(f);
	open_queue(f);
	expect_state(f, 77, "interrupted");
	expect_state(f, 78, "interrupted");
	assert_true(process_wait(&child, clock_ms() + WAIT_MS, NULL));
	/* The pid of the second is another process's by now: that one must live. */
	assert_true(process_alive(&other));
	process_signal(&other, SIGKILL);
	process_wait(&other, clock_ms() + WAIT_MS, NULL);
}

static void test_flush_removes_ended_tasks_and_their_logs_but_not_what_is_waited_for(void **state)
{
	struct fixture *f = *state;
	int64_t late = clock_wall_ms() + 3600000, removed = 0;
	int64_t needed = must_add(f, NULL, "say", "x"), ended = must_add(f, NULL, "say", "x");
	int64_t queued =
		must_add(f, &(struct task_new){.at_ms = late, .after = needed}, "say", "x");
	cleanup_free char *log = fs_format("%s/%lld.log", f->log_dir, (long long)ended);
	cleanup_error struct error *e = NULL;

	expect_end(f, needed, "done");
	expect_end(f, ended, "done");
	assert_true(fs_exists(log));
	assert_int_equal(task_flush(f->queue, &removed, NULL), 0);
	assert_int_equal(removed, 1);
	assert_false(fs_exists(log));
	assert_null(task_show(f->queue, ended, &e));
	assert_int_equal(e->kind, ERROR_NOT_FOUND);
	expect_state(f, queued, "waiting");
}

static void test_numbers_are_not_used_again(void **state)
{
	struct fixture *f = *state;
	int64_t first = must_add(f, NULL, "say", "x");

	expect_end(f, first, "done");
	assert_int_equal(task_flush(f->queue, NULL, NULL), 0);
	assert_true(must_add(f, NULL, "say", "x") > first);
}

static void test_a_program_that_is_not_there_is_a_failed_task_that_says_so(void **state)
{
	struct fixture *f = *state;
	cleanup_free char *text = NULL;
	int64_t id;

	assert_int_equal(unlink(f->program), 0);
	id = must_add(f, NULL, "say", "x");
	text = output_to_end(f, id);
	expect_state(f, id, "failed");
	assert_non_null(strstr(text, "No such file"));
}

static void test_list_is_newest_first(void **state)
{
	struct fixture *f = *state;
	int64_t first = must_add(f, NULL, "say", "x"), second = must_add(f, NULL, "say", "y");
	cleanup_json json_t *list = task_list(f->queue, NULL);
	const json_t *tasks = json_object_get(list, "tasks");

	assert_int_equal(json_array_size(tasks), 2);
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(tasks, 0), "id")), second);
	assert_int_equal(
		json_integer_value(json_object_get(json_array_get(tasks, 1), "id")), first);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_output_and_exit_status_are_kept),
		TEST(test_arguments_reach_the_program_without_a_shell),
		TEST(test_a_task_is_a_client_of_this_node),
		TEST(test_bytes_that_are_not_utf8_do_not_break_the_log),
		TEST(test_output_is_cut_at_the_limit_and_the_task_goes_on),
		TEST(test_only_verbs_can_be_queued),
		TEST(test_another_node_queues_only_what_it_may_ask_for),
		TEST(test_a_bad_list_of_words_is_refused),
		TEST(test_after_runs_when_the_other_is_done),
		TEST(test_a_chain_behind_a_failed_task_is_skipped),
		TEST(test_after_an_unknown_task_is_an_error),
		TEST(test_at_is_waited_for),
		TEST(test_an_exclusive_task_runs_alone_and_is_not_overtaken),
		TEST(test_tasks_run_side_by_side_up_to_the_limit),
		TEST(test_receive_is_never_held_back),
		TEST(test_cancel_takes_a_queued_task_out_and_skips_those_behind),
		TEST(test_cancel_ends_a_running_task),
		TEST(test_close_ends_what_runs_and_it_is_seen_as_interrupted),
		TEST(test_a_task_that_lost_its_droverd_is_interrupted_not_failed),
		TEST(test_a_running_task_of_a_killed_droverd_is_interrupted_and_its_child_ended),
		TEST(test_flush_removes_ended_tasks_and_their_logs_but_not_what_is_waited_for),
		TEST(test_numbers_are_not_used_again),
		TEST(test_a_program_that_is_not_there_is_a_failed_task_that_says_so),
		TEST(test_list_is_newest_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
