/*
 * Inside src/vm: the registry that registry.c keeps and lifecycle.c and info.c use.
 *
 * An entry (struct vm) exists while a VM has a hypervisor here or an operation works on it. Its
 * fields are guarded by vms->lock; `hv`, `def` and `run_dir` are set before an entry is taken by
 * anybody else and freed with the last reference, so that a taker may use them without the lock.
 */
#ifndef DROVER_VM_INTERNAL_H
#define DROVER_VM_INTERNAL_H

#include "vm/vm.h"

#include <pthread.h>

struct vm {
	struct vms *vms;
	char name[FS_NAME_MAX + 1];
	char operation[128]; /* "": free */
	char *run_dir;
	struct vm_def *def; /* as it was started; NULL while there is no hypervisor */
	struct hv_vm *hv;   /* NULL: an operation on a VM that does not run here */
	int64_t since_ms;   /* wall clock: when it was started or arrived here */
	uint64_t epoch;     /* at which this node has owned it, as far as is known; 0: not known */
	bool put_back;      /* the pool's being older than that has been said */
	int refs;
	bool listed;
	struct vm *next;
};

struct vms {
	const struct pool *pool;
	struct hv *hv;
	const char *node;
	const char *allowed_paths; /* besides the pool; NULL: none */
	char *run_dir;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* an operation ended, a watcher ended, or closing */
	struct vm *list;
	int watchers;
	/* From vms_find_again on, until what an earlier droverd was doing has been taken up: what
	 * has ended meanwhile is not cleaned up before. */
	bool recovering;
	bool closing;
};

/* Makes the entry of `name` busy with `operation`: ERROR_BUSY names the operation in the way. */
struct vm *vms_reserve(
	struct vms *vms, const char *name, const char *operation, struct error **err);
/* Puts a started hypervisor into a reserved entry and watches it. Takes hv and def over. */
void vm_set_running(struct vm *vm, struct hv_vm *hv, struct vm_def *def);
/* Starts the hypervisor of `def` for a reserved entry: disks, taps, run directory. The definition
 * is kept in the run directory. Not yet watched. Of `as`, `incoming`, `files` and `restore` are
 * looked at. */
struct hv_vm *vm_spawn(
	struct vm *vm, const struct vm_def *def, const struct hv_start *as, struct error **err);
/* After the hypervisor has ended: removes what was put beside its own files (the definition, a
 * migration's socket and log), and the directory. */
void vm_remove_run_dir(const struct vm *vm);
/* The definition that a VM was started by, from its run directory. */
struct vm_def *vm_read_running_def(const struct vm *vm, struct error **err);
/* The epoch that an earlier droverd kept in the run directory, 0 for none. */
uint64_t vm_last_epoch(const struct vm *vm);
/* Claims the next epoch for nobody, when this node owns the VM. */
int vm_release(struct vms *vms, const char *name, const char *why, struct error **err);
/* suspend.c. The run directory has a file `saving` (the id of the state in the pool) from before a
 * suspend is ordered until the state is whole in the pool, or has come to nothing; and a file
 * `resuming` from before a start from a state until its guest runs and the state is gone. */

/* To be called when a VM's hypervisor has ended, before it is released: puts a state that is whole
 * in its place in the pool, drops one that is not, and removes one that the guest went on from.
 * `found_dead`: it was not watched. -1 when that cannot be done now: the VM must not be released.
 */
int vm_settle_saved(struct vm *vm, bool found_dead, struct error **err);
/* After droverd was started again, of an entry that is taken: goes on with a suspend that an
 * earlier droverd had begun, in a thread that gives the entry back. False when there is none. */
bool vm_follow_suspend(struct vm *vm);
/* The same of a start from a saved state: its hypervisor is ended unless the guest runs. False when
 * it was ended. */
bool vm_follow_resume(struct vm *vm, struct hv_vm *hv);
/* Ends the process of a hypervisor that was started from a saved state and is not to go on; where
 * its guest has certainly not run, the state is as good as before. hv_vm_end comes after it. */
void vm_end_resuming(const struct vm *vm, struct hv_vm *hv);
int vm_mark_resuming(const struct vm *vm, struct error **err);
/* The guest runs: the state is removed from the pool. Tried again when the VM is stopped. */
void vm_drop_used(const struct vm *vm);

/* Waits until nothing of the VM is here any more and nobody works on it; false at the deadline. The
 * caller holds a reference. */
bool vm_wait_unlisted(const struct vm *vm, int64_t deadline_ms);

#endif
