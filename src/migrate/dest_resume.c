/*
 * The destination's side from its claim on: the guest is let run, or the VM is given back.
 */
#include "migrate/dest.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#include <signal.h>
#include <string.h>

#define LOOK_MS 200
#define RETRY_MS 2000
/* Longer than the source waits for its next try to make a lane. */
#define HANG_MS 10000

/* The hypervisor answers nothing, as where its guest waits for a page: it can be given up, and is
 * when the source has lost the pages. */
static int check_hang(struct migration *m, struct error **err)
{
	bool over;

	pthread_mutex_lock(&m->all->lock);
	m->stuck = true;
	over = m->cancel || (m->abort && !m->claimed);
	pthread_mutex_unlock(&m->all->lock);
	if (!over && !(m->options.postcopy && dest_source_has_failed(m)))
		return 0;
	if (!m->options.postcopy)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"its hypervisor on %s hung, and was given up", m->all->set.node);
	return error_set(err, ERROR_HYPERVISOR, 0,
		"its hypervisor on %s hung without some pages of its memory, which %s %s",
		m->all->set.node, m->peer, over ? "has not sent" : "has lost");
}

/* Another lane for hypervisors that wait for one; the source asked for it. */
static void renew_lane(struct migration *m)
{
	cleanup_free char *socket = migration_socket(m);
	cleanup_error struct error *e = NULL;
	cleanup_fd int listen_fd = -1;
	int port;

	migration_release_mover(m, clock_ms());
	if (fault_point("migrate.dst.before_renew", &e) == 0)
		listen_fd = dest_listen_lane(m->all, &port, &e);
	if (listen_fd >= 0)
		m->mover = migration_start_mover(m, listen_fd, NULL, &e);
	if (!m->mover || hv_vm_migrate_recover(vm_hv(m->vm), socket, &e) < 0 ||
		local_connect(m, &e) < 0) {
		log_error("%s: no new lane: %s", m->vm_name, e->message);
		port = 0;
	}
	pthread_mutex_lock(&m->all->lock);
	m->recover = false;
	pthread_mutex_unlock(&m->all->lock);
	dest_publish(m, port, true);
}

static void renew_when_asked(struct migration *m)
{
	bool asked;

	pthread_mutex_lock(&m->all->lock);
	asked = m->recover;
	pthread_mutex_unlock(&m->all->lock);
	if (asked)
		renew_lane(m);
}

/* The hypervisor may wait for a page, and so for a lane that the source wants to make again: the
 * source is served meanwhile. */
static void sit_out_hang(struct migration *m)
{
	int64_t until_ms = clock_ms() + HANG_MS;

	do {
		renew_when_asked(m);
	} while (hv_vm_state(vm_hv(m->vm)) != HV_RUNNING && clock_ms() < until_ms &&
		 migrations_pause(m->all, LOOK_MS));
}

/* Whether an order that was answered with `e` has been carried out all the same: the guest runs, or
 * has run and powered off or failed. */
static bool has_run(enum hv_state state, const struct error *e)
{
	return state == HV_RUNNING || state == HV_OFF ||
	       (state == HV_FAILED && (e->kind == ERROR_HYPERVISOR || e->kind == ERROR_DISK));
}

/* For a hypervisor that runs a guest at once: what is held back of its stream is what lets it. */
static void release_held(struct migration *m)
{
	if (migration_runs_at_once(m))
		mover_release(m->mover ? mover_process(m->mover) : &m->mover_left);
}

/* The data mover has ended without having given the hypervisor all: it never will, and a part of it
 * must not run. */
static void end_half_given(struct migration *m)
{
	const struct process_id *hv = hv_vm_process(vm_hv(m->vm));
	bool ended = m->mover ? mover_check(m->mover, NULL) < 0 : !process_alive(&m->mover_left);

	if (!migration_runs_at_once(m) || !ended || hv_vm_state(vm_hv(m->vm)) != HV_INCOMING)
		return;
	log_error("%s: its data mover on %s has ended before it had given the hypervisor all",
		m->vm_name, m->all->set.node);
	process_signal(hv, SIGKILL);
	process_wait(hv, clock_ms() + RETRY_MS, NULL);
}

static int ended_before(struct migration *m, struct error **err)
{
	m->may_have_run = m->may_have_run && !hv_vm_never_ran(vm_hv(m->vm));
	return error_set(err, ERROR_NOT_RUNNING, 0,
		"the hypervisor of %s on %s has ended before its guest ran", m->vm_name,
		m->all->set.node);
}

/* An order that the hypervisor has not answered in time may still be carried out: asked again until
 * it answers, for only then it is known whether the guest runs. In post-copy no other copy can run,
 * and what keeps this one from it (a disk's lock) is waited for. On error m->may_have_run tells
 * whether it is certain that the guest has not. */
static int let_run(struct migration *m, struct error **err)
{
	for (;;) {
		struct error *e = NULL;
		enum hv_state state = hv_vm_state(vm_hv(m->vm));
		bool hangs;

		if (state == HV_GONE)
			return ended_before(m, err);
		m->may_have_run = true;
		release_held(m);
		if (hv_vm_resume(vm_hv(m->vm), &e) == 0)
			return 0;
		state = hv_vm_state(vm_hv(m->vm));
		if (has_run(state, e)) {
			error_free(&e);
			return 0;
		}
		if (state == HV_GONE) {
			m->may_have_run = !hv_vm_never_ran(vm_hv(m->vm));
			return error_move(err, e);
		}
		if ((state == HV_PAUSED || state == HV_INCOMING) && e->kind != ERROR_TIMEOUT) {
			m->may_have_run = false;
			if (!migration_in_postcopy(m))
				return error_move(err, e);
		}
		log_warning("%s was told to run and does not: %s", m->vm_name, e->message);
		end_half_given(m);
		hangs = e->kind == ERROR_TIMEOUT && migration_in_postcopy(m);
		error_free(&e);
		if (hangs && check_hang(m, err) < 0)
			return -1;
		if (hangs)
			sit_out_hang(m);
		if (!migrations_pause(m->all, RETRY_MS))
			return error_set(
				err, ERROR_UNDECIDED, 0, "droverd on %s stops", m->all->set.node);
	}
}

static int resume(struct migration *m, struct error **err)
{
	int rc = fault_point("migrate.dst.after_claim", err);

	if (rc == 0)
		rc = let_run(m, err);
	if (rc < 0)
		return -1;
	fault_point("migrate.dst.after_resume", NULL);
	pthread_mutex_lock(&m->all->lock);
	m->resumed_ms = clock_ms();
	pthread_cond_broadcast(&m->all->changed);
	pthread_mutex_unlock(&m->all->lock);
	hv_vm_announce(vm_hv(m->vm), NULL);
	return 0;
}

/* Claims the next epoch for `node` ("": nobody), again and again until the pool takes it; false
 * when droverd stops before that. */
static bool claim_for(struct migration *m, const char *node)
{
	const struct pool *pool = m->all->set.pool;

	do {
		cleanup_error struct error *e = NULL;
		struct pool_owner now = {0};

		if (fault_point("migrate.dst.before_hand_back", &e) == 0 &&
			(pool_owner_claim(pool, m->vm_name, m->epoch + 2, node, m->id, NULL, &e) ==
					0 ||
				(pool_owner_read(pool, m->vm_name, &now, NULL) == 0 &&
					now.epoch > m->epoch + 1)))
			return true;
		log_error("%s could not be given %s%s: %s", m->vm_name, *node ? "back to " : "up",
			node, e->message);
	} while (migrations_pause(m->all, RETRY_MS));
	return false;
}

/* We own the VM and cannot run it. The source has a whole copy and gets the VM back, unless the
 * guest may have run here and written to its disks, or the source has given its copy up: then it
 * belongs to nobody, and has to be started. The claim comes before the end of our paused copy: a
 * droverd that dies between the two finds either our claim and the copy, and tries again, or the
 * source's claim. Until the claim is made we say that nothing is known, and the source keeps its
 * copy. */
static void give_up(struct migration *m, struct error **err)
{
	bool gone = m->may_have_run || !dest_source_may_keep(m);

	if (!claim_for(m, gone ? "" : m->peer)) {
		error_free(err);
		error_set(err, ERROR_UNDECIDED, 0, "droverd on %s stops", m->all->set.node);
		return;
	}
	if (m->may_have_run)
		error_prefix(err,
			"%s ended on %s while it took it over; `drover start %s` starts "
			"it",
			m->vm_name, m->all->set.node, m->vm_name);
	m->claimed = false;
	m->uncertain = m->may_have_run;
	vm_end(m->vm);
	m->vm = NULL;
}

/* The guest may stand still, for a page that is on the other node. */
static int note_interruption(struct migration *m, struct error **err)
{
	bool stuck, over;

	pthread_mutex_lock(&m->all->lock);
	stuck = m->stuck;
	m->stuck = m->last.phase == HV_MIGRATE_POSTCOPY_PAUSED;
	over = m->cancel || m->abort;
	pthread_mutex_unlock(&m->all->lock);
	if (m->stuck && (over || dest_source_has_failed(m)))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s runs on %s without some pages of its memory, which %s has lost; stop "
			"it "
			"and start it again",
			m->vm_name, m->all->set.node, m->peer);
	if (m->stuck && !stuck)
		log_error("the post-copy of %s from %s is interrupted: its guest waits for pages "
			  "that are there, until %s connects again",
			m->vm_name, m->peer, m->peer);
	renew_when_asked(m);
	migration_event(m, m->stuck ? "interrupted" : "post-copy", NULL);
	return 0;
}

/* The guest runs here, and pages of it are still on their way. */
static int follow(struct migration *m, struct error **err)
{
	struct hv_migrate_status *s = &m->last;
	struct error *e = NULL;

	/* Without the entry the next droverd finds the same by itself. */
	journal_step(m, STEP_POSTCOPY, NULL);
	pthread_mutex_lock(&m->all->lock);
	m->step = STEP_POSTCOPY;
	pthread_mutex_unlock(&m->all->lock);
	while (s->phase != HV_MIGRATE_COMPLETED) {
		if (migrations_closing(m->all))
			return error_set(
				err, ERROR_UNDECIDED, 0, "droverd on %s stops", m->all->set.node);
		if (fault_point("migrate.dst.during_postcopy", &e) < 0 ||
			hv_vm_migrate_wait(vm_hv(m->vm), s->phase, clock_ms() + LOOK_MS, s, &e) <
				0) {
			if (e->kind == ERROR_NOT_RUNNING)
				return error_move(err, e);
			log_warning("%s", e->message);
			error_free(&e);
			migrations_pause(m->all, RETRY_MS);
		}
		if (s->phase == HV_MIGRATE_FAILED)
			return error_set(err, ERROR_HYPERVISOR, 0,
				"the hypervisor on %s gave up in post-copy: %s; stop %s and start "
				"it "
				"again",
				m->all->set.node, s->failure, m->vm_name);
		if (s->phase != HV_MIGRATE_COMPLETED && note_interruption(m, err) < 0)
			return -1;
	}
	m->complete_ms = clock_ms();
	return 0;
}

int dest_run_here(struct migration *m, struct error **err)
{
	if (resume(m, err) == 0)
		return migration_in_postcopy(m) ? follow(m, err) : 0;
	if ((*err)->kind != ERROR_UNDECIDED)
		give_up(m, err);
	return -1;
}

int dest_wait_answer(struct migration *m, struct error **err)
{
	const char *node = m->all->set.node;
	bool said = false;
	int rc = 0;

	while (rc == 0 && hv_vm_state(vm_hv(m->vm)) == HV_SILENT) {
		if (!said)
			log_error("%s: its hypervisor on %s does not answer; `drover migration "
				  "cancel %s --node %s` gives its copy there up",
				m->vm_name, node, m->id, node);
		said = true;
		rc = check_hang(m, err);
		if (rc == 0)
			renew_when_asked(m);
		migration_event(m, "interrupted", NULL);
		if (rc == 0 && !migrations_pause(m->all, RETRY_MS))
			rc = error_set(err, ERROR_UNDECIDED, 0, "droverd on %s stops", node);
	}
	dest_set_stuck(m, false);
	if (rc < 0 && m->claimed && (*err)->kind != ERROR_UNDECIDED) {
		m->may_have_run = true;
		give_up(m, err);
	}
	return rc;
}
