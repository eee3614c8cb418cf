/*
 * The bhyve driver by itself: what it asks bhyve for, what it makes of a definition, and, with a
 * real guest under the stand-in of tests/bhyve-shim, checkpoints. Moves are in
 * tests/integration/test_bhyve.py.
 *
 * DROVER_SHIM_DIR (tests/bhyve-shim), DROVER_QEMU_DIR (build/qemu) and DROVER_GUESTS_DIR
 * (build/guests) say where things are.
 */
#include "base/buf.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "hv/bhyve/bhyve.h"
#include "hv/bhyve/transfer.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BOOT_MS 90000
#define STEP_MS 30000

static char dir[64];
static struct hv_settings settings;
static struct error *test_error;

static char *from(const char *env, const char *fallback, const char *file)
{
	cleanup_free char *path = fs_format("%s/%s", getenv(env) ? getenv(env) : fallback, file);
	char *real = realpath(path, NULL);

	if (!real)
		fail_msg("%s is missing", path);
	return real;
}

static int setup_all(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/hvbhyve-XXXXXX");
	assert_non_null(mkdtemp(dir));
	settings = (struct hv_settings){.driver = "bhyve",
		.bhyve = from("DROVER_SHIM_DIR", "tests/bhyve-shim", "bhyve"),
		.bhyvectl = from("DROVER_SHIM_DIR", "tests/bhyve-shim", "bhyvectl"),
		.bhyveload = "/usr/sbin/bhyveload",
		.grub_bhyve = from("DROVER_SHIM_DIR", "tests/bhyve-shim", "grub-bhyve"),
		.bootrom = "/rom/BHYVE_UEFI.fd",
		.vmm_dir = fs_format("%s/vmm", dir),
		.nmdm_dir = fs_format("%s", dir),
		.suspend_dir = fs_format("%s/suspended", dir),
		.port_min = 7900,
		.port_max = 7999};
	setenv("BHYVE_SHIM", dir, 1);
	setenv("BHYVE_SHIM_QEMU",
		from("DROVER_QEMU_DIR", "build/qemu", "10.0/bin/qemu-system-x86_64"), 1);
	setenv("BHYVE_SHIM_DATA", from("DROVER_QEMU_DIR", "build/qemu", "10.0/data"), 1);
	return 0;
}

/* What a test that failed has left running is ended. */
static int teardown_all(void **state)
{
	cleanup_free char *command = fs_format("for vm in %s/vmm/*; do [ ! -e $vm ] || "
					       "%s --vm=${vm##*/} --destroy; done; rm -r %s",
		dir, settings.bhyvectl, dir);

	(void)state;
	return system(command);
}

static struct hv *open_without(const char *options)
{
	struct hv *hv;

	setenv("BHYVE_SHIM_WITHOUT", options, 1);
	hv = hv_open(&settings, &test_error);
	setenv("BHYVE_SHIM_WITHOUT", "", 1);
	if (!hv)
		fail_msg("%s", test_error->message);
	return hv;
}

static void test_what_it_can_is_read_off_its_usage(void **state)
{
	static const struct {
		const char *without;
		unsigned abilities;
		const char *no_live;
	} cases[] = {
		{"", 31, NULL},
		{"--migrate-live", 15, "--migrate-live"},
		{"-R,--migrate,--migrate-live", 3, "suspended to files"},
		{"-R,-r,--migrate,--migrate-live,--checkpoint,--suspend", 0, "no migration"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hv *hv = open_without(cases[i].without);
		const char *no_live = hv_get_facts(hv)->no_live;

		assert_int_equal(hv->abilities, cases[i].abilities);
		assert_true(!no_live == !cases[i].no_live);
		if (no_live)
			assert_non_null(strstr(no_live, cases[i].no_live));
		hv_close(hv);
	}
}

static void test_a_bhyve_that_is_not_there_is_an_error(void **state)
{
	struct hv_settings none = settings;
	struct error *err = NULL;

	(void)state;
	none.bhyve = "/nonexistent/bhyve";
	assert_null(hv_open(&none, &err));
	assert_non_null(strstr(err->message, "/nonexistent/bhyve"));
	error_free(&err);
}

/*
 * Arguments.
 */

static struct vm_def web1(void)
{
	return (struct vm_def){
		.name = "web1",
		.hypervisor = "bhyve",
		.uuid = "6f9619ff-8b86-d011-b42d-00c04fc964ff",
		.memory_bytes = 512ull << 20,
		.sockets = 1,
		.cores = 2,
		.threads = 1,
		.vnc = "127.0.0.1:1",
		.disks = {{"a.raw", "raw", "none", NULL}, {"b.raw", "raw", "directsync", "nvme"}},
		.disks_count = 2,
		.nics = {{"br0", "52:54:00:12:34:56", "virtio-net-pci"}},
		.nics_count = 1,
	};
}

static char *joined(char **args)
{
	char *text = fs_format("%s", "");

	for (char **a = args; a && *a; a++) {
		char *longer = fs_format("%s%s%s", text, *text ? " " : "", *a);

		free(text);
		text = longer;
	}
	bhyve_args_free(args);
	return text;
}

static const char *const paths[] = {"/pool/a.raw", "/pool/b.raw"};
static const char *const taps[] = {"tap3"};

static void test_a_definition_becomes_arguments(void **state)
{
	struct hv *hv = open_without("--migrate-live");
	struct vm_def def = web1();
	struct hv_start how = {.def = &def,
		.disk_paths = paths,
		.tap_names = taps,
		.run_dir = dir,
		.nvram = "/pool/nvram.fd"};
	struct bhyve_launch launch = {.hv = hv, .how = &how, .console = "/dev/nmdm-web1.1A"};
	char **loader, **args = bhyve_args(&launch, &loader, NULL);
	cleanup_free char *text = joined(args), *expected = NULL, *incoming = NULL;

	(void)state;
	expected = fs_format("%s %s", settings.bhyve,
		"-A -H -P -s 0,hostbridge -s 31,lpc -l com1,/dev/nmdm-web1.1A "
		"-U 6f9619ff-8b86-d011-b42d-00c04fc964ff -m 512M "
		"-c cpus=2,sockets=1,cores=2,threads=1 "
		"-l bootrom,/rom/BHYVE_UEFI.fd,/pool/nvram.fd "
		"-s 3,virtio-blk,/pool/a.raw,nocache -s 4,nvme,/pool/b.raw,nocache,direct "
		"-s 19,virtio-net,tap3,mac=52:54:00:12:34:56 "
		"-s 29,fbuf,tcp=127.0.0.1:5901 -s 30,xhci,tablet web1");
	assert_string_equal(text, expected);
	assert_null(loader);
	launch.port = 7900;
	incoming = joined(bhyve_args(&launch, &loader, NULL));
	assert_non_null(strstr(incoming, " -R 127.0.0.1,7900 web1"));
	hv_close(hv);
}

static void test_loaders_go_before_it(void **state)
{
	struct hv *hv = open_without("");
	struct vm_def def = web1();
	struct hv_start how = {.def = &def, .disk_paths = paths, .tap_names = taps, .run_dir = dir};
	struct bhyve_launch launch = {.hv = hv, .how = &how, .console = "/dev/nmdm-web1.1A"};
	cleanup_free char *load = NULL, *grub = NULL, *cfg = NULL, *wanted = NULL;
	cleanup_free char *path = fs_format("%s/grub.cfg", dir);
	char **loader;

	(void)state;
	def.vnc = NULL;
	def.loader = "bhyveload";
	bhyve_args_free(bhyve_args(&launch, &loader, NULL));
	load = joined(loader);
	assert_string_equal(load, "/usr/sbin/bhyveload -S -m 512M -d /pool/a.raw web1");
	def.loader = "grub";
	def.kernel = "/boot/it's";
	def.append = "a=b  c";
	bhyve_args_free(bhyve_args(&launch, &loader, NULL));
	grub = joined(loader);
	wanted = fs_format(
		"%s -S -m %s/device.map -r host -d %s -M 512 web1", settings.grub_bhyve, dir, dir);
	assert_string_equal(grub, wanted);
	cfg = fs_read(path, 4096, NULL, NULL);
	assert_string_equal(cfg, "linux (host)'/boot/it'\\''s' 'a=b' 'c'\nboot\n");
	hv_close(hv);
}

static void expect_refused(struct hv *hv, const struct vm_def *def, const char *key)
{
	struct error *err = NULL;

	if (hv_check_def(hv, def, &err) == 0)
		fail_msg("%s is not refused", key);
	assert_int_equal(err->kind, ERROR_DEFINITION);
	if (!strstr(err->message, key))
		fail_msg("\"%s\" does not name %s", err->message, key);
	error_free(&err);
}

static void test_what_bhyve_has_not_is_refused_by_its_key(void **state)
{
	struct hv *hv = open_without("");
	struct vm_def def = web1();

	(void)state;
	assert_int_equal(hv_check_def(hv, &def, NULL), 0);
	def.machine = "pc-q35-10.0";
	expect_refused(hv, &def, "machine");
	def = web1();
	def.cpu = "qemu64";
	expect_refused(hv, &def, "cpu");
	def = web1();
	def.vnc = "unix";
	expect_refused(hv, &def, "vnc = unix");
	def = web1();
	def.loader = "grub";
	expect_refused(hv, &def, "vnc");
	def = web1();
	def.kernel = "/boot/vmlinuz";
	expect_refused(hv, &def, "kernel");
	def = web1();
	def.disks[1].format = "qcow2";
	expect_refused(hv, &def, "disk1.format");
	hv_close(hv);
}

/*
 * A guest.
 */

static struct vm_def tiny(const char *name)
{
	struct vm_def def = web1();

	def.name = (char *)name;
	def.memory_bytes = 160ull << 20;
	def.cores = 1;
	def.vnc = NULL;
	def.disks_count = def.nics_count = 0;
	def.loader = "grub";
	def.kernel = from("DROVER_GUESTS_DIR", "build/guests", "vmlinuz");
	def.initrd = from("DROVER_GUESTS_DIR", "build/guests", "tiny.initrd");
	def.append = "console=ttyS0 quiet";
	return def;
}

static struct hv_vm *start(struct hv *hv, const struct vm_def *def, const char *restore)
{
	cleanup_free char *run_dir = fs_format("%s/%s.run", dir, def->name);
	struct hv_start how = {.def = def, .run_dir = run_dir, .restore = restore};
	struct hv_vm *vm = hv_vm_start(hv, &how, &test_error);

	if (!vm || hv_vm_state(vm) != HV_STARTING || hv_vm_resume(vm, &test_error) < 0)
		fail_msg("%s", test_error ? test_error->message : "it runs before it is let");
	assert_int_equal(hv_vm_state(vm), HV_RUNNING);
	return vm;
}

/* Writes to the guest's console again and again, until it says `wanted`. */
static void converse(const struct hv_vm *vm, const char *words, const char *wanted, int64_t ms)
{
	int64_t deadline = clock_ms() + ms;
	int fd;
	char said[8192] = "";
	size_t len = 0;

	while ((fd = open(hv_vm_console(vm), O_RDWR | O_NOCTTY | O_NONBLOCK)) < 0 &&
		clock_ms() < deadline)
		poll(NULL, 0, 10);
	assert_true(fd >= 0);
	while (!strstr(said, wanted)) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (clock_ms() > deadline)
			fail_msg("the guest does not say \"%s\", but: %s", wanted, said);
		if (poll(&p, 1, 1000) == 0)
			assert_true(write(fd, words, strlen(words)) > 0);
		if (len > sizeof(said) / 2)
			len = 0;
		n = read(fd, said + len, sizeof(said) - 1 - len);
		len += n > 0 ? (size_t)n : 0;
		said[len] = 0;
	}
	close(fd);
}

static void test_a_guest_goes_on_from_its_checkpoint(void **state)
{
	struct hv *hv = open_without("");
	struct vm_def def = tiny("cp1");
	struct hv_vm *vm = start(hv, &def, NULL);
	cleanup_free char *file = fs_format("%s/cp1.ckp", dir);

	(void)state;
	converse(vm, "X=41; echo it is $((X + 1))\n", "it is 42", BOOT_MS);
	if (hv_vm_checkpoint(vm, file, false, clock_ms() + STEP_MS, &test_error) < 0)
		fail_msg("%s", test_error->message);
	converse(vm, "X=9; echo now $((X + 1))\n", "now 10", STEP_MS);
	assert_int_equal(hv_vm_end(vm, clock_ms() + STEP_MS, NULL), 0);
	hv_vm_close(vm);
	vm = start(hv, &def, file);
	converse(vm, "echo then $((X + 2))\n", "then 43", STEP_MS);
	/* With its own end it is one for another start. Its status 0 is no reboot, whoever waits.
	 */
	assert_int_equal(hv_vm_checkpoint(vm, file, true, clock_ms(), &test_error), -1);
	assert_int_equal(test_error->kind, ERROR_TIMEOUT);
	error_free(&test_error);
	assert_true(hv_vm_wait_off(vm, clock_ms() + STEP_MS));
	if (hv_vm_checkpoint_wait(vm, file, true, clock_ms() + STEP_MS, &test_error) < 0)
		fail_msg("%s", test_error->message);
	assert_int_equal(hv_vm_state(vm), HV_GONE);
	assert_int_equal(hv_vm_end(vm, clock_ms() + STEP_MS, NULL), 0);
	hv_vm_close(vm);
	hv_close(hv);
}

static void test_a_pause_stops_the_guest_and_a_new_droverd_finds_it(void **state)
{
	struct hv *hv = open_without("");
	struct vm_def def = tiny("pa1");
	struct hv_vm *vm = start(hv, &def, NULL);
	cleanup_free char *run_dir = fs_format("%s/pa1.run", dir);

	(void)state;
	assert_int_equal(hv_vm_pause(vm, NULL), 0);
	assert_int_equal(hv_vm_state(vm), HV_PAUSED);
	hv_vm_close(vm);
	vm = hv_vm_attach(hv, run_dir, NULL);
	assert_non_null(vm);
	assert_int_equal(hv_vm_state(vm), HV_PAUSED);
	assert_int_equal(hv_vm_check_movable(vm, NULL), -1);
	assert_int_equal(hv_vm_resume(vm, NULL), 0);
	assert_int_equal(hv_vm_state(vm), HV_RUNNING);
	assert_int_equal(hv_vm_end(vm, clock_ms() + STEP_MS, NULL), 0);
	assert_false(fs_exists(run_dir));
	hv_vm_close(vm);
	hv_close(hv);
}

/*
 * Guests that move as files.
 */

static void test_the_way_is_the_best_that_both_can(void **state)
{
	static const struct {
		const char *here, *there;
		bool still;
		enum hv_way way;
	} cases[] = {
		{"", "", false, HV_WAY_STREAM},
		{"", "-R", false, HV_WAY_FILES},
		{"--migrate-live", "", false, HV_WAY_FILES},
		{"--migrate-live", "", true, HV_WAY_STREAM},
		{"-R,--migrate,--migrate-live", "-R,--migrate,--migrate-live", false, HV_WAY_FILES},
		{"-R,--migrate,--migrate-live", "-R,--migrate,--migrate-live", true, HV_WAY_FILES},
		/* It could not be taken back. */
		{"-r,--migrate-live", "", false, HV_WAY_NONE},
		{"--migrate-live", "-r,-R", false, HV_WAY_NONE},
		{"-R,-r,--migrate,--migrate-live,--checkpoint,--suspend", "", false, HV_WAY_NONE},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hv *here = open_without(cases[i].here);
		struct hv *there = open_without(cases[i].there);
		cleanup_json json_t *facts = hv_facts_json(there);

		assert_int_equal(hv_way(here, facts, cases[i].still), cases[i].way);
		hv_close(there);
		hv_close(here);
	}
}

/* What a destination makes of `bytes` that come instead of a guest's files. */
static char *received(struct hv *hv, const void *bytes, size_t len)
{
	struct vm_def def = tiny("in1");
	cleanup_free char *run_dir = fs_format("%s/in1.run", dir);
	struct hv_start how = {.def = &def, .run_dir = run_dir, .incoming = true, .files = true};
	struct hv_vm *vm = hv_vm_start(hv, &how, &test_error);
	struct hv_migrate_status status;
	int pair[2];

	if (!vm)
		fail_msg("%s", test_error->message);
	assert_true(hv_vm_is_files(vm));
	assert_int_equal(hv_vm_state(vm), HV_INCOMING);
	assert_int_equal(hv_vm_migrate_incoming(vm, "", false, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	hv_vm_migrate_connected(vm, pair[0]);
	assert_true(send(pair[1], bytes, len, MSG_NOSIGNAL) == (ssize_t)len);
	close(pair[1]);
	assert_int_equal(
		hv_vm_migrate_wait(vm, HV_MIGRATE_ACTIVE, clock_ms() + STEP_MS, &status, NULL), 0);
	assert_int_equal(status.phase, HV_MIGRATE_FAILED);
	/* Nothing of it is ever started, and nothing is left. */
	assert_int_equal(hv_vm_resume(vm, NULL), -1);
	assert_true(hv_vm_never_ran(vm));
	assert_int_equal(hv_vm_end(vm, clock_ms() + STEP_MS, NULL), 0);
	hv_vm_close(vm);
	return fs_format("%s", status.failure);
}

static void put_header(uint8_t *out, uint64_t memory, uint64_t kern, uint64_t meta)
{
	static const uint8_t magic[] = BHYVE_TRANSFER_MAGIC;

	memcpy(out, magic, sizeof(magic));
	put_be64(out + 8, memory);
	put_be64(out + 16, kern);
	put_be64(out + 24, meta);
}

static bool is_empty(const char *path)
{
	return rmdir(path) == 0 && mkdir(path, 0700) == 0;
}

static void test_what_is_no_guest_s_files_is_not_taken(void **state)
{
	struct hv *hv = open_without("");
	uint64_t memory = tiny("in1").memory_bytes;
	const struct {
		uint64_t memory, kern, meta;
		const char *why;
	} cases[] = {
		{memory + (17 << 20), 1, 1, "and may have"},
		{UINT64_MAX, 1, 1, "and may have"},
		{0, 1, 1, "and may have"},
		{4096, (256 << 20) + 1, 1, "and may have"},
		{4096, 1, (1 << 20) + 1, "and may have"},
		{64, 32, 32, "do not fit together"},
		{memory, 1, 1, "not all here"},
	};
	uint8_t bytes[BHYVE_TRANSFER_HEADER + 128] = {0};
	cleanup_free char *no_magic = received(hv, bytes, sizeof(bytes));
	cleanup_free char *place = fs_format("%s/suspended", dir);

	(void)state;
	assert_non_null(strstr(no_magic, "no guest's files"));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cleanup_free char *why = NULL;

		put_header(bytes, cases[i].memory, cases[i].kern, cases[i].meta);
		why = received(hv, bytes, sizeof(bytes));
		if (!strstr(why, cases[i].why))
			fail_msg("case %zu: %s", i, why);
		assert_true(is_empty(place));
	}
	hv_close(hv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_it_can_is_read_off_its_usage),
		cmocka_unit_test(test_a_bhyve_that_is_not_there_is_an_error),
		cmocka_unit_test(test_a_definition_becomes_arguments),
		cmocka_unit_test(test_loaders_go_before_it),
		cmocka_unit_test(test_what_bhyve_has_not_is_refused_by_its_key),
		cmocka_unit_test(test_the_way_is_the_best_that_both_can),
		cmocka_unit_test(test_what_is_no_guest_s_files_is_not_taken),
		cmocka_unit_test(test_a_guest_goes_on_from_its_checkpoint),
		cmocka_unit_test(test_a_pause_stops_the_guest_and_a_new_droverd_finds_it),
	};

	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
