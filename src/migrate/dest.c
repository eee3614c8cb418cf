/*
 * The destination's side of a migration, from top to bottom in dest_run(). The source's droverd
 * calls migrations_expect, …_wait_ready, …_handover and …_abort, each in a thread of its own; they
 * leave word in struct migration for the thread that runs dest_run().
 */
#include "migrate/dest.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "migrate/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_MS 200
/* All is loaded, and the source has not said that its copy is paused: it has died, or is cut off.
 * It cannot have given the VM up without us, and we have not claimed: giving up is safe. */
#define SILENCE_MS 120000
/* Meanwhile it may have given the move up, and could not say so. */
#define ASK_SOURCE_MS 5000
/* The same in post-copy, where the source cannot go on and the guest stands still for it. */
#define WORD_MS 10000
#define RETRY_MS 2000
#define MOVER_MS 2000

static int bind_one(const struct addrinfo *a, int port)
{
	int one = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (a->ai_family == AF_INET6)
		((struct sockaddr_in6 *)a->ai_addr)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)a->ai_addr)->sin_port = htons((uint16_t)port);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 1) < 0)
		close_fd(&fd);
	return fd;
}

int dest_listen(const struct migrate_settings *set, int *port, struct error **err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
	int rc = getaddrinfo(set->listen_address, NULL, &hints, &found), fd = -1;

	*port = 0;
	if (rc != 0)
		return error_set(err, ERROR_DEFINITION, 0, "cannot listen on %s: %s",
			set->listen_address, gai_strerror(rc));
	for (int p = set->port_min; fd < 0 && p <= set->port_max; p++) {
		fd = bind_one(found, p);
		*port = p;
	}
	freeaddrinfo(found);
	if (fd < 0)
		error_set(err, ERROR_FAILED, errno,
			"no port from %d to %d is free on %s for the lane; see port_min and "
			"port_max in drover.conf",
			set->port_min, set->port_max, set->listen_address);
	return fd;
}

int dest_listen_lane(struct migrations *all, int *port, struct error **err)
{
	int fd = dest_listen(&all->set, port, NULL);

	if (fd >= 0)
		return fd;
	probes_hold(all);
	fd = dest_listen(&all->set, port, err);
	probes_release(all);
	return fd;
}

/* With the lock held: whether the source, or somebody here, has called it off. */
static int check_abort(struct migration *m, struct error **err)
{
	if (m->abort)
		return error_set(err, ERROR_CANCELLED, 0, "%s gave the migration of %s up", m->peer,
			m->vm_name);
	if (m->cancel)
		return error_set(err, ERROR_CANCELLED, 0,
			"the migration of %s from %s was cancelled here", m->vm_name, m->peer);
	return 0;
}

static int look_around(struct migration *m, struct error **err)
{
	int rc;

	/* What may be switched to post-copy at any moment is not ended for that. */
	if (migrations_closing(m->all))
		return error_set(err, m->options.postcopy ? ERROR_UNDECIDED : ERROR_INTERRUPTED, 0,
			"droverd on %s stops", m->all->set.node);
	pthread_mutex_lock(&m->all->lock);
	rc = check_abort(m, err);
	pthread_mutex_unlock(&m->all->lock);
	return rc;
}

void dest_publish(struct migration *m, int port, bool ready)
{
	pthread_mutex_lock(&m->all->lock);
	m->port = port;
	m->ready = ready;
	pthread_cond_broadcast(&m->all->changed);
	pthread_mutex_unlock(&m->all->lock);
}

/* The lane can be connected while the hypervisor starts. */
static int open_lane(struct migration *m, struct error **err)
{
	cleanup_fd int listen_fd = -1;
	int port;

	if (fault_point("migrate.dst.before_listen", err) < 0)
		return -1;
	listen_fd = dest_listen_lane(m->all, &port, err);
	if (listen_fd < 0)
		return -1;
	m->mover = migration_start_mover(m, listen_fd, NULL, err);
	if (!m->mover)
		return -1;
	dest_publish(m, port, false);
	return 0;
}

static int start_hypervisor(struct migration *m, struct error **err)
{
	cleanup_free char *socket = migration_socket(m);

	if (fault_point("migrate.dst.before_start", err) < 0)
		return -1;
	if (vm_start_incoming(m->vm, m->def, m->options.files, err) < 0)
		return error_prefix(err, "cannot start %s on %s", m->vm_name, m->all->set.node);
	if (fault_point("migrate.dst.before_incoming", err) < 0 ||
		hv_vm_migrate_incoming(vm_hv(m->vm), socket, m->options.postcopy, err) < 0 ||
		(m->options.files ? local_pair(m, err) : local_connect(m, err)) < 0)
		return error_prefix(err, "cannot move %s to %s", m->vm_name, m->all->set.node);
	/* Before the source can know it: a copy without this entry has got no stream. */
	if (fault_point("migrate.dst.before_ready", err) < 0 ||
		journal_step(m, STEP_STREAM, err) < 0)
		return -1;
	dest_publish(m, m->port, true);
	return 0;
}

static int prepare(struct migration *m, struct error **err)
{
	char operation[128];

	snprintf(operation, sizeof(operation), "being moved here from %s", m->peer);
	m->vm = vms_take_incoming(m->all->set.vms, m->def, operation, err);
	if (!m->vm)
		return error_prefix(err, "cannot start %s on %s", m->vm_name, m->all->set.node);
	if (open_lane(m, err) < 0)
		return error_prefix(err, "cannot move %s to %s", m->vm_name, m->all->set.node);
	return start_hypervisor(m, err);
}

/* All files are here when the data mover has compared what came with what was sent as well. */
static int follow_files(struct migration *m, int64_t deadline_ms, struct error **err)
{
	if (hv_vm_migrate_wait(vm_hv(m->vm), m->last.phase, deadline_ms, &m->last, err) < 0)
		return -1;
	if (m->last.phase == HV_MIGRATE_COMPLETED && !mover_said(m->mover, "end", deadline_ms))
		m->last.phase = HV_MIGRATE_ACTIVE;
	return 0;
}

/* What the hypervisor does not tell of its stream, the data mover does. */
static int follow(struct migration *m, int64_t deadline_ms, struct error **err)
{
	struct hv_vm *hv = vm_hv(m->vm);

	if (m->options.files)
		return follow_files(m, deadline_ms, err);
	if (!migration_runs_at_once(m))
		return hv_vm_migrate_wait(hv, m->last.phase, deadline_ms, &m->last, err);
	if (mover_said(m->mover, "held", deadline_ms) &&
		hv_vm_migrate_seen(hv, HV_MIGRATE_COMPLETED, err) < 0)
		return -1;
	return hv_vm_migrate_status(hv, &m->last, err);
}

/* Until the hypervisor has loaded the whole stream, or all that post-copy lets it begin with; it
 * stays paused. */
static int wait_loaded(struct migration *m, struct error **err)
{
	struct hv_migrate_status *s = &m->last;

	if (fault_point("migrate.dst.before_loaded", err) < 0)
		return -1;
	while (s->phase != HV_MIGRATE_COMPLETED && !migration_in_postcopy(m)) {
		if (look_around(m, err) < 0 ||
			(m->mover ? mover_check(m->mover, err) : dest_check_source(m, err)) < 0)
			return -1;
		if (follow(m, clock_ms() + LOOK_MS, err) < 0)
			return error_prefix(err, "on %s", m->all->set.node);
		if (s->phase == HV_MIGRATE_FAILED || s->phase == HV_MIGRATE_CANCELLED)
			return error_set(err, ERROR_HYPERVISOR, 0,
				"the hypervisor on %s cannot load %s: %s", m->all->set.node,
				m->vm_name, s->failure);
	}
	dest_set_stuck(m, false);
	return 0;
}

/* 1: it has come; 0: not yet. */
static int wait_word(struct migration *m, int64_t until_ms, struct error **err)
{
	int rc = 0;

	pthread_mutex_lock(&m->all->lock);
	while (!m->handover && (rc = check_abort(m, err)) == 0 && !m->all->closing &&
		clock_ms() < until_ms)
		migrations_wait(m->all, until_ms);
	if (rc == 0 && m->all->closing && (m->options.postcopy || !m->handover))
		rc = error_set(err, m->options.postcopy ? ERROR_UNDECIDED : ERROR_INTERRUPTED, 0,
			"droverd on %s stops", m->all->set.node);
	else if (rc == 0)
		rc = m->handover;
	pthread_mutex_unlock(&m->all->lock);
	return rc;
}

/* Until the source says that its copy is paused for good. In post-copy it is, or the stream would
 * not have come to this; its word tells besides that it can serve the remaining pages. When no word
 * comes, the guest is better off here than nowhere. */
static int wait_handover(struct migration *m, struct error **err)
{
	bool switched = migration_in_postcopy(m);
	int64_t deadline = clock_ms() + (switched ? WORD_MS : SILENCE_MS);
	int rc;

	for (;;) {
		int64_t next = clock_ms() + ASK_SOURCE_MS;

		rc = wait_word(m, switched || next > deadline ? deadline : next, err);
		if (rc != 0)
			return rc < 0 ? -1 : 0;
		if (clock_ms() >= deadline)
			break;
		if (!switched && dest_check_given_up(m, err) < 0)
			return -1;
	}
	return switched ? 0
			: error_set(err, ERROR_UNREACHABLE, 0,
				  "%s did not say within %d s that its copy of %s is paused",
				  m->peer, SILENCE_MS / 1000, m->vm_name);
}

/* Whether the claim was won, of which its call could not tell: asks until the pool answers. The
 * copy stays paused meanwhile. */
static int find_out_claim(struct migration *m, struct error *why, struct error **err)
{
	const struct migrate_settings *set = &m->all->set;
	struct pool_owner now;

	while (pool_owner_read(set->pool, m->vm_name, &now, NULL) < 0) {
		log_error("%s: cannot tell whether it was claimed: %s", m->vm_name, why->message);
		if (!migrations_pause(m->all, RETRY_MS)) {
			error_free(&why);
			return error_set(err, ERROR_UNDECIDED, 0, "droverd on %s stops", set->node);
		}
	}
	if (!strcmp(now.node, set->node) && !strcmp(now.why, m->id)) {
		error_free(&why);
		return 0;
	}
	return error_move(err, why);
}

static int try_claim(struct migration *m, struct error **err)
{
	const struct migrate_settings *set = &m->all->set;
	struct pool_owner now = {0};
	struct error *e = NULL;

	if (fault_point("migrate.dst.before_claim", err) < 0)
		return -1;
	if (pool_owner_claim(set->pool, m->vm_name, m->epoch + 1, set->node, m->id, &now, &e) == 0)
		return 0;
	/* By ourselves, at an earlier try. */
	if (e->kind == ERROR_NOT_OWNER && !strcmp(now.node, set->node) && !strcmp(now.why, m->id)) {
		error_free(&e);
		return 0;
	}
	return e->kind == ERROR_NOT_OWNER ? error_move(err, e) : find_out_claim(m, e, err);
}

/* The one moment that decides: after it, this node runs the VM, whatever happens. In post-copy
 * nobody else can, so that a pool that takes no claim is waited for; a source that could would have
 * made it its own (ERROR_NOT_OWNER). */
static int claim(struct migration *m, struct error **err)
{
	struct error *e = NULL;

	if (journal_step(m, STEP_CLAIM, &e) < 0) {
		if (!migration_in_postcopy(m))
			return error_move(err, e);
		log_warning("%s", e->message);
		error_free(&e);
	}
	while (try_claim(m, &e) < 0) {
		if (!migration_in_postcopy(m) || e->kind == ERROR_NOT_OWNER ||
			e->kind == ERROR_UNDECIDED)
			return error_move(err, e);
		log_error("%s cannot be claimed and stays paused; trying again: %s", m->vm_name,
			e->message);
		error_free(&e);
		if (!migrations_pause(m->all, RETRY_MS))
			return error_set(
				err, ERROR_UNDECIDED, 0, "droverd on %s stops", m->all->set.node);
	}
	m->claimed = true;
	return 0;
}

/* The VM is this node's like any other. A hypervisor that waits for a new lane of a post-copy gets
 * none any more; the next migration has its socket at the same path. */
static void give_to_node(struct migration *m)
{
	cleanup_free char *socket = migration_socket(m);

	unlink(socket);
	vm_keep_epoch(m->vm);
	vm_give_back(m->vm);
}

static void finish(struct migration *m, int rc, struct error *e)
{
	enum migrate_state state = rc == 0                      ? MIGRATE_DONE
				   : e->kind == ERROR_CANCELLED ? MIGRATE_CANCELLED
								: MIGRATE_FAILED;

	if (m->vm && (rc == 0 || m->resumed_ms))
		give_to_node(m);
	else if (m->vm)
		vm_end(m->vm);
	m->vm = NULL;
	fault_point("migrate.dst.before_done", NULL);
	if (rc == 0 && m->mover)
		mover_wait(m->mover, "end", clock_ms() + LOOK_MS, NULL);
	migration_ended(m, state, e);
	migration_release_mover(m, clock_ms() + (rc == 0 ? MOVER_MS : 0));
}

/* From the stream on. */
static int take_over(struct migration *m, struct error **err)
{
	if (wait_loaded(m, err) < 0 || wait_handover(m, err) < 0 || claim(m, err) < 0)
		return -1;
	return dest_run_here(m, err);
}

/* Takes `e` over. */
static void end_receiving(struct migration *m, int rc, struct error *e)
{
	if (rc < 0 && e->kind == ERROR_UNDECIDED)
		error_free(&e); /* droverd stops: the journal has it */
	else
		finish(m, rc, e);
}

static void dest_run(struct migration *m)
{
	struct error *e = NULL;
	int rc = prepare(m, &e);

	if (rc == 0)
		rc = take_over(m, &e);
	end_receiving(m, rc, e);
}

/* Where the stream of an earlier droverd's copy stands. One that may be switched to post-copy, or
 * has been, is the VM: it is gone on with, unless it has failed. */
static bool may_be_switched(struct migration *m)
{
	return m->options.postcopy && hv_vm_migrate_status(vm_hv(m->vm), &m->last, NULL) == 0 &&
	       m->last.phase != HV_MIGRATE_FAILED;
}

/* Whether the earlier droverd cannot have let it run: nothing else stops a guest that has run here.
 */
static bool never_ran(const struct migration *m)
{
	enum hv_state state = hv_vm_state(vm_hv(m->vm));

	return state == HV_PAUSED || state == HV_INCOMING;
}

/* With what was ready when the earlier droverd ended, which the source may not have heard. */
static int take_over_again(struct migration *m, struct error **err)
{
	dest_publish(m, 0, true);
	return take_over(m, err);
}

/* Goes on with a copy that has been claimed, or that may be the VM since a switch to post-copy;
 * false when it is neither. */
static bool recover_copy(struct migration *m, const struct pool_owner *now)
{
	struct error *e = NULL;
	int rc;

	/* The source does not begin with one that was never ready. */
	if (!m->claimed &&
		(!m->options.postcopy || m->step == STEP_PREPARE || now->epoch != m->epoch))
		return false;
	rc = dest_wait_answer(m, &e);
	if (rc == 0 && !may_be_switched(m) && !m->claimed)
		return false;
	if (rc == 0)
		m->may_have_run = m->claimed && !never_ran(m);
	if (rc == 0)
		rc = m->claimed ? dest_run_here(m, &e) : take_over_again(m, &e);
	end_receiving(m, rc, e);
	return true;
}

/* Only what the pool says we have claimed is ours; all else is ended. */
void dest_recover(struct migration *m)
{
	const struct migrate_settings *set = &m->all->set;
	cleanup_error struct error *gone = NULL;
	struct error *e = NULL;
	struct pool_owner now;

	fault_point("migrate.dst.before_recover", NULL);
	m->vm = migration_take_again(m, &gone);
	if (!m->vm && gone->kind != ERROR_NOT_RUNNING) {
		log_error("migration %s stays unfinished: %s", m->id, gone->message);
		return; /* its copy may run: the journal keeps it for the next start */
	}
	/* Without the pool nothing is known, and a copy that is not let run does no harm. */
	while (pool_owner_read(set->pool, m->vm_name, &now, &e) < 0) {
		log_error("%s: cannot tell whether it was claimed: %s", m->vm_name, e->message);
		error_free(&e);
		pthread_mutex_lock(&m->all->lock);
		m->state = MIGRATE_UNDECIDED;
		pthread_mutex_unlock(&m->all->lock);
		if (!migrations_pause(m->all, RETRY_MS))
			return;
	}
	m->claimed = !strcmp(now.node, set->node) && !strcmp(now.why, m->id);
	m->options.files = m->vm && hv_vm_is_files(vm_hv(m->vm));
	/* Of an owner whose hypervisor is gone the VM has been released by now. */
	m->uncertain = m->step == STEP_CLAIM && !m->claimed && now.epoch != m->epoch;
	pthread_mutex_lock(&m->all->lock);
	m->state = MIGRATE_RUNNING;
	pthread_mutex_unlock(&m->all->lock);
	if (m->vm && recover_copy(m, &now))
		return;
	error_set(&e, ERROR_INTERRUPTED, 0,
		"droverd on %s was restarted during the migration from %s", set->node, m->peer);
	if (m->vm && !strcmp(now.node, set->node))
		vm_give_back(m->vm); /* it came here in another way since */
	else if (m->vm)
		vm_end(m->vm);
	m->vm = NULL;
	migration_ended(m, MIGRATE_FAILED, e);
	migration_release_mover(m, clock_ms());
}

int migrations_receive(struct migrations *all, const char *id, struct error **err)
{
	struct migration *m;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	m = migration_find(all, id);
	if (!m || m->source)
		rc = error_set(err, ERROR_NOT_FOUND, 0, "no migration %s is expected here", id);
	else if (m->received || m->ended)
		rc = error_set(err, ERROR_BUSY, 0, "migration %s is being received already", id);
	else
		m->received = true;
	if (rc == 0) {
		all->threads++;
		m->users++;
	}
	pthread_mutex_unlock(&all->lock);
	if (rc < 0)
		return -1;
	log_set_migration(id);
	dest_run(m);
	log_set_migration(NULL);
	pthread_mutex_lock(&all->lock);
	all->threads--;
	m->users--;
	if (m->error)
		rc = error_set(err, m->error->kind, 0, "%s", m->error->message);
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	return rc;
}
