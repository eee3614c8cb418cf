#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* QEMU's own limit of downtime-limit: 2,000 s. */
#define DOWNTIME_MAX_MS 2000000
/* Between two tries to reach one that hangs. */
#define AGAIN_MS 200

struct capability {
	const char *name;
	bool state;
};

/* The arguments of migrate-set-capabilities. */
static json_t *capabilities(const struct capability *caps, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_pack("{s:s, s:b}", "capability", caps[i].name,
						    "state", caps[i].state));
	return json_pack("{s:o}", "capabilities", list);
}

static int set_capabilities(
	struct hv_vm *vm, const struct capability *caps, size_t count, struct error **err)
{
	return qemu_run(vm, "migrate-set-capabilities", capabilities(caps, count), NULL, err);
}

static int run_uri(struct hv_vm *vm, const char *command, const char *path, struct error **err)
{
	cleanup_free char *uri = fs_format("unix:%s", path);

	json_t *arguments = json_pack("{s:s}", "uri", uri);

	if (!arguments)
		return error_set(
			err, ERROR_USAGE, 0, "%s: the path %s is not UTF-8 text", vm->name, path);
	return qemu_run(vm, command, arguments, NULL, err);
}

int qemu_vm_migrate_set(
	struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err)
{
	if (params->downtime_limit_ms < 1 || params->downtime_limit_ms > DOWNTIME_MAX_MS ||
		params->bandwidth_bps < 0)
		return error_set(err, ERROR_USAGE, 0,
			"%s: the downtime limit is 1 to %d ms, and the bandwidth not negative",
			vm->name, DOWNTIME_MAX_MS);
	/* To QEMU as to us a bandwidth of 0 is no limit; what it begins with is 128 MiB/s. In
	 * post-copy the limit is for the pages that nobody waits for. */
	return qemu_run(vm, "migrate-set-parameters",
		json_pack("{s:I, s:I, s:I}", "downtime-limit",
			(json_int_t)params->downtime_limit_ms, "max-bandwidth",
			(json_int_t)params->bandwidth_bps, "max-postcopy-bandwidth",
			(json_int_t)params->bandwidth_bps),
		NULL, err);
}

int qemu_migrate_prepare(
	struct hv_vm *vm, const struct hv_migrate_params *params, struct error **err)
{
	/* With a return path the destination's answer, or its silence, would decide at the end
	 * whether this copy runs again. That is ours to decide. Post-copy cannot do without. */
	const struct capability caps[] = {{"events", true}, {"return-path", params->postcopy},
		{"postcopy-ram", params->postcopy}};

	if (params->postcopy && qemu_check_postcopy_version(&vm->hv->facts, err) < 0)
		return error_prefix(err, "%s", vm->name);
	if (set_capabilities(vm, caps, sizeof(caps) / sizeof(*caps), err) < 0)
		return -1;
	return qemu_vm_migrate_set(vm, params, err);
}

int qemu_vm_migrate(struct hv_vm *vm, const char *path, const struct hv_migrate_params *params,
	struct error **err)
{
	if (qemu_migrate_prepare(vm, params, err) < 0)
		return -1;
	return run_uri(vm, "migrate", path, err);
}

/* QEMU tries here whether it can let a guest fault on pages that are not there yet. */
int qemu_allow_postcopy(
	const struct hv *hv, struct qmp *qmp, int64_t deadline_ms, struct error **err)
{
	static const struct capability caps[] = {{"postcopy-ram", true}};
	struct error *why = NULL;
	const char *said;

	if (qemu_check_postcopy_version(&hv->facts, err) < 0)
		return -1;
	if (qmp_run(qmp, "migrate-set-capabilities", capabilities(caps, 1), deadline_ms, NULL,
		    &why) == 0)
		return 0;
	if (why->kind != ERROR_HYPERVISOR)
		return error_move(err, why);
	said = strstr(why->message, "capabilities: ");
	error_set(err, ERROR_HYPERVISOR, 0,
		"post-copy needs userfaultfd, which its QEMU may not use there (%s): let group "
		"%u open /dev/userfaultfd%s, or set the sysctl vm.unprivileged_userfaultfd to 1",
		said ? strchr(said, ' ') + 1 : why->message, (unsigned)hv->set.gid,
		hv->facts.major < 8 ? " and use QEMU 8 or later" : "");
	error_free(&why);
	return -1;
}

int qemu_incoming_prepare(struct hv_vm *vm, struct error **err)
{
	/* The images, and their locks, are taken by `cont` and not when all is loaded. */
	static const struct capability caps[] = {{"events", true}, {"late-block-activate", true}};

	return set_capabilities(vm, caps, sizeof(caps) / sizeof(*caps), err);
}

int qemu_vm_migrate_incoming(struct hv_vm *vm, const char *path, bool postcopy, struct error **err)
{
	if (qemu_incoming_prepare(vm, err) < 0)
		return -1;
	if (postcopy && qemu_allow_postcopy(vm->hv, vm->qmp, clock_ms() + HV_ANSWER_MS, err) < 0)
		return error_prefix(err, "%s", vm->name);
	return run_uri(vm, "migrate-incoming", path, err);
}

int qemu_vm_migrate_postcopy(struct hv_vm *vm, struct error **err)
{
	return qemu_run(vm, "migrate-start-postcopy", NULL, NULL, err);
}

static enum hv_migrate_phase phase_of(const char *status)
{
	static const struct {
		const char *status;
		enum hv_migrate_phase phase;
	} phases[] = {
		{"none", HV_MIGRATE_NONE}, {"setup", HV_MIGRATE_SETUP},
		{"wait-unplug", HV_MIGRATE_SETUP}, {"pre-switchover", HV_MIGRATE_SWITCHOVER},
		{"device", HV_MIGRATE_SWITCHOVER}, {"postcopy-device", HV_MIGRATE_SWITCHOVER},
		{"postcopy-active", HV_MIGRATE_POSTCOPY},
		{"postcopy-paused", HV_MIGRATE_POSTCOPY_PAUSED},
		{"postcopy-recover", HV_MIGRATE_POSTCOPY_PAUSED},
		{"postcopy-recover-setup", HV_MIGRATE_POSTCOPY_PAUSED},
		{"completed", HV_MIGRATE_COMPLETED}, {"failed", HV_MIGRATE_FAILED},
		{"cancelled", HV_MIGRATE_CANCELLED},
		/* and "active", "cancelling" */
	};

	for (size_t i = 0; i < sizeof(phases) / sizeof(*phases); i++)
		if (!strcmp(status, phases[i].status))
			return phases[i].phase;
	return HV_MIGRATE_ACTIVE;
}

/* What is no number, negative or too large is 0. */
static int64_t whole(double value)
{
	return value > 0 && value < 9e18 ? (int64_t)value : 0;
}

static int64_t number(const json_t *object, const char *key)
{
	return whole(json_number_value(json_object_get(object, key)));
}

static void read_ram(const json_t *ram, struct hv_migrate_status *s)
{
	int64_t page = number(ram, "page-size"), dirty = number(ram, "dirty-pages-rate");

	s->total_bytes = number(ram, "total");
	s->sent_bytes = number(ram, "transferred");
	s->remaining_bytes = number(ram, "remaining");
	s->dirty_rate_bps = page < (1 << 30) && dirty < (1ll << 32) ? dirty * page : 0;
	s->rate_bps = whole(json_number_value(json_object_get(ram, "mbps")) * 1e6 / 8);
	s->round = (int)(number(ram, "dirty-sync-count") & 0x7fffffff);
}

static int read_status(const json_t *answer, struct hv_migrate_status *s, struct error **err)
{
	const char *status, *failure;

	if (json_opt_string(answer, "status", "none", &status, err) < 0 ||
		json_opt_string(answer, "error-desc", "", &failure, err) < 0)
		return -1;
	s->phase = phase_of(status);
	snprintf(s->failure, sizeof(s->failure), "%s", failure);
	s->downtime_ms = s->phase == HV_MIGRATE_COMPLETED ? number(answer, "downtime") : 0;
	read_ram(json_object_get(answer, "ram"), s);
	return 0;
}

static int query(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err)
{
	int64_t limit_ms = qemu_migrates(vm) ? QEMU_BUSY_MS : HV_ANSWER_MS;
	cleanup_json json_t *answer = NULL;
	char state[QMP_NAME_MAX];

	if (qemu_run_for(vm, limit_ms, "query-migrate", NULL, &answer, err) < 0 ||
		read_status(answer, status, err) < 0)
		return -1;
	/* A failed or cancelled one is over when the guest is again what it was before; QEMU says
	 * "failed" a moment earlier. */
	if (status->phase == HV_MIGRATE_FAILED || status->phase == HV_MIGRATE_CANCELLED)
		return qemu_settled_state(vm, state, err);
	/* A destination says so before it has loaded the devices. */
	if (status->phase == HV_MIGRATE_POSTCOPY)
		return qemu_loaded_state(vm, state, err);
	/* QEMU 7.2 has no status of its own for it. */
	if (status->phase == HV_MIGRATE_ACTIVE) {
		if (qemu_run_state(vm, state, err) < 0)
			return -1;
		if (!strcmp(state, "finish-migrate"))
			status->phase = HV_MIGRATE_SWITCHOVER;
	}
	return 0;
}

int qemu_vm_migrate_status(struct hv_vm *vm, struct hv_migrate_status *status, struct error **err)
{
	struct error *why = NULL;
	char said[QMP_NAME_MAX];

	memset(status, 0, sizeof(*status));
	if (query(vm, status, &why) == 0)
		return 0;
	if (why->kind != ERROR_TIMEOUT || !qemu_migrates(vm))
		return error_move(err, why);
	error_free(&why);
	qemu_last_migration(vm, said);
	status->phase = phase_of(said);
	if (status->phase == HV_MIGRATE_ACTIVE)
		status->phase = HV_MIGRATE_SWITCHOVER;
	return 0;
}

/* Until it is in another phase than `phase`, or in a later round than `round`. */
static int wait_change(struct hv_vm *vm, enum hv_migrate_phase phase, int round,
	int64_t deadline_ms, struct hv_migrate_status *status, struct error **err)
{
	for (;;) {
		uint64_t seq = qmp_event_seq(vm->qmp);

		if (qemu_vm_migrate_status(vm, status, err) < 0)
			return -1;
		if (status->phase != phase || status->round > round || clock_ms() >= deadline_ms)
			return 0;
		qmp_wait_event(vm->qmp, seq, deadline_ms, NULL);
	}
}

int qemu_vm_migrate_wait(struct hv_vm *vm, enum hv_migrate_phase phase, int64_t deadline_ms,
	struct hv_migrate_status *status, struct error **err)
{
	return wait_change(vm, phase, INT_MAX, deadline_ms, status, err);
}

int qemu_vm_migrate_follow(
	struct hv_vm *vm, int64_t deadline_ms, struct hv_migrate_status *status, struct error **err)
{
	return wait_change(vm, status->phase, status->round, deadline_ms, status, err);
}

static bool unfinished(enum hv_migrate_phase phase)
{
	return phase == HV_MIGRATE_SETUP || phase == HV_MIGRATE_ACTIVE ||
	       phase == HV_MIGRATE_SWITCHOVER;
}

static bool in_postcopy(enum hv_migrate_phase phase)
{
	return phase == HV_MIGRATE_POSTCOPY || phase == HV_MIGRATE_POSTCOPY_PAUSED;
}

static int no_way_back(struct hv_vm *vm, struct error **err)
{
	return error_set(err, ERROR_REFUSED, 0,
		"%s: its hypervisor cannot take a switch to post-copy back", vm->name);
}

/* Both ends of a connection that broke wait for another; one that has not seen it is told. */
static int await_break(struct hv_vm *vm, int64_t deadline, struct error **err)
{
	struct error *why = NULL;
	struct hv_migrate_status status;

	if (qemu_vm_migrate_status(vm, &status, err) < 0)
		return -1;
	/* Refused when it has seen it meanwhile. */
	if (status.phase == HV_MIGRATE_POSTCOPY &&
		qmp_run_oob(vm->qmp, "migrate-pause", NULL, deadline, &why) < 0 &&
		why->kind != ERROR_HYPERVISOR)
		return error_move(err, why);
	error_free(&why);
	if (status.phase == HV_MIGRATE_POSTCOPY &&
		qemu_vm_migrate_wait(vm, HV_MIGRATE_POSTCOPY, deadline, &status, err) < 0)
		return -1;
	if (status.phase != HV_MIGRATE_POSTCOPY_PAUSED)
		return error_set(err, ERROR_REFUSED, 0,
			"%s: its post-copy is not interrupted, but %s", vm->name,
			hv_migrate_phase_name(status.phase));
	return 0;
}

/* Its main thread may wait for a page. */
static int recover_by(struct qmp *qmp, const char *path, int64_t deadline, struct error **err)
{
	cleanup_free char *uri = fs_format("unix:%s", path);

	return qmp_run_oob(qmp, "migrate-recover", json_pack("{s:s}", "uri", uri), deadline, err);
}

/* By its spare monitor, of a QEMU that hangs since before we came: it tells nothing of how it
 * stands. It is told of the break and of the other connection until it takes that. */
static int recover_silent(struct hv_vm *vm, const char *path, struct error **err)
{
	int64_t deadline = clock_ms() + HV_ANSWER_MS;

	for (;;) {
		uint64_t seq = qmp_event_seq(vm->spare);
		struct error *why = NULL;

		if (recover_by(vm->spare, path, deadline, &why) == 0)
			return 0;
		if (why->kind != ERROR_HYPERVISOR || clock_ms() >= deadline)
			return error_move(err, why);
		error_free(&why);
		qmp_run_oob(vm->spare, "migrate-pause", NULL, deadline, NULL);
		qmp_wait_event(vm->spare, seq, clock_ms() + AGAIN_MS, NULL);
	}
}

int qemu_vm_migrate_recover(struct hv_vm *vm, const char *path, struct error **err)
{
	int64_t deadline = clock_ms() + HV_ANSWER_MS;

	if (vm->spare && qmp_silent(vm->qmp))
		return recover_silent(vm, path, err);
	return await_break(vm, deadline, err) < 0 ? -1 : recover_by(vm->qmp, path, deadline, err);
}

int qemu_vm_migrate_resume(struct hv_vm *vm, const char *path, struct error **err)
{
	cleanup_free char *uri = fs_format("unix:%s", path);

	if (await_break(vm, clock_ms() + HV_ANSWER_MS, err) < 0)
		return -1;
	return qemu_run(vm, "migrate", json_pack("{s:s, s:b}", "uri", uri, "resume", 1), NULL, err);
}

/* At the end of a migration QEMU does not hear `migrate_cancel` before the stream has taken all;
 * but it lets itself be torn off the stream at any time, which makes the migration fail. */
static int stop(struct hv_vm *vm, struct error **err)
{
	struct error *why = NULL;
	json_t *stream;

	if (qemu_run_for(vm, QEMU_BUSY_MS, "migrate_cancel", NULL, NULL, &why) == 0)
		return 0;
	if (why->kind != ERROR_TIMEOUT)
		return error_move(err, why);
	error_free(&why);
	stream = json_pack("{s:[{s:s}]}", "instances", "type", "migration");
	/* Refused when the migration has ended meanwhile. */
	if (qmp_run_oob(vm->qmp, "yank", stream, clock_ms() + HV_ANSWER_MS, &why) < 0 &&
		why->kind != ERROR_HYPERVISOR)
		return error_move(err, why);
	error_free(&why);
	return 0;
}

int qemu_vm_migrate_cancel(struct hv_vm *vm, struct error **err)
{
	int64_t deadline = clock_ms() + HV_ANSWER_MS;
	struct hv_migrate_status status;

	if (qemu_vm_migrate_status(vm, &status, err) < 0)
		return -1;
	if (in_postcopy(status.phase))
		return no_way_back(vm, err);
	if (!unfinished(status.phase))
		return 0;
	if (stop(vm, err) < 0)
		return -1;
	while (unfinished(status.phase)) {
		if (clock_ms() >= deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its migration has not stopped in time", vm->name);
		if (qemu_vm_migrate_wait(vm, status.phase, deadline, &status, err) < 0)
			return -1;
	}
	return in_postcopy(status.phase) ? no_way_back(vm, err) : 0;
}
