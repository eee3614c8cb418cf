#include "test_pool_support.h"

#include "base/clock.h"
#include "host/host.h"
#include "host/topology_spec.h"

#include <net/if.h>
#include <netlink/route/link.h>
#include <netlink/route/link/bridge.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <poll.h>
#include <sys/utsname.h>

static int make_scratch(void **state)
{
	(void)state;
	strcpy(scratch, "/tmp/drover-test-XXXXXX");
	return mkdtemp(scratch) ? 0 : -1;
}

static void test_facts_are_those_of_the_kernel(void **state)
{
	struct host_facts facts;
	struct utsname name;

	(void)state;
	assert_int_equal(host_facts_read(&facts, NULL), 0);
	assert_int_equal(uname(&name), 0);
	assert_string_equal(facts.arch, name.machine);
	assert_memory_equal(facts.os, "Linux ", 6);
	assert_true(facts.cpu_model[0] != 0 && facts.cpu_model[0] != ' ');
	assert_int_equal(facts.cpus, sysconf(_SC_NPROCESSORS_ONLN));
	assert_int_equal(facts.page_size, sysconf(_SC_PAGESIZE));
	assert_true(facts.memory_bytes ==
		    (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
	assert_in_range(facts.memory_free_bytes, 1, facts.memory_bytes);
	if (access("/dev/kvm", F_OK) < 0)
		assert_false(facts.hardware_virtualization);
}

static const char *expect_fs(const char *path, const char *type)
{
	cleanup_error struct error *err = NULL;
	char name[32];

	if (host_fs_type(path, name, &err) < 0)
		return fs_format("%s: %s", path, err->message);
	return strcmp(name, type) ? fs_format("%s is %s, not %s", path, name, type) : NULL;
}

/* A mount point with a space, a backslash and a newline, one that hides another, a bind mount. */
static const char *looks_at_mounts(void)
{
	cleanup_free char *odd = in_pool("a b\\c\nd"), *below = in_pool("a b\\c\nd/below");
	cleanup_free char *prefix = in_pool("a"), *hidden = in_pool("h/hidden");
	cleanup_free char *hider = in_pool("h"), *file = in_pool("file");
	const char *wrong;

	if (mkdir(odd, 0755) < 0 || mkdir(prefix, 0755) < 0 || mkdir(hider, 0755) < 0 ||
		mkdir(hidden, 0755) < 0)
		return "cannot make directories";
	if (mount("tmpfs", odd, "tmpfs", 0, NULL) < 0 || mkdir(below, 0755) < 0 ||
		mount("ramfs", hidden, "ramfs", 0, NULL) < 0 ||
		mount("tmpfs", hider, "tmpfs", 0, NULL) < 0 || mkdir(hidden, 0755) < 0)
		return "cannot mount";
	put_text("file", "x");
	if (mount("/proc/uptime", file, NULL, MS_BIND, NULL) < 0)
		return "cannot bind";
	wrong = expect_fs(odd, "tmpfs");
	if (!wrong)
		wrong = expect_fs(below, "tmpfs");
	if (!wrong)
		wrong = expect_fs(hidden, "tmpfs");
	if (!wrong)
		wrong = expect_fs(file, "proc");
	if (!wrong && !expect_fs(prefix, "tmpfs"))
		wrong = "a directory whose name is the beginning of a mount point is taken for it";
	return wrong;
}

static void test_the_file_system_of_a_path_is_that_of_its_own_mount(void **state)
{
	(void)state;
	assert_null(expect_fs("/proc/self/status", "proc"));
	in_namespaces(CLONE_NEWNS, looks_at_mounts);
}

static void test_free_space_is_what_statvfs_says(void **state)
{
	struct error *err = NULL;
	struct statvfs vfs;
	char name[32];
	uint64_t bytes;

	(void)state;
	assert_int_equal(host_fs_free("/proc", &bytes, NULL), 0);
	assert_true(bytes == 0);
	assert_int_equal(statvfs("/", &vfs), 0);
	assert_int_equal(host_fs_free("/", &bytes, NULL), 0);
	assert_in_range(bytes, 0, vfs.f_blocks * vfs.f_frsize);
	assert_int_equal(host_fs_free("/nonexistent", &bytes, &err), -1);
	expect_error(&err, ERROR_FAILED, "/nonexistent");
	assert_int_equal(host_fs_type("/nonexistent", name, &err), -1);
	expect_error(&err, ERROR_FAILED, "/nonexistent");
}

static void test_users_are_found_by_name_and_number(void **state)
{
	static const char *const bad[] = {"", "no-such-user-here", ":", "1:", ":1", "a:b", "1:2:3",
		"4294967295", "4294967295:1", "1:4294967295", "99999999999", "-1", "12a", "0x10",
		"1 ", "3999999999"};
	struct error *err = NULL;
	unsigned uid = 9, gid = 9;

	(void)state;
	assert_int_equal(host_user("root", &uid, &gid, NULL), 0);
	assert_int_equal(uid + gid, 0);
	uid = gid = 9;
	assert_int_equal(host_user("0", &uid, &gid, NULL), 0);
	assert_int_equal(uid + gid, 0);
	assert_int_equal(host_user("3999999999:4000000000", &uid, &gid, NULL), 0);
	assert_true(uid == 3999999999u && gid == 4000000000u);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (host_user(bad[i], &uid, &gid, &err) == 0)
			fail_msg("\"%s\" was taken for a user", bad[i]);
		expect_error(&err, ERROR_DEFINITION, "name, UID or UID:GID");
	}
}

/* Bridges and taps, in a network namespace of their own. */

/* What can be asked of a network device by name. */
static struct rtnl_link *get_link(const char *name)
{
	struct nl_sock *sock = nl_socket_alloc();
	struct rtnl_link *link = NULL;

	if (nl_connect(sock, NETLINK_ROUTE) == 0 && rtnl_link_get_kernel(sock, 0, name, &link) < 0)
		link = NULL;
	nl_socket_free(sock);
	return link;
}

static const char *add_bridge(const char *name, unsigned mtu, bool up)
{
	struct nl_sock *sock = nl_socket_alloc();
	struct rtnl_link *link = rtnl_link_bridge_alloc();
	int rc = nl_connect(sock, NETLINK_ROUTE);

	rtnl_link_set_name(link, name);
	rtnl_link_set_mtu(link, mtu);
	if (up)
		rtnl_link_set_flags(link, IFF_UP);
	if (rc == 0)
		rc = rtnl_link_add(sock, link, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_link_put(link);
	nl_socket_free(sock);
	return rc < 0 ? fs_format("cannot make bridge %s: %s", name, nl_geterror(rc)) : NULL;
}

static const char *expect_no_bridge(const char *name, const char *part)
{
	cleanup_error struct error *err = NULL;
	char tap[32];

	if (host_bridge_check(name, &err) == 0)
		return fs_format("%s was taken for a bridge", name);
	if (unexpected(err, ERROR_NETWORK, part))
		return unexpected(err, ERROR_NETWORK, part);
	error_free(&err);
	if (host_tap_open(name, tap, &err) >= 0)
		return fs_format("a tap was made on %s", name);
	return unexpected(err, ERROR_NETWORK, part);
}

static const char *looks_for_bridges(void)
{
	const char *wrong = expect_no_bridge("br0", "there is no bridge br0 on this node; "
						    "its bridges: none");

	if (!wrong)
		wrong = add_bridge("br1", 1500, true);
	if (!wrong)
		wrong = add_bridge("br2", 1500, false);
	if (!wrong)
		wrong = expect_no_bridge("br0", "its bridges: br1, br2");
	if (!wrong)
		wrong = expect_no_bridge("br2", "is down");
	if (!wrong)
		wrong = expect_no_bridge("lo", "lo is no bridge");
	if (!wrong)
		wrong = expect_no_bridge("", "there is no bridge");
	if (!wrong)
		wrong = expect_no_bridge("br1-and-much-more-than-fits", "there is no bridge");
	if (!wrong && host_bridge_check("br1", NULL) < 0)
		wrong = "br1 is not found";
	return wrong;
}

static void test_a_bridge_is_found_up_or_it_is_said_what_is_there(void **state)
{
	(void)state;
	in_namespaces(CLONE_NEWNET, looks_for_bridges);
}

static const char *check_tap(int fd, const char *name, struct rtnl_link *bridge)
{
	struct rtnl_link *tap = get_link(name);
	const char *wrong = NULL;

	if (!tap)
		return fs_format("there is no device %s", name);
	if (strncmp(name, "drv", 3) != 0)
		wrong = fs_format("the tap is named %s", name);
	else if (rtnl_link_get_master(tap) != rtnl_link_get_ifindex(bridge))
		wrong = "the tap is no port of the bridge";
	else if (rtnl_link_get_mtu(tap) != 1400)
		wrong = "the tap has not the MTU of the bridge";
	else if (!(rtnl_link_get_flags(tap) & IFF_UP))
		wrong = "the tap is down";
	else if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC))
		wrong = "the tap stays open in other programs";
	rtnl_link_put(tap);
	return wrong;
}

/* Frames written to one tap come out of another port of its bridge. */
static const char *pass_frame(int from, int to)
{
	/* 10 bytes of virtio-net header, then to everybody, from 52:54:00:00:00:01, ethertype of
	 * local experiments. */
	uint8_t frame[10 + 60] = {[10] = 0xff,
		0xff,
		0xff,
		0xff,
		0xff,
		0xff,
		0x52,
		0x54,
		0,
		0,
		0,
		1,
		0x88,
		0xb5,
		'd',
		'r',
		'o',
		'v',
		'e',
		'r'};
	uint8_t seen[2000];
	ssize_t len;

	/* A port forwards as soon as it is up; what the kernel itself sends comes first. */
	for (int i = 0; i < 100; i++) {
		struct pollfd ready = {.fd = to, .events = POLLIN};

		if (write(from, frame, sizeof(frame)) != sizeof(frame))
			return fs_format("cannot write to the tap: %s", strerror(errno));
		if (poll(&ready, 1, 100) <= 0)
			continue;
		while ((len = read(to, seen, sizeof(seen))) > 0)
			if (len == sizeof(frame) && !memcmp(seen + 10, frame + 10, 60))
				return NULL;
	}
	return "no frame came through the bridge";
}

static const char *opens_taps(void)
{
	char first[32], second[32];
	const char *wrong = add_bridge("br0", 1400, true);
	struct rtnl_link *bridge = wrong ? NULL : get_link("br0");
	cleanup_error struct error *err = NULL;
	int a, b;

	if (!bridge)
		return wrong ? wrong : "no bridge br0";
	a = host_tap_open("br0", first, &err);
	b = host_tap_open("br0", second, &err);
	if (a < 0 || b < 0)
		return err->message;
	if (!strcmp(first, second))
		wrong = "two taps have one name";
	if (!wrong)
		wrong = check_tap(a, first, bridge);
	if (!wrong)
		wrong = check_tap(b, second, bridge);
	if (!wrong)
		wrong = pass_frame(a, b);
	rtnl_link_put(bridge);
	close(a);
	if (!wrong && if_nametoindex(first) != 0)
		wrong = "the tap is still there when it is closed";
	if (!wrong && if_nametoindex(second) == 0)
		wrong = "closing one tap has removed another";
	close(b);
	return wrong;
}

static void test_a_tap_is_a_port_of_its_bridge_until_it_is_closed(void **state)
{
	(void)state;
	in_namespaces(CLONE_NEWNET, opens_taps);
}

/* A bridge takes the lowest address of its ports, and a bridge that changes its address is gone for
 * its neighbours. */
static const char *keeps_address(void)
{
	const char *wrong = add_bridge("br0", 1500, true);
	char before[64], after[64], name[32];
	struct rtnl_link *bridge;
	int fds[8], first;

	first = wrong ? -1 : host_tap_open("br0", name, NULL);
	bridge = get_link("br0");
	if (first < 0 || !bridge)
		return wrong ? wrong : "no tap";
	nl_addr2str(rtnl_link_get_addr(bridge), before, sizeof(before));
	rtnl_link_put(bridge);
	if (strncmp(before, "fe:", 3) != 0)
		return fs_format("the bridge has taken %s from its only tap", before);
	for (int i = 0; i < 8; i++)
		fds[i] = host_tap_open("br0", name, NULL);
	bridge = get_link("br0");
	nl_addr2str(rtnl_link_get_addr(bridge), after, sizeof(after));
	rtnl_link_put(bridge);
	for (int i = 0; i < 8; i++)
		close(fds[i]);
	close(first);
	return strncmp(after, "fe:", 3) ? "a tap has a low address" : NULL;
}

static void test_a_tap_never_has_the_lowest_address_of_a_bridge(void **state)
{
	(void)state;
	in_namespaces(CLONE_NEWNET, keeps_address);
}

/* Below a scratch /sys. */
static void put_sys(const char *name, const char *text)
{
	cleanup_free char *path = fs_format("devices/system/%s", name);
	cleanup_free char *whole = in_pool(path);
	char *slash = strrchr(whole, '/');

	*slash = '\0';
	assert_int_equal(fs_mkdirs(whole, 0755, NULL), 0);
	put_text(path, text);
}

static void put_cpu(int cpu, const char *socket, const char *siblings)
{
	cleanup_free char *package = fs_format("cpu/cpu%d/topology/physical_package_id", cpu);
	cleanup_free char *list = fs_format("cpu/cpu%d/topology/thread_siblings_list", cpu);

	put_sys(package, socket);
	put_sys(list, siblings);
}

/* As a machine with two sockets shows itself, one core of the second with a thread that is off. */
static void test_sockets_cores_threads_and_numa_nodes_are_read(void **state)
{
	static const struct host_cpu expected[] = {{0, 0, 0, 0}, {1, 1, 1, 1}, {2, 0, 0, 0},
		{4, 0, 4, 0}, {5, 1, 5, 1}, {6, 0, 4, 0}, {7, 1, 5, 1}};
	struct host_topology t;

	(void)state;
	put_sys("cpu/online", "0-2,4-7\n");
	put_cpu(0, "0\n", "0,2\n");
	put_cpu(1, "1\n", "1\n");
	put_cpu(2, "0\n", "0,2\n");
	put_cpu(4, "0\n", "4,6\n");
	put_cpu(5, "1\n", "5,7\n");
	put_cpu(6, "0\n", "4,6\n");
	put_cpu(7, "1\n", "5,7\n");
	put_sys("node/online", "0-1\n");
	put_sys("node/node0/cpulist", "0,2,4,6\n");
	put_sys("node/node1/cpulist", "1,5,7\n");
	put_sys("node/node1/meminfo", "Node 1 MemTotal:   16384 kB\nNode 1 MemFree:  4096 kB\n");
	assert_int_equal(host_topology_read(scratch, &t, NULL), 0);
	assert_int_equal(t.cpus_count, sizeof(expected) / sizeof(expected[0]));
	for (size_t i = 0; i < t.cpus_count; i++) {
		assert_int_equal(t.cpus[i].cpu, expected[i].cpu);
		assert_int_equal(t.cpus[i].socket, expected[i].socket);
		assert_int_equal(t.cpus[i].core, expected[i].core);
		assert_int_equal(t.cpus[i].numa, expected[i].numa);
	}
	assert_int_equal(t.numas_count, 2);
	assert_int_equal(t.numas[0].memory_bytes, 0);
	assert_int_equal(t.numas[1].memory_bytes, 16 << 20);
	assert_int_equal(t.numas[1].free_bytes, 4 << 20);
	assert_string_equal(t.hidden, "");
	host_topology_free(&t);
}

/* Two sockets of two cores with two threads, as a kernel with SCHED_ULE has it. */
static void test_cores_of_freebsd_are_read(void **state)
{
	static const char spec[] =
		"<groups>\n"
		" <group level=\"1\" cache-level=\"0\">\n"
		"  <cpu count=\"8\" mask=\"ff,0,0,0\">0, 1, 2, 3, 4, 5, 6, 7</cpu>\n"
		"  <children>\n"
		"   <group level=\"2\" cache-level=\"3\">\n"
		"    <cpu count=\"4\" mask=\"f,0,0,0\">0, 1, 2, 3</cpu>\n"
		"    <children>\n"
		"     <group level=\"3\" cache-level=\"2\">\n"
		"      <cpu count=\"2\" mask=\"3,0,0,0\">0, 1</cpu>\n"
		"      <flags><flag name=\"THREAD\">THREAD group</flag>"
		"<flag name=\"SMT\">SMT group</flag></flags>\n"
		"     </group>\n"
		"     <group level=\"3\" cache-level=\"2\">\n"
		"      <cpu count=\"2\" mask=\"c,0,0,0\">2, 3</cpu>\n"
		"      <flags><flag name=\"SMT\">SMT group</flag></flags>\n"
		"     </group>\n"
		"    </children>\n"
		"   </group>\n"
		"   <group level=\"2\" cache-level=\"3\">\n"
		"    <cpu count=\"4\" mask=\"f0,0,0,0\">4, 5, 6, 7</cpu>\n"
		"   </group>\n"
		"  </children>\n"
		" </group>\n"
		"</groups>\n";
	static const int cores[] = {0, 0, 2, 2, 4, 5, 6, 7};
	struct host_topology t = {0};

	(void)state;
	assert_true(host_topology_spec(spec, &t));
	assert_int_equal(t.cpus_count, 8);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(t.cpus[i].cpu, i);
		assert_int_equal(t.cpus[i].core, cores[i]);
		assert_int_equal(t.cpus[i].socket, -1);
		assert_int_equal(t.cpus[i].numa, -1);
	}
	host_topology_free(&t);
	/* Cut anywhere, it is a shorter text or none. */
	for (size_t len = 0; len < sizeof(spec); len++) {
		cleanup_free char *cut = fs_format("%.*s", (int)len, spec);

		if (host_topology_spec(cut, &t))
			assert_int_equal(t.cpus_count, 8);
		host_topology_free(&t);
	}
}

static void test_a_text_that_is_no_topology_of_freebsd_is_refused(void **state)
{
	static const char *const texts[] = {"", "<", "<cpu ", "<cpu >", "<cpu >x</cpu>",
		"<cpu >-1</cpu>", "<cpu >1, 1</cpu>", "<cpu >2, 1</cpu>", "<cpu >8192</cpu>",
		"<cpu >99999999999999999999</cpu>", "<cpu >1,</cpu>", "<cpu >1, 2",
		"<flag name=\"THREAD\">"};
	struct host_topology t = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (host_topology_spec(texts[i], &t))
			fail_msg("\"%s\" is taken", texts[i]);
}

static void test_numbers_of_cpus_become_a_list(void **state)
{
	static const int numbers[] = {0, 1, 2, 3, 8, 10, 11};
	int many[100];
	char out[64];

	(void)state;
	host_cpu_list(numbers, 7, out);
	assert_string_equal(out, "0-3,8,10-11");
	host_cpu_list(numbers, 0, out);
	assert_string_equal(out, "");
	for (int i = 0; i < 100; i++)
		many[i] = 2 * i;
	host_cpu_list(many, 100, out);
	assert_int_equal(strlen(out), 63);
}

static void test_what_a_container_hides_of_the_topology_is_said(void **state)
{
	cleanup_error struct error *err = NULL;
	struct host_topology t;

	(void)state;
	assert_int_equal(host_topology_read(scratch, &t, &err), -1);
	assert_non_null(strstr(err->message, "cannot be read"));
	host_topology_free(&t);
	put_sys("cpu/online", "0-1\n");
	assert_int_equal(host_topology_read(scratch, &t, NULL), 0);
	assert_int_equal(t.cpus_count, 2);
	assert_int_equal(t.cpus[1].socket, -1);
	assert_int_equal(t.cpus[1].core, -1);
	assert_int_equal(t.cpus[1].numa, -1);
	assert_non_null(strstr(t.hidden, "sockets, cores and NUMA nodes"));
	host_topology_free(&t);
}

static void test_a_list_of_cpus_that_is_none_is_an_error(void **state)
{
	static const char *const bad[] = {"", "\n", "x\n", "0-\n", "3-1\n", "0-99999999\n", "0,0\n",
		"0-3,2-5\n", "-1\n", "0,,1\n", "0-1-2\n", NULL};

	(void)state;
	for (const char *const *text = bad; *text; text++) {
		cleanup_error struct error *err = NULL;
		struct host_topology t;

		put_sys("cpu/online", *text);
		if (host_topology_read(scratch, &t, &err) == 0)
			fail_msg("was taken: %s", *text);
		assert_non_null(strstr(err->message, "is no list of them"));
		host_topology_free(&t);
	}
}

static void test_the_cpus_of_a_process_are_told(void **state)
{
	char allowed[64];

	(void)state;
	host_process_cpus((int)getpid(), allowed);
	assert_true(allowed[0] >= '0' && allowed[0] <= '9');
	host_process_cpus(1 << 30, allowed);
	assert_string_equal(allowed, "");
}

#define NOBODY 65534

static void test_files_are_opened_as_another_user(void **state)
{
	cleanup_free char *ours = in_pool("ours"), *theirs = in_pool("theirs"),
			  *none = in_pool("none");
	struct host_open files[] = {{.path = ours}, {.path = theirs, .write = true},
		{.path = theirs, .direct = true}, {.path = none, .errnum = -1},
		{.path = "/proc/version", .direct = true}, {.path = scratch, .write = true}};
	size_t count = sizeof(files) / sizeof(files[0]);
	uid_t before = geteuid();

	(void)state;
	put_text("ours", "x");
	put_text("theirs", "x");
	assert_int_equal(chmod(scratch, 0755), 0);
	assert_int_equal(chmod(ours, 0600), 0);
	assert_int_equal(chmod(theirs, 0666), 0);
	assert_int_equal(host_open_as(NOBODY, NOBODY, files, count, clock_ms() + 10000, NULL), 0);
	assert_int_equal(files[0].errnum, before == 0 ? EACCES : 0);
	assert_int_equal(files[1].errnum, 0);
	assert_int_equal(files[2].errnum, 0);
	assert_int_equal(files[3].errnum, ENOENT);
	assert_int_equal(files[4].errnum, EINVAL);
	assert_int_equal(files[5].errnum, EISDIR);
	assert_int_equal(geteuid(), before);
}

static void test_file_systems_are_known_by_what_they_make_of_a_cache(void **state)
{
	(void)state;
	assert_int_equal(host_fs_cache("ext4"), HOST_FS_LOCAL);
	assert_int_equal(host_fs_cache("ceph"), HOST_FS_COHERENT);
	assert_int_equal(host_fs_cache("nfs4"), HOST_FS_APART);
	assert_int_equal(host_fs_cache("fuse.glusterfs"), HOST_FS_APART);
	assert_int_equal(host_fs_cache("fusefs.glusterfs"), HOST_FS_APART);
	assert_int_equal(host_fs_cache("fuseblk"), HOST_FS_UNKNOWN);
	assert_int_equal(host_fs_cache(""), HOST_FS_UNKNOWN);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_scratch, remove_pool)
	const struct CMUnitTest tests[] = {
		TEST(test_facts_are_those_of_the_kernel),
		TEST(test_the_file_system_of_a_path_is_that_of_its_own_mount),
		TEST(test_files_are_opened_as_another_user),
		TEST(test_file_systems_are_known_by_what_they_make_of_a_cache),
		TEST(test_free_space_is_what_statvfs_says),
		TEST(test_users_are_found_by_name_and_number),
		TEST(test_a_bridge_is_found_up_or_it_is_said_what_is_there),
		TEST(test_a_tap_is_a_port_of_its_bridge_until_it_is_closed),
		TEST(test_a_tap_never_has_the_lowest_address_of_a_bridge),
		TEST(test_sockets_cores_threads_and_numa_nodes_are_read),
		cmocka_unit_test(test_cores_of_freebsd_are_read),
		cmocka_unit_test(test_a_text_that_is_no_topology_of_freebsd_is_refused),
		cmocka_unit_test(test_numbers_of_cpus_become_a_list),
		TEST(test_what_a_container_hides_of_the_topology_is_said),
		TEST(test_a_list_of_cpus_that_is_none_is_an_error),
		TEST(test_the_cpus_of_a_process_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
