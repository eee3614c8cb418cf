/*
 * Inside src/vm: the saved state of a suspended VM, in the pool, so that any node that fits can
 * start the VM from it.
 *
 *     vms/VM/saved/state…      what the hypervisor wrote (hv_vm_checkpoint)
 *     vms/VM/saved/vm.conf     the definition that the guest runs by
 *     vms/VM/saved/saved.json  what it was made with, and what the disks were like
 *     vms/VM/saved/begun       a start from it has let the guest run, or was about to
 *     vms/VM/.tmp.saved.ID/    one that is being written; nobody starts from it
 *
 * It is there whole or not at all: it gets its name by rename(2) when all of it is synced. It goes
 * when the guest runs again. A guest's memory belongs to its disks of the same moment, so it is
 * used only while no disk has been written to since: size and time of change (st_mtime) are kept.
 * What is no regular file has no such time; of a VM with such a disk a state is used only when the
 * mark `begun` tells that no guest can have run from it yet.
 */
#ifndef DROVER_VM_SAVED_H
#define DROVER_VM_SAVED_H

#include "vm/internal.h"

#define SAVED_ID_SIZE 33 /* 32 hexadecimal digits */

struct saved_disk {
	bool is_file; /* else the others are 0 */
	int64_t size_bytes, mtime_s, mtime_ns;
};

struct saved {
	char *hypervisor, *version, *accel, *cpu_model; /* of the node that made it */
	char *node;
	int64_t when_ms, bytes; /* wall clock; all that the hypervisor wrote */
	struct saved_disk disks[VM_DEF_DISKS_MAX];
	int disks_count;
	struct vm_def *def; /* as it was started */
};
void saved_free(struct saved *saved);
void saved_cleanup(struct saved **saved);
#define cleanup_saved __attribute__((cleanup(saved_cleanup)))

/* Whether the VM has one. A pool that does not answer has none: for what is shown. */
bool saved_exists(const struct vms *vms, const char *name);
/* The same for what must not lose one: 1, 0, or -1 and ERROR_POOL when it cannot be told. */
int saved_look(const struct vms *vms, const char *name, struct error **err);
/* ERROR_NOT_FOUND when there is none; ERROR_POOL when it cannot be read, which is not "none". */
struct saved *saved_read(const struct vms *vms, const char *name, struct error **err);
/* Path of the hypervisor's files in it. The caller frees it. */
char *saved_state_path(const struct vms *vms, const char *name);

/* Makes the directory for a new one, after removing what others left half written; `file` (the
 * caller's) is the path for the hypervisor. ERROR_NO_SPACE where the pool has no room for
 * `memory_bytes`. The VM runs here, and so nobody else works on it. */
int saved_begin(const struct vms *vms, const char *name, uint64_t memory_bytes,
	char id[SAVED_ID_SIZE], char **file, struct error **err);
/* Path of the hypervisor's files in one that was begun. The caller frees it. */
char *saved_begun_path(const struct vms *vms, const char *name, const char *id);
/* Puts it in its place, when the hypervisor writes no more to its files nor to the disks:
 * describes and syncs it, and renames. ERROR_NOT_OWNER when this node has lost the VM. */
int saved_publish(
	const struct vms *vms, const struct vm_def *def, const char *id, struct error **err);
/* Removes all that was begun and not put in its place. */
void saved_drop_unfinished(const struct vms *vms, const char *name);

/* Whether this node can go on from it: hypervisor, CPU, disks. ERROR_REFUSED in one sentence. */
int saved_check(struct vms *vms, const char *name, const struct saved *saved, struct error **err);
/* Before the guest is let run from it, and when it is certain that it has not run. */
int saved_mark_begun(const struct vms *vms, const char *name, struct error **err);
void saved_unmark_begun(const struct vms *vms, const char *name);
/* The guest has run again, or the state is not wanted. Nothing when there is none. */
int saved_remove(const struct vms *vms, const char *name, struct error **err);

#endif
