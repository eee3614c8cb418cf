/*
 * The arguments that QEMU gets: what the guest sees is the same wherever and however it is started.
 */
#include "base/fs.h"
#include "hv/qemu/args.h"
#include "hv/qemu/qemu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct hv_settings settings = {
	.binary = "/usr/bin/qemu-system-x86_64",
	.data_dirs = "/usr/share/qemu:/usr/share/seabios",
};

static struct vm_def web1(void)
{
	return (struct vm_def){
		.name = "web1",
		.uuid = "6f9619ff-8b86-d011-b42d-00c04fc964ff",
		.memory_bytes = 512ull << 20,
		.sockets = 1,
		.cores = 2,
		.threads = 1,
		.machine = "pc-q35-7.2",
		.cpu = "qemu64",
		.kernel = "/boot/vmlinuz",
		.initrd = "/boot/initrd",
		.append = "console=ttyS0 a,b",
		.disks = {{"disk0.qcow2", "qcow2", "none"}, {"disk1.raw", "raw", "directsync"}},
		.disks_count = 2,
		.nics = {{"br0", "52:54:00:12:34:56", "virtio-net-pci"}},
		.nics_count = 1,
	};
}

static const char *const paths[VM_DEF_DISKS_MAX] = {
	"/pool/vms/web1/disk0.qcow2", "/pool/vms/web1/a,b.raw"};
static const int taps[VM_DEF_NICS_MAX] = {9};

/* One argument a line. The caller frees it. */
static char *joined(const struct vm_def *def, bool incoming, struct error **err)
{
	struct hv_start how = {def, paths, taps, "/run/drover/vms/web1", incoming};
	struct qemu_launch launch = {
		&settings, "tcg", &how, 5, 6, incoming ? 7 : -1, incoming ? 8 : -1};
	cleanup_args char **args = qemu_args(&launch, err);
	char *text = args ? fs_format("%s", "") : NULL;

	for (char **a = args; a && *a; a++) {
		char *longer = fs_format("%s%s\n", text, *a);

		free(text);
		text = longer;
	}
	return text;
}

static const char expected[] =
	"/usr/bin/qemu-system-x86_64\n"
	"-name\nguest=web1,debug-threads=on\n"
	"-machine\npc-q35-7.2,accel=tcg,usb=off,vmport=off,dump-guest-core=off\n"
	"-cpu\nqemu64,enforce\n"
	"-smp\n2,sockets=1,cores=2,threads=1\n"
	"-m\nsize=512M\n"
	"-uuid\n6f9619ff-8b86-d011-b42d-00c04fc964ff\n"
	"-global\nICH9-LPC.disable_s3=1\n"
	"-global\nICH9-LPC.disable_s4=1\n"
	"-rtc\nbase=utc,clock=host\n"
	"-boot\nstrict=on\n"
	"-no-user-config\n"
	"-nodefaults\n"
	"-L\n/usr/share/qemu\n"
	"-L\n/usr/share/seabios\n"
	"-sandbox\non,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny\n"
	"-msg\ntimestamp=on\n"
	"-S\n"
	"-no-shutdown\n"
	"-chardev\nsocket,id=qmp,fd=5,server=on,wait=off\n"
	"-mon\nchardev=qmp,mode=control\n"
	"-chardev\nsocket,id=console,fd=6,server=on,wait=off\n"
	"-device\nisa-serial,id=serial0,chardev=console\n"
	"-object\nrng-builtin,id=rng0\n"
	"-device\nvirtio-rng-pci,id=random0,rng=rng0,bus=pcie.0,addr=0x1a\n"
	"-display\nnone\n"
	"-kernel\n/boot/vmlinuz\n"
	"-initrd\n/boot/initrd\n"
	"-append\nconsole=ttyS0 a,b\n"
	"-blockdev\n{\"driver\":\"file\",\"node-name\":\"disk0-file\","
	"\"filename\":\"/pool/vms/web1/disk0.qcow2\",\"locking\":\"auto\",\"discard\":\"unmap\","
	"\"cache\":{\"direct\":true,\"no-flush\":false}}\n"
	"-blockdev\n{\"driver\":\"qcow2\",\"node-name\":\"disk0\",\"file\":\"disk0-file\","
	"\"discard\":\"unmap\",\"cache\":{\"direct\":true,\"no-flush\":false}}\n"
	"-device\nvirtio-blk-pci,id=blk0,drive=disk0,bus=pcie.0,addr=0xa,bootindex=1,"
	"write-cache=on\n"
	"-blockdev\n{\"driver\":\"file\",\"node-name\":\"disk1-file\","
	"\"filename\":\"/pool/vms/web1/a,b.raw\",\"locking\":\"auto\",\"discard\":\"unmap\","
	"\"cache\":{\"direct\":true,\"no-flush\":false}}\n"
	"-blockdev\n{\"driver\":\"raw\",\"node-name\":\"disk1\",\"file\":\"disk1-file\","
	"\"discard\":\"unmap\",\"cache\":{\"direct\":true,\"no-flush\":false}}\n"
	"-device\nvirtio-blk-pci,id=blk1,drive=disk1,bus=pcie.0,addr=0xb,bootindex=2,"
	"write-cache=off\n"
	"-netdev\ntap,id=net0,fd=9\n"
	"-device\nvirtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:12:34:56,bus=pcie.0,addr=0x2,"
	"romfile=\n";

static void test_arguments_of_a_vm_are_just_these(void **state)
{
	struct vm_def def = web1();
	cleanup_free char *text = joined(&def, false, NULL);

	(void)state;
	assert_string_equal(text, expected);
}

static void test_a_destination_differs_in_nothing_but_that_it_waits(void **state)
{
	struct vm_def def = web1();
	cleanup_free char *text = joined(&def, true, NULL);
	size_t len = strlen(expected);

	(void)state;
	assert_memory_equal(text, expected, len);
	assert_string_equal(text + len,
		"-incoming\ndefer\n-add-fd\nfd=7,set=1\n-add-fd\nfd=8,set=2\n"
		"-chardev\nfile,id=spare,input-path=/dev/fdset/1,path=/dev/fdset/2,append=on\n"
		"-mon\nchardev=spare,mode=control\n");
}

static void test_a_disk_more_or_a_screen_moves_no_other_device(void **state)
{
	struct vm_def def = web1();
	cleanup_free char *text = NULL;

	(void)state;
	def.disks_count = 1;
	def.vnc = (char *)"unix";
	text = joined(&def, false, NULL);
	assert_non_null(strstr(text, "id=nic0,netdev=net0,mac=52:54:00:12:34:56,bus=pcie.0,"
				     "addr=0x2,"));
	assert_non_null(strstr(text, "drive=disk0,bus=pcie.0,addr=0xa,"));
	assert_non_null(strstr(text, "rng=rng0,bus=pcie.0,addr=0x1a\n"));
	assert_non_null(strstr(text, "VGA,id=video0,bus=pcie.0,addr=0x1\n"));
	assert_non_null(strstr(text, "-vnc\nunix:/run/drover/vms/web1/vnc.sock\n"));
}

static void test_the_largest_vm_fits(void **state)
{
	struct vm_def def = web1();
	static const char *many_paths[VM_DEF_DISKS_MAX];
	static int many_taps[VM_DEF_NICS_MAX];
	struct hv_start how = {&def, many_paths, many_taps, "/run/x", true};
	struct qemu_launch launch = {&settings, "kvm", &how, 5, 6, 7, 8};
	cleanup_args char **args = NULL;

	(void)state;
	for (int i = 0; i < VM_DEF_DISKS_MAX; i++) {
		def.disks[i] = def.disks[0];
		many_paths[i] = paths[0];
	}
	for (int i = 0; i < VM_DEF_NICS_MAX; i++)
		def.nics[i] = def.nics[0];
	def.disks_count = VM_DEF_DISKS_MAX;
	def.nics_count = VM_DEF_NICS_MAX;
	def.vnc = (char *)"127.0.0.1:1";
	args = qemu_args(&launch, NULL);
	assert_non_null(args);
	for (char **a = args; *a; a++)
		if (strstr(*a, "drive=disk15,"))
			assert_non_null(strstr(*a, "addr=0x19,"));
}

static void test_cache_writeback_goes_through_the_page_cache(void **state)
{
	struct vm_def def = web1();
	cleanup_free char *text = NULL;

	(void)state;
	def.disks_count = 1;
	def.disks[0].cache = (char *)"writeback";
	text = joined(&def, false, NULL);
	assert_null(strstr(text, "\"direct\":true"));
	assert_non_null(strstr(text, "bootindex=1,write-cache=on\n"));
}

/* A value that would begin another option, or be no path, is refused. */
static void expect_refused(const struct vm_def *def, const char *part)
{
	struct error *err = NULL;
	char *text = joined(def, false, &err);

	assert_null(text);
	assert_int_equal(err->kind, ERROR_DEFINITION);
	assert_non_null(strstr(err->message, "VM web1"));
	assert_non_null(strstr(err->message, part));
	error_free(&err);
}

static void test_values_that_would_be_options_are_refused(void **state)
{
	struct vm_def def;

	(void)state;
#define REFUSED(member, value, part) \
	def = web1(); \
	def.member = (char *)value; \
	expect_refused(&def, part)
	REFUSED(cpu, "qemu64,enforce=off", "cpu");
	REFUSED(cpu, "baseline", "cpu");
	REFUSED(machine, "pc-q35-7.2,kernel=/etc/shadow", "machine");
	REFUSED(uuid, "x\ny", "uuid");
	REFUSED(vnc, "127.0.0.1:1,password=off", "vnc");
	REFUSED(nics[0].mac, "52:54:00:12:34:56,romfile=x", "mac");
	REFUSED(nics[0].model, "virtio-net-pci,vhost=on", "model");
	REFUSED(nics[0].mac, NULL, "mac");
	REFUSED(kernel, "vmlinuz", "absolute");
	REFUSED(initrd, "-x", "absolute");
#undef REFUSED
}

static void test_only_versioned_q35_machines_and_named_cpus_fit(void **state)
{
	(void)state;
	assert_true(qemu_machine_fits("pc-q35-7.2"));
	assert_true(qemu_machine_fits("pc-q35-10.0"));
	assert_false(qemu_machine_fits("q35"));
	assert_false(qemu_machine_fits("pc-q35-"));
	assert_false(qemu_machine_fits("pc-i440fx-7.2"));
	assert_false(qemu_machine_fits("pc-q35-7.2,x"));
	assert_true(qemu_cpu_fits("qemu64"));
	assert_false(qemu_cpu_fits("host"));
	assert_false(qemu_cpu_fits("max"));
}

static struct hv_facts version(const char *accel, int major, int minor)
{
	struct hv_facts facts = {.major = major, .minor = minor};

	snprintf(facts.accel, sizeof(facts.accel), "%s", accel);
	snprintf(facts.version, sizeof(facts.version), "%d.%d.0", major, minor);
	return facts;
}

static void test_versions_that_damage_a_guest_are_known(void **state)
{
	static const struct {
		int major, minor;
		bool live_tcg, postcopy;
	} known[] = {{7, 2, false, true}, {8, 0, true, true}, {10, 0, true, true},
		{10, 1, true, false}, {11, 0, true, false}};

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		struct hv_facts tcg = version("tcg", known[i].major, known[i].minor);
		struct hv_facts kvm = version("kvm", known[i].major, known[i].minor);
		cleanup_error struct error *err = NULL;

		assert_int_equal(!qemu_live_defect(&tcg), known[i].live_tcg);
		assert_null(qemu_live_defect(&kvm));
		assert_int_equal(qemu_check_postcopy_version(&kvm, &err) == 0, known[i].postcopy);
		assert_true(!err || strstr(err->message, kvm.version));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arguments_of_a_vm_are_just_these),
		cmocka_unit_test(test_a_destination_differs_in_nothing_but_that_it_waits),
		cmocka_unit_test(test_a_disk_more_or_a_screen_moves_no_other_device),
		cmocka_unit_test(test_the_largest_vm_fits),
		cmocka_unit_test(test_cache_writeback_goes_through_the_page_cache),
		cmocka_unit_test(test_values_that_would_be_options_are_refused),
		cmocka_unit_test(test_only_versioned_q35_machines_and_named_cpus_fit),
		cmocka_unit_test(test_versions_that_damage_a_guest_are_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
