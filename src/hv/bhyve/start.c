/*
 * The process: its start, what is written down of it, and how it is found again.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <netinet/in.h>
#include <unistd.h>

#define IDENTITY_MAX (64u << 10)
#define ARGUMENTS_MAX 512
#define NVRAM_MAX (16u << 20)
/* bhyveload(8) and grub-bhyve read a kernel from a disk. */
#define LOADER_MS 60000
#define LOADER_OUTPUT (64u << 10)
#define APPEARS_MS 10000
#define LOOK_MS 10

char *bhyve_path(const char *run_dir, const char *file)
{
	return fs_format("%s/%s", run_dir, file);
}

void bhyve_log_tail(const char *run_dir, char out[512])
{
	cleanup_free char *path = bhyve_path(run_dir, "hv.log");
	char text[4096] = "";
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
	off_t from = size >= (off_t)sizeof(text) ? size - (off_t)sizeof(text) + 1 : 0;
	ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text) - 1, from) : 0;
	char *last;

	text[n > 0 ? n : 0] = 0;
	while (*text && strchr("\r\n", text[strlen(text) - 1]))
		text[strlen(text) - 1] = 0;
	last = strrchr(text, '\n');
	snprintf(out, 512, "%s", last ? last + 1 : text);
}

/*
 * The handle.
 */

static struct hv_vm *new_vm(const struct hv *hv, const char *name, const char *run_dir)
{
	struct hv_vm *vm = calloc(1, sizeof(*vm));
	struct bhyve_vm *b = calloc(1, sizeof(*b));

	if (!vm || !b)
		abort();
	vm->hv = hv;
	vm->bhyve = b;
	vm->name = fs_format("VM %s", name);
	vm->run_dir = fs_format("%s", run_dir);
	vm->console = fs_format("%s/nmdm-%s.1B", hv->set.nmdm_dir, name);
	snprintf(b->vm_name, sizeof(b->vm_name), "%s", name);
	b->stream_fd = -1;
	b->files.fd = -1;
	pthread_mutex_init(&b->files.lock, NULL);
	cond_init(&b->files.changed);
	return vm;
}

void bhyve_vm_close(struct hv_vm *vm)
{
	bhyve_files_stop(vm);
	pthread_cond_destroy(&vm->bhyve->files.changed);
	pthread_mutex_destroy(&vm->bhyve->files.lock);
	close_fd(&vm->bhyve->stream_fd);
	bhyve_args_free(vm->bhyve->argv);
	bhyve_args_free(vm->bhyve->loader);
	bhyve_args_free(vm->bhyve->first);
	free(vm->bhyve);
	free(vm->name);
	free(vm->run_dir);
	free(vm->console);
	free(vm);
}

/*
 * hv.json
 */

static json_t *words_json(char *const *words)
{
	json_t *list = json_array();

	for (size_t i = 0; words && words[i]; i++)
		json_array_append_new(list, json_string(words[i]));
	return list;
}

/* NULL when there are none. */
static char **read_words(const json_t *list)
{
	size_t count = json_array_size(list);
	char **words = count && count < ARGUMENTS_MAX ? calloc(count + 1, sizeof(*words)) : NULL;

	for (size_t i = 0; words && i < count; i++) {
		const char *word = json_string_value(json_array_get(list, i));

		words[i] = fs_format("%s", word ? word : "");
	}
	return words;
}

int bhyve_write_identity(const struct hv_vm *vm, struct error **err)
{
	const struct bhyve_vm *b = vm->bhyve;
	cleanup_free char *path = bhyve_path(vm->run_dir, "hv.json");
	cleanup_json json_t *taps = json_array();
	cleanup_json json_t *json = NULL;
	cleanup_free char *text = NULL;

	for (int i = 0; i < b->taps_count; i++)
		json_array_append_new(taps, json_string(b->taps[i]));
	json = json_pack("{s:s, s:I, s:I, s:b, s:I, s:O, s:o, s:o, s:s?, s:b}", "name", b->vm_name,
		"pid", (json_int_t)vm->id.pid, "start", (json_int_t)vm->id.start, "incoming",
		b->incoming, "memory_bytes", (json_int_t)b->memory_bytes, "taps", taps, "argv",
		words_json(b->argv), "loader", words_json(b->loader), "files",
		b->files.used ? b->files.path : NULL, "restoring", b->files.restoring);
	text = json ? json_text(json) : NULL;
	if (!text)
		return error_set(err, ERROR_FAILED, 0, "cannot describe %s", vm->name);
	return fs_write(path, text, strlen(text), 0600, err);
}

static void take_taps(struct bhyve_vm *b, const json_t *taps)
{
	json_t *name;
	size_t i;

	json_array_foreach(taps, i, name)
	{
		if (json_is_string(name) && b->taps_count < VM_DEF_NICS_MAX)
			snprintf(b->taps[b->taps_count++], sizeof(b->taps[0]), "%s",
				json_string_value(name));
	}
}

static int take_files(struct bhyve_vm *b, const json_t *json, struct error **err)
{
	const char *path = json_string_value(json_object_get(json, "files"));
	bool restoring;

	if (json_opt_bool(json, "restoring", false, &restoring, err) < 0)
		return -1;
	if (!path)
		return 0;
	snprintf(b->files.path, sizeof(b->files.path), "%s", path);
	b->files.used = b->files.ordered = true;
	b->files.restoring = restoring;
	return 0;
}

static struct hv_vm *read_identity(const struct hv *hv, const char *run_dir, struct error **err)
{
	cleanup_free char *path = bhyve_path(run_dir, "hv.json");
	size_t len = 0;
	cleanup_free char *text = fs_read(path, IDENTITY_MAX, &len, err);
	cleanup_json json_t *json = text ? json_parse(path, text, len, err) : NULL;
	int64_t pid, start, memory;
	struct hv_vm *vm;
	const char *name;
	bool incoming;

	if (!json || json_get_int(json, "pid", 0, INT32_MAX, &pid, err) < 0 ||
		json_get_int(json, "start", 0, INT64_MAX, &start, err) < 0 ||
		json_get_int(json, "memory_bytes", 0, INT64_MAX, &memory, err) < 0 ||
		json_opt_bool(json, "incoming", false, &incoming, err) < 0 ||
		!(name = json_get_string(json, "name", err)) || fs_check_name("VM", name, err) < 0)
		return NULL;
	vm = new_vm(hv, name, run_dir);
	vm->id = (struct process_id){.pid = (pid_t)pid, .start = (uint64_t)start};
	vm->bhyve->incoming = incoming;
	vm->bhyve->memory_bytes = (uint64_t)memory;
	take_taps(vm->bhyve, json_object_get(json, "taps"));
	vm->bhyve->argv = read_words(json_object_get(json, "argv"));
	vm->bhyve->loader = read_words(json_object_get(json, "loader"));
	if (take_files(vm->bhyve, json, err) == 0)
		return vm;
	bhyve_vm_close(vm);
	return NULL;
}

void bhyve_clean(struct hv_vm *vm)
{
	static const char *const files[] = {"hv.json", "hv.log", "grub.cfg", "device.map"};
	cleanup_error struct error *e = NULL;

	bhyve_files_stop(vm);
	bhyve_files_forget(vm);
	if (bhyve_destroy(vm, &e) < 0)
		log_warning("%s", e->message);
	for (int i = 0; i < vm->bhyve->taps_count; i++)
		host_tap_remove(vm->bhyve->taps[i]);
	vm->bhyve->taps_count = 0;
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		cleanup_free char *path = bhyve_path(vm->run_dir, files[i]);

		unlink(path);
	}
	rmdir(vm->run_dir);
}

/*
 * The start.
 */

/* One that another droverd, or a person, has started and that is in nobody's books is not ours to
 * end. */
static int check_vacant(const struct hv_vm *vm, struct error **err)
{
	cleanup_error struct error *ignored = NULL;
	struct hv_vm *before = read_identity(vm->hv, vm->run_dir, &ignored);
	int rc = 0;

	if (before && process_alive(&before->id))
		rc = error_set(err, ERROR_RUNNING, 0,
			"%s has a bhyve on this node already (process %d)", vm->name,
			(int)before->id.pid);
	else if (before)
		bhyve_clean(before);
	if (before)
		bhyve_vm_close(before);
	if (rc == 0 && bhyve_exists(vm))
		rc = error_set(err, ERROR_RUNNING, 0,
			"%s/%s exists, and drover has not made it; `bhyvectl --vm=%s --destroy` "
			"removes it",
			vm->hv->set.vmm_dir, vm->bhyve->vm_name, vm->bhyve->vm_name);
	return rc;
}

/* What the firmware has at first: BHYVE_UEFI_VARS.fd beside BHYVE_UEFI.fd. */
static int make_nvram(const struct hv *hv, const struct hv_start *how, struct error **err)
{
	const char *rom = how->def->bootrom ? how->def->bootrom : hv->set.bootrom;
	const char *dot = strrchr(rom, '.');
	cleanup_free char *from = NULL, *text = NULL;
	size_t len;

	if ((how->def->loader && strcmp(how->def->loader, "uefi")) || !how->nvram || !dot ||
		fs_exists(how->nvram))
		return 0;
	from = fs_format("%.*s_VARS%s", (int)(dot - rom), rom, dot);
	text = fs_read(from, NVRAM_MAX, &len, err);
	return text ? fs_write(how->nvram, text, len, 0600, err) : -1;
}

static bool port_is_free(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	cleanup_fd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

/* The next free one after the last that was used: bhyve takes none whose last connection is not
 * forgotten yet. */
static int choose_port(const struct hv_settings *set, int *port, struct error **err)
{
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	static int last;
	int count = set->port_max - set->port_min + 1;

	pthread_mutex_lock(&mutex);
	for (int i = 0; i < count; i++) {
		last = last < set->port_min || last >= set->port_max ? set->port_min : last + 1;
		*port = last;
		if (port_is_free(last))
			break;
		*port = 0;
	}
	pthread_mutex_unlock(&mutex);
	if (*port)
		return 0;
	return error_set(err, ERROR_FAILED, 0,
		"no port from %d to %d is free for bhyve to receive a VM; see port_min and "
		"port_max of [bhyve] in drover.conf",
		set->port_min, set->port_max);
}

static int open_log(const struct hv_vm *vm, struct error **err)
{
	cleanup_free char *path = bhyve_path(vm->run_dir, "hv.log");
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);

	return fd >= 0 ? fd : error_set(err, ERROR_FAILED, errno, "cannot make %s", path);
}

static int run_loader(const struct hv_vm *vm, int log_fd, struct error **err)
{
	const char *const *argv = (const char *const *)vm->bhyve->loader;
	cleanup_free char *out = NULL, *errors = NULL;
	char text[64];
	int status = 0;

	if (!argv)
		return 0;
	if (process_run(argv, clock_ms() + LOADER_MS, LOADER_OUTPUT, &out, &errors, &status, err) <
		0)
		return error_prefix(err, "%s: cannot load it", vm->name);
	fs_write_all(log_fd, out, strlen(out));
	fs_write_all(log_fd, errors, strlen(errors));
	if (status == 0)
		return 0;
	errors[strcspn(errors, "\r\n")] = 0;
	return error_set(err, ERROR_HYPERVISOR, 0, "%s: %s ended with %s: %s", vm->name, argv[0],
		process_status_text(status, text, sizeof(text)),
		errors[0] ? errors : "it does not say why");
}

static int ended_early(const struct hv_vm *vm, int status, struct error **err)
{
	char said[512], text[64];

	bhyve_log_tail(vm->run_dir, said);
	return error_set(err, ERROR_HYPERVISOR, 0, "%s: bhyve ended with %s: %s", vm->name,
		process_status_text(status, text, sizeof(text)),
		said[0] ? said : "it does not say why");
}

/* bhyve tells nobody that it is there; its VM can be seen. */
static int wait_appears(const struct hv_vm *vm, struct error **err)
{
	int64_t deadline = clock_ms() + APPEARS_MS;
	int status;

	for (;;) {
		if (process_wait(&vm->id, clock_ms() + LOOK_MS, &status))
			return ended_early(vm, status, err);
		if (bhyve_exists(vm))
			return 0;
		if (clock_ms() > deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: bhyve did not make %s/%s in %d s", vm->name,
				vm->hv->set.vmm_dir, vm->bhyve->vm_name, APPEARS_MS / 1000);
	}
}

/* Confined by itself (capsicum(4)); /dev/vmm is root's. */
int bhyve_launch(struct hv_vm *vm, struct error **err)
{
	cleanup_fd int log_fd = open_log(vm, err);
	struct bhyve_vm *b = vm->bhyve;
	struct process_options options = {
		.argv = (const char *const *)(b->first ? b->first : b->argv),
		.own_session = true,
		.stdin_fd = -1,
		.stdout_fd = log_fd,
		.stderr_fd = log_fd};

	if (log_fd < 0 || (!b->first && run_loader(vm, log_fd, err) < 0))
		return -1;
	if (process_start(&options, &vm->id, err) < 0)
		return error_prefix(err, "%s: cannot start bhyve", vm->name);
	bhyve_args_free(b->first);
	b->first = NULL;
	if (bhyve_write_identity(vm, err) == 0 && wait_appears(vm, err) == 0)
		return 0;
	process_signal(&vm->id, SIGKILL);
	process_wait(&vm->id, clock_ms() + APPEARS_MS, NULL);
	return -1;
}

static int make_args(struct hv_vm *vm, const struct hv_start *how, struct error **err)
{
	cleanup_free char *console =
		fs_format("%s/nmdm-%s.1A", vm->hv->set.nmdm_dir, how->def->name);
	struct bhyve_launch launch = {.hv = vm->hv, .how = how, .console = console};
	struct bhyve_vm *b = vm->bhyve;
	char **no_loader;

	b->argv = bhyve_args(&launch, &b->loader, err);
	launch.port = b->port;
	launch.restore = how->restore != NULL;
	if (!b->argv || (!launch.port && !launch.restore))
		return b->argv ? 0 : -1;
	b->first = bhyve_args(&launch, &no_loader, err);
	return b->first ? 0 : -1;
}

static int prepare(struct hv_vm *vm, const struct hv_start *how, struct error **err)
{
	struct bhyve_vm *b = vm->bhyve;

	if (fs_mkdirs(how->run_dir, 0755, err) < 0 || make_nvram(vm->hv, how, err) < 0)
		return -1;
	b->memory_bytes = how->def->memory_bytes;
	b->restoring = how->restore != NULL;
	b->incoming = how->incoming || b->restoring;
	bhyve_files_remove_stale(vm);
	if (how->incoming && how->files && bhyve_files_choose(vm, err) < 0)
		return -1;
	if (how->incoming && !how->files && choose_port(&vm->hv->set, &b->port, err) < 0)
		return -1;
	for (int i = 0; i < how->def->nics_count; i++)
		snprintf(b->taps[b->taps_count++], sizeof(b->taps[0]), "%s", how->tap_names[i]);
	if (make_args(vm, how, err) < 0)
		return -1;
	/* The taps are in the books before anything uses them. */
	return bhyve_write_identity(vm, err);
}

struct hv_vm *bhyve_vm_start(struct hv *hv, const struct hv_start *how, struct error **err)
{
	struct hv_vm *vm = new_vm(hv, how->def->name, how->run_dir);

	if (hv_check_def(hv, how->def, err) < 0 || check_vacant(vm, err) < 0) {
		bhyve_vm_close(vm);
		return NULL;
	}
	if (prepare(vm, how, err) == 0 &&
		(!how->incoming || how->files || bhyve_launch(vm, err) == 0))
		return vm;
	vm->bhyve->taps_count = 0; /* the caller's, still */
	bhyve_clean(vm);
	bhyve_vm_close(vm);
	return NULL;
}

struct hv_vm *bhyve_vm_attach(struct hv *hv, const char *run_dir, struct error **err)
{
	cleanup_error struct error *why = NULL;
	struct hv_vm *vm = read_identity(hv, run_dir, &why);
	char said[512];

	if (vm && vm->bhyve->files.used && bhyve_files_found_again(vm))
		return vm;
	if (vm && !vm->bhyve->files.used && process_alive(&vm->id)) {
		vm->bhyve->phase = HV_MIGRATE_NONE;
		return vm;
	}
	if (vm) {
		bhyve_log_tail(run_dir, said);
		log_warning("%s ended while it was not watched%s%s", vm->name,
			said[0] ? "; its bhyve said: " : "", said);
		if (!vm->bhyve->files.used && bhyve_vm_never_ran(vm))
			return vm;
		bhyve_clean(vm);
		bhyve_vm_close(vm);
	}
	error_set(err, ERROR_NOT_RUNNING, 0, "no hypervisor runs in %s", run_dir);
	return NULL;
}
