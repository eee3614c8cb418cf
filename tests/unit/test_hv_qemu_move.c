/*
 * The QEMU driver with two real hypervisors: a guest moves between them, or does not get through.
 */
#include "test_hv_qemu.h"

#include <pthread.h>

static const struct hv_migrate_params fast = {.downtime_limit_ms = 100};
/* Slow enough that a guest with 32 MiB of random pages is caught in the middle. */
static const struct hv_migrate_params slow = {.downtime_limit_ms = 1, .bandwidth_bps = 4 << 20};

static void test_a_running_guest_moves_with_every_page_right(void **state)
{
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;
	struct hv_migrate_status s;

	(void)state;
	busy(a);
	b = destination(1, a, hv10, &path);
	assert_int_equal(hv_vm_state(b->hv), HV_INCOMING);
	must(hv_vm_migrate(a->hv, path, &fast, &test_error));
	s = wait_phase(a, HV_MIGRATE_COMPLETED);
	assert_true(s.round >= 2 && s.sent_bytes > 32 << 20 && s.total_bytes >= 128 << 20);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	assert_int_equal(hv_vm_state(a->hv), HV_MIGRATED);
	assert_int_equal(hv_vm_state(b->hv), HV_PAUSED);
	assert_int_equal(locks_held(b), 0);
	must(hv_vm_resume(b->hv, &test_error));
	must(hv_vm_announce(b->hv, &test_error));
	assert_true(locks_held(b) > 0);
	expect_memory_right(b);

	/* Should the source be told to run by mistake, its disk's lock stops it. */
	assert_int_equal(hv_vm_resume(a->hv, &test_error), -1);
	expect_error(ERROR_DISK, "in use");
	end_guest(a);
	expect_alive(b);
}

static void test_a_source_that_completed_can_go_on_when_the_destination_died(void **state)
{
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;

	(void)state;
	busy(a);
	b = destination(1, a, hv10, &path);
	must(hv_vm_migrate(a->hv, path, &fast, &test_error));
	wait_phase(a, HV_MIGRATE_COMPLETED);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	end_guest(b);
	assert_false(hv_vm_wait_off(a->hv, clock_ms() + 300));
	assert_int_equal(hv_vm_state(a->hv), HV_MIGRATED);
	must(hv_vm_migrate_cancel(a->hv, &test_error));
	assert_int_equal(hv_vm_state(a->hv), HV_MIGRATED);
	must(hv_vm_resume(a->hv, &test_error));
	expect_memory_right(a);

	/* And it can be moved after that. */
	free(path);
	b = destination(1, a, hv10, &path);
	must(hv_vm_migrate(a->hv, path, &fast, &test_error));
	wait_phase(a, HV_MIGRATE_COMPLETED);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	must(hv_vm_resume(b->hv, &test_error));
	expect_memory_right(b);
}

static void test_a_guest_that_is_being_loaded_is_not_let_run(void **state)
{
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;

	(void)state;
	busy(a);
	b = destination(1, a, hv10, &path);
	assert_int_equal(hv_vm_resume(b->hv, &test_error), -1);
	expect_error(ERROR_BUSY, "not been loaded");
	must(hv_vm_migrate(a->hv, path, &slow, &test_error));
	wait_phase(a, HV_MIGRATE_ACTIVE);
	assert_int_equal(hv_vm_resume(b->hv, &test_error), -1);
	expect_error(ERROR_BUSY, "not been loaded");
	must(hv_vm_migrate_set(a->hv, &fast, &test_error));
	wait_phase(a, HV_MIGRATE_COMPLETED);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	assert_int_equal(hv_vm_state(b->hv), HV_PAUSED);
}

static void test_a_cancelled_move_leaves_the_guest_running(void **state)
{
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;
	struct hv_migrate_status s;

	(void)state;
	busy(a);
	b = destination(1, a, hv10, &path);
	must(hv_vm_migrate(a->hv, path, &slow, &test_error));
	wait_phase(a, HV_MIGRATE_ACTIVE);
	must(hv_vm_migrate_cancel(a->hv, &test_error));
	must(hv_vm_migrate_status(a->hv, &s, &test_error));
	assert_int_equal(s.phase, HV_MIGRATE_CANCELLED);
	assert_int_equal(hv_vm_state(a->hv), HV_RUNNING);
	assert_true(hv_vm_wait_off(b->hv, clock_ms() + STEP_MS));
	expect_memory_right(a);
}

/* Takes a stream at `path`, and after `bytes` closes it, or takes no more of it. */
struct relay {
	int fd;
	size_t bytes;
	bool stalls;
	int stream;
	pthread_t thread;
};

static void *relay_thread(void *arg)
{
	struct relay *r = arg;
	char block[65536];
	ssize_t n = 1;

	r->stream = accept4(r->fd, NULL, NULL, SOCK_CLOEXEC);
	for (size_t got = 0; got < r->bytes && n > 0; got += (size_t)n)
		n = read(r->stream, block,
			r->bytes - got < sizeof(block) ? r->bytes - got : sizeof(block));
	if (!r->stalls)
		close_fd(&r->stream);
	return NULL;
}

static void start_relay(struct relay *r, const char *path, size_t bytes)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	r->bytes = bytes;
	r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(chmod(path, 0777) | listen(r->fd, 1), 0);
	pthread_create(&r->thread, NULL, relay_thread, r);
}

static void end_relay(struct relay *r, const char *path)
{
	pthread_join(r->thread, NULL);
	close_fd(&r->stream);
	close_fd(&r->fd);
	unlink(path);
}

static void test_a_guest_runs_on_when_its_stream_breaks(void **state)
{
	struct guest *a = boot(0, hv10);
	cleanup_free char *path = fs_format("%s/relay.sock", dir);
	const size_t cuts[] = {1, 1 << 20, 20 << 20};
	struct hv_migrate_status s;
	struct relay r = {.stream = -1};

	(void)state;
	busy(a);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
		start_relay(&r, path, cuts[i]);
		must(hv_vm_migrate(a->hv, path, &fast, &test_error));
		s = wait_phase(a, HV_MIGRATE_FAILED);
		/* Reset, where something was still unread. */
		assert_true(
			strstr(s.failure, "Broken pipe") || strstr(s.failure, "Connection reset"));
		assert_int_equal(hv_vm_state(a->hv), HV_RUNNING);
		end_relay(&r, path);
	}
	expect_memory_right(a);
	must(hv_vm_migrate(a->hv, path, &fast, &test_error));
	s = wait_phase(a, HV_MIGRATE_FAILED);
	assert_non_null(strstr(s.failure, "No such file"));
	assert_int_equal(hv_vm_state(a->hv), HV_RUNNING);
}

static void test_a_source_asks_nobody_when_it_completes(void **state)
{
	struct guest *a = boot(0, hv10);
	cleanup_free char *path = fs_format("%s/relay.sock", dir);
	struct relay r = {.stream = -1};

	(void)state;
	busy(a);
	start_relay(&r, path, SIZE_MAX);
	must(hv_vm_migrate(a->hv, path, &fast, &test_error));
	wait_phase(a, HV_MIGRATE_COMPLETED);
	end_relay(&r, path);
	assert_false(hv_vm_wait_off(a->hv, clock_ms() + 300));
	assert_int_equal(hv_vm_state(a->hv), HV_MIGRATED);
	must(hv_vm_resume(a->hv, &test_error));
	expect_memory_right(a);
}

/* While the last pages go out QEMU answers nothing; a network that stands still then must not hold
 * a paused guest for ever. */
static void test_a_stalled_switchover_can_be_cancelled(void **state)
{
	static const struct hv_migrate_params at_once = {
		.downtime_limit_ms = 1000000, .bandwidth_bps = 40 << 20};
	struct guest *a = boot(0, hv10);
	cleanup_free char *path = fs_format("%s/relay.sock", dir);
	struct relay r = {.stream = -1, .stalls = true};

	(void)state;
	busy(a);
	start_relay(&r, path, 20 << 20);
	must(hv_vm_migrate(a->hv, path, &at_once, &test_error));
	wait_phase(a, HV_MIGRATE_SWITCHOVER);
	assert_int_equal(hv_vm_state(a->hv), HV_PAUSED);
	must(hv_vm_migrate_cancel(a->hv, &test_error));
	assert_int_equal(hv_vm_state(a->hv), HV_RUNNING);
	end_relay(&r, path);
	expect_memory_right(a);
}

static void test_a_destination_of_a_broken_stream_says_why_it_ended(void **state)
{
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;
	struct hv_migrate_status s;
	int rc = 0;

	(void)state;
	b = destination(1, a, hv10, &path);
	must(hv_vm_migrate(a->hv, path, &slow, &test_error));
	wait_phase(b, HV_MIGRATE_ACTIVE);
	must(hv_vm_migrate_cancel(a->hv, &test_error));
	while (rc == 0)
		rc = hv_vm_migrate_wait(
			b->hv, HV_MIGRATE_ACTIVE, clock_ms() + STEP_MS, &s, &test_error);
	expect_error(ERROR_NOT_RUNNING, "load of migration failed");
	expect_alive(a);
}

static void test_a_guest_that_powers_off_during_the_move_is_off(void **state)
{
	struct guest *a = boot(0, hv10), *b;
	cleanup_free char *path = NULL;

	(void)state;
	busy(a);
	b = destination(1, a, hv10, &path);
	must(hv_vm_migrate(a->hv, path, &slow, &test_error));
	wait_phase(b, HV_MIGRATE_ACTIVE);
	run_in(a, "poweroff -f\n", "Power down");
	assert_true(hv_vm_wait_off(a->hv, clock_ms() + STEP_MS));
	must(hv_vm_migrate_cancel(a->hv, &test_error));
	assert_int_equal(hv_vm_state(a->hv), HV_OFF);
}

/* Every kind of device that a definition can have. */
static void add_devices(struct guest *g)
{
	static const char *const macs[] = {"52:54:00:12:34:56", "52:54:00:12:34:57"};
	static const char *const models[] = {"virtio-net-pci", "e1000"};

	g->def.vnc = (char *)"unix";
	g->def.cores = 2;
	g->def.nics_count = geteuid() == 0 ? 2 : 0;
	for (int i = 0; i < g->def.nics_count; i++) {
		g->def.nics[i] = (struct vm_nic){(char *)"br0", (char *)macs[i], (char *)models[i]};
		g->taps[i] = open_tap();
	}
}

static void move_paused(struct hv *from, struct hv *to)
{
	struct guest *a = describe(0), *b = describe(1);
	cleanup_free char *path = fs_format("%s/stream.sock", b->dir);

	add_devices(a);
	start_with(a, from, false);
	must(hv_vm_resume(a->hv, &test_error));
	expect(a, 0, "READY", BOOT_MS);
	busy(a);
	must(hv_vm_pause(a->hv, &test_error));
	add_devices(b);
	start_with(b, to, true);
	must(hv_vm_migrate_incoming(b->hv, path, false, &test_error));
	must(hv_vm_migrate(a->hv, path, &fast, &test_error));
	wait_phase(a, HV_MIGRATE_COMPLETED);
	wait_phase(b, HV_MIGRATE_COMPLETED);
	assert_int_equal(hv_vm_state(b->hv), HV_PAUSED);
	assert_int_equal(locks_held(b), 0);
	must(hv_vm_resume(b->hv, &test_error));
	assert_true(locks_held(b) > 0);
	end_guest(a);
	expect_memory_right(b);
}

static void test_a_paused_guest_moves_from_7_2_to_10_0(void **state)
{
	(void)state;
	move_paused(hv72, hv10);
}

static void test_a_paused_guest_moves_back_from_10_0_to_7_2(void **state)
{
	(void)state;
	move_paused(hv10, hv72);
}

int main(void)
{
#define GUEST_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		GUEST_TEST(test_a_running_guest_moves_with_every_page_right),
		GUEST_TEST(test_a_source_that_completed_can_go_on_when_the_destination_died),
		GUEST_TEST(test_a_guest_that_is_being_loaded_is_not_let_run),
		GUEST_TEST(test_a_cancelled_move_leaves_the_guest_running),
		GUEST_TEST(test_a_guest_runs_on_when_its_stream_breaks),
		GUEST_TEST(test_a_source_asks_nobody_when_it_completes),
		GUEST_TEST(test_a_stalled_switchover_can_be_cancelled),
		GUEST_TEST(test_a_destination_of_a_broken_stream_says_why_it_ended),
		GUEST_TEST(test_a_guest_that_powers_off_during_the_move_is_off),
		GUEST_TEST(test_a_paused_guest_moves_from_7_2_to_10_0),
		GUEST_TEST(test_a_paused_guest_moves_back_from_10_0_to_7_2),
	};

	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
