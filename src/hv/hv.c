#include "hv/driver.h"

#include "base/fs.h"

#include <string.h>

const struct hv_driver *hv_find_driver(const char *name)
{
	static const struct hv_driver *const drivers[] = {&qemu_driver, &bhyve_driver};

	for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++)
		if (!strcmp(drivers[i]->name, name))
			return drivers[i];
	return NULL;
}

struct hv *hv_open(const struct hv_settings *settings, struct error **err)
{
	const struct hv_driver *driver =
		hv_find_driver(settings->driver ? settings->driver : "qemu");
	struct hv *hv;

	if (!driver) {
		error_set(err, ERROR_DEFINITION, 0,
			"there is no hypervisor \"%s\"; there are qemu and bhyve",
			settings->driver);
		return NULL;
	}
	hv = driver->open(settings, err);
	if (hv)
		hv->driver = driver;
	return hv;
}

const struct hv_facts *hv_get_facts(const struct hv *hv)
{
	return &hv->facts;
}

const struct hv_cpu_models *hv_cpu_models(const struct hv *hv)
{
	return &hv->models;
}

const struct process_id *hv_vm_process(const struct hv_vm *vm)
{
	return &vm->id;
}

const char *hv_vm_console(const struct hv_vm *vm)
{
	return vm->console;
}

void hv_close(struct hv *hv)
{
	if (hv)
		hv->driver->close(hv);
}

json_t *hv_facts_json(const struct hv *hv)
{
	return hv->driver->facts_json(hv);
}

void hv_complete_def(const struct hv *hv, struct vm_def *def)
{
	if (!def->hypervisor)
		def->hypervisor = fs_format("%s", hv->driver->name);
	hv->driver->complete_def(hv, def);
}

static int check_driver(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	if (!strcmp(def->hypervisor, hv->driver->name))
		return 0;
	return error_set(err, ERROR_HYPERVISOR, 0,
		"VM %s is one of %s (its key hypervisor), and this node runs VMs by %s", def->name,
		def->hypervisor, hv->driver->name);
}

int hv_check_def(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	return check_driver(hv, def, err) < 0 ? -1 : hv->driver->check_def(hv, def, err);
}

int hv_check_machine(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	return check_driver(hv, def, err) < 0 ? -1 : hv->driver->check_machine(hv, def, err);
}

int hv_check_cpu(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	return hv->driver->check_cpu(hv, def, err);
}

int hv_check_postcopy(const struct hv *hv, struct error **err)
{
	return hv->driver->check_postcopy(hv, err);
}

int hv_image_create(const struct hv *hv, const char *path, const char *format, uint64_t size_bytes,
	const char *backing, const char *backing_format, struct error **err)
{
	return hv->driver->image_create(hv, path, format, size_bytes, backing, backing_format, err);
}

json_t *hv_image_info(const struct hv *hv, const char *path, struct error **err)
{
	return hv->driver->image_info(hv, path, err);
}

struct hv_vm *hv_vm_start(struct hv *hv, const struct hv_start *how, struct error **err)
{
	return hv->driver->vm_start(hv, how, err);
}

struct hv_vm *hv_vm_attach(struct hv *hv, const char *run_dir, struct error **err)
{
	return hv->driver->vm_attach(hv, run_dir, err);
}

void hv_vm_close(struct hv_vm *vm)
{
	if (vm)
		vm->hv->driver->vm_close(vm);
}

enum hv_state hv_vm_state(struct hv_vm *vm)
{
	return vm->hv->driver->vm_state(vm);
}

int hv_vm_resume(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_resume(vm, err);
}

int hv_vm_pause(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_pause(vm, err);
}

int hv_vm_powerdown(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_powerdown(vm, err);
}

int hv_vm_end(struct hv_vm *vm, int64_t deadline_ms, struct error **err)
{
	return vm->hv->driver->vm_end(vm, deadline_ms, err);
}

bool hv_vm_hangs(struct hv_vm *vm)
{
	return vm->hv->driver->vm_hangs(vm);
}

bool hv_vm_wait_off(struct hv_vm *vm, int64_t deadline_ms)
{
	return vm->hv->driver->vm_wait_off(vm, deadline_ms);
}

int hv_vm_announce(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_announce(vm, err);
}

int hv_vm_check_movable(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_check_movable(vm, err);
}

int hv_vm_migrate(struct hv_vm *vm, const char *path, const struct hv_migrate_params *params,
	struct error **err)
{
	return vm->hv->driver->vm_migrate(vm, path, params, err);
}

int hv_vm_migrate_set(struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err)
{
	return vm->hv->driver->vm_migrate_set(vm, params, err);
}

int hv_vm_migrate_incoming(struct hv_vm *vm, const char *path, bool postcopy, struct error **err)
{
	return vm->hv->driver->vm_migrate_incoming(vm, path, postcopy, err);
}

int hv_vm_migrate_postcopy(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_migrate_postcopy(vm, err);
}

int hv_vm_migrate_recover(struct hv_vm *vm, const char *path, struct error **err)
{
	return vm->hv->driver->vm_migrate_recover(vm, path, err);
}

int hv_vm_migrate_resume(struct hv_vm *vm, const char *path, struct error **err)
{
	return vm->hv->driver->vm_migrate_resume(vm, path, err);
}

int hv_vm_migrate_status(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err)
{
	return vm->hv->driver->vm_migrate_status(vm, status, err);
}

int hv_vm_migrate_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
	struct hv_migrate_status *status, struct error **err)
{
	return vm->hv->driver->vm_migrate_wait(vm, phase, deadline_ms, status, err);
}

int hv_vm_migrate_follow(
	struct hv_vm *vm, int64_t deadline_ms, struct hv_migrate_status *status, struct error **err)
{
	return vm->hv->driver->vm_migrate_follow(vm, deadline_ms, status, err);
}

int hv_vm_migrate_cancel(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_migrate_cancel(vm, err);
}

int hv_vm_migrate_abandon(struct hv_vm *vm, struct error **err)
{
	return vm->hv->driver->vm_migrate_abandon(vm, err);
}

static int cannot_measure(const struct hv_vm *vm, struct error **err)
{
	return error_set(err, ERROR_REFUSED, 0, "%s: %s does not let a running guest be measured",
		vm->name, vm->hv->driver->name);
}

int hv_vm_dirty_rate(struct hv_vm *vm, uint64_t memory_bytes, int64_t deadline_ms,
	struct hv_dirty_rate *rate, struct error **err)
{
	const struct hv_driver *driver = vm->hv->driver;

	return driver->vm_dirty_rate
		       ? driver->vm_dirty_rate(vm, memory_bytes, deadline_ms, rate, err)
		       : cannot_measure(vm, err);
}

int hv_vm_sample_memory(struct hv_vm *vm, uint64_t memory_bytes, const struct hv_sample *where,
	int64_t deadline_ms, uint8_t *out, size_t *got, struct error **err)
{
	const struct hv_driver *driver = vm->hv->driver;

	*got = 0;
	return driver->vm_sample_memory ? driver->vm_sample_memory(vm, memory_bytes, where,
						  deadline_ms, out, got, err)
					: cannot_measure(vm, err);
}

int hv_check_suspend(const struct hv *hv, struct error **err)
{
	if (!hv->driver->check_suspend)
		return error_set(err, ERROR_HYPERVISOR, 0, "%s cannot suspend a guest into files",
			hv->driver->name);
	return hv->driver->check_suspend(hv, err);
}

bool hv_checkpoint_is_whole(const struct hv *hv, const char *file)
{
	return hv->driver->checkpoint_is_whole && hv->driver->checkpoint_is_whole(file);
}

int hv_vm_checkpoint(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err)
{
	if (hv_check_suspend(vm->hv, err) < 0)
		return error_prefix(err, "%s", vm->name);
	return vm->hv->driver->vm_checkpoint(vm, file, suspend, deadline_ms, err);
}

int hv_vm_checkpoint_wait(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err)
{
	return vm->hv->driver->vm_checkpoint_wait(vm, file, suspend, deadline_ms, err);
}

int hv_vm_migrate_seen(struct hv_vm *vm, enum hv_migrate_phase phase, struct error **err)
{
	const struct hv_driver *driver = vm->hv->driver;

	return driver->vm_migrate_seen ? driver->vm_migrate_seen(vm, phase, err) : 0;
}

void hv_vm_migrate_connected(struct hv_vm *vm, int fd)
{
	if (vm->hv->driver->vm_migrate_connected)
		vm->hv->driver->vm_migrate_connected(vm, fd);
	else
		close_fd(&fd);
}

int hv_vm_migrate_port(const struct hv_vm *vm)
{
	return vm->hv->driver->vm_migrate_port ? vm->hv->driver->vm_migrate_port(vm) : 0;
}

bool hv_vm_never_ran(struct hv_vm *vm)
{
	return vm->hv->driver->vm_never_ran && vm->hv->driver->vm_never_ran(vm);
}

enum hv_way hv_way(const struct hv *hv, const json_t *there, bool still)
{
	return hv->driver->way ? hv->driver->way(hv, there, still) : HV_WAY_STREAM;
}

int hv_room(const struct hv *hv, const struct vm_def *def, struct hv_room *room, bool measure,
	struct error **err)
{
	*room = (struct hv_room){0};
	if (!hv->driver->room)
		return error_set(
			err, ERROR_HYPERVISOR, 0, "%s moves no guest as files", hv->driver->name);
	return hv->driver->room(hv, def, room, measure, err);
}

bool hv_vm_is_files(struct hv_vm *vm)
{
	return vm->hv->driver->vm_is_files && vm->hv->driver->vm_is_files(vm);
}

const char *hv_state_name(enum hv_state state)
{
	static const char *const names[] = {
		[HV_RUNNING] = "running",
		[HV_STARTING] = "starting",
		[HV_PAUSED] = "paused",
		[HV_INCOMING] = "incoming",
		[HV_MIGRATED] = "migrated",
		[HV_OFF] = "off",
		[HV_FAILED] = "failed",
		[HV_SILENT] = "silent",
		[HV_GONE] = "gone",
	};

	return (size_t)state < sizeof(names) / sizeof(*names) ? names[state] : "unknown";
}

const char *hv_migrate_phase_name(enum hv_migrate_phase phase)
{
	static const char *const names[] = {
		[HV_MIGRATE_NONE] = "none",
		[HV_MIGRATE_SETUP] = "setup",
		[HV_MIGRATE_ACTIVE] = "active",
		[HV_MIGRATE_SWITCHOVER] = "switchover",
		[HV_MIGRATE_POSTCOPY] = "post-copy",
		[HV_MIGRATE_POSTCOPY_PAUSED] = "post-copy, paused",
		[HV_MIGRATE_COMPLETED] = "completed",
		[HV_MIGRATE_FAILED] = "failed",
		[HV_MIGRATE_CANCELLED] = "cancelled",
	};

	return (size_t)phase < sizeof(names) / sizeof(*names) ? names[phase] : "unknown";
}
