/* The sandbox of drover-wire, entered by children that then try what it is to keep from. */
#include "wire/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* After the headers that it needs. */
#include <cmocka.h>

/* What a child does inside; its exit status is 0 when that was as it should be. */
typedef bool attempt_fn(void);

static int status_inside(attempt_fn *attempt, bool unix_sockets)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
			sandbox_enter(unix_sockets, NULL) < 0)
			_exit(2);
		_exit(attempt() ? 0 : 1);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static bool not_there(long result)
{
	return result == -1 && errno == ENOSYS;
}

static bool opens_nothing(void)
{
	return not_there(open("/etc/passwd", O_RDONLY)) &&
	       not_there(open("/tmp", O_TMPFILE | O_RDWR, 0600)) && not_there(unlink("/nowhere"));
}

static bool makes_only_tcp_sockets(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) >= 0 && not_there(socket(AF_UNIX, SOCK_STREAM, 0)) &&
	       not_there(socket(AF_NETLINK, SOCK_RAW, 0)) &&
	       not_there(socket(AF_PACKET, SOCK_RAW, 0));
}

static bool makes_unix_sockets(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
}

static bool runs_no_new_code(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return page != MAP_FAILED && not_there(mprotect(page, 4096, PROT_READ | PROT_EXEC)) &&
	       mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		       MAP_FAILED;
}

static bool signals_nobody(void)
{
	return not_there(kill(getppid(), 0));
}

static bool makes_no_process(void)
{
	return not_there(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL)) &&
	       not_there(syscall(SYS_clone3, NULL, 0));
}

static void *note(void *arg)
{
	*(bool *)arg = true;
	return NULL;
}

static bool makes_threads(void)
{
	pthread_t thread;
	bool ran = false;

	return pthread_create(&thread, NULL, note, &ran) == 0 && pthread_join(thread, NULL) == 0 &&
	       ran;
}

static bool maps_and_frees_much(void)
{
	size_t len = (size_t)1 << 28;
	char *block = malloc(len);
	bool good = block != NULL;

	if (good)
		memset(block, 1, 1 << 20);
	block = good ? realloc(block, 2 * len) : NULL;
	good = good && block && block[0] == 1;
	free(block);
	return good;
}

static bool execs(void)
{
	char *const argv[] = {"/bin/true", NULL};

	execv(argv[0], argv);
	return true;
}

static bool traces(void)
{
	return syscall(SYS_ptrace, 0, 0, 0, 0) == -1;
}

static bool changes_user(void)
{
	return syscall(SYS_setresuid, 0, 0, 0) == -1;
}

static void test_what_it_needs_works_and_the_rest_is_not_there(void **state)
{
	static attempt_fn *const attempts[] = {opens_nothing, makes_only_tcp_sockets,
		runs_no_new_code, signals_nobody, makes_no_process, makes_threads,
		maps_and_frees_much};

	(void)state;
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
		assert_int_equal(status_inside(attempts[i], false), 0);
}

static void test_a_unix_path_needs_unix_sockets(void **state)
{
	(void)state;
	assert_int_equal(status_inside(makes_unix_sockets, true), 0);
}

static void test_what_only_an_intruder_does_ends_the_process(void **state)
{
	static attempt_fn *const attempts[] = {execs, traces, changes_user};

	(void)state;
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
		int status = status_inside(attempts[i], true);

		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGSYS);
	}
}

static void *wait_for_it(void *arg)
{
	const bool *entered = arg;

	while (!__atomic_load_n(entered, __ATOMIC_ACQUIRE))
		sched_yield();
	return (void *)(intptr_t)!not_there(open("/etc/passwd", O_RDONLY));
}

static void test_threads_that_were_there_before_are_inside_too(void **state)
{
	int status = -1;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		bool entered = false;
		void *opened = NULL;
		pthread_t thread;

		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
			pthread_create(&thread, NULL, wait_for_it, &entered) != 0 ||
			sandbox_enter(false, NULL) < 0)
			_exit(2);
		__atomic_store_n(&entered, true, __ATOMIC_RELEASE);
		_exit(pthread_join(thread, &opened) == 0 && !opened ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_it_needs_works_and_the_rest_is_not_there),
		cmocka_unit_test(test_a_unix_path_needs_unix_sockets),
		cmocka_unit_test(test_what_only_an_intruder_does_ends_the_process),
		cmocka_unit_test(test_threads_that_were_there_before_are_inside_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
