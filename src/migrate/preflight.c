#include "migrate/preflight_internal.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/json.h"
#include "host/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const result_names[] = {[PREFLIGHT_OK] = "ok",
	[PREFLIGHT_WARNING] = "warning",
	[PREFLIGHT_UNKNOWN] = "unknown",
	[PREFLIGHT_FAILED] = "failed"};

const char *preflight_result_name(enum preflight_result result)
{
	return result_names[result];
}

struct preflight *preflight_new(struct migrations *all, const char *vm, const char *peer,
	const struct migrate_options *options, struct vm_def *def)
{
	struct preflight *p = calloc(1, sizeof(*p));

	if (!p)
		abort();
	p->all = all;
	snprintf(p->vm, sizeof(p->vm), "%s", vm);
	snprintf(p->peer, sizeof(p->peer), "%s", peer);
	p->options = *options;
	p->def = def;
	p->refs = 1;
	pthread_mutex_init(&p->lock, NULL);
	cond_init(&p->changed);
	return p;
}

static void free_asked(struct preflight_asked *asked)
{
	json_decref(asked->answer);
	error_free(&asked->error);
	error_free(&asked->begin);
	error_free(&asked->unmatched);
}

void preflight_unref(struct preflight *p)
{
	int left;

	pthread_mutex_lock(&p->lock);
	left = --p->refs;
	pthread_mutex_unlock(&p->lock);
	if (left > 0)
		return;
	free_asked(&p->asked);
	vm_def_free(p->def);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

struct part {
	struct preflight *p;
	void (*run)(struct preflight *);
};

static void *run_part(void *arg)
{
	struct part part = *(struct part *)arg;
	struct preflight *p = part.p;
	struct migrations *all = p->all;

	free(arg);
	part.run(p);
	pthread_mutex_lock(&p->lock);
	p->parts--;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	preflight_unref(p);
	pthread_mutex_lock(&all->lock);
	all->threads--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

void preflight_spawn(struct preflight *p, void (*run)(struct preflight *))
{
	struct part *part = malloc(sizeof(*part));
	pthread_t thread;

	if (!part)
		abort();
	*part = (struct part){p, run};
	/* What migrations_close waits for: a part uses what is freed after that. */
	pthread_mutex_lock(&p->all->lock);
	p->all->threads++;
	pthread_mutex_unlock(&p->all->lock);
	pthread_mutex_lock(&p->lock);
	p->refs++;
	p->parts++;
	pthread_mutex_unlock(&p->lock);
	if (pthread_create(&thread, NULL, run_part, part) != 0)
		abort();
	pthread_detach(thread);
}

void preflight_wait(struct preflight *p)
{
	struct timespec until = {
		.tv_sec = p->deadline_ms / 1000, .tv_nsec = p->deadline_ms % 1000 * 1000000};

	pthread_mutex_lock(&p->lock);
	while (p->parts > 0 && clock_ms() < p->deadline_ms)
		pthread_cond_timedwait(&p->changed, &p->lock, &until);
	p->closed = true;
	pthread_mutex_unlock(&p->lock);
}

void preflight_keep(struct preflight *p, int row, const struct finding *f)
{
	pthread_mutex_lock(&p->lock);
	if (!p->closed) {
		p->findings[row] = *f;
		p->findings[row].known = true;
	}
	pthread_mutex_unlock(&p->lock);
}

void preflight_keep_asked(struct preflight *p, struct preflight_asked *asked)
{
	pthread_mutex_lock(&p->lock);
	if (!p->closed) {
		p->asked = *asked;
		*asked = (struct preflight_asked){0};
	}
	pthread_mutex_unlock(&p->lock);
	free_asked(asked);
}

void preflight_run_source(struct preflight *p)
{
	for (int row = 0; preflight_checks[row].id; row++) {
		struct finding f = {0};

		if (!preflight_checks[row].source)
			continue;
		preflight_checks[row].source(p, &f);
		preflight_keep(p, row, &f);
	}
}

/* A CPU says what its name is: it becomes text. */
static void copy_model(char *out, const char *model, size_t size)
{
	snprintf(out, size, "%s", model);
	for (; *out; out++)
		if (*out < ' ' || *out > '~')
			*out = '?';
}

void preflight_describe(const struct migrations *all, struct preflight_node *node)
{
	const struct hv_facts *hv = hv_get_facts(all->set.hv);
	const char *dir = all->set.pool->dir;
	char type[32] = "unknown";
	struct host_facts host;

	*node = (struct preflight_node){.version = DROVER_VERSION};
	if (host_facts_read(&host, NULL) == 0) {
		memcpy(node->arch, host.arch, sizeof(node->arch));
		node->page_size = host.page_size;
		copy_model(node->cpu_model, host.cpu_model, sizeof(node->cpu_model));
	}
	snprintf(node->driver, sizeof(node->driver), "%s", hv->driver);
	snprintf(node->hv_version, sizeof(node->hv_version), "%s", hv->version);
	snprintf(node->accel, sizeof(node->accel), "%s", hv->accel);
	host_fs_type(dir, type, NULL);
	snprintf(node->pool, sizeof(node->pool), "%s at %s", type, dir);
}

/* Text that may not be UTF-8, and is cut where it may not be. */
static json_t *text_json(const char *text)
{
	json_t *json = json_string(text);
	char plain[sizeof(((struct finding *)NULL)->message)];
	size_t i;

	if (json)
		return json;
	for (i = 0; text[i] && i < sizeof(plain) - 1; i++)
		plain[i] = text[i] & 0x80 ? '?' : text[i];
	plain[i] = 0;
	return json_string(plain);
}

json_t *preflight_finding_json(const char *id, const struct finding *f)
{
	bool ok = f->result == PREFLIGHT_OK;

	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "id", id, "result",
		preflight_result_name(f->result), "here", text_json(f->here), "there",
		text_json(f->there), "message", ok ? json_null() : text_json(f->message), "kind",
		f->result == PREFLIGHT_FAILED ? json_string(error_kind_name(f->kind))
					      : json_null());
}

/* The VM's definition as its guest was started with it; of one that does not run, as it would be.
 */
static struct vm_def *read_def(struct migrations *all, const char *name, struct error **err)
{
	struct vm *vm = vms_find(all->set.vms, name);
	cleanup_free char *text = NULL;

	if (!vm)
		return vm_def_load(all->set.pool, name, err);
	text = vm_def_format(vm_definition(vm));
	vm_unref(vm);
	return vm_def_parse(name, text, err);
}

static void compare(struct preflight *p)
{
	preflight_describe(p->all, &p->here);
	preflight_read_answer(p);
	for (int row = 0; preflight_checks[row].id; row++)
		if (preflight_checks[row].compare)
			preflight_checks[row].compare(p, &p->findings[row]);
}

/* Why a check of the destination's, or of both, was not made. */
static const char *why_not_asked(const struct preflight *p)
{
	if (!p->asked.error)
		return p->asked.answer ? "has a drover that does not make this check"
				       : "was not heard in time; see whether the pool answers here";
	if (p->asked.error->kind == ERROR_NOT_FOUND)
		return "has an older drover that cannot be asked; it is looked at when it moves";
	return "could not be asked; see the check that failed";
}

static void explain_unknown(const struct preflight *p, int row, struct finding *f)
{
	if (preflight_checks[row].source)
		finding_set(f, PREFLIGHT_UNKNOWN, 0,
			"%s did not find out within %d s; see whether its pool and the VM's "
			"hypervisor answer",
			p->all->set.node, PREFLIGHT_WAIT_MS / 1000);
	else
		finding_set(f, PREFLIGHT_UNKNOWN, 0, "%s %s", p->peer, why_not_asked(p));
}

static json_t *report_check(struct preflight *p, int row, bool *ready)
{
	const struct preflight_check *check = &preflight_checks[row];
	struct finding *f = &p->findings[row];
	bool forced = p->options.forced & 1u << row;
	json_t *item;

	if (!f->known)
		explain_unknown(p, row, f);
	if (f->result == PREFLIGHT_FAILED && !forced)
		*ready = false;
	item = preflight_finding_json(check->id, f);
	json_object_set_new(item, "compares", json_string(check->compares));
	json_object_set_new(item, "can_force", json_boolean(!check->no_force));
	json_object_set_new(item, "forced", json_boolean(forced));
	return item;
}

static bool is_made(const struct preflight *p, int row)
{
	const char *driver = preflight_checks[row].driver;

	return !driver || !strcmp(driver, p->here.driver);
}

static json_t *report(struct preflight *p, int64_t took_ms)
{
	json_t *checks = json_array();
	bool ready = true;

	for (int row = 0; preflight_checks[row].id; row++)
		if (is_made(p, row))
			json_array_append_new(checks, report_check(p, row, &ready));
	return json_pack("{s:s, s:s, s:s, s:b, s:I, s:o}", "vm", p->vm, "from", p->all->set.node,
		"to", p->peer, "ready", ready, "took_ms", (json_int_t)took_ms, "checks", checks);
}

json_t *preflight_run(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, struct error **err)
{
	int64_t begin_ms = clock_ms();
	struct pool_owner owner;
	struct preflight *p;
	struct vm_def *def;
	json_t *result;

	if (vms_where(all->set.vms, vm, &owner, err) < 0 || fs_check_name("node", node, err) < 0)
		return NULL;
	if (!strcmp(owner.node, node)) {
		error_set(err, ERROR_ALREADY_THERE, 0, "%s is on %s already", vm, node);
		return NULL;
	}
	def = read_def(all, vm, err);
	if (!def)
		return NULL;
	p = preflight_new(all, vm, node, options, def);
	p->epoch = owner.epoch;
	p->deadline_ms = begin_ms + PREFLIGHT_WAIT_MS;
	fs_random_hex(p->nonce, 16);
	preflight_spawn(p, preflight_ask);
	preflight_spawn(p, preflight_run_source);
	preflight_wait(p);
	compare(p);
	result = report(p, clock_ms() - begin_ms);
	preflight_unref(p);
	return result;
}

static bool stops(const json_t *check)
{
	const char *state = json_string_value(json_object_get(check, "result"));

	return !strcmp(state, "failed") && !json_is_true(json_object_get(check, "forced"));
}

int preflight_refusal(const json_t *result, struct error **err)
{
	const char *vm = json_string_value(json_object_get(result, "vm"));
	const char *to = json_string_value(json_object_get(result, "to"));
	const json_t *check;
	size_t i;

	json_array_foreach(json_object_get(result, "checks"), i, check)
	{
		const char *kind = json_string_value(json_object_get(check, "kind"));
		const char *message = json_string_value(json_object_get(check, "message"));

		if (stops(check))
			return error_set(err, error_kind_from_name(kind), 0,
				"cannot move %s to %s: %s", vm, to, message);
	}
	return 0;
}

json_t *preflight_warnings(const json_t *result)
{
	json_t *list = json_array(), *check;
	size_t i;

	json_array_foreach(json_object_get(result, "checks"), i, check)
	{
		if (strcmp(json_string_value(json_object_get(check, "result")), "ok") != 0)
			json_array_append(list, check);
	}
	return list;
}
