#include "migrate/internal.h"
#include "migrate/preflight.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/json.h"
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>

/* Ended migrations whose events can still be read. */
#define ENDED_MAX 32
#define CLOSE_MS 3000
#define MOVER_END_MS 2000

static const char *const step_names[] = {[STEP_PREPARE] = "prepare",
	[STEP_STREAM] = "stream",
	[STEP_SWITCH] = "switch",
	[STEP_HANDOVER] = "handover",
	[STEP_CLAIM] = "claim",
	[STEP_POSTCOPY] = "post-copy",
	[STEP_END] = "end",
	[STEP_UNDO] = "undo",
	[STEP_DONE] = "done"};

const char *migrate_step_name(enum migrate_step step)
{
	return step_names[step];
}

enum migrate_step migrate_step_from_name(const char *name)
{
	for (int i = 0; i <= STEP_DONE; i++)
		if (!strcmp(step_names[i], name))
			return (enum migrate_step)i;
	/* Not ours: taken for the step after which most must be checked. */
	return STEP_HANDOVER;
}

const char *migrate_state_name(enum migrate_state state)
{
	static const char *const names[] = {[MIGRATE_RUNNING] = "running",
		[MIGRATE_DONE] = "done",
		[MIGRATE_FAILED] = "failed",
		[MIGRATE_CANCELLED] = "cancelled",
		[MIGRATE_UNDECIDED] = "undecided"};

	return names[state];
}

struct migrations *migrations_open(const struct migrate_settings *settings, struct error **err)
{
	struct migrations *all = calloc(1, sizeof(*all));

	if (!all)
		abort();
	if (access(settings->wire_binary, X_OK) < 0) {
		error_set(err, ERROR_FAILED, errno, "the data mover %s cannot be run",
			settings->wire_binary);
		free(all);
		return NULL;
	}
	all->set = *settings;
	all->estimates = json_object();
	pthread_mutex_init(&all->lock, NULL);
	cond_init(&all->changed);
	return all;
}

void migrations_wait(struct migrations *all, int64_t deadline_ms)
{
	cond_wait_until(&all->changed, &all->lock, deadline_ms);
}

bool migrations_closing(struct migrations *all)
{
	bool closing;

	pthread_mutex_lock(&all->lock);
	closing = all->closing;
	pthread_mutex_unlock(&all->lock);
	return closing;
}

bool migrations_pause(struct migrations *all, int64_t ms)
{
	int64_t until = clock_ms() + ms;
	bool closing;

	pthread_mutex_lock(&all->lock);
	while (!all->closing && clock_ms() < until)
		migrations_wait(all, until);
	closing = all->closing;
	pthread_mutex_unlock(&all->lock);
	return !closing;
}

bool migrations_close(struct migrations *all)
{
	int64_t deadline = clock_ms() + CLOSE_MS;
	int left;

	pthread_mutex_lock(&all->lock);
	all->closing = true;
	pthread_cond_broadcast(&all->changed);
	while (all->threads > 0 && clock_ms() < deadline)
		migrations_wait(all, deadline);
	left = all->threads;
	pthread_mutex_unlock(&all->lock);
	if (left > 0)
		log_warning("%d migrations are left as they are, for the next start", left);
	return left == 0;
}

/* What one that has not ended still holds when droverd stops; its hypervisor and its data mover go
 * on. */
static void drop_unfinished(struct migration *m)
{
	mover_leave(m->mover);
	if (m->vm)
		vm_unref(m->vm);
	node_link_close(m->link);
}

void migration_free(struct migration *m)
{
	drop_unfinished(m);
	for (int i = 0; i < EVENTS_MAX; i++)
		json_decref(m->events[i]);
	json_decref(m->report);
	json_decref(m->estimate);
	estimating_free(m->estimating);
	error_free(&m->error);
	vm_def_free(m->def);
	free(m);
}

void migrations_free(struct migrations *all)
{
	while (all->list) {
		struct migration *m = all->list;

		all->list = m->next;
		migration_free(m);
	}
	json_decref(all->estimates);
	pthread_cond_destroy(&all->changed);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

/* With the lock held: forgets those that ended longest ago (they are last in the list). */
static void forget_ended(struct migrations *all)
{
	int ended = 0;

	for (struct migration **at = &all->list; *at;) {
		struct migration *m = *at;

		if (m->ended && ++ended > ENDED_MAX && m->users == 0) {
			*at = m->next;
			migration_free(m);
		} else {
			at = &m->next;
		}
	}
}

struct migration *migration_new(
	struct migrations *all, const char *id, bool source, const char *vm, const char *peer)
{
	struct migration *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->all = all;
	m->source = source;
	snprintf(m->id, sizeof(m->id), "%s", id);
	snprintf(m->vm_name, sizeof(m->vm_name), "%s", vm);
	snprintf(m->peer, sizeof(m->peer), "%s", peer);
	m->started_ms = clock_wall_ms();
	m->begin_ms = clock_ms();
	return m;
}

void migration_list(struct migration *m)
{
	struct migrations *all = m->all;

	pthread_mutex_lock(&all->lock);
	forget_ended(all);
	m->next = all->list;
	all->list = m;
	pthread_mutex_unlock(&all->lock);
}

struct thread {
	struct migration *m;
	void (*body)(struct migration *);
};

static void *run_thread(void *arg)
{
	struct thread t = *(struct thread *)arg;
	struct migrations *all = t.m->all;

	free(arg);
	log_set_migration(t.m->id);
	t.body(t.m);
	pthread_mutex_lock(&all->lock);
	all->threads--;
	t.m->users--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

void migration_spawn(struct migration *m, void (*body)(struct migration *))
{
	struct thread *t = malloc(sizeof(*t));
	pthread_t thread;

	if (!t)
		abort();
	*t = (struct thread){m, body};
	pthread_mutex_lock(&m->all->lock);
	m->all->threads++;
	m->users++;
	pthread_mutex_unlock(&m->all->lock);
	if (pthread_create(&thread, NULL, run_thread, t) != 0)
		abort();
	pthread_detach(thread);
}

struct migration *migration_find(struct migrations *all, const char *id)
{
	struct migration *m = all->list;

	while (m && strcmp(m->id, id))
		m = m->next;
	return m;
}

struct migration *migration_find_of_vm(struct migrations *all, const char *vm)
{
	struct migration *m = all->list;

	while (m && (m->ended || strcmp(m->vm_name, vm) != 0))
		m = m->next;
	return m;
}

bool migrations_have(struct migrations *all, const char *vm, char id[33])
{
	const struct migration *m;

	pthread_mutex_lock(&all->lock);
	m = migration_find_of_vm(all, vm);
	if (m && id)
		memcpy(id, m->id, ID_SIZE);
	pthread_mutex_unlock(&all->lock);
	return m != NULL;
}

static int64_t eta_ms(const struct hv_migrate_status *s)
{
	int64_t gain = s->rate_bps - s->dirty_rate_bps;

	return gain > 0 ? s->remaining_bytes * 1000 / gain : -1;
}

void migration_event(struct migration *m, const char *phase, const char *message)
{
	const struct hv_migrate_status *s = &m->last;
	json_t *event, **slot;

	pthread_mutex_lock(&m->all->lock);
	event = json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:o}", "seq",
		(json_int_t)m->events_count + 1, "time_ms", (json_int_t)clock_wall_ms(), "phase",
		phase, "sent", (json_int_t)s->sent_bytes, "remaining",
		(json_int_t)s->remaining_bytes, "total", (json_int_t)s->total_bytes, "rate_bps",
		(json_int_t)s->rate_bps, "dirty_rate_bps", (json_int_t)s->dirty_rate_bps, "round",
		s->round, "eta_ms", (json_int_t)eta_ms(s), "message",
		message ? json_string(message) : json_null());
	slot = &m->events[m->events_count++ % EVENTS_MAX];
	json_decref(*slot);
	*slot = event;
	pthread_cond_broadcast(&m->all->changed);
	pthread_mutex_unlock(&m->all->lock);
}

/* 0: there was none. */
static int64_t postcopy_ms(const struct migration *m)
{
	int64_t ms = m->complete_ms - m->resumed_ms;

	return m->complete_ms ? ms + (ms == 0) : 0;
}

/* What bounds how long its guest may stand still; NULL where nothing does, after a switch to
 * post-copy, too, or it is not known: of a move that an earlier droverd began. */
static json_t *downtime_limit(const struct migration *m)
{
	if (!m->source || m->options.pause || m->options.files || m->complete_ms ||
		!m->options.downtime_limit_ms)
		return NULL;
	return json_integer((json_int_t)m->options.downtime_limit_ms);
}

/* And how far off it was, of one that came to its end. */
static void add_estimate(const struct migration *m, json_t *report)
{
	if (m->resumed_ms)
		json_object_set_new(m->estimate, "compared", estimate_compare(m->estimate, report));
	json_object_set(report, "estimate", m->estimate);
}

static json_t *make_report(const struct migration *m)
{
	int64_t now = clock_ms(), stream_bytes = 0, wire_bytes = 0;

	cleanup_json json_t *wire = m->mover ? mover_report(m->mover) : NULL;
	json_t *report;

	if (m->mover)
		mover_bytes(m->mover, &stream_bytes, &wire_bytes);
	report = json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:o*, s:o*}", "total_ms",
		(json_int_t)(now - m->begin_ms), "stream_ms",
		(json_int_t)(m->stream_ms && m->paused_ms ? m->paused_ms - m->stream_ms : 0),
		"downtime_ms",
		(json_int_t)(m->paused_ms && m->resumed_ms ? m->resumed_ms - m->paused_ms : 0),
		"wire_bytes", (json_int_t)wire_bytes, "stream_bytes", (json_int_t)stream_bytes,
		"rounds", m->last.round, "epoch", (json_int_t)m->epoch + 1, "postcopy_ms",
		(json_int_t)postcopy_ms(m), "warm", m->options.files ? json_true() : NULL,
		"downtime_limit_ms", downtime_limit(m));
	if (wire)
		json_object_update_missing(report, wire);
	if (m->estimate)
		add_estimate(m, report);
	return report;
}

void migration_ended(struct migration *m, enum migrate_state state, struct error *e)
{
	struct migrations *all = m->all;
	json_t *report = make_report(m);
	char text[256];

	pthread_mutex_lock(&all->lock);
	m->state = state;
	error_free(&m->error);
	m->error = e;
	m->report = report;
	if (m->source) {
		all->moved += state == MIGRATE_DONE;
		all->failed += state != MIGRATE_DONE;
		all->wire_bytes += json_integer_value(json_object_get(report, "wire_bytes"));
		all->downtime_sum_ms += json_integer_value(json_object_get(report, "downtime_ms"));
	}
	pthread_mutex_unlock(&all->lock);
	journal_end(m);
	snprintf(text, sizeof(text), "%s %s %s: %s", m->vm_name, m->source ? "to" : "from", m->peer,
		migrate_state_name(state));
	log_write(e ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "%s%s%s", text, e ? ": " : "",
		e ? e->message : "");
	migration_event(m, migrate_state_name(state), e ? e->message : NULL);
	pthread_mutex_lock(&all->lock);
	m->ended = true;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
}

char *migration_socket(const struct migration *m)
{
	return fs_format("%s/migrate.sock", vm_run_dir(m->vm));
}

void migration_release_mover(struct migration *m, int64_t deadline_ms)
{
	mover_close(m->mover);
	m->mover = NULL;
	if (m->mover_left.pid && !process_wait(&m->mover_left, deadline_ms, NULL)) {
		process_signal(&m->mover_left, SIGKILL);
		process_wait(&m->mover_left, clock_ms() + MOVER_END_MS, NULL);
	}
	m->mover_left.pid = 0;
}

bool migration_in_postcopy(const struct migration *m)
{
	return m->last.phase == HV_MIGRATE_POSTCOPY || m->last.phase == HV_MIGRATE_POSTCOPY_PAUSED;
}

bool migration_runs_at_once(const struct migration *m)
{
	return hv_get_facts(m->all->set.hv)->runs_at_once && !m->options.files;
}

struct mover *migration_start_mover(
	struct migration *m, int listen_fd, const char *connect, struct error **err)
{
	const struct migrate_settings *set = &m->all->set;
	struct pool_node *peer = pool_node_read(set->pool, m->peer, err);
	cleanup_free char *socket = migration_socket(m);
	cleanup_free char *log = fs_format("%s/wire.log", vm_run_dir(m->vm));
	cleanup_fd int log_fd =
		open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct mover_options options = {.binary = set->wire_binary,
		.id = m->id,
		.peer = m->peer,
		.connect = connect,
		.listen_fd = listen_fd,
		.cert_pem = set->identity->cert_pem,
		.key_pem = set->identity->key_pem,
		.ca_pem = set->identity->ca_pem,
		.log_fd = log_fd,
		.hold_bytes = migration_runs_at_once(m)
				      ? (m->def ? m->def : vm_definition(m->vm))->memory_bytes
				      : 0,
		.reconnect_s = m->options.reconnect_s,
		.uid = set->wire_uid,
		.gid = set->wire_gid};
	cleanup_error struct error *unread = NULL;
	struct image_files sources;
	struct mover *mover;

	if (!peer)
		return NULL;
	options.fingerprint = peer->fingerprint;
	/* It goes without them, too, with more bytes. */
	if (image_backing_files(
		    set->pool, m->def ? m->def : vm_definition(m->vm), &sources, &unread) < 0)
		log_warning("%s: not all of its base images are known: %s", m->vm_name,
			unread->message);
	options.sources = &sources;
	unlink(socket);
	mover = mover_start(&options, err);
	image_files_free(&sources);
	pool_node_free(peer);
	if (mover && journal_mover(m, mover_process(mover), err) < 0) {
		mover_close(mover);
		return NULL;
	}
	return mover;
}

json_t *migrations_show(struct migrations *all, const char *id, struct error **err)
{
	return journal_show(all, id, err);
}

json_t *migrations_list(struct migrations *all, struct error **err)
{
	return journal_list(all, err);
}

/* With the lock held. */
static json_t *events_after(const struct migration *m, int64_t after)
{
	json_t *list = json_array();
	int64_t first = m->events_count > EVENTS_MAX ? m->events_count - EVENTS_MAX : 0;

	for (int64_t i = after > first ? after : first; i < m->events_count; i++)
		json_array_append(list, m->events[i % EVENTS_MAX]);
	return json_pack("{s:o, s:b}", "events", list, "ended", m->ended);
}

json_t *migrations_events(
	struct migrations *all, const char *id, int64_t after, int64_t wait_ms, struct error **err)
{
	int64_t deadline = clock_ms() + wait_ms;
	struct migration *m;
	json_t *answer = NULL;

	pthread_mutex_lock(&all->lock);
	while ((m = migration_find(all, id)) && !m->ended && m->events_count <= after &&
		!all->closing && clock_ms() < deadline)
		migrations_wait(all, deadline);
	if (m)
		answer = events_after(m, after);
	pthread_mutex_unlock(&all->lock);
	if (answer)
		return answer;
	/* One of an earlier droverd: its end is all that is known. */
	answer = journal_show(all, id, err);
	if (!answer)
		return NULL;
	json_decref(answer);
	return json_pack("{s:[], s:b}", "events", "ended", true);
}

char *migrations_metrics(struct migrations *all)
{
	struct migration *m;
	int running = 0, undecided = 0;
	char *text;

	pthread_mutex_lock(&all->lock);
	for (m = all->list; m; m = m->next) {
		running += !m->ended && m->state == MIGRATE_RUNNING;
		undecided += !m->ended && m->state == MIGRATE_UNDECIDED;
	}
	text = fs_format("# TYPE drover_migrations gauge\n"
			 "drover_migrations{state=\"running\"} %d\n"
			 "drover_migrations{state=\"undecided\"} %d\n"
			 "# TYPE drover_migrations_total counter\n"
			 "drover_migrations_total{result=\"done\"} %lld\n"
			 "drover_migrations_total{result=\"failed\"} %lld\n"
			 "# TYPE drover_migration_wire_bytes_total counter\n"
			 "drover_migration_wire_bytes_total %lld\n"
			 "# TYPE drover_migration_downtime_seconds_total counter\n"
			 "drover_migration_downtime_seconds_total %.3f\n",
		running, undecided, (long long)all->moved, (long long)all->failed,
		(long long)all->wire_bytes, (double)all->downtime_sum_ms / 1000);
	pthread_mutex_unlock(&all->lock);
	return text;
}
