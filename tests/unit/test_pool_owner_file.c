#include "test_pool_support.h"

static int setup(void **state)
{
	return make_pool(state) == 0 ? pool_vm_create(pool, VM, "[vm]\n", NULL) : -1;
}

static void expect_unreadable(const char *part)
{
	struct error *err = NULL;
	struct pool_owner owner;

	assert_int_equal(pool_owner_read(pool, VM, &owner, &err), -1);
	expect_error(&err, ERROR_POOL, part);
	assert_int_equal(claim(6, "node1", &err), -1);
	expect_error(&err, ERROR_POOL, part);
}

#define HEAD "[owner]\nepoch = 5\n"
#define TAIL "why = start\nwhen_ms = 1\nclaim = 0123456789abcdef0123456789abcdef\n"

static void test_a_broken_highest_owner_file_is_named_and_never_nobody(void **state)
{
	static const char *const broken[] = {"", "\n", "[owner]\n", "node1\n", HEAD TAIL,
		HEAD "node =\n" TAIL, HEAD "node = ;ode1\n" TAIL, HEAD "node = ../x\n" TAIL,
		HEAD "node = -x\n" TAIL, HEAD "node = node1\nnode = node2\n" TAIL,
		HEAD "node = node1\nextra = 1\n" TAIL, "[other]\nnode = node1\n",
		"[owner]\nepoch = 4\nnode = node1\n" TAIL,
		"[owner]\nepoch = 99999999999999999999\nnode = node1\n" TAIL,
		HEAD "node = node1\n" TAIL "[owner]\nnode = node2\n",
		HEAD "node = node1\nwhy = two words\nwhen_ms = 1\n"
		     "claim = 0123456789abcdef0123456789abcdef\n"};

	(void)state;
	put_text(VM_DIR "/owner.4", "not looked at");
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		put_text(VM_DIR "/owner.5", broken[i]);
		expect_unreadable("vms/web1/owner.5");
	}
	put_bytes(VM_DIR "/owner.5", HEAD "node = node1\0\n" TAIL,
		sizeof(HEAD "node = node1\0\n" TAIL) - 1);
	expect_unreadable("control character");
	put_text(VM_DIR "/owner.5", HEAD "node = node1\n" TAIL);
	expect_owner(5, "node1");
	put_text(VM_DIR "/owner.5", HEAD "node = -\n" TAIL);
	expect_owner(5, "");
}

/* As docs/pool.md tells a person to do it. */
static void test_a_broken_owner_file_is_mended_by_one_above_it(void **state)
{
	(void)state;
	put_text(VM_DIR "/owner.7", HEAD);
	put_text(VM_DIR "/owner.8", "[owner]\nepoch = 8\nnode = -\nwhy = mended\nwhen_ms = 0\n"
				    "claim = 00000000000000000000000000000008\n");
	expect_owner(8, "");
	assert_int_equal(claim(9, "node1", NULL), 0);
	expect_owner(9, "node1");
}

static void test_an_owner_file_cut_anywhere_is_broken(void **state)
{
	cleanup_free char *path = in_pool(VM_DIR "/owner.1"), *text = NULL;
	struct error *err = NULL;
	struct pool_owner owner;
	size_t len;

	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	text = fs_read(path, 4096, &len, NULL);
	assert_non_null(text);
	/* Only its last newline can be spared. */
	for (size_t cut = 0; cut < len - 1; cut++) {
		put_bytes(VM_DIR "/owner.1", text, cut);
		assert_int_equal(pool_owner_read(pool, VM, &owner, &err), -1);
		expect_error(&err, ERROR_POOL, "owner.1");
	}
}

static void test_an_owner_file_that_is_no_small_file_is_broken(void **state)
{
	cleanup_free char *path = in_pool(VM_DIR "/owner.5"), *huge = calloc(1, 100000);

	(void)state;
	memset(huge, '#', 99999);
	put_text(VM_DIR "/owner.5", huge);
	expect_unreadable("larger than 1024 bytes");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	expect_unreadable("owner.5");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("owner.4", path), 0);
	expect_unreadable("owner.5");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_unreadable("owner.5");
}

static void test_names_beside_owner_files_are_not_mistaken_for_them(void **state)
{
	static const char *const others[] = {"owner", "owner.", "owner.x", "owner.9.bak",
		"owner.9~", "owner.-9", ".tmp.owner.9", ".nfs000000000000009", "Owner.9"};
	static const char *const doubtful[] = {
		"owner.007", "owner.0", "owner.999999999999999999999999999999"};
	struct error *err = NULL;
	struct pool_owner owner;

	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		cleanup_free char *name = fs_format(VM_DIR "/%s", others[i]);

		put_text(name, "x");
		expect_owner(1, "node1");
	}
	for (size_t i = 0; i < sizeof(doubtful) / sizeof(doubtful[0]); i++) {
		cleanup_free char *name = fs_format(VM_DIR "/%s", doubtful[i]);
		cleanup_free char *path = in_pool(name);

		put_text(name, "x");
		assert_int_equal(pool_owner_read(pool, VM, &owner, &err), -1);
		expect_error(&err, ERROR_POOL, doubtful[i]);
		assert_int_equal(unlink(path), 0);
	}
}

static void test_random_bytes_in_an_owner_file_do_no_harm(void **state)
{
	cleanup_free char *path = in_pool(VM_DIR "/owner.1"), *text = NULL;
	struct pool_owner owner;
	unsigned seed = 20260131;
	size_t len;

	(void)state;
	assert_int_equal(claim(1, "node1", NULL), 0);
	text = fs_read(path, 4096, &len, NULL);
	assert_non_null(text);
	for (int i = 0; i < 20000; i++) {
		cleanup_free char *copy = fs_format("%s", text);

		for (int n = rand_r(&seed) % 4; n >= 0; n--)
			copy[(size_t)rand_r(&seed) % len] = (char)rand_r(&seed);
		put_bytes(VM_DIR "/owner.1", copy, len);
		if (pool_owner_read(pool, VM, &owner, NULL) == 0 && !owner.node[0])
			fail_msg("read as nobody's: %s", copy);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, remove_pool)
	const struct CMUnitTest tests[] = {
		TEST(test_a_broken_highest_owner_file_is_named_and_never_nobody),
		TEST(test_a_broken_owner_file_is_mended_by_one_above_it),
		TEST(test_an_owner_file_cut_anywhere_is_broken),
		TEST(test_an_owner_file_that_is_no_small_file_is_broken),
		TEST(test_names_beside_owner_files_are_not_mistaken_for_them),
		TEST(test_random_bytes_in_an_owner_file_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
