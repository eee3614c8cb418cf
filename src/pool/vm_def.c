#include "pool/vm_def_internal.h"

#include "pool/pool.h"
#include "pool/settings.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void free_texts(void *base, const struct vm_key *keys)
{
	for (; keys->name; keys++) {
		free(*vm_key_slot(base, keys));
		*vm_key_slot(base, keys) = NULL;
	}
}

void vm_disk_clear(struct vm_disk *disk)
{
	free_texts(disk, vm_def_disk_keys);
}

void vm_nic_clear(struct vm_nic *nic)
{
	free_texts(nic, vm_def_nic_keys);
}

void vm_def_free(struct vm_def *def)
{
	if (!def)
		return;
	free(def->name);
	free_texts(def, vm_def_text_keys);
	for (int i = 0; i < VM_DEF_DISKS_MAX; i++)
		vm_disk_clear(&def->disks[i]);
	for (int i = 0; i < VM_DEF_NICS_MAX; i++)
		vm_nic_clear(&def->nics[i]);
	free(def);
}

void vm_def_cleanup(struct vm_def **def)
{
	vm_def_free(*def);
	*def = NULL;
}

/* One vCPU and nothing else. */
static struct vm_def *empty_def(const char *name)
{
	struct vm_def *def = calloc(1, sizeof(*def));

	if (!def)
		abort();
	def->name = fs_format("%s", name);
	def->sockets = def->cores = def->threads = 1;
	return def;
}

/* A random UUID (RFC 4122, version 4). */
static char *random_uuid(void)
{
	char hex[33];

	fs_random_hex(hex, 16);
	hex[12] = '4';
	hex[16] = "89ab"[hex[16] % 4];
	return fs_format("%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

struct vm_def *vm_def_new(const char *name)
{
	struct vm_def *def = empty_def(name);

	def->uuid = random_uuid();
	def->memory_bytes = 512ull << 20;
	return def;
}

struct parse {
	struct vm_def *def;
	unsigned disks, nics; /* a bit for each section that is there */
};

static int take_key(const struct settings_key *key, void *arg, struct error **err)
{
	struct parse *parse = arg;

	if (vm_def_set_key(parse->def, key->section, key->key, key->value, true, err) < 0)
		return -1;
	if (!strncmp(key->section, "disk", 4))
		parse->disks |= 1u << atoi(key->section + 4);
	else if (!strncmp(key->section, "nic", 3))
		parse->nics |= 1u << atoi(key->section + 3);
	return 0;
}

static int check_gaps(const char *what, unsigned there, int count, struct error **err)
{
	for (int i = 0; i < count; i++)
		if (!(there & 1u << i))
			return error_set(err, ERROR_DEFINITION, 0,
				"[%s%d] is missing: they are numbered from 0 without gaps, and "
				"there is [%s%d]",
				what, i, what, count - 1);
	return 0;
}

static int parse_def(
	struct vm_def *def, const char *what, const char *text, size_t len, struct error **err)
{
	struct parse parse = {.def = def};

	if (len > VM_DEF_TEXT_MAX)
		return error_set(err, ERROR_DEFINITION, 0, "%s is larger than %u bytes", what,
			VM_DEF_TEXT_MAX);
	if (settings_read(what, text, len, 0, take_key, &parse, err) < 0)
		return -1;
	if (!def->hypervisor)
		def->hypervisor = fs_format("qemu");
	if (check_gaps("disk", parse.disks, def->disks_count, err) < 0 ||
		check_gaps("nic", parse.nics, def->nics_count, err) < 0 ||
		vm_def_check(def, err) < 0)
		return error_prefix(err, "%s", what);
	return 0;
}

static struct vm_def *parse_text(const char *name, const char *text, size_t len, struct error **err)
{
	cleanup_free char *what = NULL;
	struct vm_def *def;

	if (fs_check_name("VM", name, err) < 0)
		return NULL;
	what = fs_format("vm.conf of %s", name);
	def = empty_def(name);
	if (parse_def(def, what, text, len, err) == 0)
		return def;
	vm_def_free(def);
	return NULL;
}

struct vm_def *vm_def_parse(const char *name, const char *text, struct error **err)
{
	return parse_text(name, text, strlen(text), err);
}

/* Always fits: no value is longer than 2 KiB, and there are at most 107. */
static void add_texts(struct buf *out, const void *base, const struct vm_key *keys)
{
	for (; keys->name; keys++) {
		const char *value = *vm_key_slot((void *)base, keys);

		if (value)
			buf_printf(out, "%s = %s\n", keys->name, value);
	}
}

static void add_size(struct buf *out, const char *key, uint64_t bytes)
{
	if (bytes % (1ull << 30) == 0)
		buf_printf(out, "%s = %" PRIu64 "G\n", key, bytes >> 30);
	else
		buf_printf(out, "%s = %" PRIu64 "M\n", key, bytes >> 20);
}

char *vm_def_format(const struct vm_def *def)
{
	struct buf out;

	buf_init(&out, VM_DEF_TEXT_MAX);
	buf_printf(&out, "[vm]\n");
	add_size(&out, "memory", def->memory_bytes);
	buf_printf(&out, "sockets = %d\ncores = %d\nthreads = %d\n", def->sockets, def->cores,
		def->threads);
	add_texts(&out, def, vm_def_text_keys);
	for (int i = 0; i < def->disks_count; i++) {
		buf_printf(&out, "\n[disk%d]\n", i);
		add_texts(&out, &def->disks[i], vm_def_disk_keys);
	}
	for (int i = 0; i < def->nics_count; i++) {
		buf_printf(&out, "\n[nic%d]\n", i);
		add_texts(&out, &def->nics[i], vm_def_nic_keys);
	}
	buf_string(&out);
	return (char *)out.data;
}

const char *vm_def_exact_cpu(const struct vm_def *def)
{
	if (def->cpu_in_force)
		return def->cpu_in_force;
	return def->cpu ? def->cpu : VM_DEF_HOST_CPU;
}

/* The text of a vm.conf that cannot be read, told as what it is for the VM. */
static int unreadable(
	const struct pool *pool, const char *name, struct error *why, struct error **err)
{
	if (why->kind != ERROR_NOT_FOUND) {
		if (why->kind == ERROR_FAILED)
			why->kind = ERROR_POOL;
		return error_move(err, why);
	}
	error_free(&why);
	if (!pool_vm_exists(pool, name))
		return pool_no_vm(pool, name, err);
	return error_set(err, ERROR_DEFINITION, 0, "VM %s has no vm.conf in %s/vms/%s: restore it",
		name, pool->dir, name);
}

struct vm_def *vm_def_load(const struct pool *pool, const char *name, struct error **err)
{
	cleanup_free char *path = NULL, *text = NULL;
	struct error *why = NULL;
	size_t len;

	if (fs_check_name("VM", name, err) < 0)
		return NULL;
	path = pool_vm_path(pool, name, "vm.conf");
	text = fs_read(path, VM_DEF_TEXT_MAX, &len, &why);
	if (text)
		return parse_text(name, text, len, err);
	unreadable(pool, name, why, err);
	return NULL;
}

int vm_def_save(const struct pool *pool, const struct vm_def *def, struct error **err)
{
	cleanup_free char *path = NULL, *text = vm_def_format(def);
	cleanup_vm_def struct vm_def *again = vm_def_parse(def->name, text, err);

	/* What could not be loaded again is not written. */
	if (!again)
		return -1;
	if (!pool_vm_exists(pool, def->name))
		return pool_no_vm(pool, def->name, err);
	path = pool_vm_path(pool, def->name, "vm.conf");
	return fs_write(path, text, strlen(text), 0644, err);
}
