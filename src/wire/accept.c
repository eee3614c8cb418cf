#include "wire/accept.h"

#include "base/clock.h"
#include "wire/tcp.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* While there is no room for another connection. */
#define FULL_MS 20

/* There is one in a process. */
static struct acceptor {
	const struct options *options;
	struct run *run;
	const struct tls_credentials *credentials;
	struct link *link;
	int listen_fd;
	pthread_mutex_t mutex;
	bool accepted;
	int under_way, refused;
	char last[1024]; /* why the last one was refused */
} acceptor = {.mutex = PTHREAD_MUTEX_INITIALIZER};

struct guest {
	struct acceptor *acceptor;
	int fd;
	char address[TCP_ADDRESS_SIZE];
};

/* With the lock held. */
static void report_refusal(struct acceptor *a, const struct error *err)
{
	/* Later it is of no interest, and must not come after the last status line. */
	if (a->accepted)
		return;
	snprintf(a->last, sizeof(a->last), "%s", err->message);
	if (++a->refused <= ACCEPT_REPORT_MAX)
		run_status(a->run, "refused",
			json_pack("{s:s,s:s}", "kind", error_kind_name(err->kind), "message",
				err->message));
}

static int greet(
	struct acceptor *a, struct lane *lane, struct frame_hello *theirs, struct error **err)
{
	struct frame_hello mine;

	link_hello(a->link, 0, &mine);
	return lane_hello(lane, &mine, theirs, link_hello_fits, a->link, err);
}

static void *look_at(void *arg)
{
	struct guest *guest = arg;
	struct acceptor *a = guest->acceptor;
	struct frame_hello theirs;
	struct error *err = NULL;
	struct lane *lane = lane_open(
		guest->fd, guest->address, TLS_LISTENS, a->credentials, &a->options->peer, &err);
	bool good = lane && greet(a, lane, &theirs, &err) == 0;

	pthread_mutex_lock(&a->mutex);
	if (!good)
		report_refusal(a, err);
	a->accepted |= good;
	a->under_way--;
	pthread_mutex_unlock(&a->mutex);
	if (good) {
		link_install(a->link, lane, &theirs);
	} else if (lane) {
		lane_give_up(lane, err);
		lane_close(lane);
	}
	error_free(&err);
	free(guest);
	return NULL;
}

static void take_connection(struct acceptor *a)
{
	struct guest *guest = calloc(1, sizeof(*guest));

	if (!guest)
		abort();
	guest->acceptor = a;
	guest->fd = tcp_accept(a->listen_fd, guest->address);
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

static bool has_room(struct acceptor *a)
{
	bool room;

	pthread_mutex_lock(&a->mutex);
	room = a->under_way < ACCEPT_MAX;
	pthread_mutex_unlock(&a->mutex);
	return room;
}

static void *listen_on(void *arg)
{
	struct acceptor *a = arg;
	struct pollfd pollfd = {.fd = a->listen_fd, .events = POLLIN};

	for (;;) {
		if (!has_room(a))
			poll(NULL, 0, FULL_MS);
		else if (poll(&pollfd, 1, -1) > 0)
			take_connection(a);
	}
	return NULL;
}

int accept_listen(const struct options *options, struct error **err)
{
	int fd = options->listen_fd;

	if (fd < 0)
		fd = tcp_listen(options->address, err);
	else if (tcp_port(fd) < 0)
		error_set(err, ERROR_USAGE, 0, "descriptor %d is no listening socket", fd);
	if (fd < 0 || tcp_port(fd) < 0)
		return -1;
	/* One that has gone again before it is accepted is not waited for. */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return fd;
}

int accept_start(const struct options *options, int fd, struct run *run,
	const struct tls_credentials *credentials, struct link *link, struct error **err)
{
	struct acceptor *a = &acceptor;

	a->options = options;
	a->run = run;
	a->credentials = credentials;
	a->link = link;
	a->listen_fd = fd;
	run_status(run, "listening",
		json_pack("{s:i,s:s*}", "port", tcp_port(fd), "address", options->address));
	return run_thread(listen_on, a, err);
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

int accept_wait(struct run *run, struct link *link, int64_t deadline_ms, struct error **err)
{
	struct frame_hello theirs;

	while (!link_theirs(link, &theirs)) {
		if (clock_ms() >= deadline_ms)
			return timed_out(&acceptor, err);
		if (run_wait(run, -1, RUN_TICK_MS, err) < 0)
			return -1;
	}
	return 0;
}
