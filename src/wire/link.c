#include "wire/link.h"

#include "base/clock.h"
#include "base/cond.h"
#include "wire/link_lanes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Things said and not sent yet; more wait. */
#define SAID_MAX 8u

struct link *link_new(const struct link_options *options)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link || getrandom(&link->session, sizeof(link->session), 0) < 0)
		abort();
	link->options = *options;
	link->pace.rate_bps = options->bandwidth_bps;
	link->numbers_on_zero = options->hello.role == FRAME_ROLE_RECV;
	outbox_init(&link->out, OUTBOX_WINDOW_MAX);
	window_init(&link->window, clock_us());
	pthread_mutex_init(&link->mutex, NULL);
	cond_init(&link->lanes_change);
	cond_init(&link->room);
	for (unsigned i = 0; i <= FRAME_LANES_MAX; i++)
		link->slots[i] = (struct slot){.link = link, .number = i};
	return link;
}

/* One that does not wait looks for more before it does. Whether this one was woken. */
static bool wake(struct slot *slot)
{
	struct connection *c = slot->now;

	if (!c || !c->waits)
		return false;
	c->waits = false;
	pthread_cond_signal(&c->work);
	return true;
}

void link_wake_zero(struct link *link)
{
	wake(&link->slots[0]);
}

void link_wake_numbered(struct link *link)
{
	unsigned first = link->numbers_on_zero ? 0 : 1,
		 last = link->numbers_on_zero ? 0 : link->lanes;

	while (first <= last && !wake(&link->slots[first]))
		first++;
}

void link_wake_all(struct link *link)
{
	for (unsigned i = 0; i <= FRAME_LANES_MAX; i++)
		wake(&link->slots[i]);
	pthread_cond_broadcast(&link->lanes_change);
	pthread_cond_broadcast(&link->room);
}

static uint64_t on_its_way(const struct link *link)
{
	return link->begun_bytes - link->window.acked;
}

/* With the lock held. All lanes go the same way. */
static void look_at_queue(struct link *link, int64_t now_us)
{
	const struct connection *c = link->slots[1].now;

	if (c && window_looks(&link->window, now_us))
		window_rtt(&link->window, lane_rtt_us(c->lane), now_us);
}

int link_take_acked(struct link *link, uint64_t sequence, struct error **err)
{
	int64_t now_us = clock_us();
	struct out_frame *frame;

	if (!outbox_acked(&link->out, sequence))
		return error_set(err, ERROR_REQUEST, 0,
			"it says that frame %llu has arrived, which was not sent",
			(unsigned long long)sequence);
	while ((frame = outbox_release(&link->out))) {
		window_acked(&link->window, frame->len, now_us);
		link->options.handler->release(link->options.arg, frame);
	}
	look_at_queue(link, now_us);
	pthread_cond_broadcast(&link->room);
	return 0;
}

static bool has_room(const struct link *link)
{
	return outbox_has_room(&link->out) &&
	       (!on_its_way(link) || on_its_way(link) < link->window.bytes);
}

void link_wait_room(struct link *link)
{
	pthread_mutex_lock(&link->mutex);
	while (!has_room(link)) {
		if (outbox_has_room(&link->out))
			window_held_up(&link->window);
		pthread_cond_wait(&link->room, &link->mutex);
	}
	pthread_mutex_unlock(&link->mutex);
}

void link_begin(struct link *link, struct out_frame *frame, size_t expected)
{
	pthread_mutex_lock(&link->mutex);
	while (!outbox_has_room(&link->out))
		pthread_cond_wait(&link->room, &link->mutex);
	outbox_begin(&link->out, frame);
	frame->expected = expected;
	link->begun_bytes += expected;
	pthread_mutex_unlock(&link->mutex);
}

void link_ready(struct link *link, struct out_frame *frame)
{
	pthread_mutex_lock(&link->mutex);
	link->begun_bytes += frame->len - frame->expected;
	outbox_ready(&link->out, frame, clock_us());
	link_wake_numbered(link);
	pthread_mutex_unlock(&link->mutex);
}

void link_send(struct link *link, struct out_frame *frame, enum frame_type type, const void *data,
	size_t len)
{
	link_begin(link, frame, len);
	frame->type = (uint8_t)type;
	frame->data = data;
	frame->len = len;
	link_ready(link, frame);
}

bool link_hungry(struct link *link)
{
	bool hungry = true;

	pthread_mutex_lock(&link->mutex);
	for (uint64_t n = link->out.released + 1; n <= link->out.last; n++)
		if (link->out.frames[n % OUTBOX_WINDOW_MAX]->state != OUT_SENT)
			hungry = false;
	pthread_mutex_unlock(&link->mutex);
	return hungry;
}

bool link_with_frame(struct link *link, uint64_t sequence,
	void (*use)(void *arg, struct out_frame *frame), void *arg)
{
	struct out_frame *frame;

	pthread_mutex_lock(&link->mutex);
	frame = outbox_find(&link->out, sequence);
	if (frame)
		use(arg, frame);
	pthread_mutex_unlock(&link->mutex);
	return frame != NULL;
}

/* With the lock held. */
static void say(struct link *link, enum frame_type type, const void *payload, size_t len)
{
	struct said *said = malloc(sizeof(*said) + len);

	if (!said)
		abort();
	*said = (struct said){.type = type, .len = len};
	memcpy(said->data, payload, len);
	if (link->said_last)
		link->said_last->next = said;
	else
		link->said = said;
	link->said_last = said;
	link->said_len++;
	link_wake_zero(link);
}

void link_say(struct link *link, enum frame_type type, const void *payload, size_t len)
{
	pthread_mutex_lock(&link->mutex);
	while (link->said_len >= SAID_MAX && !link->ending)
		pthread_cond_wait(&link->room, &link->mutex);
	say(link, type, payload, len);
	pthread_mutex_unlock(&link->mutex);
}

void link_say_idly(struct link *link, enum frame_type type, const void *payload, size_t len)
{
	pthread_mutex_lock(&link->mutex);
	if (link->slots[0].now && !link->said)
		say(link, type, payload, len);
	pthread_mutex_unlock(&link->mutex);
}

void link_ack(struct link *link)
{
	pthread_mutex_lock(&link->mutex);
	link->ack_due = true;
	link_wake_zero(link);
	pthread_mutex_unlock(&link->mutex);
}

void link_hello(struct link *link, unsigned lane, struct frame_hello *hello)
{
	*hello = link->options.hello;
	hello->session = link->session;
	hello->lane = (uint8_t)lane;
	hello->next = link->options.handler->dealt(link->options.arg).sequence + 1;
}

bool link_theirs(struct link *link, struct frame_hello *theirs)
{
	bool seen;

	pthread_mutex_lock(&link->mutex);
	*theirs = link->theirs;
	seen = link->hello_seen;
	pthread_mutex_unlock(&link->mutex);
	return seen;
}

/* With the lock held. */
static int fits(const struct link *link, const struct frame_hello *theirs, struct error **err)
{
	if (link->hello_seen && theirs->session != link->theirs.session)
		return error_set(err, ERROR_REFUSED, 0,
			"this migration has its lanes from another process already");
	if (theirs->payload_max < link->options.needs)
		return error_set(err, ERROR_REFUSED, 0,
			"it takes frames of %u bytes, and this side's are up to %u long",
			theirs->payload_max, link->options.needs);
	if (link->hello_seen && theirs->lanes != link->theirs.lanes)
		return error_set(err, ERROR_REQUEST, 0, "it has %u lanes now, %u before",
			theirs->lanes, link->theirs.lanes);
	return 0;
}

int link_hello_fits(void *arg, const struct frame_hello *theirs, struct error **err)
{
	struct link *link = arg;
	int result;

	pthread_mutex_lock(&link->mutex);
	result = fits(link, theirs, err);
	if (result == 0 && theirs->next > 1)
		result = link_take_acked(link, theirs->next - 1, err);
	if (result == 0 && !link->hello_seen) {
		link->hello_seen = true;
		link->theirs = *theirs;
		link->lanes = theirs->lanes;
		link->out.window =
			theirs->window < OUTBOX_WINDOW_MAX ? theirs->window : OUTBOX_WINDOW_MAX;
	}
	pthread_mutex_unlock(&link->mutex);
	return result;
}

void link_install(struct link *link, struct lane *lane, const struct frame_hello *theirs)
{
	link_install_lane(link, theirs->lane, lane);
}

static int overdue(const struct slot *slot, int64_t limit_ms, struct error **err)
{
	if (slot->now || !slot->was_up || clock_ms() - slot->down_ms < limit_ms)
		return 0;
	return error_set(err, ERROR_UNREACHABLE, 0,
		"the connection to %s broke, and there has been no other for %lld s",
		slot->link->options.peer->name, (long long)(limit_ms / 1000));
}

int link_check(struct link *link, struct error **err)
{
	int result = 0;

	pthread_mutex_lock(&link->mutex);
	for (unsigned i = 0; i <= link->lanes && result == 0; i++)
		result = overdue(&link->slots[i], link->options.reconnect_ms, err);
	pthread_mutex_unlock(&link->mutex);
	return result;
}

const char *link_cipher(struct link *link)
{
	return link->cipher;
}

const char *link_address(struct link *link)
{
	return link->address;
}

uint64_t link_wire_bytes(struct link *link)
{
	uint64_t bytes;

	pthread_mutex_lock(&link->mutex);
	bytes = link->closed_bytes;
	for (unsigned i = 0; i <= FRAME_LANES_MAX; i++)
		if (link->slots[i].now)
			bytes += lane_wire_bytes(link->slots[i].now->lane);
	pthread_mutex_unlock(&link->mutex);
	return bytes;
}

unsigned link_reconnections(struct link *link)
{
	unsigned reconnections;

	pthread_mutex_lock(&link->mutex);
	reconnections = link->reconnections;
	pthread_mutex_unlock(&link->mutex);
	return reconnections;
}

struct window link_window(struct link *link)
{
	struct window window;

	pthread_mutex_lock(&link->mutex);
	window = link->window;
	pthread_mutex_unlock(&link->mutex);
	return window;
}

int64_t link_busy_us(struct link *link)
{
	int64_t sum_us, lane_us = 0;
	unsigned lanes = 0;

	pthread_mutex_lock(&link->mutex);
	sum_us = link->paced_us;
	for (unsigned i = 1; i <= link->lanes && lane_us >= 0; i++) {
		const struct connection *c = link->slots[i].now;

		lane_us = c ? lane_busy_us(c->lane) : 0;
		sum_us += lane_us;
		lanes += c != NULL;
	}
	pthread_mutex_unlock(&link->mutex);
	return lane_us < 0 ? -1 : sum_us / (lanes ? lanes : 1);
}
