#include "test_pool_support.h"

#include <sys/time.h>
#include <time.h>

#include "base/clock.h"

static void test_a_pool_is_made_once_and_opens_as_it_was_made(void **state)
{
	cleanup_free char *with_slash = in_pool("/");
	struct error *err = NULL;
	struct pool *again;

	(void)state;
	assert_string_equal(pool->dir, scratch);
	assert_string_equal(pool->cluster_id, CLUSTER_ID);
	assert_string_equal(pool->ca_pem, CA_PEM);
	assert_int_equal(pool_create(scratch, CLUSTER_ID, CA_PEM, &err), -1);
	expect_error(&err, ERROR_EXISTS, "is a pool already");
	again = pool_open(with_slash, NULL);
	assert_non_null(again);
	assert_string_equal(again->dir, scratch);
	pool_close(again);
}

static void test_a_directory_with_other_things_does_not_become_a_pool(void **state)
{
	cleanup_free char *dir = in_pool("other"), *deep = in_pool("a/b/c");
	struct error *err = NULL;

	(void)state;
	assert_int_equal(mkdir(dir, 0755), 0);
	put_text("other/precious", "x");
	assert_int_equal(pool_create(dir, CLUSTER_ID, CA_PEM, &err), -1);
	expect_error(&err, ERROR_EXISTS, "precious");
	assert_int_equal(count_entries("other", ""), 1);
	assert_int_equal(pool_create("relative", CLUSTER_ID, CA_PEM, &err), -1);
	expect_error(&err, ERROR_USAGE, "absolute");
	assert_int_equal(pool_create(deep, CLUSTER_ID, CA_PEM, NULL), 0);
}

static void test_what_a_crashed_making_left_is_finished_by_the_next(void **state)
{
	cleanup_free char *conf = in_pool("pool.conf");

	(void)state;
	assert_int_equal(unlink(conf), 0);
	put_text(".tmp.pool.0123456789abcdef", "[pool]\nclus");
	assert_int_equal(pool_create(scratch, CLUSTER_ID, CA_PEM, NULL), 0);
}

static void test_one_of_two_that_make_one_pool_succeeds(void **state)
{
	cleanup_free char *dir = in_pool("new");
	int made = 0, status;
	pid_t pids[4];

	(void)state;
	for (int i = 0; i < 4; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0) {
			cleanup_error struct error *err = NULL;

			_exit(pool_create(dir, CLUSTER_ID, CA_PEM, &err) == 0 ? 0
				: err->kind == ERROR_EXISTS                   ? 1
									      : 2);
		}
	}
	for (int i = 0; i < 4; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
		made += WEXITSTATUS(status) == 0;
	}
	assert_int_equal(made, 1);
	assert_int_equal(count_entries("new", ".tmp"), 0);
}

static void test_a_certificate_that_is_none_makes_no_pool(void **state)
{
	static const char *const bad[] = {"", "x", "\n", "-----BEGIN CERTIFICATE-----\n;\n",
		"-----BEGIN CERTIFICATE-----\nab c\n-----END CERTIFICATE-----\n",
		"-----BEGIN CERTIFICATE-----\n[pool]\n-----END CERTIFICATE-----\n"};
	cleanup_free char *dir = in_pool("new");
	struct error *err = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(pool_create(dir, CLUSTER_ID, bad[i], &err), -1);
		expect_error(&err, ERROR_DEFINITION, "not PEM");
	}
	assert_int_equal(pool_create(dir, "0123", CA_PEM, &err), -1);
	expect_error(&err, ERROR_USAGE, "cluster id");
	assert_false(fs_exists(dir));
}

static void expect_no_pool(const char *part)
{
	struct error *err = NULL;

	assert_null(pool_open(scratch, &err));
	expect_error(&err, ERROR_POOL, part);
}

static void test_a_pool_that_is_not_mounted_or_broken_says_so(void **state)
{
	cleanup_free char *conf = in_pool("pool.conf"), *huge = calloc(1, 200001);
	struct error *err = NULL;

	(void)state;
	memset(huge, '#', 200000);
	put_text("pool.conf", huge);
	expect_no_pool("larger than");
	put_text("pool.conf", "");
	expect_no_pool("not whole");
	put_text("pool.conf", "[pool]\nformat = 1\ncluster_id = " CLUSTER_ID "\n");
	expect_no_pool("not whole");
	put_text("pool.conf", "[pool]\nformat = 2\nwhatever = x\n");
	expect_no_pool("upgrade drover");
	put_text("pool.conf", "[pool]\nformat = 1\ncluster_id = xyz\n");
	expect_no_pool("line 3");
	put_text("pool.conf", "[pool]\nformat = 1\n more = x\n");
	expect_no_pool("only ca");
	put_text("pool.conf", "[pool]\n format = 1\n");
	expect_no_pool("white space");
	assert_int_equal(unlink(conf), 0);
	expect_no_pool("is the shared storage mounted?");
	assert_null(pool_open("/nonexistent/pool", &err));
	expect_error(&err, ERROR_POOL, "is no pool");
	assert_int_equal(mkdir(conf, 0755), 0);
	expect_no_pool("pool.conf");
}

/* Members. */

#define FINGERPRINT "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static int write_node(const char *name, const char *address, const char *facts, struct error **err)
{
	struct pool_node node = {.address = (char *)address, .facts = (char *)facts};

	snprintf(node.name, sizeof(node.name), "%s", name);
	memcpy(node.fingerprint, FINGERPRINT, sizeof(FINGERPRINT));
	return pool_node_write(pool, &node, err);
}

static void test_members_are_written_read_listed_and_removed(void **state)
{
	struct error *err = NULL;
	struct pool_names names;
	struct pool_node *node;

	(void)state;
	assert_int_equal(write_node("node2", "10.0.0.2:7780", "{\"cpus\":8}", NULL), 0);
	assert_int_equal(write_node("a.conf", "[fe80::1%eth0]:7780", NULL, NULL), 0);
	put_text("nodes/.tmp.0123", "x");
	put_text("nodes/readme", "x");
	put_text("nodes/-bad.conf", "x");
	assert_int_equal(pool_node_list(pool, &names, NULL), 0);
	assert_int_equal(names.count, 2);
	assert_string_equal(names.names[0], "a.conf");
	assert_string_equal(names.names[1], "node2");
	pool_names_free(&names);
	node = pool_node_read(pool, "node2", NULL);
	assert_non_null(node);
	assert_string_equal(node->address, "10.0.0.2:7780");
	assert_string_equal(node->fingerprint, FINGERPRINT);
	assert_string_equal(node->facts, "{\"cpus\":8}");
	pool_node_free(node);
	node = pool_node_read(pool, "a.conf", NULL);
	assert_string_equal(node->facts, "{}");
	pool_node_free(node);
	assert_int_equal(pool_node_remove(pool, "node2", NULL), 0);
	assert_int_equal(count_entries("nodes", "node2"), 0);
	assert_null(pool_node_read(pool, "node2", &err));
	expect_error(&err, ERROR_NO_NODE, "no node named node2");
	assert_int_equal(pool_node_remove(pool, "node2", &err), -1);
	expect_error(&err, ERROR_NO_NODE, "no node named node2");
}

static void test_writing_a_member_without_facts_keeps_them(void **state)
{
	struct pool_node *node;

	(void)state;
	assert_int_equal(write_node("node1", "a", "{\"cpus\":8}", NULL), 0);
	assert_int_equal(write_node("node1", "b", NULL, NULL), 0);
	node = pool_node_read(pool, "node1", NULL);
	assert_string_equal(node->address, "b");
	assert_string_equal(node->facts, "{\"cpus\":8}");
	pool_node_free(node);
}

static void test_members_with_bad_values_are_not_written(void **state)
{
	struct error *err = NULL;

	(void)state;
	assert_int_equal(write_node("../x", "a", NULL, &err), -1);
	expect_error(&err, ERROR_NAME, "node's name");
	assert_int_equal(write_node("node1", "a b", NULL, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "address");
	assert_int_equal(write_node("node1", "a\nfingerprint = 0", NULL, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "address");
	assert_int_equal(write_node("node1", "", NULL, &err), -1);
	expect_error(&err, ERROR_DEFINITION, "address");
	assert_int_equal(write_node("node1", "a", "[1]", &err), -1);
	expect_error(&err, ERROR_REQUEST, "facts");
	assert_int_equal(count_entries("nodes", ""), 0);
}

static void test_a_broken_member_is_named_and_broken_facts_are_none(void **state)
{
	static const char *const broken[] = {"", "[node]\naddress = a\n", "[node]\nadress = a\n",
		"[node]\naddress = a\nfingerprint = 00\n", "[x]\naddress = a\n"};
	struct error *err = NULL;
	struct pool_node *node;

	(void)state;
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		put_text("nodes/node1.conf", broken[i]);
		assert_null(pool_node_read(pool, "node1", &err));
		expect_error(&err, ERROR_POOL, "nodes/node1.conf");
	}
	assert_int_equal(write_node("node1", "a", NULL, NULL), 0);
	put_text("nodes/node1.facts", "{\"cpus\":");
	node = pool_node_read(pool, "node1", NULL);
	assert_non_null(node);
	assert_string_equal(node->facts, "{}");
	pool_node_free(node);
}

/* VMs. */

static void test_vms_are_made_listed_renamed_and_removed(void **state)
{
	struct error *err = NULL;
	struct pool_names names;

	(void)state;
	assert_int_equal(pool_vm_create(pool, "web2", "[vm]\n", NULL), 0);
	assert_int_equal(pool_vm_create(pool, "web1", "[vm]\n", NULL), 0);
	assert_int_equal(pool_vm_create(pool, "web1", "[vm]\n", &err), -1);
	expect_error(&err, ERROR_EXISTS, "web1");
	put_text("vms/stray", "x");
	assert_int_equal(pool_vm_list(pool, &names, NULL), 0);
	assert_int_equal(names.count, 2);
	assert_string_equal(names.names[0], "web1");
	pool_names_free(&names);
	assert_int_equal(pool_vm_rename(pool, "web1", "web2", &err), -1);
	expect_error(&err, ERROR_EXISTS, "web2");
	assert_int_equal(pool_vm_rename(pool, "web9", "web3", &err), -1);
	expect_error(&err, ERROR_NO_VM, "web9");
	assert_int_equal(pool_vm_rename(pool, "web1", "web3", NULL), 0);
	assert_false(pool_vm_exists(pool, "web1"));
	assert_true(pool_vm_exists(pool, "web3"));
	assert_int_equal(pool_vm_remove(pool, "web1", &err), -1);
	expect_error(&err, ERROR_NO_VM, "web1");
	assert_int_equal(pool_vm_remove(pool, "web3", NULL), 0);
	assert_false(pool_vm_exists(pool, "web3"));
	assert_int_equal(count_entries("vms", ".tmp"), 0);
}

static void test_vm_names_that_are_not_allowed_reach_no_file(void **state)
{
	static const char *const bad[] = {"", ".", "..", "../vms/web1", "a/b", ".tmp.x", "a b"};
	struct error *err = NULL;
	char longest[301];

	(void)state;
	memset(longest, 'a', 300);
	longest[300] = 0;
	assert_int_equal(pool_vm_create(pool, "web1", "[vm]\n", NULL), 0);
	for (size_t i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		const char *name = i < sizeof(bad) / sizeof(bad[0]) ? bad[i] : longest;

		assert_false(pool_vm_exists(pool, name));
		assert_int_equal(pool_vm_create(pool, name, "[vm]\n", &err), -1);
		expect_error(&err, ERROR_NAME, "VM's name");
		assert_int_equal(pool_vm_remove(pool, name, &err), -1);
		expect_error(&err, ERROR_NAME, "VM's name");
		assert_int_equal(pool_vm_rename(pool, "web1", name, &err), -1);
		expect_error(&err, ERROR_NAME, "VM's name");
		assert_int_equal(pool_vm_rename(pool, name, "web2", &err), -1);
		expect_error(&err, ERROR_NAME, "VM's name");
		assert_null(vm_def_load(pool, name, &err));
		expect_error(&err, ERROR_NAME, "VM's name");
		assert_null(pool_node_read(pool, name, &err));
		expect_error(&err, ERROR_NAME, "node's name");
	}
	assert_int_equal(count_entries("vms", ""), 1);
}

static void test_removing_a_vm_follows_no_link(void **state)
{
	cleanup_free char *outside = in_pool("outside"), *to_dir = NULL, *to_file = NULL;
	cleanup_free char *precious = in_pool("outside/precious"), *sub = NULL;

	(void)state;
	assert_int_equal(mkdir(outside, 0755), 0);
	put_text("outside/precious", "x");
	assert_int_equal(pool_vm_create(pool, "web1", "[vm]\n", NULL), 0);
	sub = in_pool("vms/web1/checkpoints");
	assert_int_equal(mkdir(sub, 0755), 0);
	to_dir = in_pool("vms/web1/checkpoints/dir");
	to_file = in_pool("vms/web1/disk0.raw");
	assert_int_equal(symlink(outside, to_dir), 0);
	assert_int_equal(symlink(precious, to_file), 0);
	assert_int_equal(pool_vm_remove(pool, "web1", NULL), 0);
	assert_true(fs_exists(precious));
	assert_int_equal(count_entries("vms", ""), 0);
}

static const char *creates_on_a_full_file_system(void)
{
	cleanup_free char *vms = in_pool("vms"), *ballast = in_pool("vms/ballast");
	cleanup_error struct error *err = NULL;
	char block[4096] = {1};
	const char *wrong;
	int fd;

	if (mount("tmpfs", vms, "tmpfs", 0, "size=64k") < 0)
		return "cannot mount";
	fd = open(ballast, O_WRONLY | O_CREAT, 0600);
	while (write(fd, block, sizeof(block)) > 0)
		;
	close(fd);
	if (pool_vm_create(pool, "web1", "[vm]\nmemory = 1G\n", &err) == 0)
		return "a VM was made on a full file system";
	wrong = unexpected(err, ERROR_NO_SPACE, "No space left");
	if (wrong)
		return wrong;
	return count_entries("vms", "") == 1 ? NULL : "something was left behind";
}

static void test_a_vm_is_not_half_made_on_a_full_file_system(void **state)
{
	(void)state;
	in_namespaces(CLONE_NEWNS, creates_on_a_full_file_system);
}

/* Paths of disks. */

static void expect_path(const char *disk, const char *below)
{
	cleanup_error struct error *err = NULL;
	cleanup_free char *path = pool_disk_path(pool, "web1", disk, &err);
	cleanup_free char *expected = below[0] == '/' ? fs_format("%s", below) : in_pool(below);

	if (!path)
		fail_msg("%s", err->message);
	assert_string_equal(path, expected);
}

static void test_disk_paths_are_below_the_vm_or_below_images(void **state)
{
	(void)state;
	expect_path("disk0.qcow2", "vms/web1/disk0.qcow2");
	expect_path("./a//b/../disk0.qcow2", "vms/web1/a/disk0.qcow2");
	expect_path("images/debian.qcow2", "images/debian.qcow2");
	expect_path("images/a/../b.qcow2", "images/b.qcow2");
	expect_path("../../images/b.qcow2", "images/b.qcow2");
	expect_path("/dev/vg0/web1", "/dev/vg0/web1");
}

static void test_disk_paths_that_leave_the_pool_are_refused(void **state)
{
	static const char *const bad[] = {"", "..", "../../../etc/shadow", "images/../../x",
		"images/../pool.conf", "../../pool.conf", "../../nodes/node1.conf", "vm.conf",
		"owner.7", "../web2/owner.7", ".tmp.owner.x", "images/..", ".", "images/"};
	struct error *err = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *path = pool_disk_path(pool, "web1", bad[i], &err);

		if (path)
			fail_msg("\"%s\" became %s", bad[i], path);
		expect_error(&err, ERROR_DEFINITION, "no place for an image");
	}
}

static void test_links_out_of_the_pool_are_refused_and_others_are_not(void **state)
{
	cleanup_free char *link_out = in_pool("images/out"), *dir_out = in_pool("images/dir");
	cleanup_free char *dangling = in_pool("images/dangling"), *inside = in_pool("images/in");
	struct error *err = NULL;

	(void)state;
	put_text("images/base.qcow2", "x");
	assert_int_equal(symlink("/etc/passwd", link_out), 0);
	assert_int_equal(symlink("/tmp", dir_out), 0);
	assert_int_equal(symlink("/tmp/drover-nothing", dangling), 0);
	assert_int_equal(symlink("base.qcow2", inside), 0);
	assert_null(pool_disk_path(pool, "web1", "images/out", &err));
	expect_error(&err, ERROR_DEFINITION, "by a symbolic link");
	assert_null(pool_disk_path(pool, "web1", "images/dir/new.qcow2", &err));
	expect_error(&err, ERROR_DEFINITION, "by a symbolic link");
	assert_null(pool_disk_path(pool, "web1", "images/dangling", &err));
	expect_error(&err, ERROR_DEFINITION, "link to nothing");
	expect_path("images/in", "images/in");
}

/* How it is mounted. */

static void test_mounts_that_make_a_pool_unsafe_are_refused(void **state)
{
	static const struct {
		const char *type, *options, *refused;
	} cases[] = {
		{"nfs4", "rw,relatime,rw,vers=4.2,hard,local_lock=none,acregmin=3", NULL},
		{"nfs", "rw,rw,vers=3,hard,nolock,local_lock=all", "nolock"},
		{"nfs", "rw,nfsv3,tcp,resvport,hard,cto,nolockd,sec=sys", "nolockd"},
		{"nfs", "rw,rw,local_lock=posix", "local_lock=posix"},
		{"nfs", "rw,rw,local_lock=flock", NULL},
		{"nfs4", "rw,rw,soft", "soft"},
		{"nfs4", "rw,rw,softreval,softerr", "softerr"},
		{"nfs4", "rw,nocto,rw", "nocto"},
		{"ext4", "rw,soft,nolock", NULL},
		{"fuse.glusterfs", "ro,relatime,rw", "ro"},
		{"xfs", "rw,relatime,errors=ro", NULL},
	};
	struct error *err = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cleanup_free char *said =
			fs_format("\"%s\"", cases[i].refused ? cases[i].refused : "");

		assert_int_equal(pool_check_options("/pool", cases[i].type, cases[i].options, &err),
			cases[i].refused ? -1 : 0);
		if (cases[i].refused)
			expect_error(&err, ERROR_POOL, said);
	}
	assert_int_equal(pool_check_mount(scratch, NULL), 0);
	assert_int_equal(pool_check_mount("/nonexistent/pool", NULL), 0);
}

/* The probe. */

#define NONCE "00000000000000000000000000000001"
#define ANSWER "10000000000000000000000000000000"

static void test_two_nodes_that_see_one_pool_pass_the_probe(void **state)
{
	int lock;

	(void)state;
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	assert_int_equal(pool_probe_answer(scratch, NONCE, ANSWER, NULL), 0);
	close(lock);
	assert_int_equal(pool_probe_finish(pool, NONCE, ANSWER, NULL), 0);
	assert_int_equal(count_entries("", ".tmp"), 0);
}

static void test_a_probe_removes_what_others_left_a_day_ago(void **state)
{
	int lock;

	(void)state;
	put_text(".tmp.probe.old.link", "x");
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	close(lock);
	assert_int_equal(count_entries("", ".tmp.probe."), 2);
	time_ahead_s = 90000;
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	close(lock);
	time_ahead_s = 0;
	assert_int_equal(count_entries("", ".tmp.probe." NONCE), 1);
	assert_int_equal(count_entries("", ".tmp.probe."), 1);
}

static void test_another_directory_fails_the_probe(void **state)
{
	cleanup_free char *other = in_pool("other");
	struct error *err = NULL;
	int lock;

	(void)state;
	assert_int_equal(pool_create(other, CLUSTER_ID, CA_PEM, NULL), 0);
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	assert_int_equal(pool_probe_answer(other, NONCE, ANSWER, &err), -1);
	expect_error(&err, ERROR_POOL, "do not have the same storage");
	close(lock);
	assert_int_equal(pool_probe_finish(pool, NONCE, ANSWER, &err), -1);
	expect_error(&err, ERROR_POOL, "do not have the same storage");
	assert_int_equal(count_entries("", ".tmp"), 0);
}

static void test_a_stale_or_wrong_answer_fails_the_probe(void **state)
{
	cleanup_free char *linked = in_pool(".tmp.probe." NONCE ".link");
	struct error *err = NULL;
	int lock;

	(void)state;
	put_text(".tmp.probe." NONCE, "something else");
	assert_int_equal(pool_probe_answer(scratch, NONCE, ANSWER, &err), -1);
	expect_error(&err, ERROR_POOL, "not coherent");
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	assert_int_equal(pool_probe_answer(scratch, NONCE, "other", NULL), 0);
	close(lock);
	assert_int_equal(pool_probe_finish(pool, NONCE, ANSWER, &err), -1);
	expect_error(&err, ERROR_POOL, "not coherent");
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	assert_int_equal(pool_probe_answer(scratch, NONCE, ANSWER, NULL), 0);
	close(lock);
	assert_int_equal(unlink(linked), 0);
	put_text(".tmp.probe." NONCE ".link", ANSWER);
	assert_int_equal(pool_probe_finish(pool, NONCE, ANSWER, &err), -1);
	expect_error(&err, ERROR_POOL, "no hard link");
	assert_int_equal(count_entries("", ".tmp"), 0);
}

static void test_a_lock_that_stays_on_its_node_fails_the_probe(void **state)
{
	struct error *err = NULL;
	int lock;

	(void)state;
	assert_int_equal(pool_probe_begin(pool, NONCE, &lock, NULL), 0);
	close(lock); /* as if the file system told nobody of it */
	assert_int_equal(pool_probe_answer(scratch, NONCE, ANSWER, &err), -1);
	expect_error(&err, ERROR_POOL, "is not seen here");
	assert_int_equal(pool_probe_finish(pool, NONCE, ANSWER, NULL), 0);
	assert_int_equal(count_entries("", ".tmp"), 0);
}

static void test_a_probe_takes_no_path_for_a_nonce(void **state)
{
	static const char *const bad[] = {
		"", "../../../../etc/passwd", "0000000000000000000000000000000/", "x"};
	struct error *err = NULL;
	int lock;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(pool_probe_begin(pool, bad[i], &lock, &err), -1);
		expect_error(&err, ERROR_REQUEST, "nonce");
		assert_int_equal(pool_probe_answer(scratch, bad[i], ANSWER, &err), -1);
		expect_error(&err, ERROR_REQUEST, "nonce");
		assert_int_equal(pool_probe_answer(scratch, NONCE, bad[i], &err), -1);
		if (strcmp(bad[i], "x") != 0)
			expect_error(&err, ERROR_REQUEST, "answer");
		error_free(&err);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_pool, remove_pool)
	const struct CMUnitTest tests[] = {
		TEST(test_a_pool_is_made_once_and_opens_as_it_was_made),
		TEST(test_a_directory_with_other_things_does_not_become_a_pool),
		TEST(test_what_a_crashed_making_left_is_finished_by_the_next),
		TEST(test_one_of_two_that_make_one_pool_succeeds),
		TEST(test_a_certificate_that_is_none_makes_no_pool),
		TEST(test_a_pool_that_is_not_mounted_or_broken_says_so),
		TEST(test_members_are_written_read_listed_and_removed),
		TEST(test_writing_a_member_without_facts_keeps_them),
		TEST(test_members_with_bad_values_are_not_written),
		TEST(test_a_broken_member_is_named_and_broken_facts_are_none),
		TEST(test_vms_are_made_listed_renamed_and_removed),
		TEST(test_vm_names_that_are_not_allowed_reach_no_file),
		TEST(test_removing_a_vm_follows_no_link),
		TEST(test_a_vm_is_not_half_made_on_a_full_file_system),
		TEST(test_disk_paths_are_below_the_vm_or_below_images),
		TEST(test_disk_paths_that_leave_the_pool_are_refused),
		TEST(test_links_out_of_the_pool_are_refused_and_others_are_not),
		TEST(test_two_nodes_that_see_one_pool_pass_the_probe),
		TEST(test_a_probe_removes_what_others_left_a_day_ago),
		TEST(test_another_directory_fails_the_probe),
		TEST(test_a_stale_or_wrong_answer_fails_the_probe),
		TEST(test_a_lock_that_stays_on_its_node_fails_the_probe),
		TEST(test_a_probe_takes_no_path_for_a_nonce),
		TEST(test_mounts_that_make_a_pool_unsafe_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
