#include "migrate/mover.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/pass_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define END_MS 2000
#define LINE_MAX_BYTES 4096
#define ARGUMENTS_MAX 32 /* without the sources, with the NULL at the end */
#define LANES_MAX 64
#define LEVEL_CHANGES_MAX 64
#define SOURCES_MAX 64

enum {
	EVENT_LISTENING = 1,
	EVENT_CONNECTED = 2,
	EVENT_END = 4,
	EVENT_LAST_ROUND = 8,
	EVENT_SENT = 16,
	EVENT_HELD = 32,
	EVENT_RELEASING = 64
};

struct mover {
	struct process_id process;
	char peer[64];
	int status_fd;
	int pass_fd; /* where its connection to the hypervisor is passed; -1: it has been */
	pthread_t reader;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned events; /* EVENT_… seen */
	uint64_t broken; /* lanes that are being made again, a bit each */
	bool closed;     /* its status has ended: so has it, or will at once */
	struct error *error;
	int64_t stream_bytes, wire_bytes;
	int64_t start_ms;
	json_t *report; /* members of a migration's report */
};

static unsigned event_bit(const char *event)
{
	static const struct {
		const char *name;
		unsigned bit;
	} events[] = {{"listening", EVENT_LISTENING}, {"connected", EVENT_CONNECTED},
		{"end", EVENT_END}, {"last_round", EVENT_LAST_ROUND}, {"sent", EVENT_SENT},
		{"held", EVENT_HELD}, {"releasing", EVENT_RELEASING}};

	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
		if (!strcmp(event, events[i].name))
			return events[i].bit;
	return 0;
}

/* With the lock held. */
static void take_lane(struct mover *m, const char *event, const json_t *json)
{
	int64_t lane;

	if (json_opt_int(json, "lane", 0, LANES_MAX - 1, 0, &lane, NULL) < 0)
		return;
	if (!strcmp(event, "reconnecting"))
		m->broken |= (uint64_t)1 << lane;
	else if (!strcmp(event, "reconnected"))
		m->broken &= ~((uint64_t)1 << lane);
}

/* With the lock held: the level that the newest batch was compressed at, when it is another one. */
static void take_level(struct mover *m, const json_t *json)
{
	json_t *all = json_object_get(m->report, "level_changes");
	const json_t *last = json_array_get(all, json_array_size(all) - 1);
	const json_t *level = json_object_get(json, "level");

	if (!json_is_integer(level) || json_array_size(all) >= LEVEL_CHANGES_MAX ||
		json_equal(json_object_get(last, "level"), level))
		return;
	if (!all) {
		all = json_array();
		json_object_set_new(m->report, "level_changes", all);
	}
	json_array_append_new(
		all, json_pack("{s:I, s:I}", "after_ms", (json_int_t)(clock_ms() - m->start_ms),
			     "level", json_integer_value(level)));
}

/* With the lock held: a content source, by its last line. */
static void take_source(struct mover *m, const json_t *json)
{
	json_t *all = json_object_get(m->report, "sources");
	json_t *source = json_object();

	if (!all) {
		all = json_array();
		json_object_set_new(m->report, "sources", all);
	}
	json_object_set(source, "name", json_object_get(json, "name"));
	json_object_set(source, "hits", json_object_get(json, "hits"));
	json_object_set(source, "misses", json_object_get(json, "misses"));
	if (json_array_size(all) < SOURCES_MAX)
		json_array_append(all, source);
	json_decref(source);
}

/* Often its user may not read it. The move goes on, with more bytes. */
static void say_unused(const struct mover *m, const json_t *json)
{
	const char *source = json_get_string(json, "source", NULL);
	const char *why = json_get_string(json, "message", NULL);

	if (source && why)
		log_warning("the data mover for the lane to %s does without %s: %s", m->peer,
			source, why);
}

/* With the lock held: what the last line says of all. */
static void take_end(struct mover *m, const json_t *json)
{
	static const char *const names[][2] = {{"pages", "pages"}, {"bytes", "page_bytes"},
		{"other_bytes", "other_bytes"}, {"unknown_bytes", "unknown_bytes"},
		{"levels", "levels"}, {"reconnections", "reconnections"},
		{"steady_bps", "steady_bps"}, {"steady_least_bps", "steady_least_bps"},
		{"steady_most_bps", "steady_most_bps"}, {"cpu_ms", "wire_cpu_ms"}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		json_t *value = json_object_get(json, names[i][0]);

		if (value)
			json_object_set(m->report, names[i][1], value);
	}
}

/* With the lock held. */
static void take_line(struct mover *m, const char *line, size_t len)
{
	cleanup_json json_t *json = json_parse("the data mover's status", line, len, NULL);
	const char *event = json ? json_get_string(json, "event", NULL) : NULL;
	const char *kind, *message;

	if (!event)
		return;
	json_opt_int(json, "stream_bytes", 0, INT64_MAX, m->stream_bytes, &m->stream_bytes, NULL);
	json_opt_int(json, "wire_bytes", 0, INT64_MAX, m->wire_bytes, &m->wire_bytes, NULL);
	m->events |= event_bit(event);
	take_lane(m, event, json);
	if (!strcmp(event, "progress"))
		take_level(m, json);
	else if (!strcmp(event, "source"))
		take_source(m, json);
	else if (!strcmp(event, "end"))
		take_end(m, json);
	else if (!strcmp(event, "unused"))
		say_unused(m, json);
	if (!strcmp(event, "error")) {
		kind = json_get_string(json, "kind", NULL);
		message = json_get_string(json, "message", NULL);
		error_set(&m->error, error_kind_from_name(kind ? kind : ""), 0, "%s",
			message ? message : "the data mover failed");
	}
}

static void take_lines(struct mover *m, char *text, size_t *used)
{
	char *newline;

	while ((newline = memchr(text, '\n', *used))) {
		size_t len = (size_t)(newline - text);

		pthread_mutex_lock(&m->lock);
		take_line(m, text, len);
		pthread_cond_broadcast(&m->changed);
		pthread_mutex_unlock(&m->lock);
		*used -= len + 1;
		memmove(text, newline + 1, *used);
	}
	if (*used == LINE_MAX_BYTES)
		*used = 0; /* no line of ours is that long */
}

/* As read(2). Only here the thread can be ended from outside, with no lock held (mover_leave). */
static ssize_t read_some(int fd, char *to, size_t room)
{
	int before;
	ssize_t n;

	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
	n = read(fd, to, room);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	return n;
}

static void *read_status(void *arg)
{
	struct mover *m = arg;
	char text[LINE_MAX_BYTES];
	size_t used = 0;
	int before;
	ssize_t n;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	while ((n = read_some(m->status_fd, text + used, sizeof(text) - used)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		used += (size_t)n;
		take_lines(m, text, &used);
	}
	pthread_mutex_lock(&m->lock);
	m->closed = true;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* A file in memory that the child can open by its number, whoever it runs as. */
static int memory_file(const char *text, struct error **err)
{
	int fd = memfd_create("drover", MFD_CLOEXEC);

	if (fd < 0 || fs_write_all(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot make a file in memory");
		close_fd(&fd);
	}
	return fd;
}

static void add_option(const char **argv, const char *option, const char *value)
{
	while (*argv)
		argv++;
	argv[0] = option;
	argv[1] = value;
}

/* Puts --source NAME=PATH for each content source behind the other arguments; the first `count` of
 * `texts` are the caller's to free. */
static size_t add_sources(
	const struct image_files *sources, const char **argv, char *texts[SOURCE_MAX])
{
	size_t count = 0;

	while (*argv)
		argv++;
	for (size_t i = 0; sources && i < sources->count && count < SOURCE_MAX; i++) {
		const struct image_file *f = &sources->list[i];

		if (strchr(f->name, '='))
			continue;
		texts[count] = fs_format("%s=%s", f->name, f->path);
		*argv++ = "--source";
		*argv++ = texts[count++];
	}
	return count;
}

static int spawn(struct mover *m, const struct mover_options *o, int status_fd, int passed_fd,
	const int files[3], struct error **err)
{
	cleanup_free char *cert = fs_format("/dev/fd/%d", files[0]);
	cleanup_free char *key = fs_format("/dev/fd/%d", files[1]);
	cleanup_free char *ca = fs_format("/dev/fd/%d", files[2]);
	cleanup_free char *status = fs_format("%d", status_fd);
	cleanup_free char *listen = fs_format("%d", o->listen_fd);
	cleanup_free char *passed = fs_format("passed:%d", passed_fd);
	cleanup_free char *reconnect = fs_format("%d", o->reconnect_s);
	cleanup_free char *hold = fs_format("%llu", (unsigned long long)o->hold_bytes);
	cleanup_free char *timeout = fs_format("%d", o->timeout_s);
	const char *argv[ARGUMENTS_MAX + 2 * SOURCE_MAX] = {o->binary, o->connect ? "send" : "recv",
		"--id", o->id, "--peer", o->peer, "--peer-fingerprint", o->fingerprint, "--cert",
		cert, "--key", key, "--ca", ca, "--status-fd", status,
		o->connect ? "--input" : "--output", o->carried ? o->carried : passed,
		o->connect ? "--connect" : "--listen-fd", o->connect ? o->connect : listen, NULL};
	int pass[] = {files[0], files[1], files[2], status_fd, passed_fd, o->listen_fd};
	/* Faults are tried at migrations. */
	static const char *const bare[] = {"LC_ALL=C", NULL};
	struct process_options options = {.argv = argv,
		.env = o->carried ? bare : NULL,
		.own_session = true,
		.set_user = true,
		.uid = o->uid,
		.gid = o->gid,
		.no_new_privs = true,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = o->log_fd,
		.pass_fds = pass,
		.pass_fds_count = o->connect ? 5 : 6};
	char *sources[SOURCE_MAX];
	size_t sources_count;
	int rc;

	if (o->reconnect_s)
		add_option(argv, "--reconnect", reconnect);
	if (o->timeout_s)
		add_option(argv, "--timeout", timeout);
	if (o->carried && o->connect)
		add_option(argv, "--codec", "plain");
	if (o->hold_bytes)
		add_option(argv, "--hold", hold);
	sources_count = add_sources(o->sources, argv, sources);
	rc = process_start(&options, &m->process, err);
	for (size_t i = 0; i < sources_count; i++)
		free(sources[i]);
	return rc;
}

static int start_with_files(struct mover *m, const struct mover_options *o, struct error **err)
{
	cleanup_fd int cert = memory_file(o->cert_pem, err);
	cleanup_fd int key = cert >= 0 ? memory_file(o->key_pem, err) : -1;
	cleanup_fd int ca = key >= 0 ? memory_file(o->ca_pem, err) : -1;
	cleanup_fd int status = -1, passed = -1;
	int pipe_fds[2], pair[2];

	if (ca < 0)
		return -1;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot start %s", o->binary);
	m->status_fd = pipe_fds[0];
	status = pipe_fds[1];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot start %s", o->binary);
	m->pass_fd = pair[0];
	passed = pair[1];
	return spawn(m, o, status, passed, (const int[]){cert, key, ca}, err);
}

struct mover *mover_start(const struct mover_options *o, struct error **err)
{
	struct mover *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->status_fd = m->pass_fd = -1;
	m->start_ms = clock_ms();
	m->report = json_object();
	snprintf(m->peer, sizeof(m->peer), "%s", o->peer);
	if (start_with_files(m, o, err) < 0) {
		close_fd(&m->status_fd);
		close_fd(&m->pass_fd);
		json_decref(m->report);
		free(m);
		return NULL;
	}
	pthread_mutex_init(&m->lock, NULL);
	cond_init(&m->changed);
	if (pthread_create(&m->reader, NULL, read_status, m) != 0)
		abort();
	return m;
}

int mover_pass(struct mover *m, int fd, struct error **err)
{
	int rc = pass_fd_send(m->pass_fd, fd), errnum = errno;

	close_fd(&m->pass_fd);
	if (rc == 0)
		return 0;
	return mover_check(m, err) < 0 ? -1
				       : error_set(err, ERROR_FAILED, errnum,
						 "the data mover for the lane to %s takes no "
						 "connection to the hypervisor",
						 m->peer);
}

const struct process_id *mover_process(const struct mover *m)
{
	return &m->process;
}

/* With the lock held: what is wrong with it, if anything. */
static int check(struct mover *m, struct error **err)
{
	if (m->error)
		return error_set(err, m->error->kind, 0, "%s", m->error->message);
	if (m->closed && !(m->events & EVENT_END))
		return error_set(err, ERROR_FAILED, 0,
			"the data mover for the lane to %s ended without saying why; see the log",
			m->peer);
	return 0;
}

int mover_check(struct mover *m, struct error **err)
{
	int rc;

	pthread_mutex_lock(&m->lock);
	rc = check(m, err);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

bool mover_reconnecting(struct mover *m)
{
	bool reconnecting;

	pthread_mutex_lock(&m->lock);
	reconnecting = m->broken != 0;
	pthread_mutex_unlock(&m->lock);
	return reconnecting;
}

int mover_wait(struct mover *m, const char *event, int64_t deadline_ms, struct error **err)
{
	unsigned bit = event_bit(event);
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	while (!(m->events & bit) && (rc = check(m, err)) == 0)
		if (!cond_wait_until(&m->changed, &m->lock, deadline_ms) && !(m->events & bit)) {
			rc = error_set(err, ERROR_TIMEOUT, 0,
				"the lane to %s was not \"%s\" in time", m->peer, event);
			break;
		}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

bool mover_said(struct mover *m, const char *event, int64_t deadline_ms)
{
	unsigned bit = event_bit(event);
	bool said;

	pthread_mutex_lock(&m->lock);
	while (!(m->events & bit) && !m->error && !m->closed)
		if (!cond_wait_until(&m->changed, &m->lock, deadline_ms))
			break;
	said = m->events & bit;
	pthread_mutex_unlock(&m->lock);
	return said;
}

void mover_release(const struct process_id *id)
{
	process_signal(id, SIGUSR1);
}

void mover_bytes(struct mover *m, int64_t *stream_bytes, int64_t *wire_bytes)
{
	pthread_mutex_lock(&m->lock);
	*stream_bytes = m->stream_bytes;
	*wire_bytes = m->wire_bytes;
	pthread_mutex_unlock(&m->lock);
}

json_t *mover_report(struct mover *m)
{
	json_t *report;

	pthread_mutex_lock(&m->lock);
	report = json_deep_copy(m->report);
	pthread_mutex_unlock(&m->lock);
	return report;
}

void mover_end(struct mover *m)
{
	if (process_wait(&m->process, clock_ms(), NULL))
		return;
	process_signal(&m->process, SIGTERM);
	if (process_wait(&m->process, clock_ms() + END_MS, NULL))
		return;
	process_signal(&m->process, SIGKILL);
	process_wait(&m->process, clock_ms() + END_MS, NULL);
}

static void join_and_free(struct mover *m)
{
	pthread_join(m->reader, NULL);
	close_fd(&m->status_fd);
	close_fd(&m->pass_fd);
	error_free(&m->error);
	json_decref(m->report);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

void mover_leave(struct mover *m)
{
	if (!m)
		return;
	pthread_cancel(m->reader);
	join_and_free(m);
}

void mover_close(struct mover *m)
{
	if (!m)
		return;
	mover_end(m);
	join_and_free(m);
}
