/*
 * The VMs of this node: started, stopped, watched, and found again after a restart of droverd.
 *
 * Rules kept here, and nowhere else:
 *  - a guest's CPUs are let run only while this node owns the VM (pool/owner.h);
 *  - at most one operation (start, stop, move, remove, rename, set) works on a VM at a time on this
 *    node: whoever holds its struct vm by vms_take() or a name by vms_reserve();
 *  - a hypervisor that ends by itself (the guest powered off, or crashed) is cleaned up and its VM
 *    released, so that it can be started on any node.
 */
#ifndef DROVER_VM_VM_H
#define DROVER_VM_VM_H

#include "base/error.h"
#include "hv/hv.h"
#include "pool/owner.h"
#include "pool/pool.h"
#include "pool/vm_def.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct vms; /* all of this node's */
struct vm;  /* a VM with a hypervisor process on this node */

/* node and the others belong to the caller and must outlive it. run_dir holds a directory a VM. */
struct vms *vms_open(const struct pool *pool, struct hv *hv, const char *node, const char *run_dir,
	struct error **err);
/* Directories besides the pool in which files of VMs may be, with colons between them; NULL: none.
 * The caller's; to be said before VMs are started. */
void vms_allow_paths(struct vms *vms, const char *directories);
/* Whether this node may open all files that a definition names: ERROR_REFUSED. */
int vms_check_paths(const struct vms *vms, const struct vm_def *def, struct error **err);
/* Stops watching and frees the handles; the hypervisors go on. */
void vms_close(struct vms *vms);

/* Attaches to the hypervisors that an earlier droverd left running. A VM whose hypervisor is gone
 * while this node owns it is released; one whose guest has certainly never run, and one that ends
 * from now on, when vms_recovered() has been called. Call once, before requests are served. */
int vms_find_again(struct vms *vms, struct error **err);
/* What an earlier droverd was doing with its VMs has been taken up (vms_take_again). */
void vms_recovered(struct vms *vms);

/* Makes vm.conf, and the disks that are not there yet: `disks[i].size` > 0 makes that disk (qcow2
 * or raw; with backing where given). The machine type and CPU model are filled in. On error nothing
 * that it made is left. */
struct vm_new_disk {
	uint64_t size_bytes; /* 0: with a backing file its size; without: it must exist */
	const char *backing, *backing_format; /* NULL: none */
};
int vms_create(
	struct vms *vms, struct vm_def *def, const struct vm_new_disk *disks, struct error **err);
/* Starts a VM here: claims it (ERROR_NOT_OWNER says whose it is), starts its hypervisor and lets
 * the guest run. A CPU "baseline" is made exact, which vm.conf keeps. ERROR_RUNNING when it runs
 * here already. A suspended guest goes on, by the definition that it had; ERROR_REFUSED where it
 * cannot. With `discard` its state is thrown away, and it boots. */
int vms_start(struct vms *vms, const char *name, bool discard, struct error **err);
/* Saves the state of a guest that runs here into the pool, and stops the VM: it is nobody's then,
 * and whichever node starts it lets the guest go on from there. ERROR_HYPERVISOR where this
 * hypervisor cannot, ERROR_NO_SPACE; on these and most errors the guest goes on. ERROR_TIMEOUT: the
 * hypervisor still writes; when it has, the VM is suspended. */
int vms_suspend(struct vms *vms, const char *name, struct error **err);
/* Asks the guest by ACPI and waits, after timeout_ms (0: at once) ends the hypervisor; then
 * releases the VM. `forced` (may be NULL) says whether the guest had to be ended. With a timeout of
 * 0 a hypervisor that hangs is ended also while something else (a migration) works on the VM, and
 * waits for it: ERROR_NOT_OWNER when the VM turns out to be on another node after that. */
int vms_stop(
	struct vms *vms, const char *name, int64_t timeout_ms, bool *forced, struct error **err);
/* Only VMs that run nowhere: owned by nobody, or by this node with no hypervisor. One that is
 * suspended is removed only with `discard`, which throws its guest's state away: ERROR_REFUSED. */
int vms_remove(struct vms *vms, const char *name, bool discard, struct error **err);
int vms_rename(struct vms *vms, const char *name, const char *to, struct error **err);
/* Sets keys of vm.conf ({"memory":"1G","disk0.cache":"none","vnc":null}): takes effect when the VM
 * boots next. What its guest goes by until then: */
enum vms_set_guest { VMS_SET_NONE, VMS_SET_RUNNING, VMS_SET_SUSPENDED };
int vms_set(struct vms *vms, const char *name, const json_t *keys, enum vms_set_guest *guest,
	struct error **err);

/*
 * Takes a VM over from a node that is dead: claims it at the next epoch, and starts nothing.
 * ERROR_REFUSED when it is nobody's or ours, or a hypervisor holds the lock of one of its disks
 * (`fenced` looks at no lock: the user says that the owner is off); ERROR_RUNNING, ERROR_BUSY.
 * `check` asks whether the owner lives, with the VM taken, so that nothing else happens to it here.
 * *owner is who had it.
 */
struct vms_recover {
	bool fenced;
	bool only_check; /* claims nothing */
	int (*check)(void *arg, const char *vm, const char *owner, bool fenced, struct error **err);
	void *arg;
};
int vms_recover(struct vms *vms, const char *name, const struct vms_recover *how,
	struct pool_owner *owner, struct error **err);

/* Ends each copy here whose VM belongs to another node, or to none, by now: it was recovered while
 * this node was cut off. To be called again and again. Copies that an operation works on are left
 * to it, and those that are spared: of a migration that has not ended. An owner of an older epoch
 * than ours ends nothing: that pool was put back from a backup. */
struct vms_spare {
	bool (*is_spared)(void *arg, const char *vm);
	void *arg;
};
void vms_end_lost(struct vms *vms, const struct vms_spare *spare);

/*
 * What is known of a VM of the pool, whichever node has it:
 * {"name","node","epoch","state","memory","cpus","sockets","cores","threads","operation",
 * "pid"(here only),"uptime_s"(here)}.
 * "state" is a hv_state_name of a VM that runs here, "stopped" of one that nobody owns, or
 * "suspended" where it has a saved state (then "saved": {"node","when_ms","bytes","version"}, or
 * {"problem"} where it cannot be read), "elsewhere"
 * of one that another node owns (ask that node), "down" of one that this node owns but does not
 * run, "broken" with "problem" where vm.conf or the owner cannot be read.
 */
json_t *vms_info(struct vms *vms, const char *name, struct error **err);
json_t *vms_list(struct vms *vms, struct error **err);
/* What is being done with a VM on this node now ("being moved to node2"); false: nothing. */
bool vms_operation(struct vms *vms, const char *name, char out[128]);
/* ERROR_BUSY, with the operation and how it can be ended, while there is one. */
int vms_check_free(struct vms *vms, const char *name, struct error **err);
/* Whether a VM that does not run has a saved state that a start goes on from. */
bool vms_is_suspended(const struct vms *vms, const char *name);
/* Why it is not there, for one that does not run: ERROR_NOT_RUNNING with what starts it. */
int vms_not_running(const struct vms *vms, const char *name, struct error **err);
/* Path of the console's socket of a VM that runs here. The caller frees it. */
char *vms_console(struct vms *vms, const char *name, struct error **err);

/*
 * The CPUs of the cluster as its nodes' records tell (hv/cpu.h): of `nodes` (names with commas
 * between them), NULL: of all.
 * {"nodes":[{"node","driver","version","accel","vendor","features":[…],"lacks":[…],"without_it"}],
 *  "differ":[…],"baselines":[{"nodes":[…],"cpu","features":[…]}],
 *  "vms":[{"vm","node","cpu","cannot_move_to":[{"node","missing":[…]}]}]}
 * "lacks" are the features that the others like it would all have and it does not; "without_it" is
 * what they could give. Wherever something cannot be told there is "problem" instead. Sets nothing
 * and asks no node. ERROR_NO_NODE.
 */
json_t *vms_cpu_report(struct vms *vms, const char *nodes, struct error **err);
/* What of it `drover node ls` shows, which is quicker: {"node3":["sha-ni",…]}, the nodes that lack
 * something. */
json_t *vms_cpu_lacks(struct vms *vms, struct error **err);
/* Logs what this node costs the others: to be called when it has come up. */
void vms_warn_of_cpu(struct vms *vms);

/*
 * For migrations.
 */

/* Whether the guest of this definition, which runs on node `from`, can go on here as far as its CPU
 * goes: every feature that it has been given, and what hv_cpu_alike asks. A node that has not
 * published what it can give is not asked for the latter. ERROR_HYPERVISOR names what is missing.
 */
int vms_check_cpu_from(
	struct vms *vms, const struct vm_def *def, const char *from, struct error **err);

/* Takes a VM that runs here for an operation ("being moved to node2"): ERROR_NO_VM, ERROR_NOT_OWNER
 * (with the owner's name), ERROR_NOT_RUNNING, ERROR_BUSY. Give it back with vm_give_back. */
struct vm *vms_take(struct vms *vms, const char *name, const char *operation, struct error **err);
/* For recovery: takes whatever hypervisor of that VM is here, whoever owns it; also one that has
 * ended, where its guest has certainly never run. ERROR_NOT_RUNNING. */
struct vm *vms_take_again(
	struct vms *vms, const char *name, const char *operation, struct error **err);
/* Keeps at which epoch this node owns a VM that was taken, also for the next droverd: a pool that
 * was put back from a backup is known by that (vms_end_lost). */
void vm_keep_epoch(struct vm *vm);
/* Ends the operation; the VM goes on as it is, watched again. */
void vm_give_back(struct vm *vm);
/* Ends the operation and the hypervisor, at once, with what it left. The VM is not released: its
 * owner is somebody else by now, or nobody ever was. */
void vm_end(struct vm *vm);
/* Takes a VM that is to come here, for `operation`; its directory is there. The caller ends with
 * vm_give_back (it is the owner and the guest runs) or vm_end. */
struct vm *vms_take_incoming(
	struct vms *vms, const struct vm_def *def, const char *operation, struct error **err);
/* Starts its hypervisor, which waits for a stream, or makes all ready for a guest that comes as
 * `files` (hv.h, HV_WAY_FILES). */
int vm_start_incoming(struct vm *vm, const struct vm_def *def, bool files, struct error **err);

/* A look at a VM that runs here, without taking it: something may be done to it, or it may end,
 * meanwhile. NULL when it has no hypervisor here. vm_unref gives it back. */
struct vm *vms_find(struct vms *vms, const char *name);
void vm_unref(struct vm *vm);

struct hv_vm *vm_hv(struct vm *vm);
const struct vm_def *vm_definition(const struct vm *vm);
/* Directory for this VM's sockets. */
const char *vm_run_dir(const struct vm *vm);
/* The node that a VM is on, as its ownership says: "" when nobody's. For messages and forwarding.
 */
int vms_where(struct vms *vms, const char *name, struct pool_owner *owner, struct error **err);

#endif
