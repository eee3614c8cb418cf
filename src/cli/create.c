#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"
#include "pool/vm_def.h"

#include <string.h>

#define DISK_SIZE_MAX (1ull << 50) /* as the API takes it */
#define CPUS_MAX 4096

const struct cli_option cli_create_options[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the new VM", "jname name", cli_check_vm},
	{CLI_VALUE, "memory", "SIZE", "512M, 4G (512M)", "vm_ram ram"},
	{CLI_VALUE, "cpus", "N", "virtual CPUs (1)", "vm_cpus"},
	{CLI_LIST, "disk", "FILE[,...]",
		"size=SIZE makes it; format=qcow2|raw, cache=none|writeback|directsync, "
		"backing=FILE, backing_format=F; bhyve: model=virtio-blk|ahci-hd|nvme",
		NULL},
	{CLI_LIST, "nic", "bridge=NAME[,...]", "mac=MAC, model=virtio-net-pci|e1000", NULL},
	{CLI_VALUE, "imgsize", "SIZE", "the same as --disk disk0.qcow2,size=SIZE", NULL},
	{CLI_VALUE, "kernel", "FILE", "boots this kernel directly", NULL},
	{CLI_VALUE, "initrd", "FILE", "with this initial RAM disk", NULL},
	{CLI_VALUE, "append", "TEXT", "and this command line", NULL},
	{CLI_VALUE, "vnc", "ADDRESS:N", "screen by VNC; \"unix\" for a socket (none)", NULL},
	{CLI_VALUE, "machine", "TYPE", "machine type with its version (the newest)", NULL},
	{CLI_VALUE, "cpu", "MODEL", "CPU model (one that can be moved)", NULL},
	{CLI_VALUE, "sockets", "N", "topology: --cpus is their product", NULL},
	{CLI_VALUE, "cores", "N", "a socket", NULL},
	{CLI_VALUE, "threads", "N", "a core", NULL},
	{CLI_VALUE, "loader", "NAME", "bhyve: uefi, bhyveload or grub (uefi)", NULL},
	{CLI_VALUE, "bootrom", "FILE", "bhyve: firmware of loader uefi (the node's)", NULL},
	{CLI_VALUE, "hypervisor", "NAME", "qemu or bhyve (the node's)", "vm_engine"},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* Options that are keys of vm.conf as they are. */
static const char *const plain[] = {"memory", "cpus", "sockets", "cores", "threads", "kernel",
	"initrd", "append", "vnc", "machine", "cpu", "loader", "bootrom", "hypervisor", NULL};

static bool is_one_of(const char *word, const char *const *words)
{
	while (*words && strcmp(*words, word))
		words++;
	return *words;
}

/* "FILE,size=10G" or "bridge=br0,mac=…" as an object: a part without '=' is `first`'s value. */
static json_t *parse_parts(const char *option, const char *text, const char *first,
	const char *const *known, struct error **err)
{
	cleanup_json json_t *parts = json_object();
	cleanup_free char *copy = fs_format("%s", text);
	char *rest = copy, *part;

	for (int n = 0; (part = strsep(&rest, ",")); n++) {
		char *value = strchr(part, '=');
		const char *key = part;

		if (n == 0 && !value) {
			key = first;
			value = part;
		} else if (value) {
			*value++ = '\0';
		}
		if (!value || !is_one_of(key, known)) {
			error_set(err, ERROR_USAGE, 0,
				"--%s %.200s: \"%.64s\" is not understood; `drover create --help` "
				"shows how it is written",
				option, text, part);
			return NULL;
		}
		if (!*value) {
			error_set(err, ERROR_USAGE, 0, "--%s %.200s: its %s is empty", option, text,
				key);
			return NULL;
		}
		if (json_object_get(parts, key)) {
			error_set(err, ERROR_USAGE, 0, "--%s %.200s: %s is given twice", option,
				text, key);
			return NULL;
		}
		json_object_set_new(parts, key, json_string(value));
	}
	if (!json_object_get(parts, first)) {
		error_set(
			err, ERROR_USAGE, 0, "--%s %.200s: its %s is missing", option, text, first);
		return NULL;
	}
	return json_incref(parts);
}

/* The API takes bytes. */
static int parse_disk_size(json_t *disk, struct error **err)
{
	const char *text = cli_text(disk, "size", NULL);
	uint64_t bytes;

	if (!text)
		return 0;
	if (fs_parse_size("the size of a disk", text, DISK_SIZE_MAX, &bytes, err) < 0)
		return -1;
	return json_object_set_new(disk, "size", json_integer((json_int_t)bytes));
}

static int add_disk(json_t *disks, const char *text, struct error **err)
{
	static const char *const known[] = {
		"file", "size", "format", "cache", "model", "backing", "backing_format", NULL};
	json_t *disk = parse_parts("disk", text, "file", known, err);

	if (!disk)
		return -1;
	json_array_append_new(disks, disk);
	return parse_disk_size(disk, err);
}

static int add_nic(json_t *nics, const char *text, struct error **err)
{
	static const char *const known[] = {"bridge", "mac", "model", NULL};
	json_t *nic = parse_parts("nic", text, "bridge", known, err);

	return nic ? json_array_append_new(nics, nic) : -1;
}

/* --cpus beside the topology, of which it is the product. */
static int check_cpus(const struct cli_args *args, struct error **err)
{
	int64_t cpus, sockets, cores, threads;

	if (!cli_get(args, "cpus") ||
		(!cli_get(args, "sockets") && !cli_get(args, "cores") && !cli_get(args, "threads")))
		return 0;
	if (cli_get_number(args, "cpus", 1, CPUS_MAX, 1, &cpus, err) < 0 ||
		cli_get_number(args, "sockets", 1, CPUS_MAX, 1, &sockets, err) < 0 ||
		cli_get_number(args, "cores", 1, CPUS_MAX, 1, &cores, err) < 0 ||
		cli_get_number(args, "threads", 1, CPUS_MAX, 1, &threads, err) < 0)
		return -1;
	if (cpus == sockets * cores * threads)
		return 0;
	return error_set(err, ERROR_USAGE, 0,
		"%lld CPUs are not %lld (sockets) x %lld (cores) x %lld (threads); leave --cpus "
		"out",
		(long long)cpus, (long long)sockets, (long long)cores, (long long)threads);
}

int cli_check_keys(const json_t *set, struct error **err)
{
	cleanup_vm_def struct vm_def *def = vm_def_new("new");
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)set, key, value)
	{
		/* Which disks and cards there are is known where the definition is. */
		if (json_is_string(value) && !strchr(key, '.') &&
			vm_def_set(def, key, json_string_value(value), err) < 0)
			return -1;
	}
	return 0;
}

/* The values of the disks or nics that are described. */
static int check_devices(const char *kind, const json_t *devices, struct error **err)
{
	cleanup_vm_def struct vm_def *def = vm_def_new("new");
	const json_t *device;
	const char *key;
	json_t *value;
	size_t i;

	json_array_foreach(devices, i, device) json_object_foreach((json_t *)device, key, value)
	{
		cleanup_free char *full = fs_format("%s%zu.%s", kind, i, key);

		/* How a disk is made is no part of the definition. */
		if (strcmp(key, "size") && strncmp(key, "backing", 7) &&
			vm_def_set(def, full, json_string_value(value), err) < 0)
			return -1;
	}
	return 0;
}

json_t *cli_create_request(const struct cli_args *args, struct error **err)
{
	json_t *set = json_object(), *disks = json_array(), *nics = json_array();
	cleanup_json json_t *body = json_pack("{s:s, s:o, s:o, s:o}", "name", cli_get(args, "vm"),
		"set", set, "disks", disks, "nics", nics);
	const char *text, *imgsize = cli_get(args, "imgsize");

	if (check_cpus(args, err) < 0)
		return NULL;
	for (size_t i = 0; plain[i]; i++)
		if ((text = cli_get(args, plain[i])))
			json_object_set_new(set, plain[i], json_string(text));
	if (imgsize) {
		cleanup_free char *disk = fs_format("disk0.qcow2,size=%s", imgsize);

		if (add_disk(disks, disk, err) < 0)
			return NULL;
	}
	for (size_t i = 0; (text = cli_get_nth(args, "disk", i)); i++)
		if (add_disk(disks, text, err) < 0)
			return NULL;
	for (size_t i = 0; (text = cli_get_nth(args, "nic", i)); i++)
		if (add_nic(nics, text, err) < 0)
			return NULL;
	if (cli_check_keys(set, err) < 0 || check_devices("disk", disks, err) < 0 ||
		check_devices("nic", nics, err) < 0)
		return NULL;
	return json_incref(body);
}

int cli_create(struct cli *cli, struct error **err)
{
	cleanup_json json_t *body = cli_create_request(&cli->args, err), *answer = NULL;

	if (!body)
		return -1;
	answer = cli_call(cli, "POST", NULL, "/v1/vms", body, err);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%s is made; `drover start %s` starts it\n", cli_get(&cli->args, "vm"),
			cli_get(&cli->args, "vm"));
	return 0;
}
