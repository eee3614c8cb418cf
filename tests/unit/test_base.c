#include "base/buf.h"
#include "base/clock.h"
#include "base/db.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_first_error_stays_and_is_printable(void **state)
{
	cleanup_error struct error *e = NULL;

	(void)state;
	assert_int_equal(error_set(&e, ERROR_NO_VM, 0, "no VM named %s", "we\nb\x1b[1m"), -1);
	error_set(&e, ERROR_FAILED, ENOENT, "later");
	assert_int_equal(e->kind, ERROR_NO_VM);
	assert_string_equal(e->message, "no VM named we?b?[1m");
	error_prefix(&e, "cannot start");
	assert_string_equal(e->message, "cannot start: no VM named we?b?[1m");
}

static void test_every_kind_has_its_own_exit_status_and_name(void **state)
{
	(void)state;
	for (int i = 0; i < ERROR_KINDS; i++) {
		assert_int_equal(error_kind_from_name(error_kind_name(i)), i);
		assert_in_range(error_kind_http(i), 400, 599);
		for (int j = 0; j < i; j++)
			assert_int_not_equal(error_kind_exit(i), error_kind_exit(j));
	}
	assert_int_equal(error_kind_exit(ERROR_USAGE), 2);
}

static void test_names_that_could_leave_a_directory_are_refused(void **state)
{
	static const char *const bad[] = {
		"", ".", "..", ".tmp.x", "a/b", "../x", "a b", "-x", "a\n", "\xc3\xa4", "a;b"};
	char longest[FS_NAME_MAX + 2];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cleanup_error struct error *e = NULL;

		assert_int_equal(fs_check_name("VM", bad[i], &e), -1);
		assert_int_equal(e->kind, ERROR_NAME);
	}
	memset(longest, 'a', sizeof(longest));
	longest[FS_NAME_MAX + 1] = 0;
	assert_int_equal(fs_check_name("VM", longest, NULL), -1);
	longest[FS_NAME_MAX] = 0;
	assert_int_equal(fs_check_name("VM", longest, NULL), 0);
	assert_int_equal(fs_check_name("VM", "web-1.a_B", NULL), 0);
}

static void test_sizes_are_read_with_units_and_bounds(void **state)
{
	static const char *const bad[] = {"", "0", "-1", "1X", "1000000000000000000", "1e9", "0x10",
		"nan", "inf", "1GG", " 1", "1 G", "99999999999999999999999", "0.0001K"};
	uint64_t bytes;

	(void)state;
	assert_int_equal(fs_parse_size("memory", "1.5G", 1ull << 40, &bytes, NULL), 0);
	assert_int_equal(bytes, 3ull << 29);
	assert_int_equal(fs_parse_size("memory", "512m", 1ull << 40, &bytes, NULL), 0);
	assert_int_equal(bytes, 512ull << 20);
	assert_int_equal(fs_parse_size("memory", "2GiB", 1ull << 40, &bytes, NULL), 0);
	assert_int_equal(bytes, 2ull << 30);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (fs_parse_size("memory", bad[i], 1ull << 40, &bytes, NULL) != -1)
			fail_msg("\"%s\" was taken as a size", bad[i]);
}

static void test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(void **state)
{
	char dir[] = "/tmp/drover-base-XXXXXX", path[64], other[64];
	cleanup_free char *text = NULL;
	struct stat st;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/file", dir);
	snprintf(other, sizeof(other), "%s/none/file", dir);
	assert_int_equal(fs_write(path, "one", 3, 0640, NULL), 0);
	assert_int_equal(fs_write(path, "second", 6, 0600, NULL), 0);
	text = fs_read(path, 6, NULL, NULL);
	assert_string_equal(text, "second");
	assert_null(fs_read(path, 5, NULL, NULL));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(fs_write(other, "x", 1, 0600, NULL), -1);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void test_reader_never_passes_the_end(void **state)
{
	static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7};
	struct reader r;

	(void)state;
	reader_init(&r, bytes, sizeof(bytes));
	assert_int_equal(reader_be32(&r), 0x01020304);
	assert_int_equal(reader_be16(&r), 0x0506);
	assert_int_equal(reader_be16(&r), 0);
	assert_true(r.failed);
	assert_int_equal(reader_u8(&r), 0);
	reader_init(&r, bytes, sizeof(bytes));
	assert_int_equal(reader_le32(&r), 0x04030201);
	assert_int_equal(reader_le32(&r), 0);
	assert_true(r.failed);
	reader_init(&r, bytes, sizeof(bytes));
	assert_int_equal(reader_le64(&r), 0);
	assert_true(r.failed);
	reader_init(&r, bytes, sizeof(bytes));
	assert_null(reader_bytes(&r, SIZE_MAX));
}

static void test_buffer_holds_no_more_than_its_limit(void **state)
{
	cleanup_buf struct buf b;

	(void)state;
	buf_init(&b, 8);
	assert_true(buf_add(&b, "12345", 5));
	assert_false(buf_add(&b, "6789", 4));
	assert_true(buf_add(&b, "678", 3));
	assert_string_equal(buf_string(&b), "12345678");
	buf_consume(&b, 6);
	assert_string_equal(buf_string(&b), "78");
	assert_null(buf_reserve(&b, SIZE_MAX));
}

static void test_hostile_json_is_one_error(void **state)
{
	static const char *const bad[] = {"", "{", "[1]", "{\"a\":1,\"a\":2}",
		"{\"a\":\"\\u0000\"}", "{\"a\":1}x", "\xff", "nul"};
	char *deep = malloc(20001);

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cleanup_error struct error *e = NULL;

		assert_null(json_parse("the request", bad[i], strlen(bad[i]), &e));
		assert_int_equal(e->kind, ERROR_REQUEST);
	}
	memset(deep, '[', 10000);
	memset(deep + 10000, ']', 10000);
	assert_null(json_parse("the request", deep, 20000, NULL));
	assert_null(json_parse("the request", deep, (size_t)100 << 20, NULL));
	free(deep);
}

static void test_json_members_are_checked_for_type_and_range(void **state)
{
	static const char text[] = "{\"n\":5,\"s\":\"x\",\"b\":true}";
	static const char *const known[] = {"n", "s", NULL};
	cleanup_json json_t *json = json_parse("it", text, strlen(text), NULL);
	int64_t n;
	bool b;

	(void)state;
	assert_int_equal(json_get_int(json, "n", 0, 5, &n, NULL), 0);
	assert_int_equal(json_get_int(json, "n", 6, 9, &n, NULL), -1);
	assert_int_equal(json_get_int(json, "s", 0, 9, &n, NULL), -1);
	assert_int_equal(json_opt_int(json, "absent", 0, 9, 7, &n, NULL), 0);
	assert_int_equal(n, 7);
	assert_int_equal(json_opt_bool(json, "n", false, &b, NULL), -1);
	assert_null(json_get_string(json, "n", NULL));
	assert_int_equal(json_only_known(json, known, NULL), -1);
}

static void test_errors_survive_the_way_through_json(void **state)
{
	cleanup_error struct error *e = NULL, *back = NULL;
	cleanup_json json_t *json = NULL;

	(void)state;
	error_set(&e, ERROR_BUSY, 0, "web1 is being moved");
	json = json_from_error(e);
	assert_int_equal(json_to_error(json, &back), -1);
	assert_int_equal(back->kind, ERROR_BUSY);
	assert_string_equal(back->message, "web1 is being moved");
}

static void test_program_output_is_captured_and_bounded(void **state)
{
	static const char *const argv[] = {"/bin/sh", "-c", "echo out; echo err >&2; exit 3", NULL};
	static const char *const much[] = {"/bin/sh", "-c", "yes | head -c 1000000", NULL};
	cleanup_free char *out = NULL, *err = NULL, *cut = NULL;
	int status;

	(void)state;
	assert_int_equal(process_run(argv, clock_ms() + 10000, 100, &out, &err, &status, NULL), 0);
	assert_int_equal(WEXITSTATUS(status), 3);
	assert_string_equal(out, "out\n");
	assert_string_equal(err, "err\n");
	assert_int_equal(process_run(much, clock_ms() + 10000, 100, &cut, NULL, &status, NULL), 0);
	assert_int_equal(strlen(cut), 100);
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_program_that_takes_too_long_is_ended(void **state)
{
	static const char *const argv[] = {"/bin/sleep", "1000", NULL};
	cleanup_error struct error *e = NULL;
	int status;

	(void)state;
	assert_int_equal(process_run(argv, clock_ms() + 50, 100, NULL, NULL, &status, &e), -1);
	assert_int_equal(e->kind, ERROR_TIMEOUT);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

static void test_program_that_is_not_there_is_an_error_at_once(void **state)
{
	static const char *const argv[] = {"/no/such/program", NULL};
	struct process_options o = {.argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
	cleanup_error struct error *e = NULL;
	struct process_id id;

	(void)state;
	assert_int_equal(process_start(&o, &id, &e), -1);
	assert_int_equal(e->errnum, ENOENT);
}

static void test_started_program_has_only_the_descriptors_it_was_given(void **state)
{
	static const char *const argv[] = {
		"/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; id -u", NULL};
	int fds[2], low = dup(0), kept = dup(0), status;
	struct process_options o = {.argv = argv,
		.stdin_fd = -1,
		.stderr_fd = -1,
		.set_user = true,
		.uid = 64055,
		.gid = 64055,
		.pass_fds = &kept,
		.pass_fds_count = 1};
	char text[64] = "", expected[64];
	struct process_id id;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	o.stdout_fd = fds[1];
	assert_int_equal(process_start(&o, &id, NULL), 0);
	close(fds[1]);
	assert_true(process_wait(&id, clock_ms() + 10000, &status));
	assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
	/* ls itself opens one more, the lowest that is free. */
	snprintf(expected, sizeof(expected), "0 1 2 3 %d 64055\n", kept);
	assert_string_equal(text, expected);
	close(fds[0]);
	close(low);
	close(kept);
}

/* A process that starts another, tells of it, and waits to be killed. */
static void start_and_wait(int out)
{
	const char *const argv[] = {"/bin/sleep", "1000", NULL};
	struct process_options o = {.argv = argv,
		.own_session = true,
		.dies_with_us = true,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1};
	struct process_id id;

	if (process_start(&o, &id, NULL) < 0 || write(out, &id, sizeof(id)) != sizeof(id))
		_exit(1);
	for (;;)
		pause();
}

static void test_a_program_that_dies_with_us_does_so_when_we_are_killed(void **state)
{
	struct process_id id;
	int fds[2];
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0)
		start_and_wait(fds[1]);
	assert_int_equal(read(fds[0], &id, sizeof(id)), sizeof(id));
	assert_true(process_alive(&id));
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(process_wait(&id, clock_ms() + 10000, NULL));
	close(fds[0]);
	close(fds[1]);
}

static void test_a_pid_used_again_is_not_the_same_process(void **state)
{
	struct process_id self, other;

	(void)state;
	assert_int_equal(process_identify(getpid(), &self), 0);
	assert_true(process_alive(&self));
	other = self;
	other.start++;
	assert_false(process_alive(&other));
	process_signal(&other, SIGKILL);
	assert_true(process_wait(&other, clock_ms(), NULL));
	assert_false(process_wait(&self, clock_ms(), NULL));
}

static int count_row(sqlite3_stmt *row, void *arg)
{
	*(int64_t *)arg += sqlite3_column_int64(row, 0);
	return 0;
}

static void test_database_keeps_what_was_written(void **state)
{
	char dir[] = "/tmp/drover-db-XXXXXX", path[64], command[128];
	struct stat st;
	struct db *db;
	int64_t changes = 0, sum = 0;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state.db", dir);
	db = db_open(path, "CREATE TABLE IF NOT EXISTS t (n INTEGER, s TEXT);", NULL);
	assert_non_null(db);
	assert_int_equal(
		db_run(db, &changes, NULL, "INSERT INTO t VALUES (?, ?)", "is", (int64_t)40, "x"),
		0);
	assert_int_equal(changes, 1);
	assert_int_equal(db_last_id(db), 1);
	db_close(db);
	db = db_open(path, "CREATE TABLE IF NOT EXISTS t (n INTEGER, s TEXT);", NULL);
	assert_int_equal(
		db_query(db, count_row, &sum, NULL, "SELECT n FROM t WHERE s = ?", "s", "x"), 0);
	assert_int_equal(sum, 40);
	assert_int_equal(db_run(db, NULL, NULL, "NO SUCH THING", ""), -1);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	db_close(db);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

static void test_times_are_read_as_people_write_them(void **state)
{
	int64_t ms;
	char text[32];

	(void)state;
	assert_int_equal(clock_parse("2026-01-31T02:03:04Z", &ms), 0);
	clock_format(ms + 5, text);
	assert_string_equal(text, "2026-01-31T02:03:04.005Z");
	assert_int_equal(clock_parse("2026-01-31 02:03", &ms), 0);
	assert_int_equal(clock_parse("23:59", &ms), 0);
	assert_in_range(ms - clock_wall_ms(), 0, 86400000);
	assert_int_equal(clock_parse("+90", &ms), 0);
	assert_int_equal(clock_parse("tomorrow", &ms), -1);
	assert_int_equal(clock_parse("2027-02-31T00:00:00Z", &ms), -1);
	assert_int_equal(clock_parse("+9999999999", &ms), -1);
	assert_int_equal(clock_parse("", &ms), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_error_stays_and_is_printable),
		cmocka_unit_test(test_every_kind_has_its_own_exit_status_and_name),
		cmocka_unit_test(test_names_that_could_leave_a_directory_are_refused),
		cmocka_unit_test(test_sizes_are_read_with_units_and_bounds),
		cmocka_unit_test(test_a_file_is_replaced_whole_and_nothing_is_left_beside_it),
		cmocka_unit_test(test_reader_never_passes_the_end),
		cmocka_unit_test(test_buffer_holds_no_more_than_its_limit),
		cmocka_unit_test(test_hostile_json_is_one_error),
		cmocka_unit_test(test_json_members_are_checked_for_type_and_range),
		cmocka_unit_test(test_errors_survive_the_way_through_json),
		cmocka_unit_test(test_program_output_is_captured_and_bounded),
		cmocka_unit_test(test_program_that_takes_too_long_is_ended),
		cmocka_unit_test(test_program_that_is_not_there_is_an_error_at_once),
		cmocka_unit_test(test_started_program_has_only_the_descriptors_it_was_given),
		cmocka_unit_test(test_a_program_that_dies_with_us_does_so_when_we_are_killed),
		cmocka_unit_test(test_a_pid_used_again_is_not_the_same_process),
		cmocka_unit_test(test_database_keeps_what_was_written),
		cmocka_unit_test(test_times_are_read_as_people_write_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
