/*
 * Inside the bhyve driver: what its files share. docs/bhyve.md tells what bhyve does, and where
 * that is known from.
 *
 * In a VM's run directory: `hv.log` (what its loader and bhyve say), `hv.json` (who it is, for the
 * next droverd), for the loader grub `grub.cfg` and `device.map`.
 *
 * A bhyve cannot be started with its CPUs stopped: what hv_vm_start makes of a VM that is not
 * incoming is a handle without a process, and hv_vm_resume starts the loader and bhyve.
 */
#ifndef DROVER_HV_BHYVE_BHYVE_H
#define DROVER_HV_BHYVE_BHYVE_H

#include "hv/driver.h"

#include <pthread.h>
#include <stdatomic.h>

/* hv.abilities: what this bhyve and bhyvectl have, by what they say of their options. */
enum {
	BHYVE_SNAPSHOT = 1, /* bhyvectl --checkpoint and --suspend */
	BHYVE_RESTORE = 2,  /* bhyve -r */
	BHYVE_RECEIVE = 4,  /* bhyve -R */
	BHYVE_MIGRATE = 8,
	BHYVE_MIGRATE_LIVE = 16
};

/* Longest path of a suspended guest's memory, with the NUL. */
#define BHYVE_FILES_PATH 512

/*
 * A guest as files: a source that is being, or has been, suspended, and a destination that receives
 * the files of one (files.c, suspend.c, receive.c, restore.c). hv.json has the path from before the
 * order to suspend on, and `restoring` from before a bhyve is started with the files: what an
 * earlier droverd may have done is known from that.
 */
struct bhyve_files {
	atomic_bool used;            /* there are such files, or will be */
	char path[BHYVE_FILES_PATH]; /* its memory; beside it .kern and .meta */
	atomic_bool ordered;         /* source: the order to suspend may have been given */
	atomic_bool restoring;       /* a bhyve has been, or may have been, started with them */
	bool launching;              /* it is being started: hv_vm.id is not to be read; lock */
	int fd;                      /* thread: the connection to the data mover */
	bool threaded;
	pthread_t thread; /* sends or receives them */
	atomic_bool stop; /* it is to leave off */
	atomic_llong total_bytes, done_bytes;
	pthread_mutex_t lock;   /* and of hv_vm.id, as long as `used` */
	pthread_cond_t changed; /* bhyve_vm.phase */
	char failure[512];      /* why phase is HV_MIGRATE_FAILED; lock */
};

/* What was seen of a bhyve that was told to write its guest, when it was last looked at; 0 at
 * first.
 */
struct bhyve_watch {
	int64_t at_ms, exits, bytes;
	int times; /* looks in a row in which the guest ran and nothing was written */
};

struct bhyve_vm {
	char **argv;   /* to boot it; hv.json has both */
	char **loader; /* the loader's, run before it; NULL: none */
	char **first;  /* instead, once: with a stream or a checkpoint of it; NULL: none */
	char vm_name[FS_NAME_MAX + 1];
	char taps[VM_DEF_NICS_MAX][32];
	int taps_count;
	atomic_bool incoming; /* waits for a stream, or loads a checkpoint, as far as is known */
	bool has_run;         /* known to have: see bhyve_has_run */
	bool restoring;       /* incoming from a checkpoint */
	bool powered;         /* the guest was told to power off */
	int port;             /* where an incoming one listens; 0: none */
	int stream_fd;        /* a copy of its connection to the data mover; -1 */
	uint64_t memory_bytes;
	_Atomic enum hv_migrate_phase phase;
	struct bhyve_files files;
	atomic_bool suspending; /* told to write its state and end: status 0 is no reboot then */
	struct bhyve_watch saving;
};

/* The operations (hv/driver.h), as hv.h describes them. */
struct hv *bhyve_open(const struct hv_settings *settings, struct error **err);
void bhyve_close(struct hv *hv);
json_t *bhyve_facts_json(const struct hv *hv);
void bhyve_complete_def(const struct hv *hv, struct vm_def *def);
int bhyve_check_def(const struct hv *hv, const struct vm_def *def, struct error **err);
int bhyve_check_machine(const struct hv *hv, const struct vm_def *def, struct error **err);
int bhyve_check_cpu(const struct hv *hv, const struct vm_def *def, struct error **err);
int bhyve_check_postcopy(const struct hv *hv, struct error **err);
int bhyve_image_create(const struct hv *hv, const char *path, const char *format,
	uint64_t size_bytes, const char *backing, const char *backing_format, struct error **err);
json_t *bhyve_image_info(const struct hv *hv, const char *path, struct error **err);
struct hv_vm *bhyve_vm_start(struct hv *hv, const struct hv_start *how, struct error **err);
struct hv_vm *bhyve_vm_attach(struct hv *hv, const char *run_dir, struct error **err);
void bhyve_vm_close(struct hv_vm *vm);
enum hv_state bhyve_vm_state(struct hv_vm *vm);
int bhyve_vm_resume(struct hv_vm *vm, struct error **err);
int bhyve_vm_pause(struct hv_vm *vm, struct error **err);
int bhyve_vm_powerdown(struct hv_vm *vm, struct error **err);
int bhyve_vm_end(struct hv_vm *vm, int64_t deadline_ms, struct error **err);
bool bhyve_vm_hangs(struct hv_vm *vm);
bool bhyve_vm_wait_off(struct hv_vm *vm, int64_t deadline_ms);
int bhyve_vm_announce(struct hv_vm *vm, struct error **err);
int bhyve_vm_check_movable(struct hv_vm *vm, struct error **err);
int bhyve_vm_migrate(struct hv_vm *vm, const char *path, const struct hv_migrate_params *params,
	struct error **err);
int bhyve_vm_migrate_set(
	struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err);
int bhyve_vm_migrate_incoming(
	struct hv_vm *vm, const char *path, bool postcopy, struct error **err);
int bhyve_vm_migrate_postcopy(struct hv_vm *vm, struct error **err);
int bhyve_vm_migrate_recover(struct hv_vm *vm, const char *path, struct error **err);
int bhyve_vm_migrate_resume(struct hv_vm *vm, const char *path, struct error **err);
int bhyve_vm_migrate_status(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err);
int bhyve_vm_migrate_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
	struct hv_migrate_status *status, struct error **err);
int bhyve_vm_migrate_follow(struct hv_vm *vm, int64_t deadline_ms, struct hv_migrate_status *status,
	struct error **err);
int bhyve_vm_migrate_cancel(struct hv_vm *vm, struct error **err);
int bhyve_vm_migrate_abandon(struct hv_vm *vm, struct error **err);
int bhyve_check_suspend(const struct hv *hv, struct error **err);
int bhyve_vm_checkpoint(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err);
int bhyve_vm_checkpoint_wait(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err);
int bhyve_vm_migrate_seen(struct hv_vm *vm, enum hv_migrate_phase phase, struct error **err);
void bhyve_vm_migrate_connected(struct hv_vm *vm, int fd);
int bhyve_vm_migrate_port(const struct hv_vm *vm);
bool bhyve_vm_never_ran(struct hv_vm *vm);
bool bhyve_vm_is_files(struct hv_vm *vm);
enum hv_way bhyve_way(const struct hv *hv, const json_t *there, bool still);
int bhyve_room(const struct hv *hv, const struct vm_def *def, struct hv_room *room, bool measure,
	struct error **err);

/* args.c: the command line of bhyve, and in *loader that of the loader which goes before it (NULL
 * where bhyve boots by its ROM, or goes on with a guest that came from elsewhere). `port` > 0: it
 * waits there for a stream. Writes the files that a loader reads. Free both by bhyve_args_free. */
struct bhyve_launch {
	const struct hv *hv;
	const struct hv_start *how;
	int port;
	bool restore;        /* goes on from how->restore */
	const char *console; /* the guest's end of the nmdm pair */
};
char **bhyve_args(const struct bhyve_launch *launch, char ***loader, struct error **err);
/* The same as `argv`, but going on from FILE. */
char **bhyve_args_restoring(char *const *argv, const char *file);
void bhyve_args_free(char **args);

/* ctl.c: runs `bhyvectl --vm=NAME OPTION`, at most HV_ANSWER_MS. ERROR_HYPERVISOR with its words.
 * *out (may be NULL) gets its output. */
int bhyve_ctl(const struct hv_vm *vm, const char *option, char **out, struct error **err);
/* Whether /dev/vmm has the VM. */
bool bhyve_exists(const struct hv_vm *vm);
/* Removes it from there; nothing when it is not there. */
int bhyve_destroy(const struct hv_vm *vm, struct error **err);
/* Whether a vCPU of it has ever left the guest, by the kernel's counters, which stay until it is
 * destroyed. -1 when it cannot be told. */
int bhyve_has_run(const struct hv_vm *vm);
/* How often it has; the number grows while the guest runs. -1 when it cannot be told. */
int64_t bhyve_exits(const struct hv_vm *vm);

/* start.c */
char *bhyve_path(const char *run_dir, const char *file);
/* Starts bhyve->loader and bhyve->argv: until /dev/vmm has the VM. */
int bhyve_launch(struct hv_vm *vm, struct error **err);
int bhyve_write_identity(const struct hv_vm *vm, struct error **err);
/* Removes what it left: in the run directory, its taps, /dev/vmm's entry. */
void bhyve_clean(struct hv_vm *vm);
/* What is worth reading at the end of its log, as one line; "" when there is nothing. */
void bhyve_log_tail(const char *run_dir, char out[512]);

/* checkpoint.c: whether all three files of FILE are there and whole; their end. */
bool bhyve_checkpoint_complete(const char *file);
/* Whether bhyve could not write FILE, and lets the guest go on. To be asked again and again. */
bool bhyve_has_given_up(struct hv_vm *vm, const char *file, struct bhyve_watch *watch);
void bhyve_checkpoint_remove(const char *file);

/* files.c: chooses where the files of a guest of this VM will be, and makes the directory. */
int bhyve_files_choose(struct hv_vm *vm, struct error **err);
/* Removes what moves that were never ended have left of this VM on this host. */
void bhyve_files_remove_stale(const struct hv_vm *vm);
/* The guest runs, or is given up: there are none any more. */
void bhyve_files_forget(struct hv_vm *vm);
/* Starts `body` in a thread with the connection `fd`, which is taken over; ends it, and waits. */
void bhyve_files_spawn(struct hv_vm *vm, int fd, void *(*body)(void *));
void bhyve_files_stop(struct hv_vm *vm);
/* Thread: where it stands. `e` is taken over; NULL unless it has failed. */
void bhyve_files_phase(struct hv_vm *vm, enum hv_migrate_phase phase, struct error *e);
/* The phase, by the time that it is another one or the deadline has passed. */
void bhyve_files_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms);
void bhyve_files_status(struct hv_vm *vm, struct hv_migrate_status *status);

/* suspend.c: thread of a source: suspends the guest and sends its files. */
void *bhyve_files_send(void *vm);
/* Whether a guest that was told to suspend has done so: 1, or goes on, for bhyve could not: 0. -1
 * and ERROR_TIMEOUT when neither is known by the deadline, ERROR_NOT_RUNNING when its bhyve has
 * ended and the files are not whole. */
int bhyve_files_settle(struct hv_vm *vm, int64_t deadline_ms, struct error **err);
/* The last of these errors. */
int bhyve_files_ended_early(struct hv_vm *vm, struct error **err);

/* receive.c: thread of a destination: takes the files. */
void *bhyve_files_receive(void *vm);

/* restore.c: the operations, for a guest that is files. */
enum hv_state bhyve_files_state(struct hv_vm *vm);
int bhyve_files_resume(struct hv_vm *vm, struct error **err);
int bhyve_files_cancel(struct hv_vm *vm, struct error **err);
/* Whether it has run from them: 1, 0, -1 when that cannot be told. */
int bhyve_files_have_run(struct hv_vm *vm);
/* After a restart of droverd: whether there is still a guest. */
bool bhyve_files_found_again(struct hv_vm *vm);

/* vm.c: lets a process that was stopped, and its guest, go on. */
int bhyve_go_on(struct hv_vm *vm, struct error **err);

#endif
