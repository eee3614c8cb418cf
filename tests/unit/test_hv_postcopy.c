/*
 * Post-copy between two QEMUs with real guests: what drover's rules of the handover rest on
 * (docs/handover.md).
 */
#pragma GCC diagnostic ignored "-Wunused-function"
#include "test_hv_qemu.h"

#include <sys/sysmacros.h>

/* Slow enough that the pages of a busy guest are caught on their way: for a second. */
#define LANE_BPS (24 << 20)
static const struct hv_migrate_params slow = {
	.downtime_limit_ms = 1, .bandwidth_bps = LANE_BPS, .postcopy = true};

static char *uffd;

/* What docs/operations.md asks of an administrator, for this process and its children only. */
static void allow_userfaultfd(mode_t mode)
{
	struct stat st;

	assert_int_equal(chmod("/dev/userfaultfd", mode), 0);
	assert_int_equal(stat("/dev/userfaultfd", &st), 0);
	assert_int_equal(st.st_gid, VM_USER);
}

static int setup_userfaultfd(void **state)
{
	struct stat st;

	setup_all(state);
	if (geteuid() != 0 || stat("/dev/userfaultfd", &st) < 0)
		return 0;
	uffd = fs_format("%s/userfaultfd", dir);
	assert_int_equal(mknod(uffd, S_IFCHR | 0600, st.st_rdev), 0);
	assert_int_equal(chown(uffd, 0, VM_USER), 0);
	assert_int_equal(mount(uffd, "/dev/userfaultfd", NULL, MS_BIND, NULL), 0);
	return 0;
}

static int teardown_userfaultfd(void **state)
{
	if (uffd)
		umount2("/dev/userfaultfd", MNT_DETACH);
	free(uffd);
	return teardown_all(state);
}

/* Has 32 MiB of random pages, all of which change while they are sent. */
static void very_busy(struct guest *g)
{
	run_in(g, "printf 'fill 32 random\\ndirty 32 page\\n' | nc 127.0.0.1 7001\n",
		"\"mib_s\":32");
}

/* A busy guest whose memory is on its way to *b, with a first round behind it. */
static struct guest *send_to(struct guest **b, char **path)
{
	struct guest *a;
	struct hv_migrate_status s;
	int64_t deadline = clock_ms() + STEP_MS;

	if (!uffd)
		skip();
	allow_userfaultfd(0660);
	a = boot(0, hv10);
	very_busy(a);
	*b = describe(1);
	start_with(*b, hv10, true);
	*path = fs_format("%s/stream.sock", (*b)->dir);
	must(hv_vm_migrate_incoming((*b)->hv, *path, true, &test_error));
	must(hv_vm_migrate(a->hv, *path, &slow, &test_error));
	do
		must(hv_vm_migrate_wait(
			a->hv, HV_MIGRATE_ACTIVE, clock_ms() + 50, &s, &test_error));
	while (s.round < 2 && clock_ms() < deadline);
	assert_int_equal(s.phase, HV_MIGRATE_ACTIVE);
	return a;
}

static void switch_over(struct guest *a, struct guest *b)
{
	must(hv_vm_pause(a->hv, &test_error));
	must(hv_vm_migrate_postcopy(a->hv, &test_error));
	wait_phase(a, HV_MIGRATE_POSTCOPY);
	wait_phase(b, HV_MIGRATE_POSTCOPY);
	assert_int_equal(hv_vm_state(a->hv), HV_PAUSED);
	assert_int_equal(hv_vm_state(b->hv), HV_PAUSED);
	assert_int_equal(locks_held(b), 0);
}

static void test_a_guest_runs_while_its_pages_come_and_all_are_right(void **state)
{
	cleanup_free char *path = NULL;
	struct guest *b, *a = send_to(&b, &path);

	(void)state;
	switch_over(a, b);
	must(hv_vm_resume(b->hv, &test_error));
	assert_int_equal(hv_vm_state(b->hv), HV_RUNNING);
	assert_true(locks_held(b) > 0);
	expect_alive(b);
	wait_phase(a, HV_MIGRATE_COMPLETED);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	assert_int_equal(hv_vm_state(a->hv), HV_MIGRATED);
	end_guest(a);
	expect_memory_right(b);
}

static void test_a_source_whose_switch_fails_stays_paused_and_can_go_on(void **state)
{
	cleanup_free char *path = NULL;
	struct guest *b, *a = send_to(&b, &path);

	(void)state;
	must(hv_vm_pause(a->hv, &test_error));
	end_guest(b);
	must(hv_vm_migrate_postcopy(a->hv, &test_error));
	/* QEMU 10.0 never gets out of it. */
	if (hv_vm_migrate_cancel(a->hv, &test_error) < 0)
		expect_error(ERROR_TIMEOUT, "has not stopped");
	assert_int_equal(hv_vm_state(a->hv), HV_PAUSED);
	must(hv_vm_migrate_abandon(a->hv, &test_error));
	assert_int_equal(hv_vm_state(a->hv), HV_RUNNING);
	assert_true(locks_held(a) > 0);
	expect_memory_right(a);
}

static void test_a_switched_source_goes_on_only_by_order(void **state)
{
	cleanup_free char *path = NULL;
	struct guest *b, *a = send_to(&b, &path);

	(void)state;
	switch_over(a, b);
	assert_int_equal(hv_vm_migrate_cancel(a->hv, &test_error), -1);
	expect_error(ERROR_REFUSED, "back");
	end_guest(b);
	wait_phase(a, HV_MIGRATE_POSTCOPY_PAUSED);
	assert_int_equal(hv_vm_migrate_cancel(a->hv, &test_error), -1);
	expect_error(ERROR_REFUSED, "back");
	assert_int_equal(hv_vm_state(a->hv), HV_PAUSED);
	/* Its memory is whole, as long as the other never ran. */
	must(hv_vm_migrate_abandon(a->hv, &test_error));
	assert_int_equal(hv_vm_state(a->hv), HV_RUNNING);
	assert_true(locks_held(a) > 0);
	expect_memory_right(a);
}

static void test_a_source_does_not_go_on_while_its_disks_are_locked(void **state)
{
	cleanup_free char *path = NULL;
	struct guest *b, *a = send_to(&b, &path);

	(void)state;
	switch_over(a, b);
	must(hv_vm_resume(b->hv, &test_error));
	assert_int_equal(hv_vm_migrate_abandon(a->hv, &test_error), -1);
	expect_error(ERROR_DISK, "in use");
	assert_int_equal(hv_vm_state(a->hv), HV_PAUSED);
}

static void test_a_broken_connection_is_replaced(void **state)
{
	cleanup_free char *path = NULL, *other = NULL;
	struct guest *b, *a = send_to(&b, &path);

	(void)state;
	switch_over(a, b);
	must(hv_vm_resume(b->hv, &test_error));
	other = fs_format("%s/other.sock", b->dir);
	/* It has not seen that anything is wrong: then nothing is. */
	must(hv_vm_migrate_recover(b->hv, other, &test_error));
	wait_phase(a, HV_MIGRATE_POSTCOPY_PAUSED);
	must(hv_vm_migrate_resume(a->hv, other, &test_error));
	wait_phase(a, HV_MIGRATE_COMPLETED);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	end_guest(a);
	expect_memory_right(b);
}

static void test_a_destination_that_may_not_says_what_to_allow(void **state)
{
	cleanup_free char *path = fs_format("%s/stream.sock", dir);
	struct guest *b;

	(void)state;
	if (!uffd)
		skip();
	allow_userfaultfd(0600);
	b = describe(1);
	start_with(b, hv10, true);
	assert_int_equal(hv_vm_migrate_incoming(b->hv, path, true, &test_error), -1);
	expect_error(ERROR_HYPERVISOR, "let group 64055 open /dev/userfaultfd, or set");
	end_guest(b);
	b = describe(2);
	start_with(b, hv72, true);
	assert_int_equal(hv_vm_migrate_incoming(b->hv, path, true, &test_error), -1);
	expect_error(ERROR_HYPERVISOR, "and use QEMU 8 or later");
}

/* What changes before each round is more than the limit allows, so that there is always another. */
static void test_a_round_is_told_when_it_begins(void **state)
{
	static const struct hv_migrate_params endless = {
		.downtime_limit_ms = 1, .bandwidth_bps = LANE_BPS};
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;
	int64_t deadline = clock_ms() + STEP_MS;
	struct hv_migrate_status s;

	(void)state;
	very_busy(a);
	b = destination(1, a, hv10, &path);
	must(hv_vm_migrate(a->hv, path, &endless, &test_error));
	s = wait_phase(a, HV_MIGRATE_ACTIVE);
	for (int told = 0; told < 3; told++) {
		int round = s.round;

		must(hv_vm_migrate_follow(a->hv, deadline, &s, &test_error));
		assert_int_equal(s.phase, HV_MIGRATE_ACTIVE);
		assert_true(s.round > round && clock_ms() < deadline);
	}
	must(hv_vm_migrate_cancel(a->hv, &test_error));
	end_guest(b);
}

int main(void)
{
#define GUEST_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		GUEST_TEST(test_a_guest_runs_while_its_pages_come_and_all_are_right),
		GUEST_TEST(test_a_source_whose_switch_fails_stays_paused_and_can_go_on),
		GUEST_TEST(test_a_switched_source_goes_on_only_by_order),
		GUEST_TEST(test_a_source_does_not_go_on_while_its_disks_are_locked),
		GUEST_TEST(test_a_broken_connection_is_replaced),
		GUEST_TEST(test_a_destination_that_may_not_says_what_to_allow),
		GUEST_TEST(test_a_round_is_told_when_it_begins),
	};

	return cmocka_run_group_tests(tests, setup_userfaultfd, teardown_userfaultfd);
}
