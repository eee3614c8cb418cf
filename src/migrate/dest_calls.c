/*
 * What the source's droverd asks of the destination's: each call is a thread of its own that leaves
 * word in struct migration for the thread of dest_run(), and waits for what that does.
 */
#include "migrate/internal.h"
#include "migrate/preflight.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define ABORT_MS 20000
/* More than a source waits for a destination that makes itself ready. */
#define EXPECTED_MS 120000
/* Less than the source waits (SOURCE_CALL_MS). */
#define RENEW_MS 8000
/* A handover is answered when the guest runs or the side has ended: looked at again after this. */
#define LOOK_AGAIN_MS 60000

/* The id names sockets and rows, and comes from another node. */
static int check_id(const char *id, struct error **err)
{
	if (strlen(id) != 32 || strspn(id, "0123456789abcdef") != 32)
		return error_set(
			err, ERROR_REQUEST, 0, "a migration's id has 32 hexadecimal digits");
	return 0;
}

/* A migration of that VM which nobody has begun to receive gives way to a new one: its source died
 * before it came to that. One that is being received does not. */
static int make_way(struct migrations *all, const char *id, const char *vm, struct error **err)
{
	struct migration *m, *stale = NULL;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	for (m = all->list; m && rc == 0; m = m->next) {
		if (!strcmp(m->id, id))
			rc = error_set(err, ERROR_EXISTS, 0, "migration %s is known already", id);
		else if (m->ended || m->source || strcmp(m->vm_name, vm))
			continue;
		else if (m->received)
			rc = error_set(err, ERROR_BUSY, 0, "%s is being moved to %s already", vm,
				all->set.node);
		else
			stale = m;
	}
	if (rc == 0 && stale)
		stale->received = true;
	pthread_mutex_unlock(&all->lock);
	if (rc == 0 && stale)
		migration_ended(stale, MIGRATE_CANCELLED, NULL);
	return rc;
}

static struct migration *add_expected(struct migrations *all, const char *from, const char *id,
	struct vm_def *def, int64_t epoch, const struct migrate_options *options,
	struct error **err)
{
	struct migration *m;

	if (make_way(all, id, def->name, err) < 0)
		return NULL;
	m = migration_new(all, id, false, def->name, from);
	m->epoch = (uint64_t)epoch;
	m->options = *options;
	if (journal_begin(m, err) < 0) {
		migration_free(m);
		return NULL;
	}
	m->def = def;
	migration_list(m);
	return m;
}

int migrations_expect(
	struct migrations *all, const char *from, const json_t *request, struct error **err)
{
	static const char *const known[] = {"id", "vm", "definition", "epoch", "pause", "postcopy",
		"warm", "reconnect_s", "force", NULL};
	const char *id = json_get_string(request, "id", err);
	const char *vm = id ? json_get_string(request, "vm", err) : NULL;
	const char *conf = json_string_value(json_object_get(request, "definition"));
	struct pool_owner owner;
	struct vm_def *def;
	struct migration *m;
	struct migrate_options options = {0};
	int64_t epoch, reconnect_s;

	if (!vm || json_only_known(request, known, err) < 0 || check_id(id, err) < 0 ||
		json_get_int(request, "epoch", 1, INT64_MAX - 2, &epoch, err) < 0 ||
		json_opt_bool(request, "pause", false, &options.pause, err) < 0 ||
		json_opt_bool(request, "postcopy", false, &options.postcopy, err) < 0 ||
		json_opt_bool(request, "warm", false, &options.files, err) < 0 ||
		json_opt_int(request, "reconnect_s", 0, 3600, 0, &reconnect_s, err) < 0 ||
		preflight_parse_force(json_object_get(request, "force"), &options.forced, err) <
			0 ||
		vms_where(all->set.vms, vm, &owner, err) < 0)
		return -1;
	if (strcmp(owner.node, from) || owner.epoch != (uint64_t)epoch)
		return error_set(err, ERROR_NOT_OWNER, 0,
			"%s belongs to %s at epoch %llu, as %s sees it, not to %s at epoch %lld",
			vm, *owner.node ? owner.node : "nobody", (unsigned long long)owner.epoch,
			all->set.node, from, (long long)epoch);
	def = vm_def_parse(vm, conf ? conf : "", err);
	if (!def)
		return -1;
	options.reconnect_s = (int)reconnect_s;
	m = preflight_expected(all, from, def, &options, err) == 0
		    ? add_expected(all, from, id, def, epoch, &options, err)
		    : NULL;
	if (!m) {
		vm_def_free(def);
		return -1;
	}
	return 0;
}

void migrations_end_expected(struct migrations *all)
{
	int64_t limit_ms = fault_limit_ms("migrate.dst.before_give_up", EXPECTED_MS);
	struct migration *m;

	do {
		struct error *e = NULL;

		pthread_mutex_lock(&all->lock);
		for (m = all->list; m; m = m->next)
			if (!m->source && !m->received && !m->ended &&
				clock_ms() - m->begin_ms >= limit_ms)
				break;
		if (m) {
			m->received = true;
			m->users++;
		}
		pthread_mutex_unlock(&all->lock);
		if (!m)
			return;
		fault_point("migrate.dst.before_give_up", NULL);
		error_set(&e, ERROR_UNREACHABLE, 0, "%s announced %s and did not come", m->peer,
			m->vm_name);
		migration_ended(m, MIGRATE_FAILED, e);
		pthread_mutex_lock(&all->lock);
		m->users--;
		pthread_mutex_unlock(&all->lock);
	} while (true);
}

/* With the lock held: the destination's side of `from`'s migration. */
static struct migration *find_from(
	struct migrations *all, const char *from, const char *id, struct error **err)
{
	struct migration *m = migration_find(all, id);

	if (m && !m->source && !strcmp(m->peer, from))
		return m;
	error_set(err, ERROR_NOT_FOUND, 0, "%s knows no migration %s from %s", all->set.node, id,
		from);
	return NULL;
}

static int error_of(const struct migration *m, struct error **err)
{
	if (!m->error)
		return 0;
	return error_set(err, m->error->kind, 0, "%s", m->error->message);
}

json_t *migrations_wait_ready(struct migrations *all, const char *from, const char *id,
	bool hypervisor, int64_t wait_ms, struct error **err)
{
	int64_t deadline = clock_ms() + wait_ms;
	struct migration *m;
	json_t *answer = NULL;

	pthread_mutex_lock(&all->lock);
	while ((m = find_from(all, from, id, err)) && !m->ended &&
		!(hypervisor ? m->ready : m->port > 0) && !all->closing && clock_ms() < deadline)
		migrations_wait(all, deadline);
	if (m && error_of(m, err) == 0)
		answer = json_pack("{s:i, s:b}", "port", m->port, "ready", m->ready);
	pthread_mutex_unlock(&all->lock);
	return answer;
}

/* How this side stands, for a source that wants to know whose the VM is: "running" (here, for
 * good; `whole` when nothing of it is missing; `reason` when it has ended since), "ended" (our copy
 * has ended and nothing here will claim any more: `reason` says why), or "unknown". */
static json_t *verdict(const char *state, bool whole, const struct error *why)
{
	cleanup_json json_t *error = why ? json_from_error(why) : NULL;

	return json_pack("{s:s, s:b, s:O*}", "state", state, "whole", whole, "reason",
		json_object_get(error, "error"));
}

/* With the lock held. */
static json_t *verdict_of(const struct migration *m)
{
	if (m->state == MIGRATE_DONE || m->resumed_ms || m->step == STEP_POSTCOPY)
		return verdict("running", m->state == MIGRATE_DONE, m->error);
	return verdict(
		m->ended && !m->claimed && !m->uncertain ? "ended" : "unknown", false, m->error);
}

/* The same from the journal, where an earlier droverd of this node had the migration. */
static json_t *verdict_before(struct migrations *all, const char *from, const char *id)
{
	cleanup_json json_t *info = journal_show(all, id, NULL);
	const char *state = json_string_value(json_object_get(info, "state"));
	const char *source = json_string_value(json_object_get(info, "from"));
	const char *step = json_string_value(json_object_get(info, "step"));
	bool done = state && !strcmp(state, "done");
	struct error why = {.kind = ERROR_INTERRUPTED,
		.message = "droverd on the destination was restarted and has ended its copy"};

	/* A journal that was lost, or cannot be read, proves nothing. */
	if (!state || !source || strcmp(source, from))
		return verdict("unknown", false, NULL);
	if (json_is_null(json_object_get(info, "ended_ms")))
		return verdict("unknown", false, NULL);
	if (done || (step && !strcmp(step, migrate_step_name(STEP_POSTCOPY))))
		return verdict("running", done, done ? NULL : &why);
	/* It may have run here, and written to its disks: only the pool tells whose it is. */
	if (step && !strcmp(step, migrate_step_name(STEP_CLAIM)))
		return verdict("unknown", false, NULL);
	return verdict("ended", false, &why);
}

json_t *migrations_handover(struct migrations *all, const char *from, const char *id)
{
	struct migration *m;
	json_t *answer = NULL;

	pthread_mutex_lock(&all->lock);
	m = find_from(all, from, id, NULL);
	if (m) {
		m->users++;
		m->handover = true;
		pthread_cond_broadcast(&all->changed);
		while (!m->ended && !m->resumed_ms && !all->closing)
			migrations_wait(all, clock_ms() + LOOK_AGAIN_MS);
		answer = verdict_of(m);
		m->users--;
	}
	pthread_mutex_unlock(&all->lock);
	fault_point("migrate.dst.before_answer", NULL);
	return answer ? answer : verdict_before(all, from, id);
}

json_t *migrations_renew_lane(
	struct migrations *all, const char *from, const char *id, struct error **err)
{
	int64_t deadline = clock_ms() + RENEW_MS;
	struct migration *m;
	json_t *answer = NULL;

	pthread_mutex_lock(&all->lock);
	m = find_from(all, from, id, err);
	if (m && (m->step == STEP_POSTCOPY || m->stuck) && !m->ended) {
		m->users++;
		m->recover = true;
		m->port = 0;
		pthread_cond_broadcast(&all->changed);
		while (!m->ended && !m->port && !all->closing && clock_ms() < deadline)
			migrations_wait(all, deadline);
		if (m->port && !m->ended)
			answer = json_pack("{s:i}", "port", m->port);
		m->users--;
	}
	if (m && !answer)
		error_set(err, ERROR_FAILED, 0, "%s makes no new lane for %s now", all->set.node,
			m->vm_name);
	pthread_mutex_unlock(&all->lock);
	return answer;
}

json_t *migrations_abort(struct migrations *all, const char *from, const char *id)
{
	int64_t deadline = clock_ms() + ABORT_MS;
	struct migration *m;
	json_t *answer = NULL;
	bool never_begun;

	pthread_mutex_lock(&all->lock);
	m = find_from(all, from, id, NULL);
	never_begun = m && !m->received && !m->ended;
	if (m) {
		m->users++;
		m->abort = m->received = true;
	}
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	if (never_begun)
		migration_ended(m, MIGRATE_CANCELLED, NULL);
	pthread_mutex_lock(&all->lock);
	/* One that is stuck after its claim tells nothing new by then. */
	while (m && !m->ended && !m->resumed_ms && !(m->claimed && m->stuck) && !all->closing &&
		clock_ms() < deadline)
		migrations_wait(all, deadline);
	if (m) {
		answer = verdict_of(m);
		m->users--;
	}
	pthread_mutex_unlock(&all->lock);
	return answer ? answer : verdict_before(all, from, id);
}
