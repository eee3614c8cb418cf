/*
 * What a hypervisor's driver is: a table with the operations of hv.h, under the same names, and the
 * state that hv.c and the driver share. A driver is chosen when droverd starts (hv_open), by the
 * setting `hypervisor`; there is one for all VMs of a node.
 */
#ifndef DROVER_HV_DRIVER_H
#define DROVER_HV_DRIVER_H

#include "hv/hv.h"

struct hv_driver {
	const char *name;

	struct hv *(*open)(const struct hv_settings *settings, struct error **err);
	void (*close)(struct hv *hv);
	json_t *(*facts_json)(const struct hv *hv);
	void (*complete_def)(const struct hv *hv, struct vm_def *def);
	int (*check_def)(const struct hv *hv, const struct vm_def *def, struct error **err);
	int (*check_machine)(const struct hv *hv, const struct vm_def *def, struct error **err);
	int (*check_cpu)(const struct hv *hv, const struct vm_def *def, struct error **err);
	int (*check_postcopy)(const struct hv *hv, struct error **err);
	int (*image_create)(const struct hv *hv, const char *path, const char *format,
		uint64_t size_bytes, const char *backing, const char *backing_format,
		struct error **err);
	json_t *(*image_info)(const struct hv *hv, const char *path, struct error **err);

	struct hv_vm *(*vm_start)(struct hv *hv, const struct hv_start *how, struct error **err);
	struct hv_vm *(*vm_attach)(struct hv *hv, const char *run_dir, struct error **err);
	void (*vm_close)(struct hv_vm *vm);
	enum hv_state (*vm_state)(struct hv_vm *vm);
	int (*vm_resume)(struct hv_vm *vm, struct error **err);
	int (*vm_pause)(struct hv_vm *vm, struct error **err);
	int (*vm_powerdown)(struct hv_vm *vm, struct error **err);
	int (*vm_end)(struct hv_vm *vm, int64_t deadline_ms, struct error **err);
	bool (*vm_hangs)(struct hv_vm *vm);
	bool (*vm_wait_off)(struct hv_vm *vm, int64_t deadline_ms);
	int (*vm_announce)(struct hv_vm *vm, struct error **err);

	int (*vm_check_movable)(struct hv_vm *vm, struct error **err);
	int (*vm_migrate)(struct hv_vm *vm, const char *path,
		const struct hv_migrate_params *params, struct error **err);
	int (*vm_migrate_set)(
		struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err);
	int (*vm_migrate_incoming)(
		struct hv_vm *vm, const char *path, bool postcopy, struct error **err);
	int (*vm_migrate_postcopy)(struct hv_vm *vm, struct error **err);
	int (*vm_migrate_recover)(struct hv_vm *vm, const char *path, struct error **err);
	int (*vm_migrate_resume)(struct hv_vm *vm, const char *path, struct error **err);
	int (*vm_migrate_status)(
		struct hv_vm *vm, struct hv_migrate_status *status, struct error **err);
	int (*vm_migrate_wait)(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
		struct hv_migrate_status *status, struct error **err);
	int (*vm_migrate_follow)(struct hv_vm *vm, int64_t deadline_ms,
		struct hv_migrate_status *status, struct error **err);
	int (*vm_migrate_cancel)(struct hv_vm *vm, struct error **err);
	int (*vm_migrate_abandon)(struct hv_vm *vm, struct error **err);

	/* NULL: it cannot be measured. */
	int (*vm_dirty_rate)(struct hv_vm *vm, uint64_t memory_bytes, int64_t deadline_ms,
		struct hv_dirty_rate *rate, struct error **err);
	int (*vm_sample_memory)(struct hv_vm *vm, uint64_t memory_bytes,
		const struct hv_sample *where, int64_t deadline_ms, uint8_t *out, size_t *got,
		struct error **err);

	/* NULL: there is none. */
	int (*check_suspend)(const struct hv *hv, struct error **err);
	int (*vm_checkpoint)(struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms,
		struct error **err);
	int (*vm_checkpoint_wait)(struct hv_vm *vm, const char *file, bool suspend,
		int64_t deadline_ms, struct error **err);
	/* NULL: a hypervisor that ended by itself has left none that is whole. */
	bool (*checkpoint_is_whole)(const char *file);

	/* NULL but for a driver with hv_facts.runs_at_once. */
	int (*vm_migrate_seen)(struct hv_vm *vm, enum hv_migrate_phase phase, struct error **err);
	void (*vm_migrate_connected)(struct hv_vm *vm, int fd);
	int (*vm_migrate_port)(const struct hv_vm *vm);
	bool (*vm_never_ran)(struct hv_vm *vm);

	/* NULL: HV_WAY_STREAM, always; never as files. */
	enum hv_way (*way)(const struct hv *hv, const json_t *there, bool still);
	int (*room)(const struct hv *hv, const struct vm_def *def, struct hv_room *room,
		bool measure, struct error **err);
	bool (*vm_is_files)(struct hv_vm *vm);
};

extern const struct hv_driver qemu_driver, bhyve_driver;
/* The driver of that name, NULL for none. */
const struct hv_driver *hv_find_driver(const char *name);

struct hv {
	const struct hv_driver *driver;
	struct hv_settings set;
	struct hv_facts facts;
	struct hv_cpu_models models;
	struct cpu_set given; /* all features that can be given here */
	char vendor[16];      /* of the CPU that has them all */
	/* QEMU's */
	json_t *machines; /* names that fit, newest first */
	json_t *vcpus;    /* machine: the most vCPUs that it can have */
	json_t *cpus;     /* model: array of the features missing here */
	/* bhyve's */
	unsigned abilities; /* BHYVE_… */
	char model[128];    /* of the host's CPU, as bhyve compares it */
};

struct hv_vm {
	const struct hv *hv; /* the caller's; outlives this */
	char *name;          /* "VM web1", for messages */
	char *run_dir;
	char *console;
	struct process_id id;
	/* QEMU's */
	struct qmp *qmp;
	struct qmp *spare; /* its second monitor; NULL: see hv/qemu/spare.h */
	struct bhyve_vm *bhyve;
};

#endif
