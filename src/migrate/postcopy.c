/*
 * The source's part in a post-copy migration, from the switch on. docs/handover.md has the rules;
 * the one that all of this follows from: once our hypervisor has switched it does not let our guest
 * run again, and the other one needs it for its pages. So nothing here gives up what can still go
 * on.
 */
#include "migrate/internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "migrate/source.h"

#include <string.h>

#define LOOK_MS 200
#define RETRY_MS 2000
/* The destination's droverd is asked whether it is there: a guest runs on meanwhile. */
#define ASK_MS 3000
#define LANE_MS 15000
/* The destination has loaded the last page that it got. */
#define OVER_MS 30000

/* Whether the destination's droverd is there to take over, and its side has not ended. */
static int destination_is_there(struct migration *m, bool *there, struct error **err)
{
	struct error *e = NULL;

	*there = !mover_reconnecting(m->mover) &&
		 source_call(m, "GET", "ready", NULL, ASK_MS, NULL, &e) == 0;
	if (!e || e->kind == ERROR_UNREACHABLE || e->kind == ERROR_TIMEOUT) {
		error_free(&e);
		return 0;
	}
	return error_move(err, e);
}

/* The guest is paused before the order: a hypervisor whose stream fails lets a guest go on that it
 * has paused itself. From the journal's entry on, only a claim that is won lets ours go on. */
int source_switch(struct migration *m, struct error **err)
{
	struct hv_vm *hv = vm_hv(m->vm);
	bool there;

	if (destination_is_there(m, &there, err) < 0)
		return -1;
	if (!there)
		return 0;
	if (source_pass_cancel(m, STEP_SWITCH, err) < 0 || journal_step(m, STEP_SWITCH, err) < 0 ||
		fault_point("migrate.src.before_switch", err) < 0 || hv_vm_pause(hv, err) < 0)
		return -1;
	m->paused_ms = clock_ms();
	if (hv_vm_migrate_postcopy(hv, err) < 0)
		return -1;
	return fault_point("migrate.src.after_switch", err);
}

/* A new lane between new data movers, for hypervisors that wait for one. */
static int renew_lane(struct migration *m, struct error **err)
{
	cleanup_free char *socket = NULL;
	cleanup_json json_t *answer = NULL;
	cleanup_fd int listen_fd = -1;
	char lane[300];
	int64_t port;

	migration_release_mover(m, clock_ms());
	if (fault_point("migrate.src.before_renew", err) < 0 ||
		source_call(m, "POST", "recover", NULL, SOURCE_CALL_MS, &answer, err) < 0 ||
		json_get_int(answer, "port", 1, 65535, &port, err) < 0 ||
		source_lane_address(m->all, m->peer, (int)port, lane, err) < 0)
		return -1;
	migration_event(m, "connect", lane);
	m->mover = migration_start_mover(m, -1, lane, err);
	if (!m->mover || mover_wait(m->mover, "connected", clock_ms() + LANE_MS, err) < 0)
		return -1;
	listen_fd = local_listen(m, &socket, err);
	if (listen_fd < 0 || hv_vm_migrate_resume(vm_hv(m->vm), socket, err) < 0)
		return -1;
	return local_take(m, listen_fd, err);
}

/* What the other side's copy, which runs, says of itself: 1 when it has all of its memory, 0 when
 * not, or nothing is heard; -1 and why when it has ended. */
static int ask_copy(struct migration *m, struct error **err)
{
	cleanup_json json_t *answer = NULL, *reason = NULL;
	bool whole;

	if (source_call(m, "POST", "handover", NULL, SOURCE_CALL_MS, &answer, NULL) < 0 ||
		json_opt_bool(answer, "whole", false, &whole, NULL) < 0)
		return 0;
	if (whole)
		return 1;
	reason = json_pack("{s:O*}", "error", json_object_get(answer, "reason"));
	if (json_to_error(reason, err) == 0)
		return 0;
	return error_prefix(err,
		"%s was moved to %s and has ended there in post-copy; start it again", m->vm_name,
		m->peer);
}

static int pages_lost(struct migration *m, struct error **err)
{
	return error_prefix(err,
		"%s was moved to %s without some pages of its memory, which are lost; stop it "
		"there "
		"and start it again",
		m->vm_name, m->peer);
}

static bool given_up(struct migration *m)
{
	bool cancel;

	pthread_mutex_lock(&m->all->lock);
	m->stuck = true;
	cancel = m->cancel;
	pthread_mutex_unlock(&m->all->lock);
	return cancel;
}

/* Whether the pool says that the destination has the VM no more, which does not say so itself. */
static bool lost_there(struct migration *m, struct error **err)
{
	struct pool_owner now;

	if (pool_owner_read(m->all->set.pool, m->vm_name, &now, NULL) < 0 ||
		now.epoch <= m->epoch + 1)
		return false;
	source_taken_since(m, &now, err);
	return true;
}

/* The connection between the hypervisors is gone, and the guest over there stands still where it
 * touches a page that is still here. */
static bool connect_again(struct migration *m)
{
	cleanup_error struct error *e = NULL;

	log_error("the post-copy of %s to %s is interrupted: its guest waits there for pages that "
		  "are "
		  "here; connecting again",
		m->vm_name, m->peer);
	migration_event(m, "interrupted", NULL);
	if (!m->link)
		m->link = node_link_open(m->all->set.peers, m->peer, &e);
	if (m->link && renew_lane(m, &e) == 0)
		return true;
	log_error("%s", e->message);
	return false;
}

bool source_mend_lane(struct migration *m)
{
	struct hv_migrate_status *s = &m->last;

	if (m->step != STEP_SWITCH)
		return true;
	if (hv_vm_state(vm_hv(m->vm)) == HV_GONE)
		return false;
	if (hv_vm_migrate_status(vm_hv(m->vm), s, NULL) == 0 &&
		s->phase == HV_MIGRATE_POSTCOPY_PAUSED)
		connect_again(m);
	return true;
}

/* 1: all pages are there; 0: look again. */
static int mend(struct migration *m, struct error **err)
{
	int rc;

	if (given_up(m)) {
		error_set(err, ERROR_CANCELLED, 0, "they were given up");
		return pages_lost(m, err);
	}
	if (connect_again(m)) {
		pthread_mutex_lock(&m->all->lock);
		m->stuck = false;
		pthread_mutex_unlock(&m->all->lock);
		return 0;
	}
	rc = m->link ? ask_copy(m, err) : 0;
	if (rc != 0 || lost_there(m, err))
		return rc != 0 ? rc : -1;
	return migrations_pause(m->all, RETRY_MS) ? 0 : SOURCE_LEFT;
}

/* Our hypervisor serves no pages any more. The other may have them all: it takes a moment to say
 * so. */
static int pages_over(struct migration *m, struct error **err)
{
	int64_t deadline = clock_ms() + OVER_MS;
	int whole;

	do {
		whole = ask_copy(m, err);
		if (whole)
			return whole;
		if (given_up(m) || clock_ms() >= deadline) {
			error_set(err, ERROR_HYPERVISOR, 0, "the hypervisor on %s gave up: %s",
				m->all->set.node,
				*m->last.failure ? m->last.failure : "it does not say why");
			return pages_lost(m, err);
		}
	} while (migrations_pause(m->all, RETRY_MS));
	return SOURCE_LEFT;
}

/* Our hypervisor has ended with what it had not sent; it may have sent all. */
static int copy_died(struct migration *m, struct error *e, struct error **err)
{
	int whole = m->link ? ask_copy(m, err) : 0;

	if (whole) {
		error_free(&e);
		return whole;
	}
	error_move(err, e);
	return pages_lost(m, err);
}

/* 1: the other side has all; 0: look again. */
static int look(struct migration *m, struct error **err)
{
	struct hv_migrate_status *s = &m->last;
	struct error *e = NULL;

	if (migrations_closing(m->all))
		return SOURCE_LEFT;
	if (fault_point("migrate.src.during_postcopy", &e) < 0 ||
		hv_vm_migrate_wait(vm_hv(m->vm), s->phase, clock_ms() + LOOK_MS, s, &e) < 0) {
		/* A hypervisor that is busy is no reason to end it. */
		if (e->kind == ERROR_NOT_RUNNING)
			return copy_died(m, e, err);
		log_warning("%s", e->message);
		error_free(&e);
		return migrations_pause(m->all, RETRY_MS) ? 0 : SOURCE_LEFT;
	}
	if (s->phase == HV_MIGRATE_COMPLETED)
		return 1;
	if (s->phase == HV_MIGRATE_POSTCOPY_PAUSED)
		return mend(m, err);
	if (s->phase != HV_MIGRATE_POSTCOPY)
		return pages_over(m, err);
	migration_event(m, "post-copy", NULL);
	return 0;
}

int source_follow(struct migration *m, struct error **err)
{
	cleanup_error struct error *e = NULL;
	int rc;

	/* Without this entry the next droverd would ask again who runs the guest. */
	if (m->step != STEP_POSTCOPY && journal_step(m, STEP_POSTCOPY, &e) < 0)
		log_warning("%s", e->message);
	pthread_mutex_lock(&m->all->lock);
	m->step = STEP_POSTCOPY;
	m->state = MIGRATE_RUNNING;
	pthread_mutex_unlock(&m->all->lock);
	do
		rc = look(m, err);
	while (rc == 0);
	m->complete_ms = clock_ms();
	return rc < 0 ? rc : 0;
}

/* The destination runs the guest, for good: all that is left to do is to serve its pages. */
static enum verdict follow_to_end(struct migration *m, struct error **why)
{
	struct error *e = NULL;
	int rc;

	if (!m->resumed_ms)
		m->resumed_ms = clock_ms();
	rc = source_follow(m, &e);
	if (rc == 0)
		return THEIRS;
	if (rc == SOURCE_LEFT)
		return UNKNOWN;
	error_free(why);
	*why = e;
	return BROKEN;
}

/* Whose it is by an owner of a later epoch than ours. */
static enum verdict verdict_of_owner(
	struct migration *m, const struct pool_owner *now, struct error **why)
{
	if (!strcmp(now->node, m->all->set.node))
		return OURS;
	if (!strcmp(now->node, m->peer) && !strcmp(now->why, m->id))
		return THEIRS;
	error_free(why);
	return source_taken_since(m, now, why);
}

/* Takes the VM back, from a destination that has not claimed it and will not, or has given it back.
 */
static enum verdict take_back(struct migration *m, struct error **why)
{
	struct pool_owner now = {0};

	if (pool_owner_claim(m->all->set.pool, m->vm_name, m->epoch + 1, m->all->set.node, m->id,
		    &now, NULL) == 0)
		return OURS;
	if (now.epoch <= m->epoch)
		return UNKNOWN;
	return verdict_of_owner(m, &now, why);
}

/* What the pool says when the destination does not tell. One that can claim has done so in less
 * time than a lane is made again; and one that has claimed may be giving the VM back, or be about
 * to: our copy is the only whole one then. */
static enum verdict ask_pool(
	struct migration *m, const struct error *silence, int64_t since_ms, struct error **why)
{
	bool silent = silence && !source_may_call_again(m, silence, since_ms);
	struct pool_owner now;
	enum verdict verdict;

	if (pool_owner_read(m->all->set.pool, m->vm_name, &now, NULL) < 0 || now.epoch < m->epoch)
		return UNKNOWN;
	if (now.epoch == m->epoch)
		return silent ? take_back(m, why) : UNKNOWN;
	verdict = verdict_of_owner(m, &now, why);
	return verdict == THEIRS && !silent ? UNKNOWN : verdict;
}

/* Our hypervisor has switched: gives the destination our word again and finds out what became of
 * it. */
static enum verdict settle_switched(
	struct migration *m, int64_t since_ms, struct error **why, struct error **err)
{
	cleanup_json json_t *answer = NULL;
	enum verdict verdict = UNKNOWN;

	if (!m->link)
		m->link = node_link_open(m->all->set.peers, m->peer, err);
	if (m->link && source_call(m, "POST", "handover", NULL, SOURCE_CALL_MS, &answer, err) == 0)
		verdict = source_take_word(answer, why);
	if (verdict == OURS)
		verdict = take_back(m, why);
	else if (verdict == UNKNOWN)
		verdict = ask_pool(m, *err, since_ms, why);
	return verdict == THEIRS ? follow_to_end(m, why) : verdict;
}

/* Whether our hypervisor has, or had when it died, pages that the destination needs. */
static bool is_needed(struct migration *m)
{
	if (hv_vm_state(vm_hv(m->vm)) == HV_GONE)
		return m->step == STEP_SWITCH;
	return hv_vm_migrate_status(vm_hv(m->vm), &m->last, NULL) == 0 && migration_in_postcopy(m);
}

/* The stream has ended, or does not, and cannot be switched any more: decided as any other. */
static enum verdict settle_unswitched(struct migration *m, struct error **why)
{
	enum verdict verdict = source_settle_ownership(m, why);

	if (verdict == THEIRS && is_needed(m))
		return follow_to_end(m, why);
	return verdict;
}

enum verdict source_settle_switched(struct migration *m, struct error **why)
{
	int64_t since_ms = m->paused_ms ? m->paused_ms : clock_ms();
	struct hv_vm *hv = vm_hv(m->vm);

	if (m->step == STEP_POSTCOPY)
		return follow_to_end(m, why);
	for (;;) {
		cleanup_error struct error *e = NULL;
		enum verdict verdict;

		if (hv_vm_migrate_cancel(hv, &e) == 0 || e->kind != ERROR_REFUSED)
			return settle_unswitched(m, why);
		error_free(&e);
		verdict = settle_switched(m, since_ms, why, &e);
		if (verdict != UNKNOWN || migrations_closing(m->all))
			return verdict;
		source_say_undecided(m, e);
		source_mend_lane(m);
		if (!migrations_pause(m->all, RETRY_MS))
			return UNKNOWN;
	}
}
