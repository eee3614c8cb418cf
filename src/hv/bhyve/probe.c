/*
 * What this bhyve is and can do. It has no version of its own: it is the system's. Which options it
 * and bhyvectl have is read off what they print of their usage; nothing is started.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fs.h"
#include "host/host.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PROBE_MS 10000
#define USAGE_MAX (64u << 10)

/* What a program says of its options, on either of its outputs; its status is not looked at, for
 * usage is an error with some. The caller frees it. */
static char *usage_of(const char *binary, const char *option, struct error **err)
{
	const char *const argv[] = {binary, option, NULL};
	cleanup_free char *out = NULL;
	cleanup_free char *errors = NULL;
	int status;

	if (process_run(argv, clock_ms() + PROBE_MS, USAGE_MAX, &out, &errors, &status, err) < 0) {
		error_prefix(err, "cannot ask %s for its options", binary);
		return NULL;
	}
	return fs_format("%s\n%s", out, errors);
}

/* Whether an option is a word of the text: "--migrate" is none of "--migrate-live". */
static bool has_option(const char *usage, const char *option)
{
	size_t len = strlen(option);

	for (const char *at = usage; (at = strstr(at, option)); at += len) {
		char before = at > usage ? at[-1] : ' ', after = at[len];

		if (!isalnum((unsigned char)before) && before != '-' &&
			!isalnum((unsigned char)after) && after != '-')
			return true;
	}
	return false;
}

static int find_abilities(struct hv *hv, struct error **err)
{
	static const struct {
		bool ctl;
		const char *option;
		unsigned ability;
	} options[] = {
		{true, "--checkpoint", BHYVE_SNAPSHOT},
		{true, "--migrate", BHYVE_MIGRATE},
		{true, "--migrate-live", BHYVE_MIGRATE_LIVE},
		{false, "-r", BHYVE_RESTORE},
		{false, "-R", BHYVE_RECEIVE},
	};
	cleanup_free char *of_bhyve = usage_of(hv->set.bhyve, "-h", err);
	cleanup_free char *of_ctl = of_bhyve ? usage_of(hv->set.bhyvectl, "--help", err) : NULL;

	if (!of_ctl)
		return -1;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (has_option(options[i].ctl ? of_ctl : of_bhyve, options[i].option))
			hv->abilities |= options[i].ability;
	if (!has_option(of_ctl, "--destroy") || !has_option(of_ctl, "--force-poweroff"))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s has no --destroy or --force-poweroff; is it bhyvectl?",
			hv->set.bhyvectl);
	return 0;
}

static bool can(const struct hv *hv, unsigned abilities)
{
	return (hv->abilities & abilities) == abilities;
}

static const char *why_not_live(const struct hv *hv)
{
	if (can(hv, BHYVE_RECEIVE | BHYVE_MIGRATE_LIVE))
		return NULL;
	if (can(hv, BHYVE_RECEIVE | BHYVE_MIGRATE))
		return "it has no --migrate-live";
	if (can(hv, BHYVE_SNAPSHOT | BHYVE_RESTORE))
		return "it can only be suspended to files and go on from them";
	return "it has no migration, and cannot be suspended: build world and kernel with "
	       "BHYVE_SNAPSHOT (docs/bhyve.md)";
}

static int describe(struct hv *hv, struct error **err)
{
	struct hv_facts *f = &hv->facts;
	struct host_facts host;
	struct utsname system;

	if (host_facts_read(&host, err) < 0)
		return -1;
	if (uname(&system) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot tell the system's version");
	snprintf(f->driver, sizeof(f->driver), "bhyve");
	snprintf(f->accel, sizeof(f->accel), "vmm");
	snprintf(f->version, sizeof(f->version), "%.60s", system.release);
	sscanf(system.release, "%d.%d.%d", &f->major, &f->minor, &f->micro);
	memcpy(hv->model, host.cpu_model, sizeof(hv->model));
	f->taps_by_name = true;
	f->runs_at_once = true;
	f->no_live = why_not_live(hv);
	return 0;
}

struct hv *bhyve_open(const struct hv_settings *settings, struct error **err)
{
	struct hv *hv = calloc(1, sizeof(*hv));

	if (!hv)
		abort();
	hv->set = *settings;
	if (find_abilities(hv, err) == 0 && describe(hv, err) == 0)
		return hv;
	free(hv);
	return NULL;
}

void bhyve_close(struct hv *hv)
{
	free(hv);
}

json_t *bhyve_facts_json(const struct hv *hv)
{
	static const struct cpu_set none = {0};
	json_t *cpu = hv_cpu_offer_json("", &none);

	json_object_set_new(cpu, "model", json_string(hv->model));
	return json_pack("{s:s, s:s, s:s, s:[], s:[], s:o, s:s?, s:{s:b, s:b, s:b, s:b, s:b}}",
		"driver", hv->facts.driver, "version", hv->facts.version, "accel", hv->facts.accel,
		"machines", "cpus", "cpu", cpu, "no_live", hv->facts.no_live, "can", "snapshot",
		can(hv, BHYVE_SNAPSHOT), "restore", can(hv, BHYVE_RESTORE), "receive",
		can(hv, BHYVE_RECEIVE), "migrate", can(hv, BHYVE_MIGRATE), "migrate_live",
		can(hv, BHYVE_MIGRATE_LIVE));
}

/*
 * Disk images: raw files only.
 */

static int refuse_format(const char *path, struct error **err)
{
	return error_set(err, ERROR_DISK, 0,
		"%s cannot be made: bhyve has raw disks only, with no backing file", path);
}

int bhyve_image_create(const struct hv *hv, const char *path, const char *format,
	uint64_t size_bytes, const char *backing, const char *backing_format, struct error **err)
{
	cleanup_fd int fd = -1;

	(void)hv;
	(void)backing_format;
	if (strcmp(format, "raw") || backing)
		return refuse_format(path, err);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0660);
	if (fd >= 0 && ftruncate(fd, (off_t)size_bytes) == 0)
		return 0;
	error_set(
		err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_DISK, errno, "cannot make %s", path);
	if (fd >= 0)
		unlink(path);
	return -1;
}

json_t *bhyve_image_info(const struct hv *hv, const char *path, struct error **err)
{
	struct stat st;

	(void)hv;
	if (stat(path, &st) == 0)
		return json_pack(
			"{s:s, s:I}", "format", "raw", "virtual_size", (json_int_t)st.st_size);
	error_set(err, ERROR_DISK, errno, "cannot look at %s", path);
	return NULL;
}
