/*
 * The side that connects: each slot has a keeper, which connects it whenever it is down.
 */
#include "base/clock.h"
#include "wire/link_lanes.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

static int say_hello(struct link *link, struct lane *lane, unsigned number, struct error **err)
{
	struct frame_hello mine, theirs;

	link_hello(link, number, &mine);
	return lane_hello(lane, &mine, &theirs, link_hello_fits, link, err);
}

static struct lane *connect_lane(
	struct link *link, unsigned number, int64_t deadline_ms, struct error **err)
{
	const struct link_options *o = &link->options;
	char address[TCP_ADDRESS_SIZE];
	int fd = tcp_connect(o->target, deadline_ms, address, err);
	struct lane *lane;

	if (fd < 0) {
		error_prefix(err, "lane to %s", o->peer->name);
		return NULL;
	}
	lane = lane_open(fd, address, TLS_CONNECTS, o->credentials, o->peer, err);
	if (lane && say_hello(link, lane, number, err) < 0) {
		lane_give_up(lane, *err);
		lane_close(lane);
		return NULL;
	}
	return lane;
}

int link_connect(struct link *link, int64_t deadline_ms, struct error **err)
{
	struct lane *lane = connect_lane(link, 0, deadline_ms, err);

	if (!lane)
		return -1;
	link_install_lane(link, 0, lane);
	for (unsigned i = 0; i <= link->lanes; i++)
		if (link_keep(link, i, err) < 0)
			return -1;
	return 0;
}

/* Nobody listens there any more: the other side's process is gone. A peer that cannot be reached is
 * another thing. */
static bool hopeless(const struct error *why)
{
	return (why->kind != ERROR_UNREACHABLE && why->kind != ERROR_TIMEOUT) ||
	       why->errnum == ECONNREFUSED;
}

/* Whether the slot is to be connected; waits until that may have changed. */
static bool wait_for_loss(struct slot *slot)
{
	struct link *link = slot->link;
	bool ending;

	pthread_mutex_lock(&link->mutex);
	while (slot->now && !link->ending)
		pthread_cond_wait(&link->lanes_change, &link->mutex);
	ending = link->ending;
	pthread_mutex_unlock(&link->mutex);
	return !ending && !link->options.handler->complete(link->options.arg);
}

static void pause_ms(int ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

/* Connects again and again; link_check knows when that has lasted too long. */
static int reconnect(struct slot *slot, struct error **err)
{
	struct link *link = slot->link;

	for (int wait_ms = LINK_PAUSE_MS; wait_for_loss(slot);) {
		struct error *why = NULL;
		struct lane *lane =
			connect_lane(link, slot->number, clock_ms() + LINK_ATTEMPT_MS, &why);

		if (lane) {
			link_install_lane(link, slot->number, lane);
			return 0;
		}
		if (hopeless(why))
			return error_move(err, why);
		error_free(&why);
		pause_ms(wait_ms);
		wait_ms = wait_ms * 2 < LINK_PAUSE_MAX_MS ? wait_ms * 2 : LINK_PAUSE_MAX_MS;
	}
	return 0;
}

static void *keep(void *arg)
{
	struct slot *slot = arg;
	struct error *err = NULL;

	while (wait_for_loss(slot))
		if (reconnect(slot, &err) < 0) {
			run_fail(slot->link->options.run, err);
			break;
		}
	return NULL;
}

int link_keep(struct link *link, unsigned number, struct error **err)
{
	return run_thread(keep, &link->slots[number], err);
}
