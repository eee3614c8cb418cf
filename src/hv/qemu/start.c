#include "hv/qemu/args.h"
#include "hv/qemu/qemu.h"
#include "hv/qemu/spare.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define IDENTITY_MAX 4096
#define END_MS 5000
/* One that was left running has nothing else to do, or hangs. */
#define FOUND_MS 5000

/* What a start makes and a failed one takes back. */
struct starting {
	struct hv *hv;
	const struct hv_start *how;
	int qmp_fd, console_fd, log_fd;
	struct qemu_spare spare;
	struct process_id id;
};

char *qemu_path(const char *run_dir, const char *file)
{
	return fs_format("%s/%s", run_dir, file);
}

void qemu_clean(const char *run_dir)
{
	static const char *const files[] = {"hv.json", "qmp.sock", "spare.in", "spare.out",
		"console.sock", "vnc.sock", "hv.log"};

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		cleanup_free char *path = qemu_path(run_dir, files[i]);

		unlink(path);
	}
	rmdir(run_dir);
}

static struct hv_vm *new_vm(const struct hv *hv, const char *name, const char *run_dir)
{
	struct hv_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		abort();
	vm->hv = hv;
	vm->name = fs_format("VM %s", name);
	vm->run_dir = fs_format("%s", run_dir);
	vm->console = qemu_path(run_dir, "console.sock");
	return vm;
}

void qemu_vm_close(struct hv_vm *vm)
{
	if (!vm)
		return;
	qmp_close(vm->qmp);
	qmp_close(vm->spare);
	free(vm->name);
	free(vm->run_dir);
	free(vm->console);
	free(vm);
}

/*
 * The run directory.
 */

static int own_run_dir(struct starting *s, struct error **err)
{
	const char *dir = s->how->run_dir;
	bool root = geteuid() == 0;

	if (fs_mkdirs(dir, 0755, err) < 0)
		return -1;
	if (root && chown(dir, 0, s->hv->set.gid) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot give %s to group %u", dir,
			(unsigned)s->hv->set.gid);
	if (chmod(dir, root ? 01771 : 0700) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot set the mode of %s", dir);
	return 0;
}

/* Reads hv.json: whose process it was. The caller frees *name. */
static int read_identity(
	const char *run_dir, struct process_id *id, char **name, struct error **err)
{
	cleanup_free char *path = qemu_path(run_dir, "hv.json");
	size_t len = 0;
	cleanup_free char *text = fs_read(path, IDENTITY_MAX, &len, err);
	cleanup_json json_t *json = text ? json_parse(path, text, len, err) : NULL;
	int64_t pid, start;
	const char *said;

	if (!json || json_get_int(json, "pid", 2, INT32_MAX, &pid, err) < 0 ||
		json_get_int(json, "start", 0, INT64_MAX, &start, err) < 0 ||
		!(said = json_get_string(json, "name", err)))
		return -1;
	*id = (struct process_id){.pid = (pid_t)pid, .start = (uint64_t)start};
	*name = fs_format("%s", said);
	return 0;
}

static int write_identity(struct starting *s, struct error **err)
{
	cleanup_free char *path = qemu_path(s->how->run_dir, "hv.json");
	cleanup_json json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:s, s:s}", "name",
		s->how->def->name, "uuid", s->how->def->uuid, "pid", (json_int_t)s->id.pid, "start",
		(json_int_t)s->id.start, "binary", s->hv->set.binary, "version",
		s->hv->facts.version);
	cleanup_free char *text = json ? json_text(json) : NULL;

	if (!text)
		return error_set(err, ERROR_FAILED, 0, "cannot describe VM %s", s->how->def->name);
	return fs_write(path, text, strlen(text), 0600, err);
}

/* A QEMU whose start was cut off before its identity was written has never been let run: it is told
 * to quit. Nobody listens on the socket of one that has ended. */
static void end_unnamed(const char *run_dir)
{
	cleanup_free char *path = qemu_path(run_dir, "qmp.sock");
	int64_t deadline = clock_ms() + END_MS;
	struct qmp *q = qmp_connect(path, "an unfinished start", deadline, NULL);
	uint64_t seq = 0;

	if (!q)
		return;
	log_warning("ending a hypervisor in %s whose start was not finished", run_dir);
	qmp_run(q, "quit", NULL, deadline, NULL, NULL);
	while (qmp_wait_event(q, seq, deadline, NULL))
		seq++;
	qmp_close(q);
}

static int clear_run_dir(struct starting *s, struct error **err)
{
	const char *dir = s->how->run_dir;
	cleanup_free char *name = NULL;
	struct process_id id;

	if (read_identity(dir, &id, &name, NULL) == 0) {
		if (process_alive(&id))
			return error_set(err, ERROR_RUNNING, 0,
				"VM %s has a hypervisor on this node already (process %d)", name,
				(int)id.pid);
	} else {
		end_unnamed(dir);
	}
	qemu_clean(dir);
	return own_run_dir(s, err);
}

/* A socket that QEMU gets already listening: whoever connects early waits. */
static int listen_at(const char *run_dir, const char *file, struct error **err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_free char *path = qemu_path(run_dir, file);
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ready;

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, ERROR_FAILED, 0,
			"%s is longer than a socket's path may be (%zu bytes); use a shorter run "
			"directory",
			path, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	/* The mode is the socket's from its first moment on. */
	if (fd < 0 || fchmod(fd, 0600) < 0 ||
		bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 8) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot listen on %s", path);
	ready = fd;
	fd = -1;
	return ready;
}

static int open_log(const char *run_dir, struct error **err)
{
	cleanup_free char *path = qemu_path(run_dir, "hv.log");
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);

	return fd >= 0 ? fd : error_set(err, ERROR_FAILED, errno, "cannot make %s", path);
}

static int prepare(struct starting *s, struct error **err)
{
	const char *dir = s->how->run_dir;

	if (clear_run_dir(s, err) < 0)
		return -1;
	if ((s->qmp_fd = listen_at(dir, "qmp.sock", err)) < 0 ||
		(s->console_fd = listen_at(dir, "console.sock", err)) < 0 ||
		(s->log_fd = open_log(dir, err)) < 0)
		return -1;
	if (!s->how->incoming || !qemu_spare_fits(&s->hv->facts))
		return 0;
	return qemu_spare_make(dir, &s->spare, err);
}

/*
 * The process.
 */

static int launch(struct starting *s, struct error **err)
{
	const struct hv_settings *set = &s->hv->set;
	int count = s->how->def->nics_count;
	int fds[VM_DEF_NICS_MAX + 2 + QEMU_SPARE_FDS] = {s->qmp_fd, s->console_fd};
	struct qemu_launch launch = {set, s->hv->facts.accel, s->how, s->qmp_fd, s->console_fd,
		s->spare.in, s->spare.out};
	cleanup_args char **argv = qemu_args(&launch, err);
	struct process_options options = {
		.argv = (const char *const *)argv,
		.own_session = true,
		.set_user = geteuid() == 0,
		.uid = set->uid,
		.gid = set->gid,
		.no_new_privs = true,
		.stdin_fd = -1,
		.stdout_fd = s->log_fd,
		.stderr_fd = s->log_fd,
		.pass_fds = fds,
		.pass_fds_count = 2 + (size_t)count,
	};

	if (!argv)
		return -1;
	for (int i = 0; i < count; i++)
		fds[2 + i] = s->how->tap_fds[i];
	if (s->spare.in >= 0)
		options.pass_fds_count += qemu_spare_pass(&s->spare, fds + 2 + count);
	if (process_start(&options, &s->id, err) < 0)
		return error_prefix(err, "VM %s: cannot start its hypervisor", s->how->def->name);
	/* From here on only QEMU has them: when it ends, what is connected is closed. */
	close_fd(&s->qmp_fd);
	close_fd(&s->console_fd);
	qemu_spare_close(&s->spare);
	return write_identity(s, err);
}

static int start_error(struct starting *s, struct error *why, struct error **err)
{
	cleanup_free char *name = fs_format("VM %s", s->how->def->name);
	char said[512], status_text[64];
	int status = 0;

	if (why->kind != ERROR_NOT_RUNNING)
		return error_move(err, why);
	error_free(&why);
	process_wait(&s->id, clock_ms() + END_MS, &status);
	qemu_log_tail(s->how->run_dir, said);
	if (!said[0])
		snprintf(said, sizeof(said), "it ended with %s",
			process_status_text(status, status_text, sizeof(status_text)));
	return qemu_explain(name, "start", said, &s->hv->set, err);
}

static int connect_vm(struct starting *s, struct hv_vm *vm, struct error **err)
{
	cleanup_free char *path = qemu_path(vm->run_dir, "qmp.sock");
	struct error *why = NULL;

	vm->id = s->id;
	vm->qmp = qmp_connect(path, vm->name, clock_ms() + HV_ANSWER_MS, &why);
	if (vm->qmp && s->how->incoming && qemu_spare_fits(&s->hv->facts))
		vm->spare =
			qemu_spare_connect(vm->run_dir, vm->name, clock_ms() + HV_ANSWER_MS, &why);
	return why ? start_error(s, why, err) : 0;
}

/* Ends what a failed start has begun. */
static void take_back(struct starting *s)
{
	if (s->id.pid > 0) {
		process_signal(&s->id, SIGKILL);
		process_wait(&s->id, clock_ms() + END_MS, NULL);
	}
	qemu_clean(s->how->run_dir);
}

struct hv_vm *qemu_vm_start(struct hv *hv, const struct hv_start *how, struct error **err)
{
	struct starting s = {hv, how, -1, -1, -1, QEMU_SPARE_NONE, {0, 0}};
	struct hv_vm *vm = NULL;
	struct error *why = NULL;
	int rc;

	if (qemu_check_def(hv, how->def, err) < 0)
		return NULL;
	rc = prepare(&s, &why);
	if (rc == 0)
		rc = launch(&s, &why);
	if (rc == 0) {
		vm = new_vm(hv, how->def->name, how->run_dir);
		rc = connect_vm(&s, vm, &why);
	}
	if (rc == 0 && how->restore)
		rc = qemu_load(vm, how->restore, &why);
	if (rc < 0) {
		qemu_vm_close(vm);
		vm = NULL;
		if (why->kind != ERROR_RUNNING)
			take_back(&s);
		error_move(err, why);
	}
	close_fd(&s.qmp_fd);
	close_fd(&s.console_fd);
	close_fd(&s.log_fd);
	qemu_spare_close(&s.spare);
	return vm;
}

/* The process is the one that was started, and it is this VM's QEMU that answers. */
static int find_again(struct hv_vm *vm, struct error **err)
{
	cleanup_free char *path = qemu_path(vm->run_dir, "qmp.sock");

	if (!process_alive(&vm->id))
		return error_set(err, ERROR_NOT_RUNNING, 0, "%s does not run here", vm->name);
	vm->qmp = qmp_connect_silent(path, vm->name, clock_ms() + FOUND_MS, err);
	if (vm->qmp && qmp_silent(vm->qmp))
		log_error("%s: its QEMU (process %d) lives and does not answer", vm->name,
			(int)vm->id.pid);
	/* It cannot be asked: that is not "does not run", or somebody starts it again. */
	if (!vm->qmp && process_alive(&vm->id) && err && *err)
		(*err)->kind = ERROR_HYPERVISOR;
	if (vm->qmp)
		vm->spare = qemu_spare_find(vm->run_dir, vm->name);
	return vm->qmp ? 0 : -1;
}

struct hv_vm *qemu_vm_attach(struct hv *hv, const char *run_dir, struct error **err)
{
	cleanup_free char *name = NULL;
	struct process_id id;
	struct hv_vm *vm;
	char said[512];

	if (read_identity(run_dir, &id, &name, NULL) < 0) {
		end_unnamed(run_dir);
		qemu_clean(run_dir);
		error_set(err, ERROR_NOT_RUNNING, 0, "no hypervisor runs in %s", run_dir);
		return NULL;
	}
	vm = new_vm(hv, name, run_dir);
	vm->id = id;
	if (find_again(vm, err) == 0)
		return vm;
	if (!process_alive(&id)) {
		qemu_log_tail(run_dir, said);
		log_warning("%s ended while it was not watched%s%s", vm->name,
			said[0] ? "; its QEMU said: " : "", said);
		qemu_clean(run_dir);
	}
	qemu_vm_close(vm);
	return NULL;
}
