/*
 * From vm.conf to the command lines of bhyve(8) and of the loader that goes before it.
 *
 * PCI slots are the same on every node and after every start, for a guest takes its devices with
 * it: the host bridge 0, disks 3 to 18, nics 19 to 26, the screen 29 and 30, the LPC bridge 31.
 */
#include "hv/bhyve/bhyve.h"

#include "base/buf.h"
#include "base/fs.h"
#include "pool/cpu_spec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_DISK 3
#define SLOT_NIC 19
#define SLOT_FBUF 29
#define SLOT_TABLET 30
#define SLOT_LPC 31
#define ARGS_MAX (48 + 2 * (VM_DEF_DISKS_MAX + VM_DEF_NICS_MAX))
#define VNC_PORT 5900
#define GRUB_CFG_MAX (16u << 10)

struct args {
	const struct bhyve_launch *launch;
	const struct vm_def *def;
	char *v[ARGS_MAX + 1];
	size_t count;
};

static void add(struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	if (a->count == ARGS_MAX)
		abort();
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->count++], fmt, ap) < 0)
		abort();
	va_end(ap);
}

static char **taken(struct args *a)
{
	char **v = calloc(a->count + 1, sizeof(*v));

	if (!v)
		abort();
	memcpy(v, a->v, a->count * sizeof(*v));
	a->count = 0;
	return v;
}

void bhyve_args_free(char **args)
{
	for (char **a = args; a && *a; a++)
		free(*a);
	free(args);
}

static bool boots_by_rom(const struct vm_def *def)
{
	return !def->loader || !strcmp(def->loader, "uefi");
}

/*
 * Keys that become an argument of bhyve.
 */

/* ACPI tables; leaves the CPU when the guest halts or waits. Memory is wired where it may be moved
 * while the guest runs: bhyve sees only writes to such. */
static void add_machine(struct args *a)
{
	add(a, "-A");
	add(a, "-H");
	add(a, "-P");
	if (a->launch->hv->abilities & BHYVE_MIGRATE_LIVE)
		add(a, "-S");
	add(a, "-s");
	add(a, "0,hostbridge");
	add(a, "-s");
	add(a, "%d,lpc", SLOT_LPC);
	add(a, "-l");
	add(a, "com1,%s", a->launch->console);
}

static void add_uuid(struct args *a)
{
	add(a, "-U");
	add(a, "%s", a->def->uuid);
}

static void add_memory(struct args *a)
{
	add(a, "-m");
	add(a, "%lluM", (unsigned long long)(a->def->memory_bytes >> 20));
}

static void add_cpus(struct args *a)
{
	const struct vm_def *def = a->def;

	add(a, "-c");
	add(a, "cpus=%d,sockets=%d,cores=%d,threads=%d", def->sockets * def->cores * def->threads,
		def->sockets, def->cores, def->threads);
}

/* The variables of the firmware are the VM's own, beside its vm.conf; bhyve makes no copy of the
 * template: who made the VM did. */
static void add_bootrom(struct args *a)
{
	const char *rom = a->def->bootrom ? a->def->bootrom : a->launch->hv->set.bootrom;

	if (!boots_by_rom(a->def))
		return;
	add(a, "-l");
	if (a->launch->how->nvram)
		add(a, "bootrom,%s,%s", rom, a->launch->how->nvram);
	else
		add(a, "bootrom,%s", rom);
}

static void add_disks(struct args *a)
{
	for (int i = 0; i < a->def->disks_count; i++) {
		const struct vm_disk *disk = &a->def->disks[i];
		const char *cache = !strcmp(disk->cache, "none")         ? ",nocache"
				    : !strcmp(disk->cache, "directsync") ? ",nocache,direct"
									 : "";

		add(a, "-s");
		add(a, "%d,%s,%s%s", SLOT_DISK + i, disk->model ? disk->model : "virtio-blk",
			a->launch->how->disk_paths[i], cache);
	}
}

static void add_nics(struct args *a)
{
	for (int i = 0; i < a->def->nics_count; i++) {
		const struct vm_nic *nic = &a->def->nics[i];

		add(a, "-s");
		add(a, "%d,%s,%s,mac=%s", SLOT_NIC + i,
			!strcmp(nic->model, "e1000") ? "e1000" : "virtio-net",
			a->launch->how->tap_names[i], nic->mac);
	}
}

/* "127.0.0.1:1": TCP port 5901. */
static void add_vnc(struct args *a)
{
	const char *vnc = a->def->vnc, *colon = vnc ? strrchr(vnc, ':') : NULL;

	if (!colon)
		return;
	add(a, "-s");
	add(a, "%d,fbuf,tcp=%.*s:%d", SLOT_FBUF, (int)(colon - vnc), vnc,
		VNC_PORT + atoi(colon + 1));
	add(a, "-s");
	add(a, "%d,xhci,tablet", SLOT_TABLET);
}

static const struct {
	const char *keys;
	void (*add)(struct args *a);
} mapping[] = {
	{"what every VM has", add_machine},
	{"uuid", add_uuid},
	{"memory", add_memory},
	{"sockets, cores, threads", add_cpus},
	{"loader = uefi, bootrom", add_bootrom},
	{"disk0.file, .model, .cache", add_disks},
	{"nic0.bridge, .mac, .model", add_nics},
	{"vnc = ADDRESS:DISPLAY", add_vnc},
};

/*
 * Keys that bhyve has nothing for.
 */

static int refuse(const struct vm_def *def, const char *key, const char *why, struct error **err)
{
	return error_set(
		err, ERROR_DEFINITION, 0, "VM %s: bhyve has no %s: %s", def->name, key, why);
}

static int check_texts(const struct vm_def *def, struct error **err)
{
	const struct {
		const char *key, *value, *why;
	} refused[] = {
		{"machine", def->machine, "its machine is the same for all VMs; remove the key"},
		{"cpu", def->cpu, "a guest gets the host's CPU; remove the key"},
		{"cpu_in_force", def->cpu_in_force, "a guest gets the host's CPU; remove the key"},
	};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		if (refused[i].value)
			return refuse(def, refused[i].key, refused[i].why, err);
	if (def->vnc && !strcmp(def->vnc, "unix"))
		return refuse(def, "vnc = unix", "write ADDRESS:DISPLAY, like 127.0.0.1:0", err);
	if (def->vnc && !boots_by_rom(def))
		return refuse(
			def, "vnc without loader = uefi", "its screen is the firmware's", err);
	if (def->vnc && def->vnc[0] == '[')
		return refuse(def, "vnc at an IPv6 address", "write an IPv4 address", err);
	if (def->bootrom && !boots_by_rom(def))
		return refuse(def, "bootrom with this loader", "it is of loader = uefi", err);
	if (def->kernel && (!def->loader || strcmp(def->loader, "grub")))
		return refuse(def, "kernel without loader = grub", "grub-bhyve starts it", err);
	return 0;
}

static int check_disks(const struct vm_def *def, struct error **err)
{
	for (int i = 0; i < def->disks_count; i++)
		if (strcmp(def->disks[i].format, "raw")) {
			cleanup_free char *key =
				fs_format("disk%d.format = %s", i, def->disks[i].format);

			return refuse(def, key, "its disks are raw files", err);
		}
	if (def->loader && !strcmp(def->loader, "bhyveload") && !def->disks_count)
		return refuse(def, "loader = bhyveload without a disk", "it loads from disk0", err);
	return 0;
}

/* VM_MAXCPU of FreeBSD 13; from 14 on the limit is a tunable, and bhyve says so itself. */
#define VCPUS_MAX 16

int bhyve_check_machine(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	int vcpus = def->sockets * def->cores * def->threads;

	if (hv->facts.major < 14 && vcpus > VCPUS_MAX && strstr(hv->facts.version, "RELEASE"))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"VM %s has %d vCPUs (sockets * cores * threads), and bhyve of FreeBSD %s "
			"has at most %d",
			def->name, vcpus, hv->facts.version, VCPUS_MAX);
	if (check_texts(def, err) < 0)
		return -1;
	return check_disks(def, err);
}

int bhyve_check_def(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	return bhyve_check_machine(hv, def, err);
}

/* What can be compared is the host's (hv_cpu_alike). */
int bhyve_check_cpu(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	(void)hv;
	(void)def;
	(void)err;
	return 0;
}

void bhyve_complete_def(const struct hv *hv, struct vm_def *def)
{
	(void)hv;
	(void)def;
}

/*
 * Loaders.
 */

static int write_file(
	const struct bhyve_launch *l, const char *file, const struct buf *text, struct error **err)
{
	cleanup_free char *path = bhyve_path(l->how->run_dir, file);

	return fs_write(path, text->data, text->len, 0600, err);
}

/* A word for grub's shell: single quotes take all but themselves. */
static void add_word(struct buf *out, const char *text)
{
	buf_printf(out, "'");
	for (; *text; text++)
		if (*text == '\'')
			buf_printf(out, "'\\''");
		else
			buf_add(out, text, 1);
	buf_printf(out, "'");
}

/* grub-bhyve has the host's files as the device (host). The words of `append` stay apart. */
static int write_kernel(const struct bhyve_launch *l, struct error **err)
{
	const struct vm_def *def = l->how->def;
	struct buf out;
	int rc;

	buf_init(&out, GRUB_CFG_MAX);
	buf_printf(&out, "linux (host)");
	add_word(&out, def->kernel);
	if (def->append) {
		cleanup_free char *words = fs_format("%s", def->append);
		char *rest = words, *word;

		while ((word = strsep(&rest, " ")))
			if (*word) {
				buf_printf(&out, " ");
				add_word(&out, word);
			}
	}
	if (def->initrd) {
		buf_printf(&out, "\ninitrd (host)");
		add_word(&out, def->initrd);
	}
	buf_printf(&out, "\nboot\n");
	rc = write_file(l, "grub.cfg", &out, err);
	buf_free(&out);
	return rc;
}

static int write_device_map(const struct bhyve_launch *l, struct error **err)
{
	struct buf out;
	int rc;

	buf_init(&out, GRUB_CFG_MAX);
	for (int i = 0; i < l->how->def->disks_count; i++)
		buf_printf(&out, "(hd%d) %s\n", i, l->how->disk_paths[i]);
	rc = write_file(l, "device.map", &out, err);
	buf_free(&out);
	return rc;
}

/* grub-bhyve(8): of a kernel of the host's, or of what disk0 has in its first partition. */
static int add_grub(struct args *a, struct error **err)
{
	const struct bhyve_launch *l = a->launch;

	if (write_device_map(l, err) < 0 || (a->def->kernel && write_kernel(l, err) < 0))
		return -1;
	add(a, "%s", l->hv->set.grub_bhyve);
	if (l->hv->abilities & BHYVE_MIGRATE_LIVE)
		add(a, "-S");
	add(a, "-m");
	add(a, "%s/device.map", l->how->run_dir);
	add(a, "-r");
	add(a, a->def->kernel ? "host" : "hd0,1");
	if (a->def->kernel) {
		add(a, "-d");
		add(a, "%s", l->how->run_dir);
	}
	add(a, "-M");
	add(a, "%llu", (unsigned long long)(a->def->memory_bytes >> 20));
	add(a, "%s", a->def->name);
	return 0;
}

/* bhyveload(8) */
static void add_bhyveload(struct args *a)
{
	add(a, "%s", a->launch->hv->set.bhyveload);
	if (a->launch->hv->abilities & BHYVE_MIGRATE_LIVE)
		add(a, "-S");
	add(a, "-m");
	add(a, "%lluM", (unsigned long long)(a->def->memory_bytes >> 20));
	add(a, "-d");
	add(a, "%s", a->launch->how->disk_paths[0]);
	add(a, "%s", a->def->name);
}

static int loader_args(const struct bhyve_launch *l, char ***loader, struct error **err)
{
	struct args a = {.launch = l, .def = l->how->def};

	*loader = NULL;
	if (l->port || l->restore || boots_by_rom(a.def))
		return 0;
	if (!strcmp(a.def->loader, "bhyveload"))
		add_bhyveload(&a);
	else if (add_grub(&a, err) < 0)
		return -1;
	*loader = taken(&a);
	return 0;
}

char **bhyve_args(const struct bhyve_launch *l, char ***loader, struct error **err)
{
	struct args a = {.launch = l, .def = l->how->def};

	if (loader_args(l, loader, err) < 0)
		return NULL;
	add(&a, "%s", l->hv->set.bhyve);
	for (size_t i = 0; i < sizeof(mapping) / sizeof(mapping[0]); i++)
		mapping[i].add(&a);
	if (l->port) {
		add(&a, "-R");
		add(&a, "127.0.0.1,%d", l->port);
	}
	if (l->restore) {
		add(&a, "-r");
		add(&a, "%s", l->how->restore);
	}
	add(&a, "%s", a.def->name);
	return taken(&a);
}

char **bhyve_args_restoring(char *const *argv, const char *file)
{
	size_t count = 0;
	char **args;

	while (argv[count])
		count++;
	args = calloc(count + 3, sizeof(*args));
	if (!args)
		abort();
	/* The last is the VM's name. */
	for (size_t i = 0; i < count; i++)
		args[i + (i + 1 == count ? 2 : 0)] = fs_format("%s", argv[i]);
	args[count - 1] = fs_format("-r");
	args[count] = fs_format("%s", file);
	return args;
}
