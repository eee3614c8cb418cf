#include "wire/link_lanes.h"

#include "base/fault.h"
#include "base/clock.h"
#include "base/cond.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* When this side has ended, the other one has so long to do the same. */
#define FINISH_MS 1000

static void report(struct connection *c, const char *event, const struct error *why)
{
	run_status(c->link->options.run, event,
		json_pack("{s:i,s:s*}", "lane", (int)c->number, "message",
			why ? why->message : NULL));
}

/* With the lock held: what a connection carried is not forgotten with it. */
static void count_bytes(struct connection *c)
{
	uint64_t bytes = lane_wire_bytes(c->lane);

	c->link->closed_bytes += bytes - c->counted;
	c->counted = bytes;
}

/* With the lock held: what has not been said on lane 0 is as lost as what was on its way. */
static void forget_said(struct link *link)
{
	while (link->said) {
		struct said *said = link->said;

		link->said = said->next;
		free(said);
	}
	link->said_last = NULL;
	link->said_len = 0;
}

/* With the lock held: nothing goes over this connection any more. */
static void take_out(struct connection *c)
{
	struct link *link = c->link;
	struct slot *slot = &link->slots[c->number];

	c->dead = true;
	pthread_cond_signal(&c->work);
	lane_break(c->lane);
	count_bytes(c);
	if (slot->now == c) {
		slot->now = NULL;
		slot->down_ms = clock_ms();
	}
	if ((c->number == 0) == link->numbers_on_zero)
		outbox_lane_lost(&link->out, c->number);
	if (c->number == 0)
		forget_said(link);
	link_wake_all(link);
}

/* Broken connections come back; what the other side says, or does wrong, does not. */
static bool comes_back(const struct error *why)
{
	return why->kind == ERROR_UNREACHABLE || why->kind == ERROR_TIMEOUT;
}

/* With the lock held: this thread does not use the connection any more. The last one frees it. */
static void let_go(struct connection *c)
{
	count_bytes(c);
	pthread_cond_broadcast(&c->link->lanes_change);
	if (--c->threads)
		return;
	lane_close(c->lane);
	pthread_cond_destroy(&c->work);
	free(c);
}

/* A thread is done with its connection, and why. What the other side said (`said`), or did wrong,
 * counts also when the connection broke before it was read, and ends the run; the lane stays then,
 * for what this side has to say of it (link_give_up). */
static void leave(struct connection *c, struct error *why, bool said)
{
	struct link *link = c->link;
	bool first, over, fatal, complete = link->options.handler->complete(link->options.arg);

	pthread_mutex_lock(&link->mutex);
	over = link->ending || complete;
	fatal = why && !over && (said || !comes_back(why));
	first = !c->dead && !fatal;
	if (first)
		take_out(c);
	link->ending |= fatal;
	pthread_cond_broadcast(&link->room);
	pthread_mutex_unlock(&link->mutex);
	if (fatal) {
		run_fail(link->options.run, why);
		why = NULL;
	} else if (first && !over) {
		report(c, "reconnecting", why);
	}
	error_free(&why);
	pthread_mutex_lock(&link->mutex);
	let_go(c);
	pthread_mutex_unlock(&link->mutex);
	if (complete)
		run_end(link->options.run);
}

static int take_ack(struct connection *c, const struct chunk *chunk, struct error **err)
{
	struct link *link = c->link;
	struct frame_ack ack;
	int result;

	if (frame_ack_decode(chunk->data, chunk->len, &ack, err) < 0)
		return -1;
	if (!link->options.handler->acked(link->options.arg, ack.bytes))
		return error_set(err, ERROR_REQUEST, 0,
			"it says that %llu bytes have arrived, which cannot be",
			(unsigned long long)ack.bytes);
	pthread_mutex_lock(&link->mutex);
	result = ack.sequence < link->out.acked ? 0 : link_take_acked(link, ack.sequence, err);
	pthread_mutex_unlock(&link->mutex);
	return result;
}

/* Lane 0 carries all but the stream. */
static bool on_its_lane(const struct connection *c, const struct chunk *chunk)
{
	bool stream = c->link->numbers_on_zero && frame_type_numbered(chunk->type);

	return (c->number == 0) == !stream;
}

/* 1: the chunk was kept. */
static int take_frame(struct connection *c, struct chunk *chunk, struct error **err)
{
	const struct link_options *o = &c->link->options;
	int result;

	if (chunk->type == FRAME_ACK)
		result = take_ack(c, chunk, err);
	else if (chunk->type == FRAME_HELLO)
		result = error_set(err, ERROR_REQUEST, 0, "a second hello came");
	else if (!on_its_lane(c, chunk))
		result = error_set(err, ERROR_REQUEST, 0, "a frame of type %s came on lane %u",
			frame_type_name(chunk->type), c->number);
	else
		result = o->handler->take(o->arg, chunk, err);
	if (result < 0 && (*err)->kind == ERROR_REQUEST)
		error_prefix(err, "%s", lane_name(c->lane));
	return result;
}

static void *receive(void *arg)
{
	struct connection *c = arg;
	struct chunk_pool *pool = c->link->options.handler->pool;
	struct chunk *chunk = chunk_take(pool);
	struct error *err = NULL;
	int kept = 0;
	bool said;

	while (kept >= 0 && lane_receive(c->lane, chunk, &err) == 0) {
		kept = take_frame(c, chunk, &err);
		if (kept > 0)
			chunk = chunk_take(pool);
	}
	said = kept < 0 || chunk->type == FRAME_ERROR;
	chunk_give_back(pool, chunk);
	leave(c, err, said);
	return NULL;
}

static void wait_us(int64_t us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	if (us > 0)
		nanosleep(&ts, NULL);
}

static int send_unlocked(struct connection *c, enum frame_type type, const void *data, size_t len,
	struct error **err)
{
	int result;

	pthread_mutex_unlock(&c->link->mutex);
	result = lane_send_frame(c->lane, type, 0, data, len, err);
	pthread_mutex_lock(&c->link->mutex);
	return result;
}

static int send_ack(struct connection *c, struct error **err)
{
	struct link *link = c->link;
	uint8_t payload[FRAME_ACK_SIZE];
	struct frame_ack ack;

	link->ack_due = false;
	pthread_mutex_unlock(&link->mutex);
	ack = link->options.handler->dealt(link->options.arg);
	frame_ack_encode(&ack, payload);
	pthread_mutex_lock(&link->mutex);
	return send_unlocked(c, FRAME_ACK, payload, sizeof(payload), err);
}

/* With the lock held, which is let go meanwhile. -1: the connection broke. */
static int wait_turn(struct connection *c, int64_t us, struct error **err)
{
	int result = 0;

	while (us > 0 && result == 0) {
		int64_t now_us = us < LANE_ALIVE_MS * 1000 ? us : LANE_ALIVE_MS * 1000;

		pthread_mutex_unlock(&c->link->mutex);
		wait_us(now_us);
		pthread_mutex_lock(&c->link->mutex);
		us -= now_us;
		c->link->paced_us += now_us;
		if (c->dead)
			result = -1;
		else if (us > 0)
			result = send_ack(c, err);
	}
	return result;
}

/* With the lock held, which is let go meanwhile: sends one numbered frame. */
static int send_frame(struct connection *c, struct out_frame *frame, struct error **err)
{
	struct link *link = c->link;
	int64_t start_us = clock_us();
	int result = wait_turn(c, pace_take(&link->pace, FRAME_HEADER + frame->len, start_us), err);

	pthread_mutex_unlock(&link->mutex);
	if (result == 0)
		result = lane_send_frame(c->lane, (enum frame_type)frame->type, frame->sequence,
			frame->data, frame->len, err);
	pthread_mutex_lock(&link->mutex);
	outbox_taken(&link->out, frame, result == 0 && !c->dead);
	if (frame->acknowledged)
		link_take_acked(link, link->out.acked, NULL);
	else if (result < 0 || c->dead)
		link_wake_numbered(link);
	return result;
}

static int send_said(struct connection *c, struct error **err)
{
	struct link *link = c->link;
	struct said *said = link->said;
	int result;

	link->said = said->next;
	if (!link->said)
		link->said_last = NULL;
	link->said_len--;
	pthread_cond_broadcast(&link->room);
	result = send_unlocked(c, said->type, said->data, said->len, err);
	free(said);
	return result;
}

/* With the lock held: sends the most urgent thing there is. 1: there was nothing. */
static int send_something(struct connection *c, struct error **err)
{
	struct link *link = c->link;
	struct out_frame *frame = NULL;

	if (c->number == 0 && link->ack_due)
		return send_ack(c, err);
	if (c->number == 0 && link->said)
		return send_said(c, err);
	if ((c->number == 0) == link->numbers_on_zero)
		frame = outbox_take(&link->out, c->number);
	if (frame)
		return send_frame(c, frame, err);
	if (lane_idle_ms(c->lane) >= LANE_ALIVE_MS)
		return send_ack(c, err);
	return 1;
}

/* With the lock held. */
static void wait_for_work(struct connection *c)
{
	c->waits = true;
	cond_wait_until(&c->work, &c->link->mutex, clock_ms() + LANE_ALIVE_MS / 2);
	c->waits = false;
}

static void *transmit(void *arg)
{
	struct connection *c = arg;
	struct link *link = c->link;
	struct error *err = NULL;
	int result = 0;

	pthread_mutex_lock(&link->mutex);
	while (!c->dead && result >= 0) {
		result = send_something(c, &err);
		if (result == 1 && !c->dead)
			wait_for_work(c);
	}
	pthread_mutex_unlock(&link->mutex);
	leave(c, err, false);
	return NULL;
}

static struct connection *new_connection(struct link *link, unsigned number, struct lane *lane)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	*c = (struct connection){.link = link, .lane = lane, .number = number, .threads = 2};
	cond_init(&c->work);
	return c;
}

/* With the lock held. Whether the slot had a lane before. */
static bool put_in(struct connection *c)
{
	struct link *link = c->link;
	struct slot *slot = &link->slots[c->number];
	bool again = slot->was_up;

	if (slot->now)
		take_out(slot->now);
	slot->now = c;
	slot->was_up = true;
	link->reconnections += again;
	if (c->number == 0) {
		link->ack_due = true;
		if (!again)
			snprintf(link->cipher, sizeof(link->cipher), "%s", lane_cipher(c->lane));
		if (!again)
			snprintf(link->address, sizeof(link->address), "%s", lane_address(c->lane));
	}
	return again;
}

void link_install_lane(struct link *link, unsigned number, struct lane *lane)
{
	struct connection *c = new_connection(link, number, lane);
	struct error *err = NULL;
	bool again;

	pthread_mutex_lock(&link->mutex);
	again = put_in(c);
	pthread_mutex_unlock(&link->mutex);
	if (again)
		report(c, "reconnected", NULL);
	if ((again && fault_point("wire.link.reconnected", &err) < 0) ||
		run_thread(receive, c, &err) < 0 || run_thread(transmit, c, &err) < 0) {
		run_fail(link->options.run, err);
		return;
	}
	run_wake(link->options.run);
	if (again && number == 0)
		link->options.handler->again(link->options.arg);
}

/* With the lock held. */
static bool any_lane(const struct link *link)
{
	for (unsigned i = 0; i <= FRAME_LANES_MAX; i++)
		if (link->slots[i].now)
			return true;
	return false;
}

/* With the lock held: the connection in a slot, which is this thread's to use, too, until it lets
 * go of it; NULL: none. */
static struct connection *use(struct link *link, unsigned number)
{
	struct connection *c = link->slots[number].now;

	if (c)
		c->threads++;
	return c;
}

/* With the lock held, which is let go meanwhile. */
static void send_last_ack(struct link *link)
{
	struct connection *c = use(link, 0);

	if (!c)
		return;
	send_ack(c, NULL);
	let_go(c);
}

/* With the lock held, which is let go meanwhile. */
static void say_goodbye(struct link *link, unsigned number)
{
	struct connection *c = use(link, number);

	if (!c)
		return;
	pthread_mutex_unlock(&link->mutex);
	lane_bye(c->lane);
	pthread_mutex_lock(&link->mutex);
	let_go(c);
}

/* With the lock held. */
static void wait_for_goodbyes(struct link *link)
{
	int64_t deadline_ms = clock_ms() + FINISH_MS;

	while (any_lane(link) && clock_ms() < deadline_ms)
		cond_wait_until(&link->lanes_change, &link->mutex, deadline_ms);
}

/* The receiver goes first: it waits for nothing else, and the sender's last ACK must not be
 * overtaken by the sender's goodbye on another lane. */
void link_finish(struct link *link)
{
	pthread_mutex_lock(&link->mutex);
	link->ending = true;
	link_wake_all(link);
	if (!link->numbers_on_zero) {
		send_last_ack(link);
		wait_for_goodbyes(link);
	}
	for (unsigned i = 0; i <= FRAME_LANES_MAX; i++)
		say_goodbye(link, i);
	if (link->numbers_on_zero)
		wait_for_goodbyes(link);
	pthread_mutex_unlock(&link->mutex);
}

void link_give_up(struct link *link, const struct error *why)
{
	struct connection *last = NULL;

	pthread_mutex_lock(&link->mutex);
	link->ending = true;
	for (unsigned i = 0; i <= FRAME_LANES_MAX && !last; i++)
		last = use(link, i);
	pthread_mutex_unlock(&link->mutex);
	if (last)
		lane_give_up(last->lane, why);
}
