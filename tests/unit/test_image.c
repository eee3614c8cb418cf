#include "test_pool_support.h"

#include "base/buf.h"
#include "pool/image.h"
#include "pool/qcow2.h"

#define WEB1_CONF \
	"[vm]\nuuid = 6f9619ff-8b86-4011-b42d-00c04fc964ff\nmemory = 64M\n" \
	"machine = pc-q35-10.0\ncpu = qemu64\n"

/* A qcow2 header of version 3 with a backing file; `format` NULL: not said. */
static void put_qcow2(const char *name, const char *backing, const char *format)
{
	uint8_t image[1024] = "QFI\xfb";
	size_t at = 104;

	put_be32(image + 4, 3);
	put_be64(image + 8, backing ? 512 : 0);
	put_be32(image + 16, backing ? (uint32_t)strlen(backing) : 0);
	put_be64(image + 24, 1 << 20);
	put_be32(image + 100, 104);
	if (format) {
		put_be32(image + at, 0xe2792aca);
		put_be32(image + at + 4, (uint32_t)strlen(format));
		memcpy(image + at + 8, format, strlen(format));
	}
	if (backing)
		memcpy(image + 512, backing, strlen(backing));
	put_bytes(name, image, sizeof(image));
}

static void make_vm(const char *name, const char *disks)
{
	cleanup_free char *conf = fs_format(WEB1_CONF "%s", disks);
	struct error *err = NULL;

	if (pool_vm_create(pool, name, conf, &err) < 0)
		fail_msg("%s", err->message);
}

/* The names of what a VM is based on, with a space after each. */
static char *backing_of(const char *vm)
{
	cleanup_vm_def struct vm_def *def = vm_def_load(pool, vm, NULL);
	struct image_files files;
	char *names = fs_format("%s", "");

	assert_non_null(def);
	assert_int_equal(image_backing_files(pool, def, &files, NULL), 0);
	for (size_t i = 0; i < files.count; i++) {
		char *longer = fs_format("%s%s ", names, files.list[i].name);

		assert_true(files.list[i].in_pool == (files.list[i].name[0] != '/'));
		free(names);
		names = longer;
	}
	image_files_free(&files);
	return names;
}

static void expect_backing(const char *vm, const char *wanted)
{
	cleanup_free char *names = backing_of(vm);

	assert_string_equal(names, wanted);
}

static void test_backing_files_are_found_through_the_whole_chain(void **state)
{
	cleanup_free char *middle = in_pool("images/middle.qcow2");

	(void)state;
	put_text("images/base.raw", "raw");
	put_qcow2("images/middle.qcow2", "base.raw", "raw");
	make_vm("web1", "[disk0]\nfile = disk0.qcow2\n[disk1]\nfile = disk1.qcow2\n");
	put_qcow2("vms/web1/disk0.qcow2", middle, "qcow2");
	put_qcow2("vms/web1/disk1.qcow2", "../../images/base.raw", NULL);
	expect_backing("web1", "images/middle.qcow2 images/base.raw ");
}

static void test_a_raw_disk_is_based_on_nothing_whatever_its_guest_writes(void **state)
{
	(void)state;
	put_text("images/base.raw", "raw");
	make_vm("web1", "[disk0]\nfile = disk0.img\nformat = raw\n");
	put_qcow2("vms/web1/disk0.img", "/etc/passwd", "raw");
	expect_backing("web1", "");
	/* Nor is one further down that is called raw. */
	make_vm("web2", "[disk0]\nfile = disk0.qcow2\n");
	put_qcow2("images/base.raw", "/etc/passwd", "raw");
	put_qcow2("vms/web2/disk0.qcow2", "../../images/base.raw", "raw");
	expect_backing("web2", "images/base.raw ");
}

static void test_chains_that_end_in_themselves_or_nowhere_end(void **state)
{
	(void)state;
	put_qcow2("images/a.qcow2", "b.qcow2", "qcow2");
	put_qcow2("images/b.qcow2", "a.qcow2", "qcow2");
	make_vm("web1", "[disk0]\nfile = disk0.qcow2\n[disk1]\nfile = disk1.qcow2\n"
			"[disk2]\nfile = disk2.qcow2\n[disk3]\nfile = none.qcow2\n"
			"[disk4]\nfile = disk4.qcow2\n");
	put_qcow2("vms/web1/disk0.qcow2", "../../images/a.qcow2", NULL);
	put_qcow2("vms/web1/disk1.qcow2", "gone.qcow2", NULL);
	put_qcow2("vms/web1/disk2.qcow2", "nbd://host/export", NULL);
	put_qcow2("vms/web1/disk4.qcow2", "/dev/zero", "raw");
	expect_backing("web1", "images/a.qcow2 images/b.qcow2 ");
}

static void test_images_outside_of_the_pool_have_their_path_as_name(void **state)
{
	char outside[] = "/tmp/drover-test-image-XXXXXX";
	cleanup_free char *wanted = NULL, *link = in_pool("images/link.raw");
	cleanup_fd int fd = -1;

	(void)state;
	fd = mkstemp(outside);
	assert_true(fd >= 0);
	wanted = fs_format("%s ", outside);
	make_vm("web1", "[disk0]\nfile = disk0.qcow2\n");
	put_qcow2("vms/web1/disk0.qcow2", outside, "raw");
	expect_backing("web1", wanted);
	assert_int_equal(symlink(outside, link), 0);
	put_qcow2("vms/web1/disk0.qcow2", "../../images/link.raw", "raw");
	expect_backing("web1", wanted);
	unlink(outside);
}

static int read_header(const void *data, size_t len, struct qcow2 *q, struct error **err)
{
	cleanup_free char *path = in_pool("images/q");
	cleanup_fd int fd = -1;

	put_bytes("images/q", data, len);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return qcow2_read(fd, path, q, err);
}

static void test_broken_qcow2_headers_are_refused(void **state)
{
	struct error *err = NULL;
	struct qcow2 q;
	uint8_t image[2048] = "QFI\xfb";

	(void)state;
	put_be32(image + 4, 3);
	put_be64(image + 8, 1024);
	put_be32(image + 16, 4);
	put_be32(image + 100, 104);
	memcpy(image + 1024, "base", 4);
	assert_int_equal(read_header(image, sizeof(image), &q, NULL), 0);
	assert_string_equal(q.backing, "base");
	for (size_t len = 4; len < 104; len += 4) {
		assert_int_equal(read_header(image, len, &q, &err), -1);
		expect_error(&err, ERROR_DISK, "cut off");
	}
	assert_int_equal(read_header(image, 1026, &q, &err), -1);
	expect_error(&err, ERROR_DISK, "cut off");
	put_be32(image + 16, 1024);
	assert_int_equal(read_header(image, sizeof(image), &q, &err), -1);
	expect_error(&err, ERROR_DISK, "out of bounds");
	put_be32(image + 16, 4);
	put_be64(image + 8, 1ull << 63);
	assert_int_equal(read_header(image, sizeof(image), &q, &err), -1);
	expect_error(&err, ERROR_DISK, "out of bounds");
	put_be64(image + 8, 1024);
	image[1025] = 0;
	assert_int_equal(read_header(image, sizeof(image), &q, &err), -1);
	expect_error(&err, ERROR_DISK, "NUL");
	image[1025] = 'a';
	put_be32(image + 100, 0xffffffff);
	assert_int_equal(read_header(image, sizeof(image), &q, &err), -1);
	expect_error(&err, ERROR_DISK, "cut off");
	/* An extension that goes on for ever is none. */
	put_be32(image + 100, 104);
	put_be32(image + 104, 0xe2792aca);
	put_be32(image + 108, 0xffffffff);
	assert_int_equal(read_header(image, sizeof(image), &q, NULL), 0);
	assert_string_equal(q.backing_format, "");
	assert_int_equal(read_header("raw", 3, &q, NULL), 0);
	assert_false(q.is);
}

static void test_backing_names_mean_files_as_qemu_takes_them(void **state)
{
	static const struct {
		const char *backing, *path;
	} cases[] = {{"/a/b", "/a/b"}, {"b.raw", "/pool/images/b.raw"},
		{"../b", "/pool/images/../b"}, {"file:/a/b", "/a/b"},
		{"./b:c", "/pool/images/./b:c"}, {"nbd:host:10809", NULL}, {"json:{}", NULL},
		{"http://host/x", NULL}, {"", NULL}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cleanup_free char *path =
			qcow2_backing_path("/pool/images/a.qcow2", cases[i].backing);

		if (!cases[i].path)
			assert_null(path);
		else
			assert_string_equal(path, cases[i].path);
	}
}

static int add(const char *path, const char *name, struct error **err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

	return image_add(pool, fd, path, name, NULL, NULL, err);
}

static void test_an_image_is_copied_whole_and_its_holes_stay_holes(void **state)
{
	cleanup_free char *from = in_pool("from"), *to = in_pool("images/big.raw");
	char byte = 'x';
	struct stat st;
	int fd = open(from, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	(void)state;
	assert_int_equal(pwrite(fd, &byte, 1, 70000), 1);
	assert_int_equal(pwrite(fd, &byte, 1, 1 << 28), 1);
	assert_int_equal(ftruncate(fd, 1 << 30), 0);
	close(fd);
	assert_int_equal(add(from, "big.raw", NULL), 0);
	assert_int_equal(stat(to, &st), 0);
	assert_int_equal(st.st_size, 1 << 30);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_true(st.st_blocks < 4096);
	fd = open(to, O_RDONLY | O_CLOEXEC);
	for (off_t at = 69998; at < 70003; at++) {
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		assert_int_equal(byte, at == 70000 ? 'x' : 0);
	}
	assert_int_equal(pread(fd, &byte, 1, 1 << 28), 1);
	assert_int_equal(byte, 'x');
	close(fd);
	assert_int_equal(count_entries("images", ".tmp"), 0);
}

static bool stop_now(void *arg)
{
	return ++*(int *)arg > 0;
}

static void test_an_image_is_not_replaced_and_what_fails_leaves_nothing(void **state)
{
	cleanup_free char *from = in_pool("from"), *based = in_pool("based"),
			  *empty = in_pool("empty");
	struct error *err = NULL;
	int asked = 0, fd;

	(void)state;
	put_text("from", "one");
	put_qcow2("based", "base.qcow2", "qcow2");
	assert_int_equal(add(from, "a.raw", NULL), 0);
	assert_int_equal(add(from, "a.raw", &err), -1);
	expect_error(&err, ERROR_EXISTS, "a.raw already");
	assert_int_equal(add(scratch, "b.raw", &err), -1);
	expect_error(&err, ERROR_DISK, "no regular file");
	put_text("empty", "");
	assert_int_equal(add(empty, "b.raw", &err), -1);
	expect_error(&err, ERROR_DISK, "is empty");
	assert_int_equal(add("/proc/self/cmdline", "b.raw", &err), -1);
	expect_error(&err, ERROR_DISK, "no regular file");
	assert_int_equal(add(based, "b.qcow2", &err), -1);
	expect_error(&err, ERROR_DISK, "is based on");
	fd = open(from, O_RDONLY | O_CLOEXEC);
	assert_int_equal(image_add(pool, fd, from, "c.raw", stop_now, &asked, &err), -1);
	expect_error(&err, ERROR_CANCELLED, "was stopped");
	close(fd);
	assert_int_equal(asked, 1);
	assert_int_equal(count_entries("images", ""), 1);
}

static void test_image_names_cannot_leave_their_directory(void **state)
{
	static const char *const bad[] = {"", "..", ".hidden", "a/b", "-x", "a b", "x.didx", "a\n"};
	cleanup_free char *from = in_pool("from");
	struct error *err = NULL;

	(void)state;
	put_text("from", "one");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(add(from, bad[i], &err), -1);
		expect_error(&err, ERROR_NAME, "");
		assert_int_equal(image_remove(pool, bad[i], &err), -1);
		expect_error(&err, ERROR_NAME, "");
	}
	assert_int_equal(add(from, "debian-12-genericcloud-amd64+x_20240211-1654.qcow2", NULL), 0);
}

static void test_an_image_in_use_is_not_removed(void **state)
{
	cleanup_free char *saved = in_pool("vms/web2/saved");
	struct error *err = NULL;

	(void)state;
	put_text("images/base.raw", "raw");
	put_text("images/base.raw.didx", "index");
	put_qcow2("images/middle.qcow2", "base.raw", "raw");
	put_text("images/direct.raw", "raw");
	make_vm("web1", "[disk0]\nfile = disk0.qcow2\n[disk1]\nfile = images/direct.raw\n");
	put_qcow2("vms/web1/disk0.qcow2", "../../images/middle.qcow2", "qcow2");
	assert_int_equal(image_remove(pool, "middle.qcow2", &err), -1);
	expect_error(&err, ERROR_REFUSED, "web1 is based on");
	assert_int_equal(image_remove(pool, "base.raw", &err), -1);
	expect_error(&err, ERROR_REFUSED, "is based on");
	assert_int_equal(image_remove(pool, "direct.raw", &err), -1);
	expect_error(&err, ERROR_REFUSED, "web1 has as its disk");
	assert_int_equal(pool_vm_remove(pool, "web1", NULL), 0);
	/* What a suspended guest has counts, whatever vm.conf says by now. */
	make_vm("web2", "");
	assert_int_equal(fs_mkdirs(saved, 0755, NULL), 0);
	put_text("vms/web2/saved/vm.conf", WEB1_CONF "[disk0]\nfile = images/direct.raw\n");
	assert_int_equal(image_remove(pool, "direct.raw", &err), -1);
	expect_error(&err, ERROR_REFUSED, "web2 has as its disk");
	assert_int_equal(pool_vm_remove(pool, "web2", NULL), 0);
	assert_int_equal(image_remove(pool, "direct.raw", NULL), 0);
	assert_int_equal(image_remove(pool, "base.raw", &err), -1);
	expect_error(&err, ERROR_REFUSED, "images/middle.qcow2 is based on");
	assert_int_equal(image_remove(pool, "middle.qcow2", NULL), 0);
	assert_int_equal(image_remove(pool, "base.raw", NULL), 0);
	assert_int_equal(count_entries("images", "base"), 0);
	assert_int_equal(image_remove(pool, "base.raw", &err), -1);
	expect_error(&err, ERROR_NOT_FOUND, "no image named base.raw");
}

static void test_what_is_no_image_is_not_removed(void **state)
{
	cleanup_free char *dir = in_pool("images/dir"), *fifo = in_pool("images/fifo");
	struct error *err = NULL;

	(void)state;
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(mkfifo(fifo, 0644), 0);
	assert_int_equal(image_remove(pool, "dir", &err), -1);
	expect_error(&err, ERROR_NOT_FOUND, "is a directory");
	assert_int_equal(image_remove(pool, "fifo", &err), -1);
	expect_error(&err, ERROR_NOT_FOUND, "is no regular file");
	assert_true(fs_exists(dir) && fs_exists(fifo));
}

static void test_an_image_that_may_be_in_use_is_not_removed(void **state)
{
	struct error *err = NULL;

	(void)state;
	put_text("images/base.raw", "raw");
	make_vm("web1", "[disk0]\nfile = disk0.qcow2\n");
	put_bytes("vms/web1/disk0.qcow2", "QFI\xfb broken", 11);
	assert_int_equal(image_remove(pool, "base.raw", &err), -1);
	expect_error(&err, ERROR_REFUSED, "cannot be told");
	put_qcow2("vms/web1/disk0.qcow2", NULL, NULL);
	put_text("vms/web1/vm.conf", "nonsense");
	assert_int_equal(image_remove(pool, "base.raw", &err), -1);
	expect_error(&err, ERROR_REFUSED, "cannot be told");
}

static void test_only_images_are_listed(void **state)
{
	struct pool_names names;

	(void)state;
	put_text("images/b.raw", "raw");
	put_text("images/a.qcow2", "raw");
	put_text("images/b.raw.didx", "index");
	put_text("images/.tmp.add.0123", "part");
	assert_int_equal(image_list(pool, &names, NULL), 0);
	assert_int_equal(names.count, 2);
	assert_string_equal(names.names[0], "a.qcow2");
	assert_string_equal(names.names[1], "b.raw");
	pool_names_free(&names);
}

static void test_only_old_left_overs_are_swept(void **state)
{
	static const struct timespec long_ago[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	cleanup_free char *being_made = in_pool("images/.tmp.add.made");

	(void)state;
	put_text("images/.tmp.add.made", "");
	put_text("images/.tmp.didx.made", "");
	put_text("images/old.raw", "");
	/* As NFS shows a new one for a moment. */
	utimensat(AT_FDCWD, being_made, long_ago, 0);
	image_sweep(pool);
	assert_int_equal(count_entries("images", ".tmp."), 2);
	time_ahead_s = 90000;
	image_sweep(pool);
	assert_int_equal(count_entries("images", ".tmp."), 0);
	assert_int_equal(count_entries("images", ""), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_pool, remove_pool)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_backing_files_are_found_through_the_whole_chain),
		TEST(test_a_raw_disk_is_based_on_nothing_whatever_its_guest_writes),
		TEST(test_chains_that_end_in_themselves_or_nowhere_end),
		TEST(test_images_outside_of_the_pool_have_their_path_as_name),
		TEST(test_broken_qcow2_headers_are_refused),
		TEST(test_backing_names_mean_files_as_qemu_takes_them),
		TEST(test_an_image_is_copied_whole_and_its_holes_stay_holes),
		TEST(test_an_image_is_not_replaced_and_what_fails_leaves_nothing),
		TEST(test_image_names_cannot_leave_their_directory),
		TEST(test_an_image_in_use_is_not_removed),
		TEST(test_what_is_no_image_is_not_removed),
		TEST(test_an_image_that_may_be_in_use_is_not_removed),
		TEST(test_only_images_are_listed),
		TEST(test_only_old_left_overs_are_swept),
	};

	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
