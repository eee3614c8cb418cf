#include "wire/run.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/process.h"
#include "wire/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* A pipe that poll() calls writable takes a line of up to 4,096 bytes without waiting. */
#define LINE_MAX_BYTES 2048
#define STATUS_WAIT_MS 1000

struct run {
	pthread_mutex_t mutex;
	struct error *error;
	bool ended;
	pthread_mutex_t status_mutex;
	bool all_said;
	int status_fd;
};

static int wake_pipe[2] = {-1, -1};
static volatile sig_atomic_t cancelled;

static void wake(void)
{
	int keep = errno;

	/* A full pipe wakes as well. */
	if (write(wake_pipe[1], "", 1) < 0)
		errno = keep;
}

static void on_signal(int signal)
{
	cancelled = signal;
	wake();
}

struct run *run_open(int status_fd, struct error **err)
{
	struct sigaction ends = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct sigaction ignored = {.sa_handler = SIG_IGN};
	struct run *run = calloc(1, sizeof(*run));

	if (!run || pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
		free(run);
		error_set(err, ERROR_FAILED, errno, "cannot make a pipe");
		return NULL;
	}
	/* Jansson reads /dev/urandom for its first object, and may not later (sandbox.h). */
	json_object_seed(0);
	run->status_fd = status_fd;
	pthread_mutex_init(&run->mutex, NULL);
	pthread_mutex_init(&run->status_mutex, NULL);
	sigaction(SIGTERM, &ends, NULL);
	sigaction(SIGINT, &ends, NULL);
	sigaction(SIGPIPE, &ignored, NULL);
	return run;
}

int run_harden(struct error **err)
{
	struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot forbid core files");
	if (process_harden() < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot give up privileges");
	return 0;
}

int run_thread(void *(*body)(void *), void *arg, struct error **err)
{
	pthread_attr_t detached;
	pthread_t thread;
	int errnum;

	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	errnum = pthread_create(&thread, &detached, body, arg);
	pthread_attr_destroy(&detached);
	return errnum ? error_set(err, ERROR_FAILED, errnum, "cannot start a thread") : 0;
}

void run_fail(struct run *run, struct error *e)
{
	pthread_mutex_lock(&run->mutex);
	error_move(&run->error, e);
	pthread_mutex_unlock(&run->mutex);
	wake();
}

void run_end(struct run *run)
{
	pthread_mutex_lock(&run->mutex);
	run->ended = true;
	pthread_mutex_unlock(&run->mutex);
	wake();
}

void run_wake(struct run *run)
{
	(void)run;
	wake();
}

/* 1 while neither has happened. */
static int outcome(struct run *run, struct error **err)
{
	int result = 1;

	pthread_mutex_lock(&run->mutex);
	if (run->ended) {
		result = 0;
	} else if (run->error) {
		result = error_move(err, run->error);
		run->error = NULL;
	} else if (cancelled) {
		result = error_set(err, ERROR_INTERRUPTED, 0, "ended by signal %d (%s)", cancelled,
			strsignal(cancelled));
	}
	pthread_mutex_unlock(&run->mutex);
	return result;
}

int run_wait(struct run *run, int fd, int64_t ms, struct error **err)
{
	struct pollfd pollfds[2] = {
		{.fd = wake_pipe[0], .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	char drop[64];
	int result = outcome(run, err);

	if (result != 1)
		return result;
	poll(pollfds, 2, (int)ms);
	while (read(wake_pipe[0], drop, sizeof(drop)) > 0)
		;
	return outcome(run, err);
}

/* Whether `fd` is at its end. What has failed may have been left with bytes that nobody reads. */
static bool is_closed(const struct pollfd *p)
{
	char byte;

	if (p->revents & (POLLERR | POLLHUP))
		return true;
	return (p->revents & POLLIN) && recv(p->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool run_cancelled(void)
{
	return cancelled;
}

bool run_wait_told(struct run *run, int fd, bool failed)
{
	struct pollfd p[3] = {{.fd = wake_pipe[0], .events = POLLIN}, {.fd = run->status_fd},
		{.fd = fd, .events = failed ? 0 : POLLIN}};
	char drop[64];

	for (;;) {
		if (cancelled || (failed && (p[1].revents & (POLLERR | POLLHUP))))
			return true;
		if (is_closed(&p[2]))
			return false;
		/* Nobody reads the status, which changes nothing: it is not looked at again. */
		if (p[1].revents)
			p[1].fd = -1;
		poll(p, 3, -1);
		while (read(wake_pipe[0], drop, sizeof(drop)) > 0)
			;
	}
}

/* The last line is the last. */
static bool may_say(struct run *run, const char *name)
{
	bool may = !run->all_said;

	run->all_said |= !strcmp(name, "end") || !strcmp(name, "error");
	return may;
}

void run_status(struct run *run, const char *name, json_t *fields)
{
	json_t *line = json_pack("{s:s}", "event", name);
	struct pollfd pollfd = {.fd = run->status_fd, .events = POLLOUT};
	char text[LINE_MAX_BYTES];
	size_t len;

	if (!line)
		abort();
	if (fields)
		json_object_update(line, fields);
	len = json_dumpb(line, text, sizeof(text) - 1, JSON_COMPACT);
	json_decref(fields);
	json_decref(line);
	if (len >= sizeof(text))
		return;
	text[len++] = '\n';
	pthread_mutex_lock(&run->status_mutex);
	/* There is another progress line soon; of the others there is one. */
	if (may_say(run, name) &&
		poll(&pollfd, 1, strcmp(name, "progress") ? STATUS_WAIT_MS : 0) == 1 &&
		(pollfd.revents & POLLOUT))
		fs_write_all(run->status_fd, text, len);
	pthread_mutex_unlock(&run->status_mutex);
}

void run_counts_start(struct run_counts *counts, struct link *link)
{
	counts->link = link;
	counts->start_ms = counts->last_ms = clock_ms();
	counts->last_wire_bytes = link_wire_bytes(link);
}

void run_status_progress(struct run *run, struct run_counts *counts)
{
	int64_t now_ms = clock_ms(), passed_ms = now_ms - counts->last_ms;
	uint64_t wire_bytes = link_wire_bytes(counts->link);
	uint64_t rate_bps;
	json_t *fields;

	if (passed_ms < RUN_TICK_MS)
		return;
	rate_bps = (wire_bytes - counts->last_wire_bytes) * 1000 / (uint64_t)passed_ms;
	counts->last_ms = now_ms;
	counts->last_wire_bytes = wire_bytes;
	fields = json_pack("{s:I,s:I,s:I,s:I}", "stream_bytes", (json_int_t)counts->stream_bytes,
		"acked_bytes", (json_int_t)counts->acked_bytes, "wire_bytes",
		(json_int_t)wire_bytes, "rate_bps", (json_int_t)rate_bps);
	if (fields && counts->level != RUN_NO_LEVEL)
		json_object_set_new(fields, "level", json_integer(counts->level));
	run_status(run, "progress", fields);
}

static int64_t cpu_ms(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (int64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

void run_status_end(struct run *run, struct run_counts *counts, uint64_t hash, json_t *more)
{
	json_t *fields;
	char hex[17];

	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)hash);
	fields = json_pack("{s:I,s:I,s:I,s:I,s:s}", "stream_bytes",
		(json_int_t)counts->stream_bytes, "wire_bytes",
		(json_int_t)link_wire_bytes(counts->link), "cpu_ms", (json_int_t)cpu_ms(),
		"duration_ms", (json_int_t)(clock_ms() - counts->start_ms), "xxh3", hex);
	if (!fields)
		abort();
	json_object_update(fields, more);
	json_decref(more);
	run_status(run, "end", fields);
}
