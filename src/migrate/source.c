/*
 * The source's side of a migration, from top to bottom in source_run(). docs/handover.md has the
 * protocol; what decides who runs the VM after a failure is in settle.c.
 */
#include "migrate/internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "migrate/converge.h"
#include "migrate/estimating.h"
#include "migrate/preflight.h"
#include "migrate/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALL_MS SOURCE_CALL_MS
/* Asked by the way, it must not keep from what goes on. */
#define ASK_ANSWER_MS 3000
/* A droverd that is not there is being started again, or is not. */
#define REFUSED_MS 5000
#define AGAIN_MS 500
/* The slowest that a hypervisor is expected to read a suspended guest. */
#define READ_BYTES_PER_MS 20000
/* The destination starts a hypervisor meanwhile. */
#define READY_MS 60000
#define LANE_MS 15000
/* How often the progress is looked at, and the destination's droverd asked whether it is there. */
#define LOOK_MS 200
#define ASK_MS 10000
/* A switchover takes as long as the downtime limit says; longer is a network that stalls, and the
 * guest is better off here. */
#define SWITCHOVER_MS 15000

struct rounds {
	int number;
	int64_t left_bytes; /* to be sent when it began */
	bool wants_switch;  /* to post-copy */
};

int source_call(struct migration *m, const char *method, const char *what, const json_t *body,
	int timeout_ms, json_t **answer, struct error **err)
{
	cleanup_free char *path = fs_format("/v1/migrations/%s/%s", m->id, what);
	struct http_request request = {
		.method = method, .path = path, .body = body, .timeout_ms = timeout_ms};

	return node_link_call(m->link, &request, answer, err);
}

bool source_may_call_again(struct migration *m, const struct error *e, int64_t since_ms)
{
	int s = m->options.reconnect_s ? m->options.reconnect_s : MIGRATE_RECONNECT_S;
	int64_t limit_ms = (int64_t)s * 1000;

	if (e->kind != ERROR_UNREACHABLE && e->kind != ERROR_TIMEOUT)
		return false;
	if (e->errnum == ECONNREFUSED && !m->options.postcopy)
		limit_ms = REFUSED_MS;
	/* It answers, as soon as its hypervisor has read all of the guest. */
	if (m->options.files && e->kind == ERROR_TIMEOUT && m->vm)
		limit_ms += (int64_t)(vm_definition(m->vm)->memory_bytes / READ_BYTES_PER_MS);
	return clock_ms() - since_ms < limit_ms;
}

int source_call_again(struct migration *m, const char *what, bool (*meanwhile)(struct migration *m),
	json_t **answer, struct error **err)
{
	int64_t since_ms = clock_ms();
	struct error *e = NULL;

	while (source_call(m, "POST", what, NULL, CALL_MS, answer, &e) < 0) {
		if (!source_may_call_again(m, e, since_ms) || (meanwhile && !meanwhile(m)))
			return error_move(err, e);
		log_warning("%s; asking again", e->message);
		error_free(&e);
		if (!migrations_pause(m->all, AGAIN_MS))
			return SOURCE_LEFT;
	}
	return 0;
}

static bool cancelled(struct migration *m)
{
	bool cancel;

	pthread_mutex_lock(&m->all->lock);
	cancel = m->cancel;
	pthread_mutex_unlock(&m->all->lock);
	return cancel;
}

static int check_cancelled(struct migration *m, struct error **err)
{
	if (!cancelled(m))
		return 0;
	return error_set(err, ERROR_CANCELLED, 0,
		"the migration of %s to %s was cancelled; it runs on %s", m->vm_name, m->peer,
		m->all->set.node);
}

/* Tells the destination what comes and queues its part there. */
static int expect(struct migration *m, struct error **err)
{
	cleanup_free char *conf = vm_def_format(vm_definition(m->vm));
	/* What is not asked for is not said: an older droverd would refuse the word. */
	cleanup_json json_t *body = json_pack("{s:s, s:s, s:s, s:I, s:b, s:o*, s:o*, s:o*, s:o*}",
		"id", m->id, "vm", m->vm_name, "definition", conf, "epoch", (json_int_t)m->epoch,
		"pause", m->options.pause, "postcopy", m->options.postcopy ? json_true() : NULL,
		"warm", m->options.files ? json_true() : NULL, "reconnect_s",
		m->options.reconnect_s ? json_integer(m->options.reconnect_s) : NULL, "force",
		preflight_expected_force(m->options.forced));
	cleanup_json json_t *task = json_pack("{s:[s,s]}", "argv", "receive", m->id);
	struct http_request queue = {
		.method = "POST", .path = "/v1/tasks", .body = task, .timeout_ms = CALL_MS};
	cleanup_json json_t *queued = NULL;

	if (fault_point("migrate.src.before_prepare", err) < 0)
		return -1;
	m->link = node_link_open(m->all->set.peers, m->peer, err);
	if (!m->link || source_call(m, "POST", "expect", body, CALL_MS, NULL, err) < 0)
		return -1;
	if (fault_point("migrate.src.before_task", err) < 0)
		return -1;
	if (node_link_call(m->link, &queue, &queued, err) < 0)
		return -1;
	return json_get_int(queued, "id", 1, INT64_MAX, &m->task, err);
}

/* Whether the destination's part has ended without having come to anything. */
static bool task_has_failed(struct migration *m)
{
	cleanup_free char *path = fs_format("/v1/tasks/%lld", (long long)m->task);
	struct http_request show = {.method = "GET", .path = path, .timeout_ms = CALL_MS};
	cleanup_json json_t *task = NULL;
	const char *state;

	if (node_link_call(m->link, &show, &task, NULL) < 0)
		return false;
	state = json_get_string(task, "state", NULL);
	return state && !strcmp(state, "failed");
}

int source_lane_address(
	struct migrations *all, const char *peer, int port, char lane[300], struct error **err)
{
	struct pool_node *node = pool_node_read(all->set.pool, peer, err);
	char host[256];
	int ignored, rc = node ? http_split_address(node->address, host, &ignored, err) : -1;

	pool_node_free(node);
	if (rc == 0)
		snprintf(lane, 300, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, port);
	return rc;
}

/* Waits until the destination's lane can be connected, or until its hypervisor waits for the stream
 * as well; *port gets where the lane is. */
static int wait_ready(struct migration *m, bool hypervisor, int64_t *port, struct error **err)
{
	const char *what = hypervisor ? "ready?hypervisor=1&wait_ms=1000" : "ready?wait_ms=1000";
	int64_t deadline = clock_ms() + READY_MS;
	bool failed = false;

	for (;;) {
		cleanup_json json_t *answer = NULL;

		if (check_cancelled(m, err) < 0 ||
			source_call(m, "GET", what, NULL, CALL_MS, &answer, err) < 0 ||
			json_get_int(answer, "port", 0, 65535, port, err) < 0)
			return -1;
		if (hypervisor ? json_is_true(json_object_get(answer, "ready")) : *port > 0)
			return 0;
		if (failed)
			return error_set(err, ERROR_FAILED, 0,
				"%s did not begin to receive %s; `drover task log %lld --node %s` "
				"has why",
				m->peer, m->vm_name, (long long)m->task, m->peer);
		/* One that has begun goes on without the task, and tells its error itself. */
		failed = *port == 0 && task_has_failed(m);
		if (clock_ms() > deadline)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s was not ready for %s within %d s; the log of droverd there "
				"tells why",
				m->peer, m->vm_name, READY_MS / 1000);
	}
}

/* The lane is connected while the destination's hypervisor starts. */
static int prepare(struct migration *m, struct error **err)
{
	char lane[300];
	int64_t port;

	migration_event(m, "prepare", NULL);
	if (expect(m, err) < 0 || wait_ready(m, false, &port, err) < 0 ||
		source_lane_address(m->all, m->peer, (int)port, lane, err) < 0)
		return -1;
	migration_event(m, "connect", lane);
	if (fault_point("migrate.src.before_lane", err) < 0)
		return -1;
	m->mover = migration_start_mover(m, -1, lane, err);
	if (!m->mover || wait_ready(m, true, &port, err) < 0)
		return -1;
	return mover_wait(m->mover, "connected", clock_ms() + LANE_MS, err);
}

static struct hv_migrate_params params_for_round(const struct migration *m, int round)
{
	return (struct hv_migrate_params){
		.downtime_limit_ms = converge_downtime_ms(m->options.downtime_limit_ms, round),
		.bandwidth_bps = m->options.bandwidth_bps,
		.postcopy = m->options.postcopy};
}

/* The guest stands still from the order to suspend it on. */
static int start_files(struct migration *m, struct error **err)
{
	struct hv_migrate_params params = {.files = true};

	m->paused_ms = clock_ms();
	return hv_vm_migrate(vm_hv(m->vm), "", &params, err) < 0 ? -1 : local_pair(m, err);
}

static int start_stream(struct migration *m, struct error **err)
{
	cleanup_free char *socket = NULL;
	struct hv_migrate_params params = params_for_round(m, 1);
	cleanup_fd int listen_fd = -1;

	if (journal_step(m, STEP_STREAM, err) < 0 ||
		fault_point("migrate.src.before_stream", err) < 0)
		return -1;
	m->stream_ms = clock_ms();
	if (m->options.files)
		return start_files(m, err);
	if (m->options.pause) {
		params.still = migration_runs_at_once(m);
		if (!params.still && hv_vm_pause(vm_hv(m->vm), err) < 0)
			return -1;
		m->paused_ms = clock_ms();
	}
	listen_fd = local_listen(m, &socket, err);
	if (listen_fd < 0 || hv_vm_migrate(vm_hv(m->vm), socket, &params, err) < 0)
		return -1;
	return local_take(m, listen_fd, err);
}

/* Without an answer it may be a network that is cut. */
static int ask_destination(struct migration *m, int64_t *heard_ms, struct error **err)
{
	struct error *e = NULL;

	if (source_call(m, "GET", "ready", NULL, ASK_ANSWER_MS, NULL, &e) == 0) {
		*heard_ms = clock_ms();
		return 0;
	}
	if (!source_may_call_again(m, e, *heard_ms))
		return error_move(err, e);
	log_warning("%s; going on", e->message);
	error_free(&e);
	return 0;
}

/* A stall is not held against a lane that is being made again: that has a limit of its own. */
static int check_stall(struct migration *m, struct error **err)
{
	int64_t now = clock_ms();

	if (m->last.phase != HV_MIGRATE_SWITCHOVER)
		return 0;
	if (mover_reconnecting(m->mover))
		m->stall_ms = now;
	if (now - m->stall_ms < m->options.downtime_limit_ms + SWITCHOVER_MS)
		return 0;
	return error_set(err, ERROR_TIMEOUT, 0,
		"the rest of %s did not get through to %s in %lld s, while it stood still",
		m->vm_name, m->peer, (long long)(now - m->switchover_ms) / 1000);
}

/* Whether as much goes out as the user allows, as far as a measured rate tells. */
static bool is_held_back(const struct migration *m)
{
	int64_t limit = m->options.bandwidth_bps;

	return limit > 0 && m->last.rate_bps >= limit - limit / 4;
}

/* How fast it changes its memory is not known before the second round: 0. */
static int not_in_time(const struct migration *m, struct error **err)
{
	const struct hv_migrate_status *s = &m->last;
	long long limit_s = m->options.timeout_ms / 1000;
	const char *held = is_held_back(m) ? ", as --bandwidth says" : "";
	const char *advice = is_held_back(m) ? "allow a higher --bandwidth or none, " : "";

	if (m->options.files)
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s was not suspended to files and sent within %lld s: %lld MB are left; "
			"give it longer",
			m->vm_name, limit_s, (long long)s->remaining_bytes / 1000000);
	if (s->dirty_rate_bps < s->rate_bps / 2)
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s did not come to a switchover within %lld s: %lld MB are left, and %.1f "
			"MB/s go out%s; %sgive it longer, or move it with --pause",
			m->vm_name, limit_s, (long long)s->remaining_bytes / 1000000,
			(double)s->rate_bps / 1e6, held, advice);
	return error_set(err, ERROR_TIMEOUT, 0,
		"%s did not come to a switchover within %lld s: it changes %.1f MB/s while %.1f "
		"MB/s go out%s; %sallow a longer --downtime, or move it with --pause",
		m->vm_name, limit_s, (double)s->dirty_rate_bps / 1e6, (double)s->rate_bps / 1e6,
		held, advice);
}

/* What may end the rounds from outside. */
static int look_around(
	struct migration *m, int64_t *asked_ms, int64_t *heard_ms, struct error **err)
{
	int64_t now = clock_ms();

	if (migrations_closing(m->all))
		return SOURCE_LEFT;
	if (check_cancelled(m, err) < 0 || mover_check(m->mover, err) < 0 ||
		fault_point("migrate.src.during_rounds", err) < 0)
		return -1;
	if (m->options.timeout_ms && m->step == STEP_STREAM &&
		now - m->stream_ms > m->options.timeout_ms)
		return not_in_time(m, err);
	if (check_stall(m, err) < 0)
		return -1;
	/* A guest that stands still does not wait for an answer that changes nothing, but for one
	 * that would let it go on sooner. */
	if (now - *asked_ms < ASK_MS || (m->paused_ms && !m->options.files))
		return 0;
	*asked_ms = now;
	return ask_destination(m, heard_ms, err);
}

static void note_switchover(struct migration *m)
{
	bool by_us = m->options.pause || m->options.files || m->step == STEP_SWITCH;
	int64_t now = clock_ms();

	if (m->last.phase < HV_MIGRATE_SWITCHOVER) {
		/* What looked like one was a hypervisor that was busy. */
		m->switchover_ms = m->stall_ms = 0;
		m->paused_ms = by_us ? m->paused_ms : 0;
		return;
	}
	m->switchover_ms = m->switchover_ms ? m->switchover_ms : now;
	m->stall_ms = m->stall_ms ? m->stall_ms : now;
	m->paused_ms = m->paused_ms ? m->paused_ms : now;
	/* It may answer only after the last page: then its own count says when the guest stopped.
	 */
	if (m->last.phase == HV_MIGRATE_COMPLETED && !by_us &&
		m->paused_ms > now - m->last.downtime_ms)
		m->paused_ms = now - m->last.downtime_ms;
}

/* What a new round asks for. */
static int begin_round(struct migration *m, struct rounds *r, struct error **err)
{
	struct hv_migrate_params params = params_for_round(m, m->last.round);
	int64_t before_bytes = r->left_bytes;

	if (m->step != STEP_STREAM)
		return 0;
	if (m->last.round > r->number) {
		r->number = m->last.round;
		r->left_bytes = m->last.remaining_bytes;
		r->wants_switch =
			m->options.postcopy && converge_needs_postcopy(m->options.postcopy_rounds,
						       r->number, before_bytes, r->left_bytes);
		if (hv_vm_migrate_set(vm_hv(m->vm), &params, err) < 0)
			return -1;
	}
	return r->wants_switch ? source_switch(m, err) : 0;
}

/* All has been read from a hypervisor that goes on by itself when its connection breaks: it is
 * stopped, and looked at afterwards. It cannot have gone on before, if the data mover was well when
 * it stopped: only that has its connection, and says so before it lets it go on. */
static int stop_hypervisor(struct migration *m, struct error **err)
{
	if (fault_point("migrate.src.before_stop", err) < 0 ||
		hv_vm_migrate_seen(vm_hv(m->vm), HV_MIGRATE_COMPLETED, err) < 0)
		return -1;
	return mover_check(m->mover, err);
}

/* What the hypervisor does not tell of its stream, the data mover does. */
static int follow(struct migration *m, int64_t deadline_ms, struct error **err)
{
	struct hv_vm *hv = vm_hv(m->vm);
	bool sent;

	if (!migration_runs_at_once(m))
		return hv_vm_migrate_follow(hv, deadline_ms, &m->last, err);
	sent = mover_said(m->mover, "sent", deadline_ms);
	if (mover_said(m->mover, "last_round", 0) &&
		hv_vm_migrate_seen(hv, HV_MIGRATE_SWITCHOVER, err) < 0)
		return -1;
	if (sent && stop_hypervisor(m, err) < 0)
		return -1;
	return hv_vm_migrate_status(hv, &m->last, err);
}

/* Follows the hypervisor until its guest is paused for good: it has written everything, or all but
 * pages that post-copy brings. */
static int stream(struct migration *m, struct error **err)
{
	struct hv_migrate_status *s = &m->last;
	struct rounds rounds = {.number = 1};
	int64_t asked_ms = clock_ms(), heard_ms = asked_ms;
	int rc;

	for (;;) {
		if (follow(m, clock_ms() + LOOK_MS, err) < 0)
			return -1;
		note_switchover(m);
		if (s->phase == HV_MIGRATE_COMPLETED || migration_in_postcopy(m))
			return 0;
		if (s->phase == HV_MIGRATE_FAILED || s->phase == HV_MIGRATE_CANCELLED) {
			if (mover_check(m->mover, err) < 0)
				return -1;
			return error_set(err, ERROR_HYPERVISOR, 0,
				"the hypervisor of %s gave up: %s", m->vm_name,
				*s->failure ? s->failure : "it does not say why");
		}
		rc = look_around(m, &asked_ms, &heard_ms, err);
		if (rc == 0 && s->phase != HV_MIGRATE_SWITCHOVER)
			rc = begin_round(m, &rounds, err);
		if (rc < 0)
			return rc;
		migration_event(
			m, m->paused_ms && !m->options.pause ? "switchover" : "rounds", NULL);
	}
}

int source_pass_cancel(struct migration *m, enum migrate_step step, struct error **err)
{
	pthread_mutex_lock(&m->all->lock);
	if (!m->cancel)
		m->step = step;
	pthread_mutex_unlock(&m->all->lock);
	return check_cancelled(m, err);
}

/* Whose the VM is by the destination's own word (handover, abort). Why it is not theirs becomes
 * *err: that is nearer to the cause than what was seen here, but where it only tells that we have
 * claimed the VM back. */
enum verdict source_take_word(const json_t *answer, struct error **err)
{
	const char *state = json_get_string(answer, "state", NULL);
	cleanup_json json_t *reason =
		json_pack("{s:O*}", "error", json_object_get(answer, "reason"));
	struct error *why = NULL;

	if (state && !strcmp(state, "running"))
		return THEIRS;
	if (!state || strcmp(state, "ended"))
		return UNKNOWN;
	if (json_to_error(reason, &why) < 0 && why->kind != ERROR_CANCELLED &&
		why->kind != ERROR_NOT_OWNER) {
		error_free(err);
		*err = why;
	} else {
		error_free(&why);
	}
	return OURS;
}

/* From the journal's entry on, the destination may claim: only its word, or the pool, tells then.
 * In post-copy that has been so since the switch. */
static int handover(struct migration *m, struct error **err)
{
	cleanup_json json_t *answer = NULL;
	int rc;

	if (!migration_in_postcopy(m) && (source_pass_cancel(m, STEP_HANDOVER, err) < 0 ||
						 journal_step(m, STEP_HANDOVER, err) < 0))
		return -1;
	rc = fault_point("migrate.src.before_handover", err);
	if (rc == 0)
		rc = source_call_again(m, "handover", source_mend_lane, &answer, err);
	if (rc < 0)
		return rc;
	if (source_take_word(answer, err) == THEIRS) {
		m->resumed_ms = clock_ms();
		return 0;
	}
	return error_set(err, ERROR_FAILED, 0, "%s did not take %s over", m->peer, m->vm_name);
}

/* The guest runs on the other side: ours is ended. */
void source_end_copy(struct migration *m)
{
	cleanup_error struct error *e = NULL;

	if (journal_step(m, STEP_END, &e) < 0 || fault_point("migrate.src.before_end", &e) < 0)
		log_warning("%s: %s", m->vm_name, e->message);
	vm_end(m->vm);
	m->vm = NULL;
	/* Its last status line tells the bytes. */
	if (m->mover)
		mover_wait(m->mover, "end", clock_ms() + LANE_MS, NULL);
}

void source_release_lane(struct migration *m)
{
	migration_release_mover(m, clock_ms() + LANE_MS);
	if (m->link)
		node_link_close(m->link);
	m->link = NULL;
}

/* What was measured meanwhile, as soon as both hypervisors are ready. */
static void finish_estimate(struct migration *m)
{
	cleanup_free char *message = NULL;

	if (!m->estimating)
		return;
	json_free(&m->estimate);
	m->estimate = estimating_finish(m->estimating, clock_ms() - m->begin_ms, true);
	estimating_free(m->estimating);
	m->estimating = NULL;
	message = estimate_text(m->estimate);
	migration_event(m, "estimate", message);
}

void source_run(struct migration *m)
{
	struct error *e = NULL;
	int rc = prepare(m, &e);

	if (rc == 0)
		finish_estimate(m);
	if (rc == 0)
		rc = start_stream(m, &e);
	if (rc == 0)
		rc = stream(m, &e);
	if (rc == 0)
		rc = handover(m, &e);
	if (rc == 0 && migration_in_postcopy(m))
		rc = source_follow(m, &e);
	if (rc == SOURCE_LEFT) {
		/* The journal has it. Until then the guest runs on, and is not paused for nobody.
		 */
		if (m->step <= STEP_STREAM)
			hv_vm_migrate_cancel(vm_hv(m->vm), NULL);
		return;
	}
	if (rc < 0) {
		source_settle(m, e);
	} else {
		source_end_copy(m);
		if (fault_point("migrate.src.before_done", &e) < 0)
			error_free(&e);
		migration_ended(m, MIGRATE_DONE, NULL);
	}
	source_release_lane(m);
}
