/*
 * The source's side of a migration that did not go through, or of which it is not known: who runs
 * the VM is decided in source_settle(). docs/handover.md has the rules.
 */
#include "migrate/internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "migrate/source.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

/* It ends its copy meanwhile. */
#define ABORT_MS 25000
#define SETTLE_RETRY_MS 2000
/* A destination that lets its guest run has said so. */
#define SAID_MS 15000
/* It reads what a hypervisor still sends before that hears it. */
#define ANSWER_MS 60000
/* One whose connection ended while nobody was there has either gone on or ended by then. */
#define LIVES_ON_MS 3000

/* A switch to post-copy that came to nothing, or to no end: the hypervisor must be made to. */
static bool must_abandon(struct migration *m)
{
	struct hv_migrate_status *s = &m->last;

	return m->options.postcopy && hv_vm_migrate_status(vm_hv(m->vm), s, NULL) == 0 &&
	       (s->phase == HV_MIGRATE_SWITCHOVER || migration_in_postcopy(m));
}

/* The guest goes on here. What the guest was before is what it is again. */
static int go_on(struct migration *m, struct error **err)
{
	struct hv_vm *hv = vm_hv(m->vm);
	enum hv_state state = hv_vm_state(hv);

	if (state == HV_RUNNING)
		return 0;
	m->abandoned = must_abandon(m);
	if ((m->abandoned ? hv_vm_migrate_abandon(hv, err) : hv_vm_resume(hv, err)) < 0)
		return -1;
	/* Switches may have learnt the destination's port already. */
	hv_vm_announce(hv, NULL);
	return 0;
}

/* An end that this side wanted, or a guest that could not be suspended here, needs no other reason.
 */
static bool decided_here(const struct migration *m, const struct error *e)
{
	return e->kind == ERROR_CANCELLED || e->kind == ERROR_TIMEOUT ||
	       (m->options.files && m->last.phase == HV_MIGRATE_FAILED);
}

/* Tells the destination that nothing comes any more, and takes its word. Once is enough. */
static enum verdict abort_destination(struct migration *m, struct error **why)
{
	cleanup_error struct error *e = NULL;
	cleanup_json json_t *answer = NULL;
	cleanup_error struct error *unused = NULL;
	enum verdict verdict;

	if (m->told)
		return OURS;
	if (!m->link)
		m->link = node_link_open(m->all->set.peers, m->peer, &e);
	if (!m->link || fault_point("migrate.src.before_abort", &e) < 0 ||
		source_call(m, "POST", "abort", NULL, ABORT_MS, &answer, &e) < 0) {
		log_warning("%s was not told that the migration is off: %s", m->peer,
			e ? e->message : "");
		return UNKNOWN;
	}
	verdict = source_take_word(answer, decided_here(m, *why) ? &unused : why);
	m->told = verdict == OURS;
	return verdict;
}

enum verdict source_taken_since(
	struct migration *m, const struct pool_owner *now, struct error **err)
{
	error_set(err, ERROR_FAILED, 0,
		*now->node ? "%s has taken %s over, and it belongs to %s now"
			   : "%s has taken %s over, and does not run it any more; `drover "
			     "start %s` starts it",
		m->peer, m->vm_name, *now->node ? now->node : m->vm_name);
	return BROKEN;
}

/* Our hypervisor has died after its switch to post-copy, and the destination, which would have said
 * so by now if its guest ran, waits for pages that are gone: until it hears that. */
static bool pages_died(struct migration *m, int64_t since_ms)
{
	return m->step == STEP_SWITCH && hv_vm_state(vm_hv(m->vm)) == HV_GONE &&
	       clock_ms() - since_ms >= SAID_MS;
}

/* The destination has claimed: its word tells whether it runs the VM for good. */
static enum verdict ask_claimer(
	struct migration *m, const struct pool_owner *now, int64_t since_ms, struct error **err)
{
	cleanup_json json_t *answer = NULL;
	struct error *e = NULL;
	const char *word;

	if (!m->link)
		m->link = node_link_open(m->all->set.peers, m->peer, &e);
	if (m->link)
		source_call(m, "POST", "abort", NULL, ABORT_MS, &answer, &e);
	word = answer ? json_get_string(answer, "state", NULL) : NULL;
	if ((word && !strcmp(word, "running")) || pages_died(m, since_ms)) {
		error_free(&e);
		return THEIRS;
	}
	if (strcmp(now->node, m->peer) || strcmp(now->why, m->id)) {
		error_free(&e);
		return source_taken_since(m, now, err);
	}
	/* It may be giving the VM back, or be about to: our copy is the only whole one then. */
	if (!e || source_may_call_again(m, e, since_ms)) {
		error_free(&e);
		error_set(err, ERROR_UNDECIDED, 0,
			"%s has claimed %s and cannot say whether it runs there", m->peer,
			m->vm_name);
		return UNKNOWN;
	}
	error_move(err, e);
	error_prefix(err,
		"%s has taken %s over and does not answer; if it is dead, `drover recover %s` "
		"takes it from there",
		m->peer, m->vm_name, m->vm_name);
	return BROKEN;
}

/* After the destination may have been told to take over: whose is the VM? Claims it back when
 * nobody has claimed it. */
static enum verdict ask_pool(struct migration *m, int64_t since_ms, struct error **err)
{
	const struct migrate_settings *set = &m->all->set;
	cleanup_error struct error *e = NULL;
	struct pool_owner now;

	if (fault_point("migrate.src.before_reclaim", err) < 0 ||
		pool_owner_read(set->pool, m->vm_name, &now, err) < 0)
		return UNKNOWN;
	if (now.epoch == m->epoch && pool_owner_claim(set->pool, m->vm_name, m->epoch + 1,
					     set->node, m->id, &now, &e) == 0)
		return OURS;
	if (e && e->kind != ERROR_NOT_OWNER) {
		error_move(err, e);
		e = NULL;
		return UNKNOWN;
	}
	return !strcmp(now.node, set->node) ? OURS : ask_claimer(m, &now, since_ms, err);
}

void source_say_undecided(struct migration *m, const struct error *e)
{
	pthread_mutex_lock(&m->all->lock);
	if (m->state != MIGRATE_UNDECIDED)
		log_error("%s is UNDECIDED: it stays paused on %s until the pool or %s tells who "
			  "runs it: %s",
			m->vm_name, m->all->set.node, m->peer, e ? e->message : "");
	m->state = MIGRATE_UNDECIDED;
	pthread_mutex_unlock(&m->all->lock);
	migration_event(m, "undecided", e ? e->message : NULL);
}

/* The VM stays paused meanwhile, for nothing else is safe. */
enum verdict source_settle_ownership(struct migration *m, struct error **why)
{
	int64_t since_ms = clock_ms();

	for (;;) {
		cleanup_error struct error *e = NULL;
		enum verdict verdict = ask_pool(m, since_ms, &e);

		if (verdict == UNKNOWN && (!e || e->kind != ERROR_UNDECIDED))
			verdict = abort_destination(m, why);
		if (verdict == BROKEN) {
			error_free(why);
			*why = e;
			e = NULL;
		}
		if (verdict != UNKNOWN)
			return verdict;
		source_say_undecided(m, e);
		if (!migrations_pause(m->all, SETTLE_RETRY_MS))
			return UNKNOWN;
	}
}

static void finish_theirs(struct migration *m, struct error *e)
{
	log_info("%s runs on %s (%s)", m->vm_name, m->peer, e ? e->message : "it says so");
	error_free(&e);
	source_end_copy(m);
	migration_event(m, "done", NULL);
	migration_ended(m, MIGRATE_DONE, NULL);
}

/* Tells the destination, which would wait for ever, that no page comes any more: again and again,
 * for as long as a lane is made again. SOURCE_LEFT when droverd stops. */
static int tell_broken(struct migration *m)
{
	struct error *e = NULL;
	int rc = 0;

	if (!m->link)
		m->link = node_link_open(m->all->set.peers, m->peer, &e);
	if (m->link)
		rc = source_call_again(m, "abort", NULL, NULL, &e);
	if (e)
		log_warning("%s was not told that no more of %s comes: %s", m->peer, m->vm_name,
			e->message);
	error_free(&e);
	return rc == SOURCE_LEFT ? SOURCE_LEFT : 0;
}

/* A guest that does not go on at once (a disk whose lock the other copy still holds, a pool that
 * stalls) is tried again until it does, or its hypervisor is gone. SOURCE_LEFT when droverd stops.
 */
static int keep_going_on(struct migration *m, struct error **why, struct error **err)
{
	int rc = fault_point("migrate.src.after_reclaim", err);

	if (rc == 0)
		rc = go_on(m, err);
	while (rc < 0 && (*err)->kind != ERROR_REFUSED && hv_vm_state(vm_hv(m->vm)) != HV_GONE) {
		log_error("%s does not go on here yet: %s", m->vm_name, (*err)->message);
		error_free(err);
		abort_destination(m, why);
		mover_close(m->mover);
		m->mover = NULL;
		if (!migrations_pause(m->all, SETTLE_RETRY_MS))
			return SOURCE_LEFT;
		rc = go_on(m, err);
	}
	return rc;
}

/* A data mover that was stopped before the hypervisor came leaves its socket. It ends before the VM
 * is anybody's again, whose next migration uses the same path; what it reported is still wanted. */
static void release_socket(struct migration *m)
{
	cleanup_free char *socket = migration_socket(m);

	if (m->mover)
		mover_end(m->mover);
	unlink(socket);
}

/* The data mover of an earlier droverd has the connection of a hypervisor that waits for an answer:
 * when it is ended, it gives the one that lets the guest go on. */
static bool end_mover_left(struct migration *m)
{
	if (!migration_runs_at_once(m) || m->mover_left.pid <= 0 || !process_alive(&m->mover_left))
		return false;
	process_signal(&m->mover_left, SIGTERM);
	return true;
}

/* A hypervisor that runs a guest at once takes the end of its connection for any answer
 * (docs/bhyve.md): where that may have been an earlier droverd's or its data mover's death, it
 * lives on when it has for a while. */
static int see_it_live_on(struct migration *m, struct error **err)
{
	if (!migration_runs_at_once(m) || m->mover_left.pid <= 0 ||
		!hv_vm_wait_off(vm_hv(m->vm), clock_ms() + LIVES_ON_MS))
		return 0;
	return error_set(err, ERROR_NOT_RUNNING, 0,
		"its connection to the data mover was lost while droverd did not run, and its "
		"hypervisor took that for the end of the move");
}

/* What became of the VM, before the reason for it. */
static void say_ours(struct migration *m, const struct error *resume, struct error **e)
{
	const char *node = m->all->set.node;

	if (resume && hv_vm_state(vm_hv(m->vm)) == HV_GONE)
		error_prefix(e, "%s was not moved and has ended on %s (%s); start it again",
			m->vm_name, node, resume->message);
	else if (resume)
		error_prefix(e, "%s does not go on here either (%s); stop and start it", m->vm_name,
			resume->message);
	else if (m->abandoned)
		error_prefix(e,
			"%s was not moved and runs on %s; its hypervisor moves it no more before "
			"it is stopped and started",
			m->vm_name, node);
	else if ((*e)->kind != ERROR_CANCELLED)
		error_prefix(e, "%s was not moved and runs on %s", m->vm_name, node);
}

static void finish_ours(struct migration *m, struct error *e)
{
	cleanup_error struct error *resume = NULL;
	enum migrate_state state = e->kind == ERROR_CANCELLED ? MIGRATE_CANCELLED : MIGRATE_FAILED;
	bool left = end_mover_left(m);
	int rc = keep_going_on(m, &e, &resume);

	if (left)
		process_wait(&m->mover_left, clock_ms() + ANSWER_MS, NULL);

	if (rc == SOURCE_LEFT) {
		error_free(&e);
		return; /* the journal has it */
	}
	abort_destination(m, &e);
	if (rc == 0)
		see_it_live_on(m, &resume);
	say_ours(m, resume, &e);
	release_socket(m);
	vm_keep_epoch(m->vm);
	vm_give_back(m->vm);
	m->vm = NULL;
	migration_ended(m, state, e);
}

/* The last look before a copy is ended because the destination is silent: it may have given the VM
 * back since the pool was read, with what it says now as the reason. UNKNOWN when droverd stops. A
 * copy that was switched to post-copy is not gone on with for that: source_settle_switched decides.
 */
static enum verdict look_again(struct migration *m, struct error **why)
{
	const struct migrate_settings *set = &m->all->set;
	struct pool_owner now = {0};
	struct error *e = NULL;

	if (m->options.postcopy)
		return BROKEN;
	while (pool_owner_read(set->pool, m->vm_name, &now, &e) < 0) {
		source_say_undecided(m, e);
		error_free(&e);
		if (!migrations_pause(m->all, SETTLE_RETRY_MS))
			return UNKNOWN;
	}
	if (now.epoch <= m->epoch + 1 || strcmp(now.why, m->id) || strcmp(now.node, set->node))
		return BROKEN;
	error_free(why);
	error_set(
		why, ERROR_FAILED, 0, "%s, which could not let it run, has given it back", m->peer);
	return OURS;
}

/* It has been moved, and will never be whole. */
static void finish_broken(struct migration *m, struct error *e)
{
	enum verdict verdict = tell_broken(m) == SOURCE_LEFT ? UNKNOWN : look_again(m, &e);

	if (verdict == OURS) {
		finish_ours(m, e);
	} else if (verdict == BROKEN) {
		source_end_copy(m);
		migration_ended(
			m, e->kind == ERROR_CANCELLED ? MIGRATE_CANCELLED : MIGRATE_FAILED, e);
	} else {
		error_free(&e); /* the journal has it */
	}
}

/*
 * A migration that did not go through, or of which it is not known. Until STEP_SWITCH or
 * STEP_HANDOVER was in the journal the destination cannot have claimed: the VM is ours. After it,
 * its word or the pool decides.
 */
void source_settle(struct migration *m, struct error *e)
{
	enum verdict verdict;
	bool switched = m->options.postcopy && m->step > STEP_STREAM && m->step != STEP_UNDO;

	migration_event(m, switched ? "post-copy" : "undo", e->message);
	if (m->step <= STEP_STREAM || m->step == STEP_UNDO) {
		verdict = OURS;
		journal_step(m, STEP_UNDO, NULL);
		/* Told before its stream breaks, the destination knows that nothing is wrong with
		 * it. */
		if (decided_here(m, e) && hv_vm_state(vm_hv(m->vm)) == HV_RUNNING)
			abort_destination(m, &e);
		hv_vm_migrate_cancel(vm_hv(m->vm), NULL);
	} else if (m->step == STEP_END) {
		verdict = THEIRS;
	} else if (switched) {
		verdict = source_settle_switched(m, &e);
	} else {
		/* The pool first: with our claim in it nobody can claim later, whatever was said.
		 */
		verdict = source_settle_ownership(m, &e);
	}
	if (verdict == THEIRS)
		finish_theirs(m, e);
	else if (verdict == BROKEN)
		finish_broken(m, e);
	else if (verdict == OURS)
		finish_ours(m, e);
	else
		error_free(&e); /* droverd stops: the journal has it */
}

/* The destination has it. Where our copy was needed for its pages, only the destination knows
 * whether it has got them all. */
static void recover_theirs(struct migration *m, struct error *e)
{
	if (m->step != STEP_POSTCOPY && m->step != STEP_SWITCH) {
		error_free(&e);
		migration_ended(m, MIGRATE_DONE, NULL);
		return;
	}
	if (tell_broken(m) == SOURCE_LEFT) {
		error_free(&e);
		return; /* the journal has it */
	}
	error_prefix(&e,
		"the hypervisor on %s ended during the post-copy of %s; `drover migration show %s "
		"--node %s` tells whether all of its memory had arrived there",
		m->all->set.node, m->vm_name, m->id, m->peer);
	migration_ended(m, MIGRATE_FAILED, e);
	source_release_lane(m);
}

/* Nothing of ours can run any more, or it cannot be known. The ownership of a VM whose hypervisor
 * is gone was released when VMs were looked for. */
static void recover_without_copy(struct migration *m, struct error *e)
{
	struct pool_owner now;

	if (e->kind != ERROR_NOT_RUNNING) {
		log_error("migration %s stays unfinished: %s", m->id, e->message);
		error_free(&e);
		return; /* the journal keeps it for the next start */
	}
	if (m->step > STEP_STREAM && m->step != STEP_UNDO &&
		pool_owner_read(m->all->set.pool, m->vm_name, &now, NULL) == 0 &&
		!strcmp(now.node, m->peer)) {
		recover_theirs(m, e);
		return;
	}
	abort_destination(m, &e);
	migration_ended(m, MIGRATE_FAILED, e);
	source_release_lane(m);
}

/* After a restart of droverd: what is not known to be theirs is undone. */
void source_recover(struct migration *m)
{
	struct error *e = NULL;

	fault_point("migrate.src.before_recover", NULL);
	m->vm = migration_take_again(m, &e);
	if (!m->vm) {
		recover_without_copy(m, e);
		return;
	}
	m->options.files = hv_vm_is_files(vm_hv(m->vm));
	error_set(&e, ERROR_INTERRUPTED, 0,
		"droverd on %s was restarted during the migration to %s", m->all->set.node,
		m->peer);
	source_settle(m, e);
	source_release_lane(m);
}
