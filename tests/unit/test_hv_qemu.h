/*
 * Real guests under real QEMU for the driver's tests: the lab's tiny guest (a shell on the serial
 * console, drover-guest behind it), QEMU as an unprivileged user, everything in one temporary
 * directory and, as root, one network namespace of the test's own.
 *
 * DROVER_QEMU_DIR (build/qemu) and DROVER_GUESTS_DIR (build/guests) say where they are.
 */
#ifndef DROVER_TESTS_UNIT_TEST_HV_QEMU_H
#define DROVER_TESTS_UNIT_TEST_HV_QEMU_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/fs.h"
#include "hv/hv.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define VM_USER 64055
#define BOOT_MS 90000
#define STEP_MS 30000
/* A QEMU in the middle of a post-copy does not quit: it is killed then. */
#define QUIT_MS 5000
#define GUESTS_MAX 4

struct guest {
	struct vm_def def;
	const char *disks[2];
	int taps[2];
	char *dir;
	struct hv_vm *hv;
	int console;
	struct buf out; /* all that the console has said */
};

static char dir[64];
static char *kernel, *initrd, *disk;
static struct hv *hv10, *hv72;
static struct guest guests[GUESTS_MAX];

/* Fails the test with what went wrong. */
#define must(call) \
	do { \
		if ((call) < 0) \
			fail_msg("%s: %s", #call, test_error ? test_error->message : "?"); \
	} while (0)
static struct error *test_error;

/* Where a file of the build directory is for the VMs' user: below `dir` where it was mounted there.
 */
static char *path_in(const char *name, const char *file)
{
	cleanup_free char *path = fs_format("%s/%s/%s", dir, name, file);
	char *real = realpath(path, NULL);

	if (!real)
		fail_msg("%s is missing; `make tiny` makes it", path);
	return real;
}

/* The checkout may lie where the VMs' user cannot go (/root): seen through a mount it can. */
static void show(const char *name, const char *env, const char *fallback)
{
	cleanup_free char *place = fs_format("%s/%s", dir, name);
	const char *from = getenv(env) ? getenv(env) : fallback;

	if (geteuid() != 0) {
		cleanup_free char *real = realpath(from, NULL);

		assert_non_null(real);
		assert_int_equal(symlink(real, place), 0);
		return;
	}
	assert_int_equal(mkdir(place, 0755), 0);
	assert_int_equal(mount(from, place, NULL, MS_BIND, NULL), 0);
}

static struct hv_settings settings[2];

static void free_settings(struct hv_settings *set)
{
	free((char *)set->binary);
	free((char *)set->img_binary);
	free((char *)set->data_dirs);
}

static struct hv *open_hv(struct hv_settings *set, const char *version)
{
	cleanup_free char *binary = fs_format("%s/bin/qemu-system-x86_64", version);
	cleanup_free char *img = fs_format("%s/bin/qemu-img", version);
	cleanup_free char *data = fs_format("%s/data", version);
	struct hv *hv;

	set->binary = path_in("qemu", binary);
	set->img_binary = path_in("qemu", img);
	set->data_dirs = path_in("qemu", data);
	set->accel = "tcg";
	set->uid = geteuid() == 0 ? VM_USER : geteuid();
	set->gid = geteuid() == 0 ? VM_USER : getegid();
	hv = hv_open(set, &test_error);
	must(hv ? 0 : -1);
	return hv;
}

static void hide(const char *name)
{
	cleanup_free char *place = fs_format("%s/%s", dir, name);

	umount2(place, MNT_DETACH);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int setup_all(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	snprintf(dir, sizeof(dir), "/tmp/drover-hv-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chmod(dir, 0755), 0);
	if (geteuid() == 0) {
		assert_int_equal(unshare(CLONE_NEWNET | CLONE_NEWNS), 0);
		assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	}
	show("qemu", "DROVER_QEMU_DIR", "build/qemu");
	show("guests", "DROVER_GUESTS_DIR", "build/guests");
	kernel = path_in("guests", "vmlinuz");
	initrd = path_in("guests", "tiny.initrd");
	disk = fs_format("%s/disk0.qcow2", dir);
	hv10 = open_hv(&settings[0], "10.0");
	hv72 = open_hv(&settings[1], "7.2");
	return 0;
}

static int teardown_all(void **state)
{
	(void)state;
	hv_close(hv10);
	hv_close(hv72);
	free_settings(&settings[0]);
	free_settings(&settings[1]);
	free(kernel);
	free(initrd);
	free(disk);
	hide("qemu");
	hide("guests");
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int setup(void **state)
{
	(void)state;
	for (int i = 0; i < GUESTS_MAX; i++)
		guests[i] = (struct guest){.console = -1, .taps = {-1, -1}};
	must(hv_image_create(hv10, disk, "qcow2", 64u << 20, NULL, NULL, &test_error));
	return 0;
}

static void end_guest(struct guest *g)
{
	if (g->hv)
		hv_vm_end(g->hv, clock_ms() + QUIT_MS, NULL);
	hv_vm_close(g->hv);
	g->hv = NULL;
	close_fd(&g->console);
	close_fd(&g->taps[0]);
	close_fd(&g->taps[1]);
	buf_free(&g->out);
	free(g->dir);
	g->dir = NULL;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < GUESTS_MAX; i++)
		end_guest(&guests[i]);
	error_free(&test_error);
	unlink(disk);
	return 0;
}

/* Guest number i, 128 MiB, one disk, not started. */
static struct guest *describe(int i)
{
	struct guest *g = &guests[i];

	g->def = (struct vm_def){
		.name = (char *)"web1",
		.uuid = (char *)"6f9619ff-8b86-d011-b42d-00c04fc964ff",
		.memory_bytes = 128u << 20,
		.sockets = 1,
		.cores = 1,
		.threads = 1,
		.machine = (char *)"pc-q35-7.2",
		.cpu = (char *)"qemu64",
		.kernel = kernel,
		.initrd = initrd,
		.append = (char *)"console=ttyS0 quiet",
		.disks = {{(char *)"disk0.qcow2", (char *)"qcow2", (char *)"writeback"}},
		.disks_count = 1,
	};
	g->disks[0] = disk;
	g->dir = fs_format("%s/vm%d", dir, i);
	buf_init(&g->out, 1u << 20);
	return g;
}

static void connect_console(struct guest *g)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", hv_vm_console(g->hv));
	g->console = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(g->console, (struct sockaddr *)&addr, sizeof(addr)), 0);
}

static int try_start(struct guest *g, struct hv *hv, bool incoming)
{
	struct hv_start how = {&g->def, g->disks, g->taps, g->dir, incoming};

	g->hv = hv_vm_start(hv, &how, &test_error);
	return g->hv ? 0 : -1;
}

static void start_with(struct guest *g, struct hv *hv, bool incoming)
{
	must(try_start(g, hv, incoming));
	connect_console(g);
}

/* Reads the console until it has said `text` after its first `from` bytes. */
static void expect(struct guest *g, size_t from, const char *text, int64_t limit_ms)
{
	int64_t deadline = clock_ms() + limit_ms;
	struct pollfd p = {.fd = g->console, .events = POLLIN};
	uint8_t *room;
	ssize_t n;

	while (from > g->out.len || !strstr(buf_string(&g->out) + from, text)) {
		if (poll(&p, 1, clock_left_ms(deadline)) <= 0)
			fail_msg("the console says no \"%s\" in time, but: %s", text,
				buf_string(&g->out));
		room = buf_reserve(&g->out, 4096);
		assert_non_null(room);
		n = read(g->console, room, 4096);
		if (n <= 0)
			fail_msg("the console was closed before it said \"%s\"", text);
		g->out.len += (size_t)n;
	}
}

/* Gives the guest's shell a line and waits for a text. */
static void run_in(struct guest *g, const char *line, const char *text)
{
	size_t from = g->out.len;

	assert_int_equal(fs_write_all(g->console, line, strlen(line)), 0);
	expect(g, from, text, STEP_MS);
}

static void expect_alive(struct guest *g)
{
	static int counter = 1000;
	cleanup_free char *line = fs_format("echo alive-$((1+%d))\n", ++counter);
	cleanup_free char *text = fs_format("alive-%d", counter + 1);

	run_in(g, line, text);
}

/* Has 32 MiB of random pages, some of them changing all the time. */
static inline void busy(struct guest *g)
{
	run_in(g, "printf 'fill 32 random\\ndirty 8 page 16\\n' | nc 127.0.0.1 7001\n",
		"\"mib_s\":8");
}

static inline void expect_memory_right(struct guest *g)
{
	run_in(g, "echo check | nc 127.0.0.1 7001\n", "{\"ok\":true");
}

/* A started guest that has booted, with a tiny shell on its console. */
static struct guest *boot(int i, struct hv *hv)
{
	struct guest *g = describe(i);

	start_with(g, hv, false);
	must(hv_vm_resume(g->hv, &test_error));
	expect(g, 0, "READY", BOOT_MS);
	return g;
}

/* A destination for `from`, listening for its stream at the path given back. */
static inline struct guest *destination(int i, const struct guest *from, struct hv *hv, char **path)
{
	struct guest *g = describe(i);

	g->def = from->def;
	start_with(g, hv, true);
	*path = fs_format("%s/stream.sock", g->dir);
	must(hv_vm_migrate_incoming(g->hv, *path, false, &test_error));
	return g;
}

static inline struct hv_migrate_status wait_phase(struct guest *g, enum hv_migrate_phase phase)
{
	int64_t deadline = clock_ms() + STEP_MS;
	struct hv_migrate_status s;

	must(hv_vm_migrate_status(g->hv, &s, &test_error));
	while (s.phase != phase) {
		if (clock_ms() >= deadline)
			fail_msg("phase is %s and not %s: %s", hv_migrate_phase_name(s.phase),
				hv_migrate_phase_name(phase), s.failure);
		must(hv_vm_migrate_wait(g->hv, s.phase, deadline, &s, &test_error));
	}
	return s;
}

/* Locks that a process holds on the disk, as the kernel counts them. */
static inline int locks_held(const struct guest *g)
{
	cleanup_free char *fds = fs_format("/proc/%d/fd", (int)hv_vm_process(g->hv)->pid);
	int count = 0;

	for (int fd = 0; fd < 256; fd++) {
		cleanup_free char *link = fs_format("%s/%d", fds, fd);
		cleanup_free char *info = fs_format("%sinfo/%d", fds, fd);
		cleanup_free char *text = NULL;
		char to[512];
		ssize_t n = readlink(link, to, sizeof(to) - 1);

		to[n > 0 ? n : 0] = 0;
		text = strcmp(to, disk) ? NULL : fs_read(info, 65536, NULL, NULL);
		for (const char *at = text; at && (at = strstr(at, "lock:")); at++)
			count++;
	}
	return count;
}

static void expect_error(enum error_kind kind, const char *part)
{
	assert_non_null(test_error);
	if (test_error->kind != kind || !strstr(test_error->message, part))
		fail_msg("not %s \"%s\" but %s: %s", error_kind_name(kind), part,
			error_kind_name(test_error->kind), test_error->message);
	error_free(&test_error);
}

/* A tap device of the test's own network namespace. */
static inline int open_tap(void)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, TUNSETIFF, &r), 0);
	return fd;
}

#endif
