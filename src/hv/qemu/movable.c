/* What keeps a VM from being moved: as its QEMU says, and as is known of its QEMU. */
#include "hv/qemu/qemu.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

/* Versions that lose something of a guest that runs while it is moved. */
static const struct {
	int major, minor; /* mended in */
	const char *accel;
	const char *what; /* the rest of a sentence */
} defects[] = {
	/* Source: docs/qemu.md, "Known defects". */
	{8, 0, "tcg",
		"QEMU before 8.0 loses pages of a running guest when it emulates the CPU (TCG): "
		"pause the guest for the move, or use QEMU 8.0 or later"},
};

const char *qemu_live_defect(const struct hv_facts *facts)
{
	for (size_t i = 0; i < sizeof(defects) / sizeof(defects[0]); i++)
		if (!strcmp(facts->accel, defects[i].accel) &&
			(facts->major < defects[i].major ||
				(facts->major == defects[i].major &&
					facts->minor < defects[i].minor)))
			return defects[i].what;
	return NULL;
}

/* The source's side of it: docs/handover.md, "In the end". */
int qemu_check_postcopy_version(const struct hv_facts *facts, struct error **err)
{
	if (facts->major < 10 || (facts->major == 10 && facts->minor < 1))
		return 0;
	return error_set(err, ERROR_HYPERVISOR, 0,
		"post-copy is not safe with QEMU %s: from 10.1 on a source waits for an answer "
		"amid the switch, and a link that stalls there could cost the guest its memory; "
		"move it without post-copy",
		facts->version);
}

/* "REASON; REASON" of an array, cut where it does not fit. */
static void join(const json_t *reasons, char *out, size_t size)
{
	size_t used = 0, i;
	json_t *reason;

	out[0] = 0;
	json_array_foreach(reasons, i, reason)
	{
		if (json_is_string(reason) && used < size - 1)
			used += (size_t)snprintf(out + used, size - used, "%s%s", used ? "; " : "",
				json_string_value(reason));
	}
}

int qemu_vm_check_movable(struct hv_vm *vm, struct error **err)
{
	cleanup_json json_t *answer = NULL;
	const char *status;
	char reasons[512];

	if (qemu_run(vm, "query-migrate", NULL, &answer, err) < 0 ||
		json_opt_string(answer, "status", "none", &status, err) < 0)
		return -1;
	join(json_object_get(answer, "blocked-reasons"), reasons, sizeof(reasons));
	if (reasons[0])
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s has something that QEMU cannot move: %s", vm->name, reasons);
	if (!strcmp(status, "none") || !strcmp(status, "completed") || !strcmp(status, "failed") ||
		!strcmp(status, "cancelled"))
		return 0;
	return error_set(err, ERROR_BUSY, 0,
		"the hypervisor of %s is at a migration (%s) and moves it no more; stop the VM and "
		"start it again when it suits",
		vm->name, status);
}
