/*
 * The QEMU driver with real guests: started, paused, found again and killed.
 */
#include "test_hv_qemu.h"

#include "base/json.h"

/*
 * What a node can do.
 */

static void test_the_probe_tells_what_this_qemu_is(void **state)
{
	cleanup_json json_t *json = hv_facts_json(hv10);

	(void)state;
	assert_int_equal(hv_get_facts(hv10)->major, 10);
	assert_string_equal(hv_get_facts(hv10)->accel, "tcg");
	assert_null(hv_get_facts(hv10)->no_live);
	assert_non_null(strstr(hv_get_facts(hv72)->no_live, "pause the guest"));
	assert_string_equal(json_string_value(json_array_get(json_object_get(json, "machines"), 0)),
		"pc-q35-10.0");
	assert_true(json_array_size(json_object_get(json, "cpus")) > 0);
}

static void test_a_missing_or_failing_binary_is_said(void **state)
{
	struct hv_settings set = {.binary = "/nonexistent/qemu", .accel = "tcg", .uid = VM_USER};

	(void)state;
	assert_null(hv_open(&set, &test_error));
	expect_error(ERROR_HYPERVISOR, "/nonexistent/qemu");
	set.binary = "/bin/false";
	assert_null(hv_open(&set, &test_error));
	expect_error(ERROR_HYPERVISOR, "/bin/false");
	set.accel = "warp";
	assert_null(hv_open(&set, &test_error));
	expect_error(ERROR_DEFINITION, "warp");
}

static void test_a_definition_is_completed_and_checked(void **state)
{
	struct vm_def def = {.name = (char *)"web1"};

	(void)state;
	hv_complete_def(hv72, &def);
	assert_string_equal(def.machine, "pc-q35-7.2");
	assert_string_equal(def.cpu, "baseline");
	must(hv_check_def(hv10, &def, &test_error));
	free(def.machine);
	free(def.cpu);

	def.machine = (char *)"pc-q35-10.0";
	def.cpu = (char *)"qemu64";
	assert_int_equal(hv_check_def(hv72, &def, &test_error), -1);
	expect_error(ERROR_HYPERVISOR, "has machine type pc-q35-10.0, which QEMU 7.2");
	def.cpu = (char *)"SapphireRapids";
	assert_int_equal(hv_check_def(hv10, &def, &test_error), -1);
	expect_error(ERROR_HYPERVISOR, "lacks:");
	def.cpu = (char *)"max";
	assert_int_equal(hv_check_def(hv10, &def, &test_error), -1);
	expect_error(ERROR_DEFINITION, "could not move");
	def.cpu = (char *)"z80";
	assert_int_equal(hv_check_def(hv10, &def, &test_error), -1);
	expect_error(ERROR_HYPERVISOR, "does not know");
}

static void test_images_are_made_and_read_and_never_overwritten(void **state)
{
	cleanup_free char *path = fs_format("%s/overlay.qcow2", dir);
	cleanup_json json_t *info = NULL;
	struct stat st;

	(void)state;
	must(hv_image_create(hv10, path, "qcow2", 0, disk, "qcow2", &test_error));
	info = hv_image_info(hv10, path, &test_error);
	must(info ? 0 : -1);
	assert_string_equal(json_string_value(json_object_get(info, "format")), "qcow2");
	assert_int_equal(json_integer_value(json_object_get(info, "virtual_size")), 64 << 20);
	assert_string_equal(json_string_value(json_object_get(info, "backing")), disk);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, geteuid() == 0 ? VM_USER : geteuid());
	assert_int_equal(
		hv_image_create(hv10, path, "qcow2", 1 << 20, NULL, NULL, &test_error), -1);
	expect_error(ERROR_EXISTS, "exists already");
	unlink(path);
	assert_int_equal(
		hv_image_create(hv10, path, "qcow2", 0, "/no/base.qcow2", NULL, &test_error), -1);
	expect_error(ERROR_DISK, "/no/base.qcow2");
	assert_false(fs_exists(path));
	assert_null(hv_image_info(hv10, "/nonexistent.qcow2", &test_error));
	expect_error(ERROR_DISK, "No such file");
}

/*
 * One VM.
 */

/* Value of a line of /proc/PID/status. */
static long status_number(const struct guest *g, const char *key)
{
	cleanup_free char *path = fs_format("/proc/%d/status", (int)hv_vm_process(g->hv)->pid);
	cleanup_free char *text = fs_read(path, 65536, NULL, NULL);
	const char *at = text ? strstr(text, key) : NULL;

	return at ? strtol(at + strlen(key), NULL, 10) : -1;
}

static void test_a_started_guest_waits_to_be_let_run(void **state)
{
	struct guest *g = describe(0);
	pid_t pid;

	(void)state;
	start_with(g, hv10, false);
	pid = hv_vm_process(g->hv)->pid;
	assert_int_equal(hv_vm_state(g->hv), HV_STARTING);
	assert_int_equal(getsid(pid), pid);
	assert_int_equal(status_number(g, "\nUid:"), geteuid() == 0 ? VM_USER : geteuid());
	assert_int_equal(status_number(g, "\nNoNewPrivs:"), 1);
	assert_int_equal(status_number(g, "\nSeccomp:"), 2);
	must(hv_vm_resume(g->hv, &test_error));
	assert_int_equal(hv_vm_state(g->hv), HV_RUNNING);
	expect(g, 0, "READY", BOOT_MS);
	expect_alive(g);
}

static void test_a_paused_guest_goes_on_where_it_was(void **state)
{
	struct guest *g = boot(0, hv10);

	(void)state;
	must(hv_vm_pause(g->hv, &test_error));
	assert_int_equal(hv_vm_state(g->hv), HV_PAUSED);
	must(hv_vm_pause(g->hv, &test_error));
	must(hv_vm_announce(g->hv, &test_error));
	must(hv_vm_resume(g->hv, &test_error));
	must(hv_vm_resume(g->hv, &test_error));
	expect_alive(g);
}

static void test_the_power_button_turns_the_guest_off(void **state)
{
	struct guest *g = boot(0, hv10);

	(void)state;
	assert_false(hv_vm_wait_off(g->hv, clock_ms() + 50));
	must(hv_vm_powerdown(g->hv, &test_error));
	assert_true(hv_vm_wait_off(g->hv, clock_ms() + STEP_MS));
	assert_int_equal(hv_vm_state(g->hv), HV_OFF);
	assert_int_equal(hv_vm_resume(g->hv, &test_error), -1);
	expect_error(ERROR_NOT_RUNNING, "powered off");
	must(hv_vm_end(g->hv, clock_ms() + STEP_MS, &test_error));
	assert_int_equal(hv_vm_state(g->hv), HV_GONE);
	assert_false(fs_exists(g->dir));
}

static void test_a_guest_is_found_again_by_another_handle(void **state)
{
	struct guest *g = boot(0, hv10);
	struct process_id id = *hv_vm_process(g->hv);

	(void)state;
	hv_vm_close(g->hv);
	g->hv = hv_vm_attach(hv10, g->dir, &test_error);
	must(g->hv ? 0 : -1);
	assert_int_equal(hv_vm_process(g->hv)->pid, id.pid);
	assert_int_equal(hv_vm_state(g->hv), HV_RUNNING);
	expect_alive(g);
	assert_int_equal(try_start(&(struct guest){.def = g->def, .disks = {disk}, .dir = g->dir},
				 hv10, false),
		-1);
	expect_error(ERROR_RUNNING, "already");
	expect_alive(g);
}

static void test_a_killed_hypervisor_is_noticed_at_once(void **state)
{
	struct guest *g = describe(0);

	(void)state;
	start_with(g, hv10, false);
	process_signal(hv_vm_process(g->hv), SIGKILL);
	assert_true(hv_vm_wait_off(g->hv, clock_ms() + STEP_MS));
	assert_int_equal(hv_vm_state(g->hv), HV_GONE);
	assert_int_equal(hv_vm_pause(g->hv, &test_error), -1);
	expect_error(ERROR_NOT_RUNNING, "has ended");
	assert_true(fs_exists(g->dir));
	assert_null(hv_vm_attach(hv10, g->dir, &test_error));
	expect_error(ERROR_NOT_RUNNING, "VM web1");
	assert_false(fs_exists(g->dir));
	assert_null(hv_vm_attach(hv10, g->dir, &test_error));
	expect_error(ERROR_NOT_RUNNING, g->dir);
}

/* droverd was killed between starting QEMU and writing down who it is. */
static void test_a_hypervisor_of_an_unfinished_start_is_ended(void **state)
{
	struct guest *g = describe(0);
	cleanup_free char *identity = fs_format("%s/hv.json", g->dir);
	struct process_id id;

	(void)state;
	start_with(g, hv10, false);
	id = *hv_vm_process(g->hv);
	hv_vm_close(g->hv);
	close_fd(&g->console);
	assert_int_equal(unlink(identity), 0);
	start_with(g, hv10, false);
	assert_true(process_wait(&id, clock_ms() + STEP_MS, NULL));
	assert_int_equal(hv_vm_state(g->hv), HV_STARTING);
}

static void expect_no_start(struct guest *g, enum error_kind kind, const char *part)
{
	assert_int_equal(try_start(g, hv10, false), -1);
	expect_error(kind, part);
	assert_false(fs_exists(g->dir));
}

static void test_a_start_that_fails_says_why_and_leaves_nothing(void **state)
{
	struct guest *g = describe(0);
	cleanup_free char *none = fs_format("%s/none.qcow2", dir);

	(void)state;
	g->disks[0] = none;
	expect_no_start(g, ERROR_DISK, "cannot start: disk0 does not open: Could not open");
	must(hv_image_create(hv10, none, "raw", 1 << 20, NULL, NULL, &test_error));
	expect_no_start(g, ERROR_DISK, "disk0 does not open: Image is not in qcow2 format");
	unlink(none);
	g->disks[0] = disk;
	if (geteuid() == 0) {
		assert_int_equal(chown(disk, 0, 0) | chmod(disk, 0600), 0);
		expect_no_start(g, ERROR_DISK, "give user 64055");
		assert_int_equal(chown(disk, VM_USER, VM_USER), 0);
	}
	g->def.kernel = none;
	expect_no_start(g, ERROR_HYPERVISOR, "none.qcow2");
	if (geteuid() == 0) {
		must(fs_write(none, "x", 1, 0600, &test_error));
		expect_no_start(g, ERROR_HYPERVISOR, "give user 64055 (group 64055) read access");
		unlink(none);
	}
	g->def.kernel = kernel;
	g->def.memory_bytes = 1ull << 46;
	expect_no_start(g, ERROR_HYPERVISOR, "memory");
	g->def.memory_bytes = 128 << 20;
	g->def.nics_count = 1;
	g->def.nics[0] = (struct vm_nic){
		(char *)"br0", (char *)"52:54:00:12:34:56", (char *)"virtio-net-pci"};
	g->taps[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	expect_no_start(g, ERROR_NETWORK, "network");
}

static void test_a_disk_in_use_is_not_opened_twice(void **state)
{
	struct guest *g = describe(0), *other = describe(1);

	(void)state;
	start_with(g, hv10, false);
	expect_no_start(other, ERROR_DISK, "is in use by another process");
	assert_int_equal(hv_vm_state(g->hv), HV_STARTING);
}

int main(void)
{
#define GUEST_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		GUEST_TEST(test_the_probe_tells_what_this_qemu_is),
		GUEST_TEST(test_a_missing_or_failing_binary_is_said),
		GUEST_TEST(test_a_definition_is_completed_and_checked),
		GUEST_TEST(test_images_are_made_and_read_and_never_overwritten),
		GUEST_TEST(test_a_started_guest_waits_to_be_let_run),
		GUEST_TEST(test_a_paused_guest_goes_on_where_it_was),
		GUEST_TEST(test_the_power_button_turns_the_guest_off),
		GUEST_TEST(test_a_guest_is_found_again_by_another_handle),
		GUEST_TEST(test_a_killed_hypervisor_is_noticed_at_once),
		GUEST_TEST(test_a_hypervisor_of_an_unfinished_start_is_ended),
		GUEST_TEST(test_a_start_that_fails_says_why_and_leaves_nothing),
		GUEST_TEST(test_a_disk_in_use_is_not_opened_twice),
	};

	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
