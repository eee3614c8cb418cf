#include "hv/qemu/args.h"
#include "hv/qemu/cpu.h"

#include "base/fs.h"
#include "base/json.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* 6 for a disk, 4 for a NIC, and for the rest more than there are, -L directories included. */
#define ARGS_MAX (64 + VM_DEF_DISKS_MAX * 6 + VM_DEF_NICS_MAX * 4 + 64)

struct args {
	char **v;
	size_t count;
	struct error *error; /* the first one; once set, nothing is added */
};

static void add(struct args *a, const char *option, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void add_text(struct args *a, char *text)
{
	if (a->error || a->count + 1 >= ARGS_MAX) {
		free(text);
		error_set(&a->error, ERROR_DEFINITION, 0, "the VM has too many parts");
		return;
	}
	a->v[a->count++] = text;
	a->v[a->count] = NULL;
}

/* Adds "option" and its value; fmt NULL: an option without one. */
static void add(struct args *a, const char *option, const char *fmt, ...)
{
	char *value;
	va_list ap;

	add_text(a, fs_format("%s", option));
	if (!fmt)
		return;
	va_start(ap, fmt);
	if (vasprintf(&value, fmt, ap) < 0)
		abort();
	va_end(ap);
	add_text(a, value);
}

/* Takes `object` over. */
static void add_json(struct args *a, const char *option, json_t *object, const char *what)
{
	char *text = object ? json_text(object) : NULL;

	json_decref(object);
	if (!text) {
		error_set(&a->error, ERROR_DEFINITION, 0, "%s is not UTF-8 text", what);
		return;
	}
	add_text(a, fs_format("%s", option));
	add_text(a, text);
}

/* A value inside an option of "key=value,key=value": its own comma would begin another key. */
static const char *plain(struct args *a, const char *what, const char *value)
{
	for (const char *c = value ? value : ","; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._-:+/", *c)) {
			error_set(&a->error, ERROR_DEFINITION, 0,
				"%s \"%s\" holds what is not allowed there", what,
				value ? value : "");
			return "";
		}
	return value;
}

static const char *absolute(struct args *a, const char *what, const char *path)
{
	if (!path || path[0] != '/')
		error_set(&a->error, ERROR_DEFINITION, 0, "%s \"%s\" is not an absolute path", what,
			path ? path : "");
	return path ? path : "";
}

bool qemu_machine_fits(const char *machine)
{
	unsigned major, minor;
	int end = 0;

	return sscanf(machine, "pc-q35-%3u.%3u%n", &major, &minor, &end) == 2 && !machine[end];
}

bool qemu_cpu_fits(const char *cpu)
{
	return strcmp(cpu, "host") && strcmp(cpu, "max") && strcmp(cpu, "base");
}

static void add_machine(struct args *a, const struct qemu_launch *l)
{
	const struct vm_def *def = l->how->def;
	cleanup_free char *cpu = qemu_cpu_argument(def, &a->error);

	add(a, "-name", "guest=%s,debug-threads=on", plain(a, "the name", def->name));
	add(a, "-machine", "%s,accel=%s,usb=off,vmport=off,dump-guest-core=off",
		plain(a, "machine", def->machine), l->accel);
	add(a, "-cpu", "%s,enforce", cpu ? cpu : "");
	add(a, "-smp", "%d,sockets=%d,cores=%d,threads=%d",
		def->sockets * def->cores * def->threads, def->sockets, def->cores, def->threads);
	add(a, "-m", "size=%lluM", (unsigned long long)(def->memory_bytes >> 20));
	add(a, "-uuid", "%s", plain(a, "uuid", def->uuid));
	add(a, "-global", "ICH9-LPC.disable_s3=1");
	add(a, "-global", "ICH9-LPC.disable_s4=1");
	add(a, "-rtc", "base=utc,clock=host");
	add(a, "-boot", "strict=on");
}

static void add_process(struct args *a, const struct qemu_launch *l)
{
	const char *dir = l->settings->data_dirs;

	add(a, "-no-user-config", NULL);
	add(a, "-nodefaults", NULL);
	for (; dir && *dir; dir += strcspn(dir, ":"), dir += *dir == ':')
		if (strcspn(dir, ":"))
			add(a, "-L", "%.*s", (int)strcspn(dir, ":"), dir);
	add(a, "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	add(a, "-msg", "timestamp=on");
	add(a, "-S", NULL);
	add(a, "-no-shutdown", NULL);
	add(a, "-chardev", "socket,id=qmp,fd=%d,server=on,wait=off", l->qmp_fd);
	add(a, "-mon", "chardev=qmp,mode=control");
}

static void add_basics(struct args *a, const struct qemu_launch *l)
{
	const struct vm_def *def = l->how->def;

	add(a, "-chardev", "socket,id=console,fd=%d,server=on,wait=off", l->console_fd);
	add(a, "-device", "isa-serial,id=serial0,chardev=console");
	add(a, "-object", "rng-builtin,id=rng0");
	add(a, "-device", "virtio-rng-pci,id=random0,rng=rng0,bus=pcie.0,addr=0x%x", QEMU_SLOT_RNG);
	add(a, "-display", "none");
	if (def->vnc) {
		add(a, "-device", "VGA,id=video0,bus=pcie.0,addr=0x%x", QEMU_SLOT_VIDEO);
		if (!strcmp(def->vnc, "unix"))
			add(a, "-vnc", "unix:%s/vnc.sock",
				plain(a, "run directory", l->how->run_dir));
		else
			add(a, "-vnc", "%s", plain(a, "vnc", def->vnc));
	}
	if (!def->kernel)
		return;
	add(a, "-kernel", "%s", absolute(a, "kernel", def->kernel));
	if (def->initrd)
		add(a, "-initrd", "%s", absolute(a, "initrd", def->initrd));
	if (def->append)
		add(a, "-append", "%s", def->append);
}

static void add_disk(struct args *a, const struct qemu_launch *l, int i)
{
	const struct vm_disk *disk = &l->how->def->disks[i];
	const char *path = l->how->disk_paths[i];
	bool direct = strcmp(disk->cache, "writeback") != 0;
	cleanup_free char *what = fs_format("disk%d", i);
	struct stat st;
	bool block = path && stat(path, &st) == 0 && S_ISBLK(st.st_mode);

	/* As JSON: a path may hold a comma. The lowest layer takes the locks ("auto": where the
	 * file system can lock). */
	add_json(a, "-blockdev",
		json_pack("{s:s, s:s+, s:s, s:s, s:s, s:{s:b, s:b}}", "driver",
			block ? "host_device" : "file", "node-name", what, "-file", "filename",
			absolute(a, what, path), "locking", "auto", "discard", "unmap", "cache",
			"direct", direct, "no-flush", 0),
		path);
	add_json(a, "-blockdev",
		json_pack("{s:s, s:s, s:s+, s:s, s:{s:b, s:b}}", "driver", disk->format,
			"node-name", what, "file", what, "-file", "discard", "unmap", "cache",
			"direct", direct, "no-flush", 0),
		what);
	add(a, "-device",
		"virtio-blk-pci,id=blk%d,drive=disk%d,bus=pcie.0,addr=0x%x,bootindex=%d,"
		"write-cache=%s",
		i, i, QEMU_SLOT_DISK + i, i + 1, strcmp(disk->cache, "directsync") ? "on" : "off");
}

static void add_nic(struct args *a, const struct qemu_launch *l, int i)
{
	const struct vm_nic *nic = &l->how->def->nics[i];

	add(a, "-netdev", "tap,id=net%d,fd=%d", i, l->how->tap_fds[i]);
	add(a, "-device", "%s,id=nic%d,netdev=net%d,mac=%s,bus=pcie.0,addr=0x%x,romfile=",
		plain(a, "model", nic->model), i, i, plain(a, "mac", nic->mac), QEMU_SLOT_NIC + i);
}

static void add_spare(struct args *a, const struct qemu_launch *l)
{
	if (l->spare_in < 0)
		return;
	add(a, "-add-fd", "fd=%d,set=1", l->spare_in);
	add(a, "-add-fd", "fd=%d,set=2", l->spare_out);
	/* "append": there is nothing to truncate. */
	add(a, "-chardev", "file,id=spare,input-path=/dev/fdset/1,path=/dev/fdset/2,append=on");
	add(a, "-mon", "chardev=spare,mode=control");
}

char **qemu_args(const struct qemu_launch *l, struct error **err)
{
	const struct vm_def *def = l->how->def;
	struct args a = {.v = calloc(ARGS_MAX, sizeof(char *))};

	if (!a.v)
		abort();
	add_text(&a, fs_format("%s", l->settings->binary));
	add_machine(&a, l);
	add_process(&a, l);
	add_basics(&a, l);
	for (int i = 0; i < def->disks_count; i++)
		add_disk(&a, l, i);
	for (int i = 0; i < def->nics_count; i++)
		add_nic(&a, l, i);
	if (l->how->incoming || l->how->restore)
		add(&a, "-incoming", "defer");
	add_spare(&a, l);
	if (a.error) {
		error_prefix(&a.error, "VM %s", def->name);
		error_move(err, a.error);
		qemu_args_cleanup(&a.v);
	}
	return a.v;
}

void qemu_args_free(char **args)
{
	for (char **a = args; a && *a; a++)
		free(*a);
	free(args);
}

void qemu_args_cleanup(char ***args)
{
	qemu_args_free(*args);
	*args = NULL;
}
