#include "pool/vm_def_internal.h"

#include "pool/cpu_spec.h"
#include "pool/settings.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_BYTES 1024
#define APPEND_MAX 2047 /* x86's COMMAND_LINE_SIZE less its NUL */
#define WORD_MAX 64
#define BRIDGE_MAX 15 /* IFNAMSIZ less its NUL */

static char *refuse(const char *key, const char *value, struct error **err, const char *allowed)
{
	error_set(err, ERROR_DEFINITION, 0, "%s cannot be \"%.100s\": %s", key, value, allowed);
	return NULL;
}

static char *copy(const char *value)
{
	return fs_format("%s", value);
}

static bool is_word(const char *value, size_t max)
{
	size_t len = strlen(value);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)value[i]) && !strchr("._-", value[i]))
			return false;
	return len > 0 && len <= max && isalnum((unsigned char)value[0]);
}

static char *one_of(const char *key, const char *value, const char *const *list,
	const char *allowed, struct error **err)
{
	for (; *list; list++)
		if (!strcmp(*list, value))
			return copy(value);
	return refuse(key, value, err, allowed);
}

static char *check_hypervisor(const char *key, const char *value, struct error **err)
{
	static const char *const list[] = {"qemu", "bhyve", NULL};

	return one_of(key, value, list, "it is qemu or bhyve", err);
}

static char *check_uuid(const char *key, const char *value, struct error **err)
{
	static const char allowed[] = "it is written 6f9619ff-8b86-4011-b42d-00c04fc964ff";
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	bool all_zero = true;
	char *uuid;

	if (strlen(value) != strlen(form))
		return refuse(key, value, err, allowed);
	for (size_t i = 0; form[i]; i++) {
		if (form[i] == '-' ? value[i] != '-' : !isxdigit((unsigned char)value[i]))
			return refuse(key, value, err, allowed);
		all_zero = all_zero && (value[i] == '0' || value[i] == '-');
	}
	if (all_zero)
		return refuse(key, value, err, "all zeros is no UUID");
	uuid = copy(value);
	for (char *c = uuid; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return uuid;
}

/* Whether the machine type says its version: "…-7.2", "…-rhel9.2.0". */
static bool has_version(const char *machine)
{
	const char *last = strrchr(machine, '-'), *dot = last ? strchr(last, '.') : NULL;

	return dot && isdigit((unsigned char)dot[-1]) && isdigit((unsigned char)dot[1]);
}

/* Whether it is a machine type with its version, or the name that stands for the newest of a kind.
 */
static bool is_machine(const char *machine)
{
	static const char *const names[] = {"pc", "q35", "pc-q35", "pc-i440fx", "virt", "microvm"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(machine, names[i]))
			return true;
	return has_version(machine);
}

static char *check_machine(const char *key, const char *value, struct error **err)
{
	if (!is_word(value, WORD_MAX) || !is_machine(value))
		return refuse(key, value, err,
			"it is a machine type with its version, like pc-q35-7.2; `drover node show "
			"NODE` lists under \"machines\" those that a node offers");
	if (has_version(value))
		return copy(value);
	if (!strcmp(value, "pc") || !strcmp(value, "pc-i440fx"))
		return refuse(key, value, err,
			"it means another machine in each version of the hypervisor, so the VM "
			"could not move; write it with its version, like pc-i440fx-7.2 (or "
			"pc-q35-7.2, the newer kind)");
	return refuse(key, value, err,
		"it means another machine in each version of the hypervisor, so the VM could not "
		"move; write it with its version, like pc-q35-7.2 for q35");
}

/* An exact CPU, in the form that it is always written in. */
static char *check_exact_cpu(const char *key, const char *value, struct error **err)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_error struct error *why = NULL;

	if (cpu_spec_parse(&spec, value, &why) < 0)
		return refuse(key, value, err, why->message);
	return cpu_spec_text(&spec);
}

static char *check_cpu(const char *key, const char *value, struct error **err)
{
	return strcmp(value, CPU_BASELINE) ? check_exact_cpu(key, value, err) : copy(value);
}

/* A comma would end the argument of a hypervisor that the name becomes a part of. */
static char *check_path(const char *key, const char *value, struct error **err)
{
	size_t len = strlen(value);

	if (len == 0 || len > PATH_MAX_BYTES)
		return refuse(key, value, err, "a file's name has 1 to 1024 bytes");
	if (strchr(value, ','))
		return refuse(key, value, err, "hypervisors take no comma in a file's name");
	if (!settings_value_ok(value))
		return refuse(key, value, err,
			"a file's name has no control characters, no white space around it and no "
			"\" ;\" in it");
	if (value[len - 1] == '/')
		return refuse(key, value, err, "it names a directory");
	return copy(value);
}

static char *check_append(const char *key, const char *value, struct error **err)
{
	if (strlen(value) > APPEND_MAX)
		return refuse(key, value, err, "a kernel takes at most 2047 bytes");
	if (!settings_value_ok(value))
		return refuse(key, value, err,
			"it is one line, with no white space around it and no \" ;\" in it");
	return copy(value);
}

static bool is_vnc_address(const char *address, size_t len)
{
	char text[INET6_ADDRSTRLEN + 2];
	struct in6_addr in6;
	struct in_addr in;

	if (len == 0 || len >= sizeof(text))
		return false;
	memcpy(text, address, len);
	text[len] = 0;
	if (text[0] != '[')
		return !strcmp(text, "localhost") || inet_pton(AF_INET, text, &in) == 1;
	if (text[len - 1] != ']')
		return false;
	text[len - 1] = 0;
	return inet_pton(AF_INET6, text + 1, &in6) == 1;
}

static char *check_vnc(const char *key, const char *value, struct error **err)
{
	const char *colon = strrchr(value, ':');
	int64_t display;

	if (!strcmp(value, "unix"))
		return copy(value);
	/* Display N is TCP port 5900 + N. */
	if (colon && is_vnc_address(value, (size_t)(colon - value)) &&
		isdigit((unsigned char)colon[1]) &&
		fs_parse_number("", colon + 1, 0, 65535 - 5900, &display, NULL) == 0)
		return copy(value);
	return refuse(key, value, err, "it is off, unix or ADDRESS:DISPLAY, like 127.0.0.1:0");
}

static char *check_format(const char *key, const char *value, struct error **err)
{
	static const char *const list[] = {"qcow2", "raw", NULL};

	return one_of(key, value, list, "it is qcow2 or raw", err);
}

static char *check_cache(const char *key, const char *value, struct error **err)
{
	static const char *const list[] = {"none", "writeback", "directsync", NULL};

	return one_of(key, value, list, "it is none, writeback or directsync", err);
}

static char *check_loader(const char *key, const char *value, struct error **err)
{
	static const char *const list[] = {"uefi", "bhyveload", "grub", NULL};

	return one_of(key, value, list, "it is uefi, bhyveload or grub", err);
}

static char *check_disk_model(const char *key, const char *value, struct error **err)
{
	static const char *const list[] = {"virtio-blk", "ahci-hd", "nvme", NULL};

	return one_of(key, value, list, "it is virtio-blk, ahci-hd or nvme", err);
}

static char *check_bridge(const char *key, const char *value, struct error **err)
{
	if (!is_word(value, BRIDGE_MAX))
		return refuse(key, value, err,
			"a bridge's name has 1 to 15 letters, digits, '.', '_' and '-'");
	return copy(value);
}

static char *check_mac(const char *key, const char *value, struct error **err)
{
	unsigned bytes[6], any = 0;
	char *mac;

	if (strlen(value) != 17)
		return refuse(key, value, err, "it is written 52:54:00:12:34:56");
	for (size_t i = 0; i < 17; i++)
		if (i % 3 == 2 ? value[i] != ':' : !isxdigit((unsigned char)value[i]))
			return refuse(key, value, err, "it is written 52:54:00:12:34:56");
	for (size_t i = 0; i < 6; i++) {
		bytes[i] = (unsigned)strtoul(value + 3 * i, NULL, 16);
		any |= bytes[i];
	}
	if (bytes[0] & 1)
		return refuse(key, value, err,
			"it is a multicast address (its first byte is odd), which no card can "
			"have");
	if (!any)
		return refuse(key, value, err, "all zeros is no address");
	mac = copy(value);
	for (char *c = mac; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return mac;
}

static char *check_model(const char *key, const char *value, struct error **err)
{
	static const char *const list[] = {"virtio-net-pci", "e1000", NULL};

	return one_of(key, value, list, "it is virtio-net-pci or e1000", err);
}

const struct vm_key vm_def_text_keys[] = {
	{"hypervisor", check_hypervisor, offsetof(struct vm_def, hypervisor), false},
	{"uuid", check_uuid, offsetof(struct vm_def, uuid), false},
	{"machine", check_machine, offsetof(struct vm_def, machine), true},
	{"cpu", check_cpu, offsetof(struct vm_def, cpu), true},
	{"cpu_in_force", check_exact_cpu, offsetof(struct vm_def, cpu_in_force), true},
	{"kernel", check_path, offsetof(struct vm_def, kernel), true},
	{"initrd", check_path, offsetof(struct vm_def, initrd), true},
	{"append", check_append, offsetof(struct vm_def, append), true},
	{"vnc", check_vnc, offsetof(struct vm_def, vnc), true},
	{"loader", check_loader, offsetof(struct vm_def, loader), true},
	{"bootrom", check_path, offsetof(struct vm_def, bootrom), true},
	{NULL},
};

const struct vm_key vm_def_disk_keys[] = {
	{"file", check_path, offsetof(struct vm_disk, file), false},
	{"format", check_format, offsetof(struct vm_disk, format), true},
	{"cache", check_cache, offsetof(struct vm_disk, cache), true},
	{"model", check_disk_model, offsetof(struct vm_disk, model), true},
	{NULL},
};

const struct vm_key vm_def_nic_keys[] = {
	{"bridge", check_bridge, offsetof(struct vm_nic, bridge), false},
	{"mac", check_mac, offsetof(struct vm_nic, mac), true},
	{"model", check_model, offsetof(struct vm_nic, model), true},
	{NULL},
};

static int missing(const char *key, const char *why, struct error **err)
{
	return error_set(err, ERROR_DEFINITION, 0, "%s is missing: %s", key, why);
}

static bool ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), tail = strlen(end);

	return len >= tail && !strcmp(text + len - tail, end);
}

static int complete_disk(struct vm_def *def, int n, struct error **err)
{
	struct vm_disk *disk = &def->disks[n];

	if (!disk->file)
		return error_set(err, ERROR_DEFINITION, 0, "disk%d has no file", n);
	for (int i = 0; i < n; i++)
		if (!strcmp(def->disks[i].file, disk->file))
			return error_set(err, ERROR_DEFINITION, 0,
				"disk%d and disk%d have the same file %s", i, n, disk->file);
	if (!disk->format)
		disk->format =
			copy(ends_with(disk->file, ".raw") || ends_with(disk->file, ".img") ||
						!strcmp(def->hypervisor, "bhyve")
					? "raw"
					: "qcow2");
	if (!disk->cache)
		disk->cache = copy("none");
	return 0;
}

/* 52:54:00 is QEMU's; the rest are the UUID's last three bytes, which are random, plus n. */
static char *mac_of(const char *uuid, int n)
{
	unsigned long tail = (strtoul(uuid + 30, NULL, 16) + (unsigned long)n) & 0xffffff;

	return fs_format("52:54:00:%02lx:%02lx:%02lx", tail >> 16, tail >> 8 & 0xff, tail & 0xff);
}

static int complete_nic(struct vm_def *def, int n, struct error **err)
{
	struct vm_nic *nic = &def->nics[n];

	if (!nic->bridge)
		return error_set(err, ERROR_DEFINITION, 0, "nic%d has no bridge", n);
	if (!nic->mac)
		nic->mac = mac_of(def->uuid, n);
	if (!nic->model)
		nic->model = copy("virtio-net-pci");
	for (int i = 0; i < n; i++)
		if (!strcmp(def->nics[i].mac, nic->mac))
			return error_set(err, ERROR_DEFINITION, 0,
				"nic%d and nic%d have the same mac %s", i, n, nic->mac);
	return 0;
}

static int check_vcpus(const struct vm_def *def, struct error **err)
{
	int64_t vcpus = (int64_t)def->sockets * def->cores * def->threads;

	if (def->sockets < 1 || def->cores < 1 || def->threads < 1)
		return error_set(
			err, ERROR_DEFINITION, 0, "sockets, cores and threads are at least 1");
	if (vcpus > VM_DEF_VCPUS_MAX)
		return error_set(err, ERROR_DEFINITION, 0,
			"sockets * cores * threads is %lld, and a VM has at most %d vCPUs",
			(long long)vcpus, VM_DEF_VCPUS_MAX);
	return 0;
}

/* What QEMU needs, and what it has not. */
static int check_qemu(const struct vm_def *def, struct error **err)
{
	if (!def->machine)
		return missing(
			"machine", "write a machine type with its version, like pc-q35-7.2", err);
	if (!def->cpu)
		return missing("cpu",
			"write " CPU_BASELINE ", or a CPU model that all nodes offer, like qemu64",
			err);
	if (def->loader || def->bootrom)
		return error_set(err, ERROR_DEFINITION, 0, "%s is for bhyve; QEMU has none",
			def->loader ? "loader" : "bootrom");
	for (int i = 0; i < def->disks_count; i++)
		if (def->disks[i].model)
			return error_set(err, ERROR_DEFINITION, 0,
				"disk%d.model is for bhyve; disks of QEMU are virtio-blk", i);
	return 0;
}

int vm_def_check(struct vm_def *def, struct error **err)
{
	if (fs_check_name("VM", def->name, err) < 0)
		return -1;
	if (!def->hypervisor)
		return missing("hypervisor", "it is qemu or bhyve", err);
	if (!def->uuid)
		return missing("uuid", "it must be the same on every node", err);
	if (!def->memory_bytes)
		return missing("memory", "write a size like 512M or 2G", err);
	if (check_vcpus(def, err) < 0 ||
		(!strcmp(def->hypervisor, "qemu") && check_qemu(def, err) < 0))
		return -1;
	if (!def->kernel && (def->initrd || def->append))
		return missing("kernel", "initrd and append are for a kernel", err);
	for (int i = 0; i < def->disks_count; i++)
		if (complete_disk(def, i, err) < 0)
			return -1;
	for (int i = 0; i < def->nics_count; i++)
		if (complete_nic(def, i, err) < 0)
			return -1;
	return 0;
}
