#include "test_pool_support.h"

#include "base/clock.h"
#include "base/fault.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* linkat and fsync of the whole program: what a test makes of them stands in these. */
static int (*link_hook)(int from_dir, const char *from, int to_dir, const char *to);
static atomic_int fail_fsync_after = -1; /* so many succeed before one fails with EIO */

static int real_link(int from_dir, const char *from, int to_dir, const char *to)
{
	return (int)syscall(SYS_linkat, from_dir, from, to_dir, to, 0);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	(void)flags;
	return link_hook ? link_hook(from_dir, from, to_dir, to)
			 : real_link(from_dir, from, to_dir, to);
}

int fsync(int fd)
{
	if (fail_fsync_after >= 0 && fail_fsync_after-- == 0) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static int setup(void **state)
{
	link_hook = NULL;
	fail_fsync_after = -1;
	return make_pool(state) == 0 ? pool_vm_create(pool, VM, "[vm]\n", NULL) : -1;
}

static void test_a_vm_that_was_never_claimed_is_nobodys_at_epoch_0(void **state)
{
	(void)state;
	expect_owner(0, "");
}

static void test_claims_follow_each_other_and_can_release(void **state)
{
	struct pool_owner owner;
	int64_t before = clock_wall_ms();

	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	expect_owner(1, "node1");
	assert_int_equal(claim(2, "", NULL), 0);
	expect_owner(2, "");
	assert_int_equal(pool_owner_claim(pool, VM, 3, "node2", "m-20260131-1", NULL, NULL), 0);
	assert_int_equal(pool_owner_read(pool, VM, &owner, NULL), 0);
	assert_string_equal(owner.node, "node2");
	assert_string_equal(owner.why, "m-20260131-1");
	assert_in_range(owner.when_ms, before, clock_wall_ms());
	assert_int_equal(count_entries(VM_DIR, ".tmp"), 0);
}

static void test_an_epoch_that_is_taken_says_by_whom_and_leaves_nothing(void **state)
{
	struct error *err = NULL;
	struct pool_owner now;

	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	assert_int_equal(pool_owner_claim(pool, VM, 1, "node2", "start", &now, &err), -1);
	expect_error(&err, ERROR_NOT_OWNER, "owned by node node1 since epoch 1 (start)");
	assert_string_equal(now.node, "node1");
	assert_int_equal(now.epoch, 1);
	assert_int_equal(claim(2, "", NULL), 0);
	assert_int_equal(pool_owner_claim(pool, VM, 1, "node2", "start", NULL, &err), -1);
	expect_error(&err, ERROR_NOT_OWNER, "owned by nobody since epoch 2");
	assert_int_equal(count_entries(VM_DIR, ""), 3);
}

static void test_an_epoch_cannot_be_skipped(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_int_equal(claim(2, "node1", &err), -1);
	expect_error(&err, ERROR_POOL, "highest is 0");
	assert_int_equal(claim(0, "node1", &err), -1);
	expect_error(&err, ERROR_USAGE, "no epoch 0");
	assert_int_equal(claim(UINT64_MAX, "node1", &err), -1);
	expect_error(&err, ERROR_USAGE, "no epoch");
	expect_owner(0, "");
}

static void test_names_that_are_not_allowed_reach_no_file(void **state)
{
	static const char *const bad[] = {"", ".", "..", "../web1", "a/b", "/etc", "web 1", "-x"};
	struct error *err = NULL;
	struct pool_owner owner;
	char longest[301];

	(void)state;
	memset(longest, 'a', 300);
	longest[300] = 0;
	for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		const char *name = i < sizeof(bad) / sizeof(bad[0]) ? bad[i] : longest;

		assert_int_equal(pool_owner_read(pool, name, &owner, &err), -1);
		expect_error(&err, ERROR_NAME, "a VM's name");
		assert_int_equal(pool_owner_claim(pool, name, 1, "node1", "start", NULL, &err), -1);
		expect_error(&err, ERROR_NAME, "a VM's name");
		if (!*name)
			continue;
		assert_int_equal(claim(1, name, &err), -1);
		expect_error(&err, ERROR_NAME, "a node's name");
	}
	assert_int_equal(pool_owner_claim(pool, VM, 1, "node1", "two words", NULL, &err), -1);
	expect_error(&err, ERROR_USAGE, "one word");
	assert_int_equal(pool_owner_claim(pool, VM, 1, "node1", longest, NULL, &err), -1);
	expect_error(&err, ERROR_USAGE, "one word");
	assert_int_equal(pool_owner_read(pool, "web2", &owner, &err), -1);
	expect_error(&err, ERROR_NO_VM, "no VM named web2");
	assert_int_equal(pool_owner_claim(pool, "web2", 1, "node1", "start", NULL, &err), -1);
	expect_error(&err, ERROR_NO_VM, "no VM named web2");
	assert_int_equal(count_entries(VM_DIR, ""), 1);
}

/* A race: wins[E] counts who believes to have won epoch E. */
struct race {
	atomic_int wins[1001], other_errors, lost;
	pthread_barrier_t start;
	char message[1024];
};

static struct race *race;

static void note_error(const struct error *err)
{
	if (race->other_errors++ == 0)
		memcpy(race->message, err->message, sizeof(race->message));
}

static void try_epoch(uint64_t epoch, int number)
{
	cleanup_error struct error *err = NULL;
	struct pool_owner now = {0};
	char node[16];

	snprintf(node, sizeof(node), "node%d", number);
	if (pool_owner_claim(pool, VM, epoch, node, "start", &now, &err) == 0)
		race->wins[epoch]++;
	else if (err->kind == ERROR_NOT_OWNER && now.epoch >= epoch)
		race->lost++;
	else
		note_error(err);
}

static void start_race(unsigned racers)
{
	pthread_barrierattr_t shared;

	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(race, MAP_FAILED);
	assert_int_equal(pthread_barrierattr_init(&shared), 0);
	assert_int_equal(pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED), 0);
	assert_int_equal(pthread_barrier_init(&race->start, &shared, racers), 0);
}

static void judge_race(uint64_t last, int fewest)
{
	if (race->other_errors)
		fail_msg("%s", race->message);
	for (uint64_t i = 1; i <= last; i++)
		if (race->wins[i] < fewest || race->wins[i] > 1)
			fail_msg("epoch %" PRIu64 " was won %d times", i, race->wins[i]);
	/* A race that nobody loses shows nothing. */
	assert_true(race->lost > 0);
	assert_int_equal(count_entries(VM_DIR, ".tmp"), 0);
	assert_int_equal(munmap(race, sizeof(*race)), 0);
}

static void test_each_epoch_is_won_once_when_four_processes_race(void **state)
{
	const uint64_t last = 500;
	pid_t pids[4];
	int status;

	(void)state;
	start_race(4);
	for (int i = 0; i < 4; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (uint64_t epoch = 1; epoch <= last; epoch++) {
				pthread_barrier_wait(&race->start);
				try_epoch(epoch, i);
			}
			_exit(0);
		}
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(race->lost, 3 * last);
	judge_race(last, 1);
	assert_int_equal(count_entries(VM_DIR, "owner."), 65);
}

/* Claims whatever comes next, also from who has just won it. */
static void *race_thread(void *arg)
{
	const uint64_t last = 150;
	struct pool_owner owner = {0};

	while (owner.epoch < last && !race->other_errors) {
		cleanup_error struct error *err = NULL;

		if (pool_owner_read(pool, VM, &owner, &err) < 0)
			note_error(err);
		else if (owner.epoch < last)
			try_epoch(owner.epoch + 1, (int)(intptr_t)arg);
	}
	return NULL;
}

static void test_no_epoch_is_won_twice_when_eight_threads_take_it_from_each_other(void **state)
{
	pthread_t threads[8];

	(void)state;
	start_race(8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, race_thread, (void *)(intptr_t)i), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	/* Whoever was overtaken between its link and its look has not won. */
	judge_race(150, 0);
}

/* A child that is killed at a fault point in the middle of its claim. */
static void claim_and_die(uint64_t epoch, const char *node, const char *fault)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		setenv("DROVER_FAULT", fault, 1);
		if (fault_init(NULL) == 0)
			claim(epoch, node, NULL);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_a_claimer_killed_before_its_link_has_claimed_nothing(void **state)
{
	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	claim_and_die(2, "node2", "pool.claim.before_link:kill");
	expect_owner(1, "node1");
	assert_int_equal(count_entries(VM_DIR, ".tmp.owner."), 1);
	assert_int_equal(claim(2, "node3", NULL), 0);
	expect_owner(2, "node3");
}

static void test_a_claimer_killed_after_its_link_is_the_owner(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	claim_and_die(2, "node2", "pool.claim.after_link:kill");
	expect_owner(2, "node2");
	assert_int_equal(claim(2, "node1", &err), -1);
	expect_error(&err, ERROR_NOT_OWNER, "node2");
	assert_int_equal(claim(3, "node1", NULL), 0);
	expect_owner(3, "node1");
}

static int link_done_but_eexist(int from_dir, const char *from, int to_dir, const char *to)
{
	assert_int_equal(real_link(from_dir, from, to_dir, to), 0);
	errno = EEXIST;
	return -1;
}

static int link_done_but_eio(int from_dir, const char *from, int to_dir, const char *to)
{
	assert_int_equal(real_link(from_dir, from, to_dir, to), 0);
	errno = EIO;
	return -1;
}

static void test_a_claim_whose_answer_was_lost_is_won(void **state)
{
	(void)state;
	link_hook = link_done_but_eexist;
	assert_int_equal(claim(1, "node1", NULL), 0);
	expect_owner(1, "node1");
	link_hook = link_done_but_eio;
	assert_int_equal(claim(2, "node2", NULL), 0);
	expect_owner(2, "node2");
	assert_int_equal(count_entries(VM_DIR, ".tmp"), 0);
}

static int link_not_done_eio(int from_dir, const char *from, int to_dir, const char *to)
{
	(void)from_dir, (void)from, (void)to_dir, (void)to;
	errno = EIO;
	return -1;
}

static int link_not_done_eperm(int from_dir, const char *from, int to_dir, const char *to)
{
	(void)from_dir, (void)from, (void)to_dir, (void)to;
	errno = EPERM;
	return -1;
}

static void test_a_link_that_fails_is_an_error_and_not_a_loss(void **state)
{
	struct error *err = NULL;

	(void)state;
	link_hook = link_not_done_eio;
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_POOL, "cannot make a hard link");
	link_hook = link_not_done_eperm;
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_POOL, "Operation not permitted");
	link_hook = NULL;
	expect_owner(0, "");
	assert_int_equal(count_entries(VM_DIR, ""), 1);
}

static int link_after_node9(int from_dir, const char *from, int to_dir, const char *to)
{
	link_hook = NULL;
	assert_int_equal(claim(1, "node9", NULL), 0);
	return real_link(from_dir, from, to_dir, to);
}

static void test_a_claim_overtaken_before_its_link_is_lost(void **state)
{
	struct error *err = NULL;

	(void)state;
	link_hook = link_after_node9;
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_NOT_OWNER, "node9");
	expect_owner(1, "node9");
	assert_int_equal(count_entries(VM_DIR, ".tmp"), 0);
}

/* A claimer that stood still so long that its epoch was won by another, and its file pruned. */
static int link_after_70_claims(int from_dir, const char *from, int to_dir, const char *to)
{
	link_hook = NULL;
	for (uint64_t epoch = 1; epoch <= 70; epoch++)
		assert_int_equal(claim(epoch, "node9", NULL), 0);
	assert_int_equal(real_link(from_dir, from, to_dir, to), 0);
	return 0;
}

static void test_an_epoch_linked_again_after_it_was_pruned_is_not_won(void **state)
{
	cleanup_free char *path = NULL;
	struct error *err = NULL;

	(void)state;
	link_hook = link_after_70_claims;
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_NOT_OWNER, "node9 since epoch 70");
	expect_owner(70, "node9");
	path = in_pool(VM_DIR "/owner.1");
	assert_false(fs_exists(path));
}

static int link_then_node9_claims_next(int from_dir, const char *from, int to_dir, const char *to)
{
	link_hook = NULL;
	assert_int_equal(real_link(from_dir, from, to_dir, to), 0);
	assert_int_equal(claim(2, "node9", NULL), 0);
	return 0;
}

static void test_a_claim_overtaken_right_after_its_link_is_lost(void **state)
{
	struct error *err = NULL;

	(void)state;
	link_hook = link_then_node9_claims_next;
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_NOT_OWNER, "node9 since epoch 2");
	expect_owner(2, "node9");
}

static int link_in_a_vm_that_is_removed(int from_dir, const char *from, int to_dir, const char *to)
{
	link_hook = NULL;
	assert_int_equal(pool_vm_rename(pool, VM, "other", NULL), 0);
	return real_link(from_dir, from, to_dir, to);
}

static void test_a_claim_of_a_vm_that_went_away_is_not_won(void **state)
{
	struct error *err = NULL;

	(void)state;
	link_hook = link_in_a_vm_that_is_removed;
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_NO_VM, VM);
}

static void test_a_failed_fsync_is_an_error_and_never_a_win(void **state)
{
	struct error *err = NULL;

	(void)state;
	fail_fsync_after = 0; /* of the temporary file: nothing was linked */
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_POOL, "Input/output error");
	expect_owner(0, "");
	fail_fsync_after = 1; /* of the directory: linked, but not known to last */
	assert_int_equal(claim(1, "node1", &err), -1);
	expect_error(&err, ERROR_POOL, "cannot sync the directory");
	expect_owner(1, "node1");
	assert_int_equal(count_entries(VM_DIR, ".tmp"), 0);
}

static void test_a_fault_between_link_and_answer_is_found_by_reading_again(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		cleanup_error struct error *err = NULL;

		setenv("DROVER_FAULT", "pool.claim.after_link:error", 1);
		if (fault_init(NULL) < 0 || claim(1, "node1", &err) == 0)
			_exit(1);
		_exit(err->kind == ERROR_FAILED ? 0 : 2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	expect_owner(1, "node1");
}

/* In a child with its own mounts: the VM's directory on a file system of its own. */
static const char *mount_small(void)
{
	cleanup_free char *dir = in_pool(VM_DIR);

	return mount("tmpfs", dir, "tmpfs", 0, "size=64k,nr_inodes=64") < 0 ? "cannot mount" : NULL;
}

static const char *claims_on_a_full_file_system(void)
{
	cleanup_free char *ballast = in_pool(VM_DIR "/ballast");
	cleanup_error struct error *err = NULL;
	char block[4096] = {1};
	struct pool_owner owner;
	const char *wrong = mount_small();
	int fd;

	if (wrong)
		return wrong;
	if (claim(1, "node1", &err) < 0)
		return err->message;
	fd = open(ballast, O_WRONLY | O_CREAT, 0600);
	while (write(fd, block, sizeof(block)) > 0)
		;
	close(fd);
	if (claim(2, "node2", &err) == 0)
		return "a claim was won on a full file system";
	wrong = unexpected(err, ERROR_NO_SPACE, "No space left");
	if (wrong)
		return wrong;
	if (count_entries(VM_DIR, ".tmp") != 0)
		return "a temporary file was left";
	if (pool_owner_read(pool, VM, &owner, NULL) < 0 || strcmp(owner.node, "node1"))
		return "the owner has changed";
	unlink(ballast);
	return claim(2, "node2", NULL) == 0 ? NULL : "no claim when there is room again";
}

static void test_a_full_file_system_leaves_the_owner_as_it_was(void **state)
{
	(void)state;
	in_namespaces(CLONE_NEWNS, claims_on_a_full_file_system);
}

static const char *claims_on_a_read_only_file_system(void)
{
	cleanup_free char *dir = in_pool(VM_DIR);
	cleanup_error struct error *err = NULL;
	struct pool_owner owner;
	const char *wrong = mount_small();

	if (wrong)
		return wrong;
	if (claim(1, "node1", &err) < 0)
		return err->message;
	if (mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		return "cannot remount";
	if (claim(2, "node2", &err) == 0)
		return "a claim was won on a read-only file system";
	if (pool_owner_read(pool, VM, &owner, NULL) < 0 || strcmp(owner.node, "node1"))
		return "the owner cannot be read";
	return unexpected(err, ERROR_POOL, "Read-only file system");
}

static void test_a_read_only_file_system_can_be_read_and_not_claimed_on(void **state)
{
	(void)state;
	in_namespaces(CLONE_NEWNS, claims_on_a_read_only_file_system);
}

static void test_leftovers_of_crashed_claims_go_after_a_day(void **state)
{
	cleanup_free char *temp = in_pool(VM_DIR "/.tmp.owner.old");

	(void)state;
	put_text(VM_DIR "/.tmp.owner.old", "x");
	assert_int_equal(claim(1, "node1", NULL), 0);
	assert_true(fs_exists(temp));
	time_ahead_s = 90000;
	assert_int_equal(claim(2, "node1", NULL), 0);
	assert_false(fs_exists(temp));
}

/* What another node sees of one on NFS v3 between its creation and the setting of its times. */
static void test_a_claim_on_its_way_is_no_leftover_whatever_its_mtime_says(void **state)
{
	static const struct timespec times[2] = {{.tv_sec = 1653735423}, {.tv_sec = 788725760}};
	cleanup_free char *temp = in_pool(VM_DIR "/.tmp.owner.new");

	(void)state;
	put_text(VM_DIR "/.tmp.owner.new", "");
	assert_int_equal(utimensat(AT_FDCWD, temp, times, 0), 0);
	assert_int_equal(claim(1, "node1", NULL), 0);
	assert_true(fs_exists(temp));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, remove_pool)
	const struct CMUnitTest tests[] = {
		TEST(test_a_vm_that_was_never_claimed_is_nobodys_at_epoch_0),
		TEST(test_claims_follow_each_other_and_can_release),
		TEST(test_an_epoch_that_is_taken_says_by_whom_and_leaves_nothing),
		TEST(test_an_epoch_cannot_be_skipped),
		TEST(test_names_that_are_not_allowed_reach_no_file),
		TEST(test_each_epoch_is_won_once_when_four_processes_race),
		TEST(test_no_epoch_is_won_twice_when_eight_threads_take_it_from_each_other),
		TEST(test_a_claimer_killed_before_its_link_has_claimed_nothing),
		TEST(test_a_claimer_killed_after_its_link_is_the_owner),
		TEST(test_a_claim_whose_answer_was_lost_is_won),
		TEST(test_a_link_that_fails_is_an_error_and_not_a_loss),
		TEST(test_a_claim_overtaken_before_its_link_is_lost),
		TEST(test_an_epoch_linked_again_after_it_was_pruned_is_not_won),
		TEST(test_a_claim_overtaken_right_after_its_link_is_lost),
		TEST(test_a_claim_of_a_vm_that_went_away_is_not_won),
		TEST(test_a_failed_fsync_is_an_error_and_never_a_win),
		TEST(test_a_fault_between_link_and_answer_is_found_by_reading_again),
		TEST(test_a_full_file_system_leaves_the_owner_as_it_was),
		TEST(test_a_read_only_file_system_can_be_read_and_not_claimed_on),
		TEST(test_leftovers_of_crashed_claims_go_after_a_day),
		TEST(test_a_claim_on_its_way_is_no_leftover_whatever_its_mtime_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
