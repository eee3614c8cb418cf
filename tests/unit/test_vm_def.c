#include "test_pool_support.h"

#define UUID "6f9619ff-8b86-4011-b42d-00c04fc964ff"
#define BASE "[vm]\nuuid = " UUID "\nmemory = 1G\nmachine = pc-q35-10.0\ncpu = qemu64\n"

static struct vm_def *parse(const char *text)
{
	cleanup_error struct error *err = NULL;
	struct vm_def *def = vm_def_parse("web1", text, &err);

	if (!def)
		fail_msg("%s", err->message);
	return def;
}

static void expect_wrong(const char *text, const char *part)
{
	struct error *err = NULL;
	struct vm_def *def = vm_def_parse("web1", text, &err);

	if (def)
		fail_msg("was taken: %s", text);
	expect_error(&err, ERROR_DEFINITION, part);
}

static void test_a_definition_is_read_whole(void **state)
{
	cleanup_vm_def struct vm_def *def =
		parse("# made by hand\r\n\r\n" BASE "hypervisor = qemu\nsockets = 2\ncores=3\n"
		      "threads : 2\nkernel = images/vmlinuz\ninitrd = images/initrd ; comment\n"
		      "append = console=ttyS0 root=/dev/vda1;x\nvnc = 127.0.0.1:5\n"
		      "[disk1]\nfile = /dev/vg0/web1\nformat = raw\ncache = directsync\n"
		      "[disk0]\nfile = disk0.qcow2\n"
		      "[nic0]\nbridge = br0\nmac = 52:54:00:AB:cd:EF\nmodel = e1000\n"
		      "[nic1]\nbridge = br1");

	(void)state;
	assert_string_equal(def->name, "web1");
	assert_string_equal(def->uuid, UUID);
	assert_true(def->memory_bytes == 1ull << 30);
	assert_int_equal(def->sockets * 100 + def->cores * 10 + def->threads, 232);
	assert_string_equal(def->machine, "pc-q35-10.0");
	assert_string_equal(def->cpu, "qemu64");
	assert_string_equal(def->kernel, "images/vmlinuz");
	assert_string_equal(def->initrd, "images/initrd");
	assert_string_equal(def->append, "console=ttyS0 root=/dev/vda1;x");
	assert_string_equal(def->vnc, "127.0.0.1:5");
	assert_int_equal(def->disks_count, 2);
	assert_string_equal(def->disks[0].file, "disk0.qcow2");
	assert_string_equal(def->disks[0].format, "qcow2");
	assert_string_equal(def->disks[0].cache, "none");
	assert_string_equal(def->disks[1].cache, "directsync");
	assert_int_equal(def->nics_count, 2);
	assert_string_equal(def->nics[0].mac, "52:54:00:ab:cd:ef");
	assert_string_equal(def->nics[0].model, "e1000");
	assert_string_equal(def->nics[1].model, "virtio-net-pci");
	assert_string_equal(def->nics[1].mac, "52:54:00:c9:65:00");
}

/* The text comes back as it was, and means the same. */
static void expect_round_trip(const struct vm_def *def)
{
	cleanup_free char *text = vm_def_format(def), *again = NULL;
	cleanup_vm_def struct vm_def *copy = parse(text);

	again = vm_def_format(copy);
	assert_string_equal(again, text);
	assert_true(copy->memory_bytes == def->memory_bytes);
	assert_int_equal(copy->disks_count, def->disks_count);
	assert_int_equal(copy->nics_count, def->nics_count);
}

static void set(struct vm_def *def, const char *key, const char *value)
{
	cleanup_error struct error *err = NULL;

	if (vm_def_set(def, key, value, &err) < 0)
		fail_msg("%s", err->message);
}

static struct vm_def *complete(void)
{
	struct vm_def *def = vm_def_new("web1");

	set(def, "hypervisor", "qemu");
	set(def, "machine", "pc-q35-10.0");
	set(def, "cpu", "qemu64");
	return def;
}

static void test_the_largest_definition_comes_back_as_it_was(void **state)
{
	cleanup_vm_def struct vm_def *def = complete();
	char name[1025], append[2048];

	(void)state;
	memset(append, 'a', sizeof(append) - 1);
	append[sizeof(append) - 1] = 0;
	append[1000] = ' ';
	append[1500] = ';';
	set(def, "kernel", "/boot/vm linuz");
	set(def, "initrd", "images/\xc3\xa4");
	set(def, "append", append);
	set(def, "vnc", "[::1]:10");
	set(def, "memory", "1.5G");
	set(def, "cpus", "288");
	for (int i = 0; i < VM_DEF_DISKS_MAX; i++) {
		memset(name, 'a' + i, 1024);
		name[1024] = 0;
		set(def, "disk", name);
	}
	for (int i = 0; i < VM_DEF_NICS_MAX; i++)
		set(def, "nic", "bridge=br0");
	assert_int_equal(vm_def_check(def, NULL), 0);
	expect_round_trip(def);
	assert_int_equal(pool_vm_create(pool, "web1", "[vm]\n", NULL), 0);
	assert_int_equal(vm_def_save(pool, def, NULL), 0);
	vm_def_cleanup(&def);
	def = vm_def_load(pool, "web1", NULL);
	assert_non_null(def);
	assert_string_equal(def->append, append);
	assert_int_equal(def->disks_count, VM_DEF_DISKS_MAX);
}

static void test_a_new_definition_has_a_uuid_of_its_own_and_lacks_machine_and_cpu(void **state)
{
	cleanup_vm_def struct vm_def *a = vm_def_new("a"), *b = vm_def_new("b");
	struct error *err = NULL;

	(void)state;
	assert_string_not_equal(a->uuid, b->uuid);
	assert_int_equal(a->uuid[14], '4');
	assert_true(a->memory_bytes == 512u << 20);
	assert_int_equal(vm_def_check(a, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "hypervisor is missing");
	set(a, "hypervisor", "qemu");
	assert_int_equal(vm_def_check(a, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "machine is missing");
	set(a, "machine", "pc-q35-7.2");
	assert_int_equal(vm_def_check(a, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "cpu is missing");
	set(a, "cpu", "qemu64");
	assert_int_equal(vm_def_check(a, NULL), 0);
	expect_round_trip(a);
}

static void test_wrong_values_name_their_line_and_what_is_allowed(void **state)
{
	static const struct {
		const char *line, *part;
	} wrong[] = {
		{"memory = 0", "line 6"},
		{"memroy = 1G", "\"memroy\" is not known"},
		{"Memory = 1G", "\"Memory\" is not known"},
		{"cpus = 2", "\"cpus\" is not known"},
		{"disk = a.raw", "\"disk\" is not known"},
		{"cores = 0", "1 to 288"},
		{"cores = 2x", "1 to 288"},
		{"cores = -1", "1 to 288"},
		{"cores = 99999999999999999999", "1 to 288"},
		{"cores = 289", "1 to 288"},
		{"hypervisor = xen", "it is qemu"},
		{"kernel = a,b", "no comma"},
		{"kernel =", "1 to 1024"},
		{"kernel = images/", "directory"},
		{"vnc = 0.0.0.0", "ADDRESS:DISPLAY"},
		{"vnc = host.example:1", "ADDRESS:DISPLAY"},
		{"vnc = 127.0.0.1:60000", "ADDRESS:DISPLAY"},
		{"vnc = 127.0.0.1:1,password=on", "ADDRESS:DISPLAY"},
		{"vnc = [::1:1", "ADDRESS:DISPLAY"},
		{"append = x", "kernel is missing"},
		{"cores = 100\nthreads = 100", "at most 288 vCPUs"},
		{"append = a\tb\x01", "control character"},
		{"cores", "neither [SECTION] nor KEY = VALUE"},
		{"[disk0]\nfile = a\nformat = vmdk", "disk0.format cannot be \"vmdk\""},
		{"[disk0]\nfile = a\ncache = unsafe", "none, writeback or directsync"},
		{"[disk0]\nformat = raw", "disk0 has no file"},
		{"[disk0]\nfile = a.raw,readonly=on", "no comma"},
		{"[disk1]\nfile = a", "[disk0] is missing"},
		{"[disk0]\nfile = a\n[disk2]\nfile = b", "[disk1] is missing"},
		{"[disk0]\nfile = a\n[disk1]\nfile = a", "the same file"},
		{"[disk16]\nfile = a", "\"disk16.file\" is not known"},
		{"[disk00]\nfile = a", "\"disk00.file\" is not known"},
		{"[disk]\nfile = a", "not known"},
		{"[disk-1]\nfile = a", "not known"},
		{"[nic8]\nbridge = br0", "not known"},
		{"[nic1]\nbridge = br0", "[nic0] is missing"},
		{"[nic0]\nmodel = e1000", "nic0 has no bridge"},
		{"[nic0]\nbridge = br0\nmodel = rtl8139", "virtio-net-pci or e1000"},
		{"[nic0]\nbridge = a23456789012345b", "1 to 15"},
		{"[nic0]\nbridge = br0,script=/bin/sh", "1 to 15"},
		{"[nic0]\nbridge = ../br0", "1 to 15"},
		{"[nic0]\nbridge = br0\nmac = 53:54:00:00:00:01", "multicast"},
		{"[nic0]\nbridge = br0\nmac = 00:00:00:00:00:00", "all zeros"},
		{"[nic0]\nbridge = br0\nmac = 52:54:00:00:00", "52:54:00:12:34:56"},
		{"[nic0]\nbridge = br0\nmac = 52-54-00-00-00-01", "52:54:00:12:34:56"},
		{"[nic0]\nbridge = br0\nmac = 52:54:00:00:00:0g", "52:54:00:12:34:56"},
		{"[nic0]\nbridge = a\nmac = 52:54:00:00:00:01\n"
		 "[nic1]\nbridge = a\nmac = 52:54:00:00:00:01",
			"the same mac"},
		{"[disk0]\nfile = a\nfile = b", "line 8: the key \"file\" comes twice"},
		{"[disk0]\nfile = a\n[nic0]\nbridge = b\n[disk0]\ncache = none",
			"the section \"disk0\" comes twice"},
		{"[disk0]", "has no key"},
		{"[disk0] file = a", "nothing can follow"},
		{"[disk0\nfile = a", "[NAME]"},
		{"  cores = 2", "white space"},
		{"[other]\nx = y", "\"other.x\" is not known"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		cleanup_free char *text = fs_format("%s%s\n",
			i == 0 ? "[vm]\nuuid = " UUID "\nmachine = pc-q35-10.0\ncpu = qemu64\n\n"
			       : BASE,
			wrong[i].line);

		expect_wrong(text, wrong[i].part);
	}
}

static void test_what_is_missing_is_named(void **state)
{
	(void)state;
	expect_wrong("", "uuid is missing");
	expect_wrong(
		"[vm]\nuuid = " UUID "\nmachine = pc-q35-7.2\ncpu = qemu64\n", "memory is missing");
	expect_wrong("[vm]\nmemory = 1G\nmachine = pc-q35-7.2\ncpu = qemu64\n", "uuid is missing");
	expect_wrong("memory = 1G\n[vm]\n", "before the first [section]");
}

static void expect_set_wrong(const char *key, const char *value, const char *part)
{
	cleanup_vm_def struct vm_def *def = complete();
	cleanup_free char *before = vm_def_format(def), *after = NULL;
	struct error *err = NULL;

	if (vm_def_set(def, key, value, &err) == 0)
		fail_msg("%s = %s was taken", key, value);
	expect_error(&err, ERROR_DEFINITION, part);
	after = vm_def_format(def);
	assert_string_equal(after, before);
}

static void test_memory_is_a_multiple_of_1M_in_bounds(void **state)
{
	static const char *const bad[] = {"0", "15M", "1000000000000000000", "17T", "16777217",
		"100.5M", "-1G", "1G 2", "", "nan", "0x1000000", "1e9", "999999P", "G"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_set_wrong("memory", bad[i], "a multiple of 1M from 16M to 16T");
}

static void test_machine_types_without_a_version_are_refused_with_what_to_write(void **state)
{
	static const char *const good[] = {
		"pc-q35-10.0", "pc-i440fx-7.2", "pc-q35-rhel9.2.0", "virt-7.2"};

	(void)state;
	expect_set_wrong("machine", "q35", "pc-q35-7.2 for q35");
	expect_set_wrong("machine", "pc", "pc-i440fx-7.2");
	expect_set_wrong("machine", "pc-q35", "with its version");
	expect_set_wrong("machine", "pc-i440fx", "pc-i440fx-7.2");
	expect_set_wrong("machine", "microvm", "with its version");
	expect_set_wrong("machine", "pc-q35-.5", "with its version");
	expect_set_wrong("machine", "pc-q35-7.2,accel=kvm", "a machine type with its version");
	expect_set_wrong("machine", "", "a machine type with its version");
	expect_set_wrong("machine", "nosuch", "\"nosuch\": it is a machine type with its version");
	expect_set_wrong("machine", "nosuch", "`drover node show NODE` lists");
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		cleanup_vm_def struct vm_def *def = complete();

		set(def, "machine", good[i]);
		assert_string_equal(def->machine, good[i]);
	}
}

static void test_what_the_guest_was_given_is_kept_beside_what_was_asked_for(void **state)
{
	cleanup_vm_def struct vm_def *def = parse(
		"[vm]\nuuid = " UUID "\nmemory = 1G\nmachine = pc-q35-10.0\ncpu = baseline\n");
	cleanup_vm_def struct vm_def *again = NULL;
	cleanup_free char *text = NULL;

	(void)state;
	assert_string_equal(vm_def_exact_cpu(def), "baseline");
	def->cpu_in_force = fs_format("Westmere-v1,+avx,-aes");
	text = vm_def_format(def);
	again = parse(text);
	assert_string_equal(again->cpu, "baseline");
	assert_string_equal(vm_def_exact_cpu(again), "Westmere-v1,+avx,-aes");
	set(again, "cpu", "qemu64");
	assert_string_equal(vm_def_exact_cpu(again), "Westmere-v1,+avx,-aes");
	expect_wrong(BASE "cpu_in_force = baseline\n", "cpu_in_force");
	expect_wrong(BASE "cpu_in_force = qemu64,accel=kvm\n", "cpu_in_force");
}

static void test_cpu_models_that_cannot_move_are_refused_with_why(void **state)
{
	(void)state;
	expect_set_wrong("cpu", "host", "could not move");
	expect_set_wrong("cpu", "max", "could not move");
	expect_set_wrong("cpu", "qemu64,vmx=on", "+FEATURE");
	expect_set_wrong("cpu", "baseline,+avx", "CPU model");
	expect_set_wrong("cpu_in_force", "qemu64", "set by hand");
	expect_set_wrong("cpu", "", "CPU model");
}

static void test_values_that_would_break_the_file_or_an_argument_are_refused(void **state)
{
	char longest[3000];

	(void)state;
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	expect_set_wrong("kernel", longest, "1 to 1024");
	expect_set_wrong("append", longest, "2047");
	expect_set_wrong("append", "a\nb", "one line");
	expect_set_wrong("append", "a\rb", "one line");
	expect_set_wrong("append", " a", "one line");
	expect_set_wrong("append", "a ", "one line");
	expect_set_wrong("append", "a ;b", "one line");
	expect_set_wrong("append", ";b", "one line");
	expect_set_wrong("append", "", "one line");
	expect_set_wrong("kernel", "a\x1b[1m", "control");
	expect_set_wrong("kernel", "a\x7f", "control");
	expect_set_wrong("disk", "a\n[nic0]\n", "control");
	expect_set_wrong("disk", "a,format=raw,readonly=on", "\"disk0.readonly\" is not known");
	expect_set_wrong("disk", "a,,format=raw", "not KEY=VALUE");
	expect_set_wrong("disk", "", "1 to 1024");
	expect_set_wrong("disk", longest, "1 to 1024");
	expect_set_wrong("nic", "", "1 to 15");
	expect_set_wrong("nic", "bridge=br0,br1", "not KEY=VALUE");
	expect_set_wrong("disk1.file", "a", "the next is disk0");
	expect_set_wrong("nic7.bridge", "a", "the next is nic0");
	expect_set_wrong("vm.memory", "1G", "not known");
	expect_set_wrong("a.b", "1G", "not known");
	expect_set_wrong(longest, "x", "not known");
	expect_set_wrong("", "x", "not known");
	expect_set_wrong(".", "x", "not known");
	expect_set_wrong("uuid", "00000000-0000-0000-0000-000000000000", "all zeros");
	expect_set_wrong("uuid", "6f9619ff8b864011b42d00c04fc964ff", "written");
	expect_set_wrong("uuid", "6f9619ff-8b86-4011-b42d-00c04fc964fg", "written");
	expect_set_wrong("uuid", NULL, "without a value");
	expect_set_wrong("memory", NULL, "without a value");
	expect_set_wrong("disk", NULL, "without a value");
	expect_set_wrong("disk0", NULL, "not known");
}

static void test_keys_of_bhyve_are_for_bhyve(void **state)
{
	static const char *const keys[][2] = {
		{"loader", "grub"}, {"bootrom", "/boot/x.fd"}, {"disk", "a.raw,model=nvme"}};
	cleanup_vm_def struct vm_def *bhyve = vm_def_new("web1");

	(void)state;
	set(bhyve, "hypervisor", "bhyve");
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		cleanup_vm_def struct vm_def *qemu = complete();
		struct error *err = NULL;

		set(qemu, keys[i][0], keys[i][1]);
		assert_int_equal(vm_def_check(qemu, &err), -1);
		expect_error(&err, ERROR_DEFINITION, "is for bhyve");
		set(bhyve, keys[i][0], keys[i][1]);
	}
	assert_int_equal(vm_def_check(bhyve, NULL), 0);
	assert_string_equal(bhyve->disks[0].format, "raw");
	assert_string_equal(vm_def_exact_cpu(bhyve), VM_DEF_HOST_CPU);
	expect_round_trip(bhyve);
}

static void test_keys_are_set_as_the_command_line_gives_them(void **state)
{
	cleanup_vm_def struct vm_def *def = complete();

	(void)state;
	set(def, "threads", "2");
	set(def, "cpus", "4");
	assert_int_equal(def->sockets * 100 + def->cores * 10 + def->threads, 141);
	set(def, "uuid", "6F9619FF-8B86-4011-B42D-00C04FC964FF");
	assert_string_equal(def->uuid, UUID);
	set(def, "disk", "images/x=y.img");
	set(def, "disk", "file=b.qcow2,cache=writeback");
	set(def, "disk2.file", "c.raw");
	set(def, "nic", "br0,model=e1000");
	set(def, "nic", "bridge=br1,mac=52:54:00:00:00:07");
	assert_int_equal(vm_def_check(def, NULL), 0);
	assert_string_equal(def->disks[0].file, "images/x=y.img");
	assert_string_equal(def->disks[0].format, "raw");
	assert_string_equal(def->disks[1].format, "qcow2");
	assert_string_equal(def->disks[1].cache, "writeback");
	assert_string_equal(def->disks[2].format, "raw");
	assert_string_equal(def->nics[0].mac, "52:54:00:c9:64:ff");
	expect_round_trip(def);
	set(def, "disk0", NULL);
	assert_int_equal(def->disks_count, 2);
	assert_string_equal(def->disks[0].file, "b.qcow2");
	set(def, "nic1", NULL);
	assert_int_equal(def->nics_count, 1);
	set(def, "vnc", "unix");
	set(def, "vnc", "off");
	assert_null(def->vnc);
	set(def, "kernel", "k");
	set(def, "kernel", NULL);
	assert_null(def->kernel);
	assert_int_equal(vm_def_check(def, NULL), 0);
	expect_round_trip(def);
}

static void test_more_disks_and_nics_than_there_can_be_are_refused(void **state)
{
	cleanup_vm_def struct vm_def *def = complete();
	struct error *err = NULL;

	(void)state;
	for (int i = 0; i < VM_DEF_DISKS_MAX; i++) {
		char name[16];

		snprintf(name, sizeof(name), "d%d", i);
		set(def, "disk", name);
	}
	assert_int_equal(vm_def_set(def, "disk", "one.more", &err), -1);
	expect_error(&err, ERROR_DEFINITION, "at most 16 disks");
	for (int i = 0; i < VM_DEF_NICS_MAX; i++)
		set(def, "nic", "br0");
	assert_int_equal(vm_def_set(def, "nic", "br0", &err), -1);
	expect_error(&err, ERROR_DEFINITION, "at most 8 nics");
}

static void test_lines_that_are_too_long_are_errors_and_not_split(void **state)
{
	cleanup_free char *line = calloc(1, 9000), *text = NULL, *comment = NULL;

	(void)state;
	memset(line, 'a', 8190);
	text = fs_format(BASE "append = %s\n", line);
	expect_wrong(text, "line 6: it is longer than");
	comment = fs_format(BASE "#%s\n", line);
	expect_wrong(comment, "line 6: it is longer than");
	/* inih would take the second part of a line that it has split for a line of its own. */
	memcpy(line + 8180, "\nmemory=8", 9);
	memset(line + 8180, 'b', 1);
	expect_wrong(line, "longer than");
}

static void test_files_that_are_no_definition_are_errors(void **state)
{
	cleanup_free char *big = calloc(1, VM_DEF_TEXT_MAX + 100), *path = NULL;
	struct error *err = NULL;
	char nul[] = BASE "\0[disk0]\nfile = a\n";

	(void)state;
	assert_int_equal(pool_vm_create(pool, "web1", "[vm]\n", NULL), 0);
	assert_null(vm_def_load(pool, "web1", &err));
	expect_error(&err, ERROR_DEFINITION, "has no key");
	put_bytes("vms/web1/vm.conf", nul, sizeof(nul) - 1);
	assert_null(vm_def_load(pool, "web1", &err));
	expect_error(&err, ERROR_DEFINITION, "line 6: a control character");
	memset(big, '\n', VM_DEF_TEXT_MAX + 99);
	put_text("vms/web1/vm.conf", big);
	assert_null(vm_def_load(pool, "web1", &err));
	expect_error(&err, ERROR_DEFINITION, "larger than 65536");
	path = in_pool("vms/web1/vm.conf");
	assert_int_equal(unlink(path), 0);
	assert_null(vm_def_load(pool, "web1", &err));
	expect_error(&err, ERROR_DEFINITION, "has no vm.conf");
	assert_int_equal(mkdir(path, 0755), 0);
	assert_null(vm_def_load(pool, "web1", &err));
	expect_error(&err, ERROR_POOL, "vm.conf");
	assert_null(vm_def_load(pool, "web2", &err));
	expect_error(&err, ERROR_NO_VM, "no VM named web2");
}

static void test_a_definition_that_could_not_be_loaded_is_not_saved(void **state)
{
	cleanup_vm_def struct vm_def *def = vm_def_new("web1");
	cleanup_free char *path = in_pool("vms/web1/vm.conf"), *text = NULL;
	struct error *err = NULL;

	(void)state;
	assert_int_equal(pool_vm_create(pool, "web1", BASE, NULL), 0);
	assert_int_equal(vm_def_save(pool, def, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "machine is missing");
	text = fs_read(path, 4096, NULL, NULL);
	assert_string_equal(text, BASE);
	vm_def_cleanup(&def);
	def = complete();
	assert_int_equal(pool_vm_remove(pool, "web1", NULL), 0);
	assert_int_equal(vm_def_save(pool, def, &err), -1);
	expect_error(&err, ERROR_NO_VM, "no VM named web1");
}

static void test_a_byte_order_mark_does_no_harm(void **state)
{
	cleanup_vm_def struct vm_def *def = parse("\xef\xbb\xbf" BASE);

	(void)state;
	assert_string_equal(def->cpu, "qemu64");
}

/* Whatever comes in: no crash, and what is taken comes back as it was. */
static void test_random_changes_are_refused_or_come_back(void **state)
{
	static const char whole[] =
		BASE "kernel = k\nappend = a b ; c\nvnc = unix\n"
		     "[disk0]\nfile = disk0.qcow2\nformat = qcow2\ncache = none\n"
		     "[nic0]\nbridge = br0\nmac = 52:54:00:00:00:01\n";
	static const char spice[] = "[]=:;#\n\r\t \\,.\"\x00\x01\xff"
				    "0129azAZ";
	unsigned seed = 20260131, taken = 0;

	(void)state;
	for (int i = 0; i < 50000; i++) {
		char text[sizeof(whole)];
		cleanup_vm_def struct vm_def *def = NULL;

		memcpy(text, whole, sizeof(whole));
		for (int n = rand_r(&seed) % 5; n >= 0; n--)
			text[(size_t)rand_r(&seed) % (sizeof(whole) - 1)] =
				spice[(size_t)rand_r(&seed) % (sizeof(spice) - 1)];
		if (i % 7 == 0)
			text[(size_t)rand_r(&seed) % sizeof(whole)] = 0;
		def = vm_def_parse("web1", text, NULL);
		if (!def)
			continue;
		taken++;
		expect_round_trip(def);
	}
	assert_in_range(taken, 100, 49000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_pool, remove_pool)
	const struct CMUnitTest tests[] = {
		TEST(test_a_definition_is_read_whole),
		TEST(test_the_largest_definition_comes_back_as_it_was),
		TEST(test_a_new_definition_has_a_uuid_of_its_own_and_lacks_machine_and_cpu),
		TEST(test_wrong_values_name_their_line_and_what_is_allowed),
		TEST(test_what_is_missing_is_named),
		TEST(test_memory_is_a_multiple_of_1M_in_bounds),
		TEST(test_machine_types_without_a_version_are_refused_with_what_to_write),
		TEST(test_what_the_guest_was_given_is_kept_beside_what_was_asked_for),
		TEST(test_cpu_models_that_cannot_move_are_refused_with_why),
		TEST(test_values_that_would_break_the_file_or_an_argument_are_refused),
		TEST(test_keys_of_bhyve_are_for_bhyve),
		TEST(test_keys_are_set_as_the_command_line_gives_them),
		TEST(test_more_disks_and_nics_than_there_can_be_are_refused),
		TEST(test_lines_that_are_too_long_are_errors_and_not_split),
		TEST(test_files_that_are_no_definition_are_errors),
		TEST(test_a_definition_that_could_not_be_loaded_is_not_saved),
		TEST(test_a_byte_order_mark_does_no_harm),
		TEST(test_random_changes_are_refused_or_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
