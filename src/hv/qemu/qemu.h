/*
 * Inside the QEMU driver: what its files share.
 *
 * In a VM's run directory: `qmp.sock` (control) and `console.sock`, both made by drover and passed
 * to QEMU as listening sockets, so that a connection made before QEMU is ready waits and is not
 * refused, and one to a QEMU that fails is closed; `hv.log` (QEMU's standard error); `hv.json` (who
 * it is, for the next droverd); `spare.in` and `spare.out` (spare.h); `vnc.sock` where asked for.
 * The directory belongs to root, is writable for the VMs' group (QEMU makes the socket for a stream
 * there) and has the sticky bit, so that a QEMU taken over by its guest cannot replace hv.json or
 * plant a link where root writes.
 */
#ifndef DROVER_HV_QEMU_QEMU_H
#define DROVER_HV_QEMU_QEMU_H

#include "hv/driver.h"
#include "hv/qemu/qmp.h"

#include <pthread.h>

/* The driver's operations (hv/driver.h), as hv.h describes them. */
struct hv *qemu_open(const struct hv_settings *settings, struct error **err);
void qemu_close(struct hv *hv);
json_t *qemu_facts_json(const struct hv *hv);
void qemu_complete_def(const struct hv *hv, struct vm_def *def);
int qemu_check_def(const struct hv *hv, const struct vm_def *def, struct error **err);
int qemu_check_machine(const struct hv *hv, const struct vm_def *def, struct error **err);
int qemu_check_cpu(const struct hv *hv, const struct vm_def *def, struct error **err);
int qemu_check_postcopy(const struct hv *hv, struct error **err);
int qemu_image_create(const struct hv *hv, const char *path, const char *format,
	uint64_t size_bytes, const char *backing, const char *backing_format, struct error **err);
json_t *qemu_image_info(const struct hv *hv, const char *path, struct error **err);
struct hv_vm *qemu_vm_start(struct hv *hv, const struct hv_start *how, struct error **err);
struct hv_vm *qemu_vm_attach(struct hv *hv, const char *run_dir, struct error **err);
void qemu_vm_close(struct hv_vm *vm);
enum hv_state qemu_vm_state(struct hv_vm *vm);
int qemu_vm_resume(struct hv_vm *vm, struct error **err);
int qemu_vm_pause(struct hv_vm *vm, struct error **err);
int qemu_vm_powerdown(struct hv_vm *vm, struct error **err);
int qemu_vm_end(struct hv_vm *vm, int64_t deadline_ms, struct error **err);
bool qemu_vm_hangs(struct hv_vm *vm);
bool qemu_vm_wait_off(struct hv_vm *vm, int64_t deadline_ms);
int qemu_vm_announce(struct hv_vm *vm, struct error **err);
int qemu_vm_check_movable(struct hv_vm *vm, struct error **err);
int qemu_vm_migrate(struct hv_vm *vm, const char *path, const struct hv_migrate_params *params,
	struct error **err);
int qemu_vm_migrate_set(
	struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err);
int qemu_vm_migrate_incoming(struct hv_vm *vm, const char *path, bool postcopy, struct error **err);
int qemu_vm_migrate_postcopy(struct hv_vm *vm, struct error **err);
int qemu_vm_migrate_recover(struct hv_vm *vm, const char *path, struct error **err);
int qemu_vm_migrate_resume(struct hv_vm *vm, const char *path, struct error **err);
int qemu_vm_migrate_status(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err);
int qemu_vm_migrate_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
	struct hv_migrate_status *status, struct error **err);
int qemu_vm_migrate_follow(struct hv_vm *vm, int64_t deadline_ms, struct hv_migrate_status *status,
	struct error **err);
int qemu_vm_migrate_cancel(struct hv_vm *vm, struct error **err);
int qemu_vm_migrate_abandon(struct hv_vm *vm, struct error **err);
int qemu_vm_dirty_rate(struct hv_vm *vm, uint64_t memory_bytes, int64_t deadline_ms,
	struct hv_dirty_rate *rate, struct error **err);
int qemu_vm_sample_memory(struct hv_vm *vm, uint64_t memory_bytes, const struct hv_sample *where,
	int64_t deadline_ms, uint8_t *out, size_t *got, struct error **err);

int qemu_check_suspend(const struct hv *hv, struct error **err);
int qemu_vm_checkpoint(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err);
int qemu_vm_checkpoint_wait(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err);

/* checkpoint.c: loads a state from a file into a QEMU that waits for a stream. */
int qemu_load(struct hv_vm *vm, const char *file, struct error **err);
/* migrate.c: capabilities and parameters of a stream that goes out, and of one that comes. */
int qemu_migrate_prepare(
	struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err);
int qemu_incoming_prepare(struct hv_vm *vm, struct error **err);

/* Path of a file in a run directory. The caller frees it. */
char *qemu_path(const char *run_dir, const char *file);
/* Removes what a QEMU that has ended left in its run directory, and the directory if it is empty.
 */
void qemu_clean(const char *run_dir);

/* Runs a QMP command with the usual limit. When QEMU has ended, the error says what it said last.
 */
int qemu_run(struct hv_vm *vm, const char *command, json_t *arguments, json_t **result,
	struct error **err);
/* With a limit of its own. */
int qemu_run_for(struct hv_vm *vm, int64_t limit_ms, const char *command, json_t *arguments,
	json_t **result, struct error **err);
/* Whether the last that QEMU told of a migration is that it goes on. At its end, while the guest is
 * paused and its last pages go out, QEMU answers nothing until they are written: as long as the
 * network takes. It is then asked with the limit QEMU_BUSY_MS, and not answering means that. */
#define QEMU_BUSY_MS 2000
bool qemu_migrates(struct hv_vm *vm);
/* What it told last ("active", "postcopy-paused"), "" for nothing. Its thread for events goes on
 * while the one for commands waits for a page of the guest. */
void qemu_last_migration(struct hv_vm *vm, char status[QMP_NAME_MAX]);
/* The guest's run state ("running", "postmigrate", …) as QEMU calls it. */
int qemu_run_state(struct hv_vm *vm, char state[QMP_NAME_MAX], struct error **err);
/* The same, after waiting until QEMU is done with the end of a migration ("finish-migrate"), in
 * which it takes no orders. */
int qemu_settled_state(struct hv_vm *vm, char state[QMP_NAME_MAX], struct error **err);
/* The same on a destination, after waiting until QEMU is done with loading what it has
 * ("inmigrate").
 */
int qemu_loaded_state(struct hv_vm *vm, char state[QMP_NAME_MAX], struct error **err);
/* Whether the connection is gone because the process has ended; reaps it. */
bool qemu_gone(struct hv_vm *vm);

/* Lets a QEMU that waits for a stream be switched to post-copy: here it finds out whether its node
 * lets it. ERROR_HYPERVISOR says what to allow. */
int qemu_allow_postcopy(
	const struct hv *hv, struct qmp *qmp, int64_t deadline_ms, struct error **err);

/* movable.c: why a running guest must not be moved with this version and accelerator, as the rest
 * of a sentence; NULL when nothing is known against it. */
const char *qemu_live_defect(const struct hv_facts *facts);
/* Whether post-copy is safe with it: ERROR_HYPERVISOR. */
int qemu_check_postcopy_version(const struct hv_facts *facts, struct error **err);

/* What is worth reading at the end of QEMU's log as one line, "" when there is nothing. */
void qemu_log_tail(const char *run_dir, char out[512]);
/* Makes of QEMU's own words `said` the error that a person can act on: a lock, a disk that does not
 * open, a tap, memory. `name` is "VM web1", `doing` "start". Returns -1. */
int qemu_explain(const char *name, const char *doing, const char *said,
	const struct hv_settings *set, struct error **err);

#endif
