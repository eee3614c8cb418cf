/* The destination's part: its checks for another node, and when a VM is announced. */
#include "migrate/preflight_internal.h"

#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

/* What a destination says is read on the other node: it says who it is. */
static void run_one(struct preflight *p, int row, struct finding *f)
{
	char said[sizeof(f->message)];

	preflight_checks[row].destination(p, f);
	if (f->result == PREFLIGHT_OK)
		return;
	memcpy(said, f->message, sizeof(said));
	snprintf(f->message, sizeof(f->message), "on %s: %.900s", p->all->set.node, said);
}

void preflight_run_destination(struct preflight *p)
{
	for (int row = 0; preflight_checks[row].id; row++) {
		struct finding f = {0};

		if (!preflight_checks[row].destination)
			continue;
		run_one(p, row, &f);
		preflight_keep(p, row, &f);
	}
}

static json_t *checks_json(struct preflight *p)
{
	json_t *list = json_array();

	for (int row = 0; preflight_checks[row].id; row++) {
		struct finding *f = &p->findings[row];

		if (!preflight_checks[row].destination)
			continue;
		if (!f->known)
			finding_set(f, PREFLIGHT_UNKNOWN, 0,
				"%s did not find out within %d s; see whether its pool and the "
				"VM's disks answer there",
				p->all->set.node, PREFLIGHT_THERE_MS / 1000);
		json_array_append_new(list, preflight_finding_json(preflight_checks[row].id, f));
	}
	return list;
}

static json_t *answer_json(struct preflight *p, int64_t received_ms)
{
	struct preflight_node n;

	preflight_describe(p->all, &n);
	return json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:{s:s, s:s, s:s}, s:I, s:o, s:I}",
		"version", n.version, "arch", n.arch, "cpu_model", n.cpu_model, "page_size",
		(json_int_t)n.page_size, "pool", n.pool, "seen", p->seen, "hypervisor", "driver",
		n.driver, "version", n.hv_version, "accel", n.accel, "received_ms",
		(json_int_t)received_ms, "checks", checks_json(p), "answered_ms",
		(json_int_t)clock_wall_ms());
}

/* Of a request: all but what the checks find. */
static struct preflight *read_request(
	struct migrations *all, const char *from, const json_t *request, struct error **err)
{
	const char *vm = json_get_string(request, "vm", err);
	const char *nonce = vm ? json_get_string(request, "nonce", err) : NULL;
	const char *conf = json_string_value(json_object_get(request, "definition"));
	struct migrate_options options = {0};
	struct preflight *p;
	struct vm_def *def;
	int64_t epoch;

	if (!nonce || fs_check_name("VM", vm, err) < 0 ||
		json_get_int(request, "epoch", 0, INT64_MAX - 2, &epoch, err) < 0 ||
		json_opt_bool(request, "postcopy", false, &options.postcopy, err) < 0 ||
		json_opt_bool(request, "warm", false, &options.files, err) < 0)
		return NULL;
	if (strlen(nonce) != 32 || strspn(nonce, "0123456789abcdef") != 32) {
		error_set(err, ERROR_REQUEST, 0, "\"nonce\" is not 32 hexadecimal digits");
		return NULL;
	}
	def = vm_def_parse(vm, conf ? conf : "", err);
	if (!def)
		return NULL;
	p = preflight_new(all, vm, from, &options, def);
	p->epoch = (uint64_t)epoch;
	memcpy(p->nonce, nonce, sizeof(p->nonce));
	fs_random_hex(p->seen, 16);
	return p;
}

json_t *preflight_answer(
	struct migrations *all, const char *from, const json_t *request, struct error **err)
{
	int64_t received_ms = clock_wall_ms();
	struct preflight *p = read_request(all, from, request, err);
	json_t *answer;

	if (!p)
		return NULL;
	p->deadline_ms = clock_ms() + PREFLIGHT_THERE_MS;
	preflight_spawn(p, preflight_run_destination);
	preflight_wait(p);
	answer = answer_json(p, received_ms);
	preflight_unref(p);
	return answer;
}

int preflight_expected(struct migrations *all, const char *from, const struct vm_def *def,
	const struct migrate_options *options, struct error **err)
{
	struct preflight p = {.all = all, .options = *options, .def = (struct vm_def *)def};

	snprintf(p.vm, sizeof(p.vm), "%s", def->name);
	snprintf(p.peer, sizeof(p.peer), "%s", from);
	p.deadline_ms = clock_ms() + PREFLIGHT_THERE_MS;
	for (int row = 0; preflight_checks[row].id; row++) {
		struct finding f = {0};

		if (!preflight_checks[row].expected || (options->forced & 1u << row))
			continue;
		preflight_checks[row].destination(&p, &f);
		if (f.result == PREFLIGHT_FAILED)
			return error_set(err, f.kind, 0, "cannot move %s to %s: %s", p.vm,
				all->set.node, f.message);
	}
	return 0;
}
