/*
 * Hypervisors. A driver knows one program (QEMU; bhyve later) and offers the operations below; the
 * rest of drover sees no difference.
 *
 * A VM that runs is a process of its own, in a session of its own, which outlives droverd. The
 * handle (struct hv_vm) is droverd's connection to it: it may be closed at any time, and
 * hv_vm_attach() makes a new one from what hv_vm_start() left in the VM's run directory.
 *
 * All functions of one handle may be called by several threads at once. Calls wait for the
 * hypervisor's answer, at most HV_ANSWER_MS unless they take a limit of their own; then they fail
 * with ERROR_TIMEOUT. A hypervisor that has ended makes every call fail with ERROR_NOT_RUNNING.
 */
#ifndef DROVER_HV_HV_H
#define DROVER_HV_HV_H

#include "base/error.h"
#include "base/process.h"
#include "hv/cpu.h"
#include "pool/vm_def.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define HV_ANSWER_MS 10000

/* Settings of a node that concern its hypervisor. Strings belong to the caller and must outlive hv.
 */
struct hv_settings {
	const char *driver;     /* "qemu" or "bhyve"; NULL: qemu */
	const char *binary;     /* /usr/bin/qemu-system-x86_64 */
	const char *img_binary; /* /usr/bin/qemu-img */
	const char *data_dirs;  /* firmware, "DIR:DIR", or NULL */
	const char *accel;      /* "auto", "kvm", "tcg" */
	uid_t uid;              /* the user that hypervisors run as */
	gid_t gid;
	/* bhyve, which runs as root and confines itself: */
	const char *bhyve, *bhyvectl, *bhyveload, *grub_bhyve; /* programs */
	const char *bootrom;     /* UEFI firmware of VMs that name none */
	const char *vmm_dir;     /* /dev/vmm: an entry a VM */
	const char *suspend_dir; /* where guests are suspended to files, and files received */
	const char *nmdm_dir;    /* /dev: where nmdm(4) has its devices */
	int port_min, port_max;  /* where an incoming bhyve may listen */
};

struct hv_facts {
	char driver[16];  /* "qemu" */
	char version[64]; /* "10.0.2" */
	int major, minor, micro;
	char accel[8]; /* what VMs will be run with: "kvm" or "tcg" */
	/* It opens its taps by their names (hv_start.tap_names). */
	bool taps_by_name;
	/* A guest that was received runs at once, and one whose stream breaks goes on at once: see
	 * "Hypervisors that run a guest at once" below. */
	bool runs_at_once;
	/* Why a guest cannot be moved while it runs with this version and accelerator, as the rest
	 * of a sentence; NULL when it can. (QEMU before 8 under TCG loses guest pages.) */
	const char *no_live;
};

struct hv;    /* a probed hypervisor of this node */
struct hv_vm; /* a running one */

/* Starts the hypervisor without a VM and asks it what it is and can do (ERROR_HYPERVISOR). */
struct hv *hv_open(const struct hv_settings *settings, struct error **err);
void hv_close(struct hv *hv);
const struct hv_facts *hv_get_facts(const struct hv *hv);
/* Facts as JSON for the node's record: version, accel, machines, cpus (models that it can give
 * whole), cpu (hv/cpu.h). */
json_t *hv_facts_json(const struct hv *hv);

/* Fills in machine (this hypervisor's newest q35, with its version) and cpu ("baseline") where the
 * definition has none. */
void hv_complete_def(const struct hv *hv, struct vm_def *def);
/* Whether this hypervisor can run it: machine type, number of vCPUs, CPU. ERROR_HYPERVISOR. A CPU
 * that is still "baseline" is for the start to make exact, and is not looked at. */
int hv_check_def(const struct hv *hv, const struct vm_def *def, struct error **err);
/* The part of it that is about the machine type, and how many vCPUs that can have. */
int hv_check_machine(const struct hv *hv, const struct vm_def *def, struct error **err);
/* The part of it that is about the CPU: whether it can give the guest each feature of the exact one
 * that was, or is to be, started. The message names those that it lacks. ERROR_HYPERVISOR, and
 * ERROR_DEFINITION for one that is not exact. What no list of features can tell is told by
 * hv_cpu_alike (hv/cpu.h). */
int hv_check_cpu(const struct hv *hv, const struct vm_def *def, struct error **err);
/* The CPU models that it knows. Belong to hv. */
const struct hv_cpu_models *hv_cpu_models(const struct hv *hv);
/* Whether a guest can be brought here by post-copy. Starts the hypervisor without a VM to ask it,
 * which takes some 100 ms. ERROR_HYPERVISOR says what to allow. */
int hv_check_postcopy(const struct hv *hv, struct error **err);

struct hv_start {
	const struct vm_def *def;
	/* Absolute paths of the definition's disks, in order. */
	const char *const *disk_paths;
	const int *tap_fds;  /* one a nic; stay the caller's, who closes them after the start */
	const char *run_dir; /* the VM's: made if absent; sockets, log and identity are put here */
	bool incoming;       /* waits for a migration stream, CPUs stopped, images not locked */
	bool files;          /* incoming: as the files of a suspended guest (HV_WAY_FILES) */
	/* Instead where the driver wants names: taps that are there, which from a start that has
	 * succeeded on are removed by hv_vm_end. */
	const char *const *tap_names;
	/* A checkpoint that the guest goes on from (hv_vm_checkpoint) when it is let run. */
	const char *restore;
	/* The VM's file with the variables of UEFI firmware, where all nodes see it; made from the
	 * firmware's own when it is not there (bhyve only). */
	const char *nvram;
};

/*
 * Starts the hypervisor, CPUs stopped in any case (hv_vm_resume lets them run: the caller does that
 * only as the owner). Waits until it answers. On error nothing is left running and the message says
 * what the hypervisor said: ERROR_DISK, ERROR_NETWORK or ERROR_HYPERVISOR.
 */
struct hv_vm *hv_vm_start(struct hv *hv, const struct hv_start *how, struct error **err);
/* Finds a running one again; ERROR_NOT_RUNNING when there is none (and its leftovers are removed).
 * One that lives and does not answer within 5 s is HV_SILENT until it does: what is asked
 * of it fails with ERROR_TIMEOUT, and hv_vm_end ends it like any other. One that has ended is found
 * as HV_GONE where its guest has certainly never run: hv_vm_never_ran tells so until hv_vm_end. */
struct hv_vm *hv_vm_attach(struct hv *hv, const char *run_dir, struct error **err);
/* Frees the handle; the process goes on. */
void hv_vm_close(struct hv_vm *vm);

const struct process_id *hv_vm_process(const struct hv_vm *vm);

enum hv_state {
	HV_RUNNING,  /* CPUs run */
	HV_STARTING, /* started for no stream, and never let run */
	HV_PAUSED,   /* stopped by us, or loaded and not yet let run */
	HV_INCOMING, /* waits for, or loads, a stream */
	HV_MIGRATED, /* its state has gone out; paused for good unless resumed */
	HV_OFF,      /* the guest has powered off; the process is still there */
	HV_FAILED,   /* internal error, I/O error */
	HV_SILENT,   /* found again, and has not answered since: it hangs, or is very slow */
	HV_GONE      /* the process has ended */
};
const char *hv_state_name(enum hv_state state);
enum hv_state hv_vm_state(struct hv_vm *vm);

/* Lets the CPUs run, taking the disk images (their locks) first: ERROR_DISK when they are locked.
 */
int hv_vm_resume(struct hv_vm *vm, struct error **err);
int hv_vm_pause(struct hv_vm *vm, struct error **err);
/* Presses the power button (ACPI). */
int hv_vm_powerdown(struct hv_vm *vm, struct error **err);
/* Ends the process: asks it to quit, kills it at the deadline (at once when it is silent). Its
 * leftovers in run_dir are removed. Returns when it has ended. */
int hv_vm_end(struct hv_vm *vm, int64_t deadline_ms, struct error **err);
/* Whether it lives and answers nothing within HV_ANSWER_MS. */
bool hv_vm_hangs(struct hv_vm *vm);
/* Waits until the guest has powered off or the process has ended; false at the deadline. */
bool hv_vm_wait_off(struct hv_vm *vm, int64_t deadline_ms);
/* Tells the network where the guest is now (gratuitous ARP/RARP). */
int hv_vm_announce(struct hv_vm *vm, struct error **err);

/*
 * Writes a checkpoint of the running guest: `file` has its memory, beside it are further files of
 * the driver (bhyve: FILE.kern and FILE.meta). Returns when all are complete. The guest stands
 * still meanwhile, and goes on; with `suspend` it does not go on, for a start with
 * hv_start.restore, here or on another node: its hypervisor has ended (bhyve), or stands still and
 * is to be ended by hv_vm_end.
 *
 * ERROR_TIMEOUT: the deadline is over, and it is still being written: hv_vm_checkpoint_wait goes
 * on waiting for it. Any other error: it has come to nothing, and the guest goes on, if it has not
 * ended. ERROR_HYPERVISOR where the hypervisor has no such thing. The files are not synced.
 */
int hv_vm_checkpoint(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err);
/* Waits for one that was ordered before, maybe by an earlier droverd; the same results. */
int hv_vm_checkpoint_wait(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err);
/* Whether this hypervisor can suspend a guest into files and go on from these. ERROR_HYPERVISOR. */
int hv_check_suspend(const struct hv *hv, struct error **err);
/* Whether a suspended guest's files are whole, by themselves: asked when the hypervisor that wrote
 * them has ended. */
bool hv_checkpoint_is_whole(const struct hv *hv, const char *file);

/* Path of the socket with the guest's serial console. Belongs to the handle. */
const char *hv_vm_console(const struct hv_vm *vm);

/* Migration. The stream goes through Unix sockets only: drover-wire carries it on. */
struct hv_migrate_params {
	int64_t downtime_limit_ms;
	int64_t bandwidth_bps; /* bytes per second that the hypervisor may write; 0: no limit */
	/* Said once, to hv_vm_migrate: it may be switched to post-copy; the guest is to stand still
	 * from the beginning (only with a hypervisor that runs a guest at once, which cannot move
	 * one that hv_vm_pause has stopped); the guest is to be suspended to files (HV_WAY_FILES).
	 */
	bool postcopy, still, files;
};

enum hv_migrate_phase {
	HV_MIGRATE_NONE,
	HV_MIGRATE_SETUP,
	HV_MIGRATE_ACTIVE,     /* rounds, the guest runs */
	HV_MIGRATE_SWITCHOVER, /* the guest is paused, the rest goes */
	/* The destination has all but pages of memory, which go on: by themselves, and those that
	 * the guest touches at once. Source: paused, and has no way back but what
	 * hv_vm_migrate_cancel may find. Destination: loaded, and can be let run. */
	HV_MIGRATE_POSTCOPY,
	/* The same, but the connection broke: both wait for another (hv_vm_migrate_recover). */
	HV_MIGRATE_POSTCOPY_PAUSED,
	HV_MIGRATE_COMPLETED, /* source: all written, paused; destination: all loaded, paused */
	HV_MIGRATE_FAILED,
	HV_MIGRATE_CANCELLED
};
const char *hv_migrate_phase_name(enum hv_migrate_phase phase);

struct hv_migrate_status {
	enum hv_migrate_phase phase;
	int64_t total_bytes, sent_bytes, remaining_bytes;
	int64_t dirty_rate_bps; /* bytes per second that the guest changes */
	int64_t rate_bps;       /* bytes per second going out */
	int round;              /* passes over the guest's memory so far */
	int64_t downtime_ms;    /* as the hypervisor counts it; when completed */
	char failure[512];      /* what the hypervisor said */
};

/*
 * Hypervisors that run a guest at once (hv_facts.runs_at_once).
 *
 * bhyve's source waits, when it has sent everything, for the destination's answer: it ends itself
 * for good with one answer, and lets its guest go on with any other, and when the connection
 * breaks. Its destination lets the guest run as soon as it has read the last byte. Neither asks us.
 * So the data mover reads the stream along, and tells droverd where it stands
 * (hv_vm_migrate_seen):
 *
 * - At the source, from the end of the stream on, the driver keeps the whole process stopped; until
 *   then nothing closes the connection, for a copy of it is held here (hv_vm_migrate_connected).
 *   No answer is ever passed on to it but the one that lets it go on, by hv_vm_resume or
 *   hv_vm_migrate_cancel; else it is ended where it is.
 * - At the destination the data mover holds back all that comes after the guest's memory. Without
 *   it the hypervisor gives up when its connection breaks. It is given to it after the claim, and
 *   hv_vm_resume then waits until the guest runs.
 *
 * The stream goes through a TCP socket of 127.0.0.1, for this hypervisor has nothing else.
 */

/* What has been seen of the stream: HV_MIGRATE_SWITCHOVER (source: the last round goes, for which
 * the guest stands still) or HV_MIGRATE_COMPLETED (source: the end has gone out; returns when the
 * process is stopped. Destination: all is there, but for what is held back). */
int hv_vm_migrate_seen(struct hv_vm *vm, enum hv_migrate_phase phase, struct error **err);
/* The connection between hypervisor and data mover, on either side; taken over. */
void hv_vm_migrate_connected(struct hv_vm *vm, int fd);
/* Destination: the port of 127.0.0.1 where hv_vm_migrate_incoming listens. 0: it is the Unix
 * socket. */
int hv_vm_migrate_port(const struct hv_vm *vm);
/* Whether a guest that came here has certainly never run, also of a process that has ended (until
 * hv_vm_end). False when it is not known. */
bool hv_vm_never_ran(struct hv_vm *vm);

/*
 * Guests that move as files (HV_WAY_FILES).
 *
 * A bhyve that knows no moves can suspend a guest to files, and start from such files. Then the
 * "stream" is these files, and it is the driver, in a thread of its own, that is at the other end
 * of the data mover's connection: hv_vm_migrate_connected() gives it that, and begins. Source: the
 * guest stands still, and its hypervisor ends when it has written the files, which are the guest
 * then (phase HV_MIGRATE_FAILED: it cannot be written; _CANCELLED: the data mover takes no more):
 * hv_vm_resume (and hv_vm_migrate_cancel before all is sent) starts it from them, and they
 * are removed when it runs, or by hv_vm_end. Destination: nothing is started before hv_vm_resume; a
 * hypervisor that does not start from the files is HV_GONE, and has never run the guest.
 */
enum hv_way {
	HV_WAY_NONE,
	HV_WAY_STREAM, /* the hypervisors' own */
	HV_WAY_FILES
};
/* How a guest gets from here to a node whose hypervisor says of itself what `there` has
 * (hv_facts_json; NULL: not known, taken to be as this one), standing `still` or not. The best of
 * what both can. */
enum hv_way hv_way(const struct hv *hv, const json_t *there, bool still);
/* Where the files are put: what there is room for, and what they need. With `measure`, how fast it
 * can be written to, by a file of some MiB, in some 200 ms: into the system's cache, and to the
 * disk. ERROR_NO_SPACE, ERROR_FAILED: it cannot be used; ERROR_HYPERVISOR: no guest can come so. */
struct hv_room {
	char dir[256];
	uint64_t needed_bytes, free_bytes;
	double cached_bps, disk_bps; /* 0: not known */
};
int hv_room(const struct hv *hv, const struct vm_def *def, struct hv_room *room, bool measure,
	struct error **err);
/* Whether this guest is, or is becoming, files. */
bool hv_vm_is_files(struct hv_vm *vm);

/* Whether the hypervisor would let this VM be moved now: it knows of a device or an image that it
 * cannot move (ERROR_HYPERVISOR with its words), or is at a migration (ERROR_BUSY). */
int hv_vm_check_movable(struct hv_vm *vm, struct error **err);
/* Source: starts to write the stream to the listening Unix socket `path`. What it has completed
 * stays paused, whatever happens to the connection after that. Without post-copy there is no return
 * path, so that nothing that the destination does, or leaves, can make of a stream that was written
 * a failed one. */
int hv_vm_migrate(struct hv_vm *vm, const char *path, const struct hv_migrate_params *params,
	struct error **err);
int hv_vm_migrate_set(struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err);
/* Destination: listens on `path` for the stream. Returns when it listens. With `postcopy` the
 * stream may be switched to post-copy; ERROR_HYPERVISOR when this node does not allow that. */
int hv_vm_migrate_incoming(struct hv_vm *vm, const char *path, bool postcopy, struct error **err);
/* Source: orders the switch to post-copy and returns at once. The guest must be paused
 * (hv_vm_pause): a hypervisor whose stream fails lets a guest go on that it paused itself, and
 * never one that was paused before. It may complete instead, when little is left. */
int hv_vm_migrate_postcopy(struct hv_vm *vm, struct error **err);
/* In HV_MIGRATE_POSTCOPY_PAUSED. Destination: listens on `path` for another connection; source:
 * connects to `path` and goes on. A side that has not seen that the connection broke is told so. */
int hv_vm_migrate_recover(struct hv_vm *vm, const char *path, struct error **err);
int hv_vm_migrate_resume(struct hv_vm *vm, const char *path, struct error **err);
/* Where it stands, on either side. While the last pages go out a hypervisor may answer nothing for
 * as long as the stream is held up: the phase is then HV_MIGRATE_SWITCHOVER, and the numbers are 0.
 */
int hv_vm_migrate_status(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err);
/* Waits for the phase to become another than `phase`, at most until the deadline (that is no
 * error), by events, without asking again and again; then as hv_vm_migrate_status. */
int hv_vm_migrate_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
	struct hv_migrate_status *status, struct error **err);
/* The same from what *status says on, and it ends as well when a later round has begun. */
int hv_vm_migrate_follow(struct hv_vm *vm, int64_t deadline_ms, struct hv_migrate_status *status,
	struct error **err);
/* Source: stops an unfinished one and waits until the guest is what it was before (running, or
 * paused by hv_vm_pause); when it had completed already, does nothing. ERROR_REFUSED in post-copy
 * where the hypervisor has no way back (QEMU from 10.0 on). */
int hv_vm_migrate_cancel(struct hv_vm *vm, struct error **err);
/* Source: lets the guest run here again though hv_vm_migrate_cancel knows no way back from a switch
 * to post-copy: for when the destination's copy is proven to never run. The hypervisor still
 * believes to be migrating: it moves no guest again until it is started anew. ERROR_DISK while the
 * images are locked; ERROR_REFUSED where it cannot be done (QEMU before 10.0). */
int hv_vm_migrate_abandon(struct hv_vm *vm, struct error **err);

/*
 * Measurements of a running guest, by which its migration is estimated. They change nothing and ask
 * little of it. A driver that has no way to find one out answers ERROR_REFUSED, and then it is not
 * known.
 */

/* How many bytes of pages the guest changes in a second; a page that is changed several times in
 * the time that it is watched counts once. ERROR_TIMEOUT at the deadline, and at once where it is
 * known to be too near. (QEMU: calc-dirty-rate by samples of its pages, of which those before 8.2
 * know only whole seconds. Blocks of less than 128 MiB are not seen by it: such guests are
 * refused.) */
struct hv_dirty_rate {
	int64_t window_ms; /* in: to be watched for about so long; out: for how long it was */
	int64_t bps;
	int64_t step_bps; /* what one page of the hypervisor's samples stands for: it tells no less
			   */
};
int hv_vm_dirty_rate(struct hv_vm *vm, uint64_t memory_bytes, int64_t deadline_ms,
	struct hv_dirty_rate *rate, struct error **err);

#define HV_PAGE 4096u
/* Offsets in a guest's memory below this may be no memory, and are not read. */
#define HV_SAMPLE_FIRST (1u << 20)
/* Where pages are taken: at each of `count` offsets (multiples of `step`), `pages` of them, the
 * next one always `step` bytes further on. */
struct hv_sample {
	const uint64_t *offsets;
	size_t count, pages, step;
};
/* Reads these pages of the guest's memory of memory_bytes into `out`, one after the other. Stops at
 * the deadline (that is no error); *got says of how many offsets they are there. The guest goes on:
 * the pages are of several moments. ERROR_BUSY while another call does this with the same VM. (QEMU
 * writes all from an offset's first page to its last into one file in the VM's run directory, which
 * no user but root can read, and which is gone afterwards, unless QEMU did not answer: then the
 * next call, or the VM's end, removes it.) */
int hv_vm_sample_memory(struct hv_vm *vm, uint64_t memory_bytes, const struct hv_sample *where,
	int64_t deadline_ms, uint8_t *out, size_t *got, struct error **err);

/* Disk images, by qemu-img. size_bytes 0 with a backing file: its size. */
int hv_image_create(const struct hv *hv, const char *path, const char *format, uint64_t size_bytes,
	const char *backing, const char *backing_format, struct error **err);
/* {"format","virtual_size","backing"} of an image, opened without a lock. */
json_t *hv_image_info(const struct hv *hv, const char *path, struct error **err);
/* Whether a hypervisor, here or (on file systems that share locks) on another node, may write to an
 * image: it holds QEMU's lock for that, byte 100 + 1 of the file (QEMU: block/file-posix.c, "Image
 * locking"). Takes no lock. A file that is not there is not locked. ERROR_DISK when it cannot be
 * told. */
int hv_image_locked(const char *path, bool *locked, struct error **err);

#endif
