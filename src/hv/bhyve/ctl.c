/*
 * bhyvectl(8), and what the kernel knows of a VM.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define OUTPUT_MAX (64u << 10)
/* sys/amd64/vmm/vmm_stat.c */
#define EXITS "total number of vm exits"

static int run(const struct hv_vm *vm, const char *option, char **out, struct error **err)
{
	cleanup_free char *name = fs_format("--vm=%s", vm->bhyve->vm_name);
	const char *const argv[] = {vm->hv->set.bhyvectl, name, option, NULL};
	cleanup_free char *errors = NULL;
	int status = 0;

	if (process_run(argv, clock_ms() + HV_ANSWER_MS, OUTPUT_MAX, out, &errors, &status, err) <
		0)
		return error_prefix(err, "%s: bhyvectl %s", vm->name, option);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	errors[strcspn(errors, "\n")] = 0;
	return error_set(err, ERROR_HYPERVISOR, 0, "%s: bhyvectl %s failed: %s", vm->name, option,
		errors[0] ? errors : "it does not say why");
}

int bhyve_ctl(const struct hv_vm *vm, const char *option, char **out, struct error **err)
{
	int rc = run(vm, option, out, err);

	if (rc < 0 && out) {
		free(*out);
		*out = NULL;
	}
	return rc;
}

bool bhyve_exists(const struct hv_vm *vm)
{
	cleanup_free char *path = fs_format("%s/%s", vm->hv->set.vmm_dir, vm->bhyve->vm_name);

	return fs_exists(path);
}

int bhyve_destroy(const struct hv_vm *vm, struct error **err)
{
	return bhyve_exists(vm) ? bhyve_ctl(vm, "--destroy", NULL, err) : 0;
}

/* A line "total number of vm exits<blanks>N" of vCPU 0, on which a guest begins and every one that
 * was received goes on. */
int64_t bhyve_exits(const struct hv_vm *vm)
{
	cleanup_free char *out = NULL;
	const char *line;

	if (!bhyve_exists(vm) || bhyve_ctl(vm, "--get-stats", &out, NULL) < 0)
		return -1;
	line = strstr(out, EXITS);
	if (!line)
		return -1;
	return (int64_t)(strtoull(line + strlen(EXITS), NULL, 10) & INT64_MAX);
}

int bhyve_has_run(const struct hv_vm *vm)
{
	int64_t exits = bhyve_exits(vm);

	return exits < 0 ? -1 : exits > 0;
}
