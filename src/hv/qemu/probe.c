#include "hv/qemu/args.h"
#include "hv/qemu/cpu.h"
#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "host/host.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* A cold start of QEMU with its libraries on a slow disk has taken 3 s. */
#define PROBE_MS 30000

/* A QEMU without a VM, which is only asked. */
struct probe {
	struct process_id id;
	struct qmp *qmp;
	int log_fd;
	int64_t deadline_ms;
};

static void probe_end(struct probe *p)
{
	if (p->qmp)
		qmp_run(p->qmp, "quit", NULL, p->deadline_ms, NULL, NULL);
	qmp_close(p->qmp);
	if (p->id.pid > 0 && !process_wait(&p->id, clock_ms() + 1000, NULL)) {
		process_signal(&p->id, SIGKILL);
		process_wait(&p->id, clock_ms() + 1000, NULL);
	}
	close_fd(&p->log_fd);
}

static int probe_error(struct probe *p, const struct hv_settings *set, const char *accel,
	struct error *why, struct error **err)
{
	char said[512] = "";
	ssize_t n = pread(p->log_fd, said, sizeof(said) - 1, 0);

	said[n > 0 ? n : 0] = 0;
	said[strcspn(said, "\n")] = 0;
	error_set(err, ERROR_HYPERVISOR, 0, "cannot use %s with accelerator %s: %s", set->binary,
		accel, said[0] ? said : why->message);
	error_free(&why);
	return -1;
}

static int start_probe(struct probe *p, const struct hv_settings *set, const char *accel,
	bool incoming, int fd, struct error **err)
{
	cleanup_free char *machine = fs_format("none,accel=%s", accel);
	cleanup_free char *chardev = fs_format("socket,id=qmp,fd=%d", fd);
	const char *const argv[] = {set->binary, "-machine", machine, "-nodefaults",
		"-no-user-config", "-display", "none", "-S", "-chardev", chardev, "-mon",
		"chardev=qmp,mode=control", incoming ? "-incoming" : NULL, "defer", NULL};
	struct process_options options = {
		.argv = argv,
		.own_session = true,
		.set_user = geteuid() == 0,
		.uid = set->uid,
		.gid = set->gid,
		.no_new_privs = true,
		.dies_with_us = true,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = p->log_fd,
		.pass_fds = &fd,
		.pass_fds_count = 1,
	};

	return process_start(&options, &p->id, err);
}

/* `incoming`: one that waits for a stream. */
static int probe_begin(struct probe *p, const struct hv_settings *set, const char *accel,
	bool incoming, struct error **err)
{
	int pair[2] = {-1, -1};
	struct error *why = NULL;
	int rc;

	*p = (struct probe){.deadline_ms = clock_ms() + PROBE_MS};
	p->log_fd = memfd_create("probe", MFD_CLOEXEC);
	if (p->log_fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot ask %s", set->binary);
	rc = start_probe(p, set, accel, incoming, pair[1], &why);
	close_fd(&pair[1]);
	if (rc < 0) {
		close_fd(&pair[0]);
		error_prefix(&why, "cannot use %s; is QEMU installed there?", set->binary);
		why->kind = ERROR_HYPERVISOR;
		return error_move(err, why);
	}
	p->qmp = qmp_open(pair[0], "probe", p->deadline_ms, &why);
	return p->qmp ? 0 : probe_error(p, set, accel, why, err);
}

static int read_version(struct hv *hv, const json_t *answer, struct error **err)
{
	struct hv_facts *f = &hv->facts;
	const json_t *qemu = json_object_get(answer, "qemu");
	int64_t major, minor, micro;

	if (json_get_int(qemu, "major", 0, 999, &major, err) < 0 ||
		json_get_int(qemu, "minor", 0, 999, &minor, err) < 0 ||
		json_get_int(qemu, "micro", 0, 999, &micro, err) < 0)
		return -1;
	f->major = (int)major;
	f->minor = (int)minor;
	f->micro = (int)micro;
	snprintf(f->driver, sizeof(f->driver), "qemu");
	snprintf(f->version, sizeof(f->version), "%d.%d.%d", f->major, f->minor, f->micro);
	if (f->major < 7 || (f->major == 7 && f->minor < 2))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s is QEMU %s; drover needs 7.2 or later", hv->set.binary, f->version);
	return 0;
}

static long machine_version(const char *name)
{
	int major = 0, minor = 0;

	sscanf(name, "pc-q35-%3d.%3d", &major, &minor);
	return major * 1000 + minor;
}

/* Newest first, so that the first is the default. */
static void keep_machine(json_t *machines, const char *name)
{
	size_t at = 0;

	while (at < json_array_size(machines) && machine_version(json_string_value(json_array_get(
							 machines, at))) > machine_version(name))
		at++;
	json_array_insert_new(machines, at, json_string(name));
}

static void read_machines(struct hv *hv, const json_t *answer)
{
	size_t i;
	json_t *machine;

	json_array_foreach(answer, i, machine)
	{
		const char *name = json_string_value(json_object_get(machine, "name"));

		if (!name || !qemu_machine_fits(name))
			continue;
		keep_machine(hv->machines, name);
		json_object_set(hv->vcpus, name, json_object_get(machine, "cpu-max"));
	}
}

static int ask(struct probe *p, const char *command, json_t **answer, struct error **err)
{
	json_free(answer);
	return qmp_run(p->qmp, command, NULL, p->deadline_ms, answer, err);
}

static int ask_all(struct hv *hv, struct probe *p, struct error **err)
{
	cleanup_json json_t *answer = NULL;
	bool kvm = !strcmp(hv->facts.accel, "kvm"), enabled = false;

	if (ask(p, "query-version", &answer, err) < 0 || read_version(hv, answer, err) < 0)
		return -1;
	if (kvm && (ask(p, "query-kvm", &answer, err) < 0 ||
			   json_opt_bool(answer, "enabled", false, &enabled, err) < 0 || !enabled))
		return error_set(err, ERROR_HYPERVISOR, 0, "%s: KVM does not work", hv->set.binary);
	if (ask(p, "query-machines", &answer, err) < 0)
		return -1;
	read_machines(hv, answer);
	if (qemu_cpu_ask(hv, p->qmp, p->deadline_ms, err) < 0)
		return -1;
	if (!json_array_size(hv->machines) || !json_object_size(hv->cpus))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s offers no q35 machine or no CPU model", hv->set.binary);
	return 0;
}

static int probe(struct hv *hv, const char *accel, struct error **err)
{
	struct probe p;
	int rc;

	json_array_clear(hv->machines);
	json_object_clear(hv->vcpus);
	qemu_cpu_forget(hv);
	snprintf(hv->facts.accel, sizeof(hv->facts.accel), "%s", accel);
	rc = probe_begin(&p, &hv->set, accel, false, err);
	if (rc == 0)
		rc = ask_all(hv, &p, err);
	probe_end(&p);
	return rc;
}

/* A /dev/kvm that opens proves nothing: without vmx or svm in the CPU it never gets a guest past
 * its early boot. */
static int probe_kvm(struct hv *hv, struct error **err)
{
	struct host_facts host;

	if (host_facts_read(&host, err) < 0)
		return -1;
	if (!host.hardware_virtualization)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"this machine has no hardware virtualization (vmx or svm, and /dev/kvm)");
	return probe(hv, "kvm", err);
}

static int probe_best(struct hv *hv, struct error **err)
{
	const char *accel = hv->set.accel ? hv->set.accel : "auto";
	cleanup_error struct error *why = NULL;

	if (!strcmp(accel, "tcg"))
		return probe(hv, "tcg", err);
	if (!strcmp(accel, "kvm"))
		return probe_kvm(hv, err);
	if (strcmp(accel, "auto"))
		return error_set(err, ERROR_DEFINITION, 0,
			"accel = %s is unknown; it is auto, kvm or tcg", accel);
	if (probe_kvm(hv, &why) == 0)
		return 0;
	log_warning("VMs run without KVM, slowly: %s", why->message);
	return probe(hv, "tcg", err);
}

struct hv *qemu_open(const struct hv_settings *settings, struct error **err)
{
	struct hv *hv = calloc(1, sizeof(*hv));

	if (!hv)
		abort();
	hv->set = *settings;
	hv->machines = json_array();
	hv->vcpus = json_object();
	hv->cpus = json_object();
	if (probe_best(hv, err) < 0) {
		qemu_close(hv);
		return NULL;
	}
	hv->facts.no_live = qemu_live_defect(&hv->facts);
	return hv;
}

void qemu_close(struct hv *hv)
{
	if (!hv)
		return;
	qemu_cpu_forget(hv);
	json_free(&hv->machines);
	json_free(&hv->vcpus);
	json_free(&hv->cpus);
	free(hv);
}

json_t *qemu_facts_json(const struct hv *hv)
{
	json_t *cpus = json_array();
	const char *name;
	json_t *missing;

	json_object_foreach(hv->cpus, name, missing)
	{
		if (json_array_size(missing) == 0)
			json_array_append_new(cpus, json_string(name));
	}
	return json_pack("{s:s, s:s, s:s, s:O, s:o, s:o, s:s?}", "driver", hv->facts.driver,
		"version", hv->facts.version, "accel", hv->facts.accel, "machines", hv->machines,
		"cpus", cpus, "cpu", hv_cpu_offer_json(hv->vendor, &hv->given), "no_live",
		hv->facts.no_live);
}

void qemu_complete_def(const struct hv *hv, struct vm_def *def)
{
	if (!def->machine)
		def->machine = fs_format("%s", json_string_value(json_array_get(hv->machines, 0)));
	if (!def->cpu)
		def->cpu = fs_format(CPU_BASELINE);
}

static int check_vcpus(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	const json_t *max = json_object_get(hv->vcpus, def->machine);
	int vcpus = def->sockets * def->cores * def->threads;

	if (!json_is_integer(max) || vcpus <= json_integer_value(max))
		return 0;
	return error_set(err, ERROR_HYPERVISOR, 0,
		"VM %s has %d vCPUs (sockets * cores * threads), and a machine %s has at most "
		"%lld in QEMU %s",
		def->name, vcpus, def->machine, (long long)json_integer_value(max),
		hv->facts.version);
}

int qemu_check_machine(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	size_t count = json_array_size(hv->machines), i;
	json_t *name;

	json_array_foreach(hv->machines, i, name)
	{
		if (!strcmp(json_string_value(name), def->machine))
			return check_vcpus(hv, def, err);
	}
	return error_set(err, ERROR_HYPERVISOR, 0,
		"VM %s has machine type %s, which QEMU %s on this node does not offer; it has %s "
		"to %s: use a QEMU that has it",
		def->name, def->machine, hv->facts.version,
		json_string_value(json_array_get(hv->machines, count - 1)),
		json_string_value(json_array_get(hv->machines, 0)));
}

int qemu_check_def(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	if (qemu_check_machine(hv, def, err) < 0)
		return -1;
	return strcmp(vm_def_exact_cpu(def), CPU_BASELINE) ? qemu_check_cpu(hv, def, err) : 0;
}

int qemu_check_postcopy(const struct hv *hv, struct error **err)
{
	struct probe p;
	int rc = probe_begin(&p, &hv->set, hv->facts.accel, true, err);

	if (rc == 0)
		rc = qemu_allow_postcopy(hv, p.qmp, p.deadline_ms, err);
	probe_end(&p);
	return rc;
}
