#include "wire/accept.h"

#include "base/clock.h"
#include "wire/tcp.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Shared by the threads that look at connections, which may be at it until the process ends. */
struct acceptor {
	const struct options *options;
	struct run *run;
	const struct tls_credentials *credentials;
	const struct frame_hello *mine;
	pthread_mutex_t mutex;
	struct lane *lane; /* the one that was accepted */
	struct frame_hello theirs;
	int under_way, refused;
	char last[1024]; /* why the last one was refused */
};

struct guest {
	struct acceptor *acceptor;
	int fd;
	char address[TCP_ADDRESS_SIZE];
};

static void report_refusal(struct acceptor *a, struct error *err)
{
	/* Later it is of no interest, and must not come after the last status line. */
	if (a->lane)
		return;
	snprintf(a->last, sizeof(a->last), "%s", err->message);
	if (++a->refused <= ACCEPT_REPORT_MAX)
		run_status(a->run, "refused",
			json_pack("{s:s,s:s}", "kind", error_kind_name(err->kind), "message",
				err->message));
}

/* Whether this lane is the first one. */
static bool keep(
	struct acceptor *a, struct lane *lane, const struct frame_hello *theirs, struct error **err)
{
	if (a->lane) {
		error_set(err, ERROR_REFUSED, 0, "%s: this migration has its lane already",
			lane_name(lane));
		return false;
	}
	a->lane = lane;
	a->theirs = *theirs;
	run_wake(a->run);
	return true;
}

static void *look_at(void *arg)
{
	struct guest *guest = arg;
	struct acceptor *a = guest->acceptor;
	struct frame_hello theirs;
	struct error *err = NULL;
	struct lane *lane = lane_open(
		guest->fd, guest->address, TLS_LISTENS, a->credentials, &a->options->peer, &err);
	bool good = lane && lane_hello(lane, a->mine, &theirs, &err) == 0;

	pthread_mutex_lock(&a->mutex);
	if (good)
		good = keep(a, lane, &theirs, &err);
	if (!good)
		report_refusal(a, err);
	a->under_way--;
	pthread_mutex_unlock(&a->mutex);
	if (!good && lane) {
		lane_give_up(lane, err);
		lane_close(lane);
	}
	error_free(&err);
	free(guest);
	return NULL;
}

static void take_connection(struct acceptor *a, int listen_fd)
{
	struct guest *guest = calloc(1, sizeof(*guest));

	if (!guest)
		abort();
	guest->acceptor = a;
	guest->fd = tcp_accept(listen_fd, guest->address);
	if (guest->fd < 0) {
		free(guest);
		return;
	}
	pthread_mutex_lock(&a->mutex);
	a->under_way++;
	pthread_mutex_unlock(&a->mutex);
	if (run_thread(look_at, guest, NULL) < 0) {
		pthread_mutex_lock(&a->mutex);
		a->under_way--;
		pthread_mutex_unlock(&a->mutex);
		close(guest->fd);
		free(guest);
	}
}

static int timed_out(struct acceptor *a, struct error **err)
{
	pthread_mutex_lock(&a->mutex);
	error_set(err, ERROR_TIMEOUT, 0,
		*a->last ? "%s has not connected; the last one that was refused: %s"
			 : "%s has not connected",
		a->options->peer.name, a->last);
	pthread_mutex_unlock(&a->mutex);
	return -1;
}

static struct lane *accepted(struct acceptor *a, bool *room)
{
	struct lane *lane;

	pthread_mutex_lock(&a->mutex);
	lane = a->lane;
	*room = a->under_way < ACCEPT_MAX;
	pthread_mutex_unlock(&a->mutex);
	return lane;
}

static int wait_for_lane(struct acceptor *a, int listen_fd, int64_t deadline_ms, struct error **err)
{
	bool room;

	while (!accepted(a, &room)) {
		if (clock_ms() >= deadline_ms)
			return timed_out(a, err);
		if (run_wait(a->run, room ? listen_fd : -1, RUN_TICK_MS, err) < 0)
			return -1;
		if (room)
			take_connection(a, listen_fd);
	}
	return 0;
}

static void report_listening(const struct options *options, struct run *run, int fd)
{
	run_status(run, "listening",
		json_pack("{s:i,s:s*}", "port", tcp_port(fd), "address", options->address));
}

struct lane *accept_lane(const struct options *options, struct run *run,
	const struct tls_credentials *credentials, const struct frame_hello *mine,
	struct frame_hello *theirs, int64_t deadline_ms, struct error **err)
{
	cleanup_fd int fd = options->listen_fd;
	struct acceptor *a;

	if (fd < 0)
		fd = tcp_listen(options->address, err);
	else if (tcp_port(fd) < 0)
		error_set(err, ERROR_USAGE, 0, "descriptor %d is no listening socket", fd);
	if (fd < 0 || tcp_port(fd) < 0)
		return NULL;
	/* One that has gone again before it is accepted is not waited for. */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	a = calloc(1, sizeof(*a));
	if (!a)
		abort();
	a->options = options;
	a->run = run;
	a->credentials = credentials;
	a->mine = mine;
	pthread_mutex_init(&a->mutex, NULL);
	report_listening(options, run, fd);
	if (wait_for_lane(a, fd, deadline_ms, err) < 0)
		return NULL;
	*theirs = a->theirs;
	return a->lane;
}
