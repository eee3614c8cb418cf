#include "pool/vm_def_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1ull << 20)
#define ITEM_MAX 4096 /* bytes of "FILE,format=F,cache=C" */

static int unknown(const char *key, struct error **err)
{
	return error_set(err, ERROR_DEFINITION, 0,
		"the key \"%.64s\" is not known; known are hypervisor, uuid, memory, sockets, "
		"cores, "
		"threads, machine, cpu, kernel, initrd, append, vnc, loader and bootrom, of disk0 "
		"to disk%d file, format, cache and model, of nic0 to nic%d bridge, mac and model",
		key, VM_DEF_DISKS_MAX - 1, VM_DEF_NICS_MAX - 1);
}

static int cannot_remove(const char *key, struct error **err)
{
	return error_set(err, ERROR_DEFINITION, 0, "%s cannot be without a value", key);
}

static int set_memory(struct vm_def *def, const char *value, struct error **err)
{
	uint64_t bytes;

	if (fs_parse_size("memory", value, VM_DEF_MEMORY_MAX, &bytes, NULL) < 0 ||
		bytes < VM_DEF_MEMORY_MIN || bytes % MIB)
		return error_set(err, ERROR_DEFINITION, 0,
			"memory cannot be \"%.100s\": it is a multiple of 1M from 16M to 16T, "
			"like 512M or 2G",
			value);
	def->memory_bytes = bytes;
	return 0;
}

static int set_count(int *slot, const char *key, const char *value, struct error **err)
{
	struct error *why = NULL;
	int64_t number;

	if (fs_parse_number(key, value, 1, VM_DEF_VCPUS_MAX, &number, &why) < 0) {
		why->kind = ERROR_DEFINITION;
		return error_move(err, why);
	}
	*slot = (int)number;
	return 0;
}

static int set_cpus(struct vm_def *def, const char *value, struct error **err)
{
	if (set_count(&def->cores, "cpus", value, err) < 0)
		return -1;
	def->sockets = def->threads = 1;
	return 0;
}

/* Sets one char * of `base` by its key among `keys`; 1 when there is no such key. `full` is the
 * key as the user knows it. */
static int set_text(void *base, const struct vm_key *keys, const char *key, const char *full,
	const char *value, struct error **err)
{
	char *checked = NULL;

	for (; keys->name; keys++) {
		if (strcmp(keys->name, key) != 0)
			continue;
		if (!value && !keys->optional)
			return cannot_remove(full, err);
		if (value && !(checked = keys->check(full, value, err)))
			return -1;
		free(*vm_key_slot(base, keys));
		*vm_key_slot(base, keys) = checked;
		return 0;
	}
	return 1;
}

static int set_vm(struct vm_def *def, const char *key, const char *value, struct error **err)
{
	int rc;

	if (!strcmp(key, "vnc") && value && !strcmp(value, "off"))
		value = NULL;
	rc = set_text(def, vm_def_text_keys, key, key, value, err);
	if (rc <= 0)
		return rc;
	if (strcmp(key, "memory") && strcmp(key, "sockets") && strcmp(key, "cores") &&
		strcmp(key, "threads"))
		return unknown(key, err);
	if (!value)
		return cannot_remove(key, err);
	if (!strcmp(key, "memory"))
		return set_memory(def, value, err);
	return set_count(!strcmp(key, "sockets") ? &def->sockets
			 : !strcmp(key, "cores") ? &def->cores
						 : &def->threads,
		key, value, err);
}

/* The N of a section "diskN"; -1 when it is no such section. */
static int number_of(const char *section, const char *prefix, int max)
{
	const char *digits = section + strlen(prefix);
	size_t len;
	int n;

	if (strncmp(section, prefix, strlen(prefix)) != 0)
		return -1;
	len = strlen(digits);
	if (len < 1 || len > 2 || strspn(digits, "0123456789") != len ||
		(len == 2 && digits[0] == '0'))
		return -1;
	n = atoi(digits);
	return n < max ? n : -1;
}

static int check_next(const char *what, int n, int count, bool gaps, struct error **err)
{
	if (gaps || n <= count)
		return 0;
	return error_set(err, ERROR_DEFINITION, 0,
		"there is no %s%d yet: they are numbered without gaps, the next is %s%d", what, n,
		what, count);
}

int vm_def_set_key(struct vm_def *def, const char *section, const char *key, const char *value,
	bool gaps, struct error **err)
{
	cleanup_free char *full = fs_format("%.40s.%.40s", section, key);
	int disk = number_of(section, "disk", VM_DEF_DISKS_MAX);
	int nic = number_of(section, "nic", VM_DEF_NICS_MAX);
	int rc = 1;

	if (!strcmp(section, "vm"))
		return set_vm(def, key, value, err);
	if (disk >= 0) {
		if (check_next("disk", disk, def->disks_count, gaps, err) < 0)
			return -1;
		rc = set_text(&def->disks[disk], vm_def_disk_keys, key, full, value, err);
		if (rc == 0 && disk >= def->disks_count)
			def->disks_count = disk + 1;
	} else if (nic >= 0) {
		if (check_next("nic", nic, def->nics_count, gaps, err) < 0)
			return -1;
		rc = set_text(&def->nics[nic], vm_def_nic_keys, key, full, value, err);
		if (rc == 0 && nic >= def->nics_count)
			def->nics_count = nic + 1;
	}
	return rc > 0 ? unknown(full, err) : rc;
}

/* "VALUE[,key=value…]" for `section`: VALUE is for the key `first` when it has no "key=". */
static int set_item(struct vm_def *def, const char *section, const char *first, const char *text,
	struct error **err)
{
	cleanup_free char *copy = fs_format("%s", text);
	char *rest = copy, *item;
	bool any = false;

	if (strlen(text) > ITEM_MAX)
		return error_set(
			err, ERROR_DEFINITION, 0, "%s is longer than %d bytes", section, ITEM_MAX);
	while ((item = strsep(&rest, ","))) {
		char *equals = strchr(item, '=');
		const char *key = item;

		if (!any && first && (!equals || memchr(item, '/', (size_t)(equals - item)))) {
			if (vm_def_set_key(def, section, first, item, false, err) < 0)
				return -1;
			any = true;
			continue;
		}
		if (!equals)
			return error_set(err, ERROR_DEFINITION, 0,
				"\"%.100s\" is not KEY=VALUE (in \"%.200s\")", item, text);
		*equals = 0;
		if (vm_def_set_key(def, section, key, equals + 1, false, err) < 0)
			return -1;
		any = true;
	}
	return 0;
}

static int add_disk(struct vm_def *def, const char *value, struct error **err)
{
	char section[16];
	int n = def->disks_count;

	if (n == VM_DEF_DISKS_MAX)
		return error_set(
			err, ERROR_DEFINITION, 0, "a VM has at most %d disks", VM_DEF_DISKS_MAX);
	snprintf(section, sizeof(section), "disk%d", n);
	if (set_item(def, section, "file", value, err) == 0)
		return 0;
	vm_disk_clear(&def->disks[n]);
	def->disks_count = n;
	return -1;
}

static int add_nic(struct vm_def *def, const char *value, struct error **err)
{
	char section[16];
	int n = def->nics_count;

	if (n == VM_DEF_NICS_MAX)
		return error_set(
			err, ERROR_DEFINITION, 0, "a VM has at most %d nics", VM_DEF_NICS_MAX);
	snprintf(section, sizeof(section), "nic%d", n);
	if (set_item(def, section, "bridge", value, err) == 0)
		return 0;
	vm_nic_clear(&def->nics[n]);
	def->nics_count = n;
	return -1;
}

/* Takes a disk or nic out; those behind it move down. 1 when `key` names none. */
static int remove_device(struct vm_def *def, const char *key)
{
	int disk = number_of(key, "disk", def->disks_count);
	int nic = number_of(key, "nic", def->nics_count);

	if (disk >= 0) {
		vm_disk_clear(&def->disks[disk]);
		def->disks_count--;
		memmove(&def->disks[disk], &def->disks[disk + 1],
			(size_t)(def->disks_count - disk) * sizeof(def->disks[0]));
		def->disks[def->disks_count] = (struct vm_disk){0};
		return 0;
	}
	if (nic >= 0) {
		vm_nic_clear(&def->nics[nic]);
		def->nics_count--;
		memmove(&def->nics[nic], &def->nics[nic + 1],
			(size_t)(def->nics_count - nic) * sizeof(def->nics[0]));
		def->nics[def->nics_count] = (struct vm_nic){0};
		return 0;
	}
	return 1;
}

int vm_def_set(struct vm_def *def, const char *key, const char *value, struct error **err)
{
	const char *dot = strchr(key, '.');
	char section[16];

	if (!strcmp(key, "cpu_in_force"))
		return error_set(err, ERROR_DEFINITION, 0,
			"cpu_in_force is what the guest was given when it was started, and is not "
			"set by hand; set cpu");
	if (!strcmp(key, "cpus"))
		return value ? set_cpus(def, value, err) : cannot_remove(key, err);
	if (!strcmp(key, "disk"))
		return value ? add_disk(def, value, err) : cannot_remove(key, err);
	if (!strcmp(key, "nic"))
		return value ? add_nic(def, value, err) : cannot_remove(key, err);
	if (!value && !dot && remove_device(def, key) == 0)
		return 0;
	if (!dot)
		return set_vm(def, key, value, err);
	if ((size_t)(dot - key) >= sizeof(section) || !strncmp(key, "vm.", 3))
		return unknown(key, err);
	memcpy(section, key, (size_t)(dot - key));
	section[dot - key] = 0;
	return vm_def_set_key(def, section, dot + 1, value, false, err);
}
