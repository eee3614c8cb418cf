#include "daemon/config.h"

#include "base/fs.h"
#include "base/process.h"
#include "host/host.h"
#include "node/http.h"
#include "pool/settings.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __FreeBSD__
#define CONFIG_HYPERVISOR "bhyve"
#else
#define CONFIG_HYPERVISOR "qemu"
#endif

static int check_dir(const char *key, const char *value, struct error **err)
{
	if (value[0] != '/' || strlen(value) > 4000)
		return error_set(err, ERROR_DEFINITION, 0,
			"%s must be an absolute path, not \"%s\"", key, value);
	return 0;
}

static int check_run(const char *key, const char *value, struct error **err)
{
	if (strlen(value) > CONFIG_RUN_MAX)
		return error_set(err, ERROR_DEFINITION, 0,
			"%s must be at most %d bytes long: the paths of sockets below it are "
			"bounded",
			key, CONFIG_RUN_MAX);
	return check_dir(key, value, err);
}

static int check_address(const char *key, const char *value, struct error **err)
{
	char host[256];
	int port;

	(void)key;
	if (http_split_address(value, host, &port, err) < 0) {
		if (err)
			(*err)->kind = ERROR_DEFINITION;
		return -1;
	}
	return 0;
}

static int check_text(const char *key, const char *value, struct error **err)
{
	if (!*value || strlen(value) > 255)
		return error_set(err, ERROR_DEFINITION, 0, "%s must have 1 to 255 characters", key);
	return 0;
}

static int check_dirs(const char *key, const char *value, struct error **err)
{
	for (const char *dir = value; dir; dir = strchr(dir, ':')) {
		dir += *dir == ':';
		if (*dir != '/')
			return error_set(err, ERROR_DEFINITION, 0,
				"%s must be absolute paths with ':' between them, not \"%s\"", key,
				value);
	}
	return 0;
}

static int check_accel(const char *key, const char *value, struct error **err)
{
	if (strcmp(value, "auto") && strcmp(value, "kvm") && strcmp(value, "tcg"))
		return error_set(err, ERROR_DEFINITION, 0,
			"%s must be auto, kvm or tcg, not \"%s\"", key, value);
	return 0;
}

static int check_hypervisor(const char *key, const char *value, struct error **err)
{
	if (strcmp(value, "qemu") && strcmp(value, "bhyve"))
		return error_set(err, ERROR_DEFINITION, 0, "%s must be qemu or bhyve, not \"%s\"",
			key, value);
	return 0;
}

typedef int check_fn(const char *key, const char *value, struct error **err);

static const struct {
	const char *section, *key;
	size_t text;   /* offset of a char *, */
	size_t number; /* or of an int: a port */
	check_fn *check;
} keys[] = {
	{"node", "state", offsetof(struct config, state), 0, check_dir},
	{"node", "run", offsetof(struct config, run), 0, check_run},
	{"node", "listen", offsetof(struct config, listen), 0, check_address},
	{"node", "address", offsetof(struct config, address), 0, check_address},
	{"node", "vm_user", offsetof(struct config, vm_user), 0, check_text},
	{"node", "wire_user", offsetof(struct config, wire_user), 0, check_text},
	{"node", "allow_paths", offsetof(struct config, allow_paths), 0, check_dirs},
	{"node", "group", offsetof(struct config, group), 0, check_text},
	{"node", "hypervisor", offsetof(struct config, hypervisor), 0, check_hypervisor},
	{"qemu", "binary", offsetof(struct config, qemu_binary), 0, check_dir},
	{"qemu", "img", offsetof(struct config, qemu_img), 0, check_dir},
	{"qemu", "data", offsetof(struct config, qemu_data), 0, check_dirs},
	{"qemu", "accel", offsetof(struct config, accel), 0, check_accel},
	{"bhyve", "binary", offsetof(struct config, bhyve), 0, check_dir},
	{"bhyve", "bhyvectl", offsetof(struct config, bhyvectl), 0, check_dir},
	{"bhyve", "bhyveload", offsetof(struct config, bhyveload), 0, check_dir},
	{"bhyve", "grub", offsetof(struct config, grub_bhyve), 0, check_dir},
	{"bhyve", "bootrom", offsetof(struct config, bootrom), 0, check_dir},
	{"bhyve", "vmm", offsetof(struct config, vmm), 0, check_dir},
	{"bhyve", "nmdm", offsetof(struct config, nmdm), 0, check_dir},
	{"bhyve", "suspend_dir", offsetof(struct config, suspend_dir), 0, check_dir},
	{"bhyve", "port_min", 0, offsetof(struct config, bhyve_port_min), NULL},
	{"bhyve", "port_max", 0, offsetof(struct config, bhyve_port_max), NULL},
	{"wire", "binary", offsetof(struct config, wire_binary), 0, check_dir},
	{"wire", "port_min", 0, offsetof(struct config, port_min), NULL},
	{"wire", "port_max", 0, offsetof(struct config, port_max), NULL},
	{"task", "binary", offsetof(struct config, task_binary), 0, check_dir},
};

#define KEYS (sizeof(keys) / sizeof(keys[0]))

static void set_text(struct config *config, size_t offset, const char *value)
{
	char **at = (char **)((char *)config + offset);

	free(*at);
	*at = fs_format("%s", value);
}

static int set_port(struct config *config, size_t offset, const char *key, const char *value,
	struct error **err)
{
	int64_t port;

	if (fs_parse_number(key, value, 1, 65535, &port, err) < 0) {
		if (err)
			(*err)->kind = ERROR_DEFINITION;
		return -1;
	}
	*(int *)((char *)config + offset) = (int)port;
	return 0;
}

static int unknown(const struct settings_key *key, struct error **err)
{
	bool section = false;

	for (size_t i = 0; i < KEYS; i++)
		section = section || !strcmp(keys[i].section, key->section);
	if (!section)
		return error_set(err, ERROR_DEFINITION, 0,
			"there is no section [%s]; there are [node], [qemu], [bhyve], [wire] and "
			"[task]",
			key->section);
	return error_set(err, ERROR_DEFINITION, 0, "[%s] has no key \"%s\"; see drover.conf(5)",
		key->section, key->key);
}

static int take(const struct settings_key *key, void *arg, struct error **err)
{
	struct config *config = arg;

	for (size_t i = 0; i < KEYS; i++) {
		if (strcmp(keys[i].section, key->section) || strcmp(keys[i].key, key->key))
			continue;
		if (keys[i].number)
			return set_port(config, keys[i].number, key->key, key->value, err);
		if (keys[i].check(key->key, key->value, err) < 0)
			return -1;
		set_text(config, keys[i].text, key->value);
		return 0;
	}
	return unknown(key, err);
}

/* The program of the build tree that this droverd is run in, else the installed one. */
static char *find_program(const char *in_tree, const char *installed)
{
	cleanup_free char *self = process_program(), *path = NULL;
	char *slash = self ? strrchr(self, '/') : NULL, *found;

	if (!slash)
		return fs_format("%s", installed);
	*slash = 0;
	path = fs_format("%s/../%s", self, in_tree);
	found = realpath(path, NULL);
	return found ? found : fs_format("%s", installed);
}

static void set_defaults(struct config *config)
{
	*config = (struct config){
		.state = fs_format("/var/lib/drover"),
		.run = fs_format("/run/drover"),
		.listen = fs_format("0.0.0.0:%d", HTTP_PORT),
		.vm_user = fs_format("drover-vm"),
		.group = fs_format("drover"),
		.qemu_binary = fs_format("/usr/bin/qemu-system-x86_64"),
		.qemu_img = fs_format("/usr/bin/qemu-img"),
		.accel = fs_format("auto"),
		.hypervisor = fs_format(CONFIG_HYPERVISOR),
		.bhyve = fs_format("/usr/sbin/bhyve"),
		.bhyvectl = fs_format("/usr/sbin/bhyvectl"),
		.bhyveload = fs_format("/usr/sbin/bhyveload"),
		.grub_bhyve = fs_format("/usr/local/sbin/grub-bhyve"),
		.bootrom = fs_format("/usr/local/share/uefi-firmware/BHYVE_UEFI.fd"),
		.vmm = fs_format("/dev/vmm"),
		.nmdm = fs_format("/dev"),
		.bhyve_port_min = 7900,
		.bhyve_port_max = 7999,
		.wire_binary = find_program("wire/drover-wire", DROVER_WIRE_BINARY),
		.port_min = 7800,
		.port_max = 7899,
		.task_binary = find_program("cli/drover", DROVER_BINARY),
	};
}

static int complete(struct config *config, const char *what, struct error **err)
{
	char host[256];
	int port;

	if (config->port_min > config->port_max)
		return error_set(err, ERROR_DEFINITION, 0, "%s: port_min %d is above port_max %d",
			what, config->port_min, config->port_max);
	if (config->bhyve_port_min > config->bhyve_port_max)
		return error_set(err, ERROR_DEFINITION, 0,
			"%s: port_min %d of [bhyve] is above its port_max %d", what,
			config->bhyve_port_min, config->bhyve_port_max);
	if (http_split_address(config->listen, host, &port, err) < 0)
		return -1;
	config->listen_host = fs_format("%s", host);
	config->socket_path = fs_format("%s/droverd.sock", config->run);
	if (!config->suspend_dir)
		config->suspend_dir = fs_format("%s/suspended", config->state);
	return 0;
}

struct config *config_parse(const char *what, const char *text, size_t len, struct error **err)
{
	struct config *config = malloc(sizeof(*config));

	if (!config)
		abort();
	set_defaults(config);
	if (settings_read(what, text, len, 0, take, config, err) == 0 &&
		complete(config, what, err) == 0)
		return config;
	config_free(config);
	return NULL;
}

static int look_up_user(struct config *config, const char *what, struct error **err)
{
	unsigned uid, gid;

	if (host_user(config->vm_user, &uid, &gid, err) < 0)
		return error_prefix(err, "%s: vm_user", what);
	config->uid = uid;
	config->gid = gid;
	return 0;
}

/* A name that was set must be there; the default need not. */
static int look_up_wire_user(struct config *config, const char *what, struct error **err)
{
	const char *user = config->wire_user ? config->wire_user : CONFIG_WIRE_USER;
	struct error *e = NULL;
	unsigned uid, gid;

	if (host_user(user, &uid, &gid, &e) == 0) {
		config->wire_uid = uid;
		config->wire_gid = gid;
		return 0;
	}
	if (config->wire_user || e->kind != ERROR_DEFINITION) {
		error_move(err, e);
		return error_prefix(err, "%s: wire_user", what);
	}
	error_free(&e);
	config->wire_uid = config->uid;
	config->wire_gid = config->gid;
	config->wire_shares = true;
	return 0;
}

struct config *config_load(const char *path, struct error **err)
{
	const char *from = path ? path : CONFIG_PATH;
	cleanup_error struct error *e = NULL;
	cleanup_free char *text = NULL;
	struct config *config;
	size_t len = 0;

	text = fs_read(from, CONFIG_TEXT_MAX, &len, &e);
	if (!text && (path || e->kind != ERROR_NOT_FOUND)) {
		error_move(err, e);
		e = NULL;
		return NULL;
	}
	config = config_parse(from, text ? text : "", len, err);
	if (config && look_up_user(config, from, err) == 0 &&
		look_up_wire_user(config, from, err) == 0)
		return config;
	config_free(config);
	return NULL;
}

void config_free(struct config *config)
{
	if (!config)
		return;
	for (size_t i = 0; i < KEYS; i++)
		if (!keys[i].number)
			free(*(char **)((char *)config + keys[i].text));
	free(config->listen_host);
	free(config->socket_path);
	free(config);
}
