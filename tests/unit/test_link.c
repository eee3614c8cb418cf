/* What a link is made of: outbox, inbox and window; and the setup. */
#include "wire/inbox.h"
#include "wire/outbox.h"
#include "wire/setup.h"
#include "wire/window.h"

#include "wire/cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

/* Outbox */

static struct out_frame frames[OUTBOX_WINDOW_MAX + 1];

static void begin(struct outbox *out, unsigned from, unsigned to)
{
	for (unsigned i = from; i <= to; i++)
		outbox_begin(out, &frames[i]);
}

static void ready(struct outbox *out, unsigned from, unsigned to)
{
	for (unsigned i = from; i <= to; i++)
		outbox_ready(out, &frames[i], 0);
}

static void send_on(struct outbox *out, unsigned lane, unsigned number)
{
	struct out_frame *frame = outbox_take(out, lane);

	assert_ptr_equal(frame, &frames[number]);
	outbox_taken(out, frame, true);
}

static void test_frames_go_by_number_whenever_they_are_ready(void **state)
{
	struct outbox out;

	(void)state;
	outbox_init(&out, 4);
	begin(&out, 1, 4);
	assert_int_equal(frames[4].sequence, 4);
	assert_false(outbox_has_room(&out));
	assert_null(outbox_take(&out, 1));
	ready(&out, 3, 4);
	send_on(&out, 1, 3);
	ready(&out, 1, 1);
	send_on(&out, 2, 1);
	send_on(&out, 1, 4);
	assert_null(outbox_take(&out, 1));
}

static void test_frames_of_a_lost_lane_go_again_and_no_others(void **state)
{
	struct outbox out;

	(void)state;
	outbox_init(&out, 8);
	begin(&out, 1, 6);
	ready(&out, 1, 6);
	for (unsigned i = 1; i <= 4; i++)
		send_on(&out, 1 + i % 2, i);
	assert_ptr_equal(outbox_take(&out, 1), &frames[5]);
	assert_true(outbox_acked(&out, 1));
	outbox_lane_lost(&out, 2);
	/* 1 has been acknowledged, 2 and 4 went on the other lane, 5 is being sent. */
	send_on(&out, 1, 3);
	send_on(&out, 1, 6);
	assert_null(outbox_take(&out, 1));
	/* The lane that was sending it has broken meanwhile. */
	outbox_taken(&out, &frames[5], false);
	send_on(&out, 2, 5);
}

static void test_frame_that_is_being_sent_is_not_given_back(void **state)
{
	struct outbox out;

	(void)state;
	outbox_init(&out, 8);
	begin(&out, 1, 3);
	ready(&out, 1, 3);
	assert_ptr_equal(outbox_take(&out, 1), &frames[1]);
	send_on(&out, 1, 2);
	/* It was sent on another lane before, and that arrived. */
	assert_true(outbox_acked(&out, 2));
	assert_null(outbox_release(&out));
	assert_ptr_equal(outbox_find(&out, 2), &frames[2]);
	outbox_taken(&out, &frames[1], false);
	assert_ptr_equal(outbox_release(&out), &frames[1]);
	assert_ptr_equal(outbox_release(&out), &frames[2]);
	assert_null(outbox_release(&out));
	assert_null(outbox_find(&out, 2));
	/* What was acknowledged before it was sent again is not sent again. */
	assert_ptr_equal(outbox_find(&out, 3), &frames[3]);
	assert_true(outbox_acked(&out, 3));
	assert_null(outbox_take(&out, 1));
	assert_ptr_equal(outbox_release(&out), &frames[3]);
}

static void test_what_was_not_sent_cannot_be_acknowledged(void **state)
{
	struct outbox out;

	(void)state;
	outbox_init(&out, 8);
	assert_true(outbox_acked(&out, 0));
	assert_false(outbox_acked(&out, 1));
	begin(&out, 1, 2);
	ready(&out, 1, 1);
	send_on(&out, 1, 1);
	assert_false(outbox_acked(&out, 2));
	assert_false(outbox_acked(&out, 3));
	assert_false(outbox_acked(&out, UINT64_MAX));
	assert_null(outbox_release(&out));
	assert_null(outbox_find(&out, 2));
	assert_null(outbox_find(&out, 0));
	assert_true(outbox_acked(&out, 1));
	assert_true(outbox_acked(&out, 1));
	assert_ptr_equal(outbox_release(&out), &frames[1]);
}

/* Inbox */

static struct chunk chunks[200];

static enum inbox_put put(struct inbox *in, uint64_t sequence)
{
	struct chunk *chunk = &chunks[sequence % 200];

	chunk->sequence = sequence;
	return inbox_put(in, chunk);
}

static void test_each_frame_comes_in_once_and_only_in_the_window(void **state)
{
	struct inbox in;

	(void)state;
	inbox_init(&in, 4);
	assert_int_equal(put(&in, 0), INBOX_DUPLICATE);
	assert_int_equal(put(&in, 5), INBOX_TOO_FAR);
	assert_int_equal(put(&in, UINT64_MAX), INBOX_TOO_FAR);
	assert_int_equal(put(&in, 4), INBOX_KEPT);
	assert_int_equal(put(&in, 1), INBOX_KEPT);
	assert_int_equal(put(&in, 1), INBOX_DUPLICATE);
	assert_int_equal(put(&in, 4), INBOX_DUPLICATE);
	/* Taken, done and given out, it stays one that was there. */
	assert_ptr_equal(inbox_take(&in), &chunks[1]);
	assert_int_equal(put(&in, 1), INBOX_DUPLICATE);
	inbox_done(&in, 1, NULL);
	assert_int_equal(put(&in, 1), INBOX_DUPLICATE);
	assert_true(inbox_next(&in, &(struct in_slot){0}));
	assert_int_equal(put(&in, 1), INBOX_DUPLICATE);
	assert_int_equal(put(&in, 5), INBOX_KEPT);
	assert_int_equal(put(&in, 6), INBOX_TOO_FAR);
}

static void test_frames_are_taken_as_they_come_and_come_out_in_order(void **state)
{
	struct in_slot slot;
	struct inbox in;
	int results[4];

	(void)state;
	inbox_init(&in, 8);
	assert_int_equal(put(&in, 3), INBOX_KEPT);
	assert_int_equal(put(&in, 2), INBOX_KEPT);
	assert_ptr_equal(inbox_take(&in), &chunks[2]);
	assert_ptr_equal(inbox_take(&in), &chunks[3]);
	assert_null(inbox_take(&in));
	inbox_done(&in, 3, &results[3]);
	inbox_waiting(&in, 2, &results[2]);
	assert_int_equal(put(&in, 1), INBOX_KEPT);
	assert_false(inbox_next(&in, &slot));
	assert_ptr_equal(inbox_take(&in), &chunks[1]);
	assert_false(inbox_next(&in, &slot));
	inbox_done(&in, 1, &results[1]);
	assert_true(inbox_next(&in, &slot));
	assert_ptr_equal(slot.result, &results[1]);
	assert_ptr_equal(slot.chunk, &chunks[1]);
	/* The second waits for something. */
	assert_false(inbox_next(&in, &slot));
	assert_ptr_equal(inbox_find_waiting(&in, 2)->result, &results[2]);
	inbox_done(&in, 2, &results[2]);
	assert_true(inbox_next(&in, &slot));
	assert_true(inbox_next(&in, &slot));
	assert_ptr_equal(slot.result, &results[3]);
	assert_false(inbox_next(&in, &slot));
}

static void test_only_what_waits_is_found_waiting(void **state)
{
	struct inbox in;

	(void)state;
	inbox_init(&in, 4);
	assert_null(inbox_find_waiting(&in, 1));
	put(&in, 2);
	assert_null(inbox_find_waiting(&in, 2));
	inbox_take(&in);
	assert_null(inbox_find_waiting(&in, 2));
	inbox_waiting(&in, 2, &in);
	assert_non_null(inbox_find_waiting(&in, 2));
	/* The same slot under other numbers. */
	assert_null(inbox_find_waiting(&in, 2 + INBOX_WINDOW_MAX));
	assert_null(inbox_find_waiting(&in, 0));
	assert_null(inbox_find_waiting(&in, UINT64_MAX));
	inbox_done(&in, 2, &in);
	assert_null(inbox_find_waiting(&in, 2));
}

/* Both: a network of lanes that lose what is on them, and of acknowledgements that come late. */

#define LANES 3u
#define ON_LANE 8u
#define ALL 5000u
#define WINDOW 16u

struct network {
	struct outbox out;
	struct inbox in;
	uint64_t on_lane[LANES][ON_LANE], acks[ON_LANE], given, dealt;
	struct out_frame *being_sent[LANES];
	unsigned len[LANES], acks_len;
	struct out_frame frames[WINDOW];
	struct chunk chunks[WINDOW];
};

static uint64_t shift(uint64_t *list, unsigned *len)
{
	uint64_t first = list[0];

	memmove(list, list + 1, --*len * sizeof(*list));
	return first;
}

static void step_begin(struct network *n)
{
	if (n->given == ALL || !outbox_has_room(&n->out))
		return;
	outbox_begin(&n->out, &n->frames[n->given % WINDOW]);
	outbox_ready(&n->out, &n->frames[n->given++ % WINDOW], 0);
}

static void step_lane(struct network *n, unsigned lane)
{
	struct out_frame *frame = n->being_sent[lane];

	if (frame && n->len[lane] < ON_LANE) {
		n->on_lane[lane][n->len[lane]++] = frame->sequence;
		outbox_taken(&n->out, frame, true);
		n->being_sent[lane] = NULL;
	} else if (!frame) {
		n->being_sent[lane] = outbox_take(&n->out, lane);
	}
}

static void step_lose(struct network *n, unsigned lane)
{
	struct out_frame *frame = n->being_sent[lane];

	n->len[lane] = 0;
	outbox_lane_lost(&n->out, lane);
	n->being_sent[lane] = NULL;
	if (!frame)
		return;
	/* It is nobody else's until the lane has noticed. */
	assert_int_equal(frame->state, OUT_SENDING);
	outbox_taken(&n->out, frame, false);
}

static void step_arrive(struct network *n, unsigned lane)
{
	struct in_slot slot;
	struct chunk *chunk;
	uint64_t sequence;

	if (!n->len[lane])
		return;
	sequence = shift(n->on_lane[lane], &n->len[lane]);
	chunk = &n->chunks[sequence % WINDOW];
	if (sequence >= n->in.next && sequence - n->in.next < WINDOW &&
		n->in.slots[sequence % INBOX_WINDOW_MAX].state == IN_MISSING)
		*chunk = (struct chunk){.sequence = sequence};
	else
		chunk = &(struct chunk){.sequence = sequence};
	assert_int_not_equal(inbox_put(&n->in, chunk), INBOX_TOO_FAR);
	while ((chunk = inbox_take(&n->in)))
		inbox_done(&n->in, chunk->sequence, NULL);
	while (inbox_next(&n->in, &slot))
		assert_int_equal(slot.chunk->sequence, ++n->dealt);
	if (n->acks_len < ON_LANE)
		n->acks[n->acks_len++] = n->dealt;
}

static void step_ack(struct network *n)
{
	struct out_frame *frame;

	if (!n->acks_len) {
		/* The sign of life. */
		n->acks[n->acks_len++] = n->dealt;
		return;
	}
	assert_true(outbox_acked(&n->out, shift(n->acks, &n->acks_len)));
	while ((frame = outbox_release(&n->out)))
		for (unsigned i = 0; i < LANES; i++)
			assert_ptr_not_equal(frame, n->being_sent[i]);
}

static void test_lanes_that_lose_what_is_on_them_lose_nothing(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 20; seed++) {
		static struct network n;
		unsigned steps = 0;

		memset(&n, 0, sizeof(n));
		outbox_init(&n.out, WINDOW);
		inbox_init(&n.in, WINDOW);
		srandom(seed);
		while (n.dealt < ALL && steps++ < 1000000) {
			unsigned lane = (unsigned)random() % LANES, what = (unsigned)random() % 32;

			if (what < 8)
				step_begin(&n);
			else if (what < 18)
				step_lane(&n, lane);
			else if (what < 27)
				step_arrive(&n, lane);
			else if (what < 31)
				step_ack(&n);
			else
				step_lose(&n, lane);
		}
		assert_int_equal(n.dealt, ALL);
	}
}

/* Window */

/* Two seconds of a link of that rate whose queue is all of the window that is more than what it
 * carries in its own round-trip time. */
static int64_t carry(struct window *w, int64_t now_us, uint64_t bps, int64_t way_us)
{
	int64_t end_us = now_us + 2000000;

	for (; now_us < end_us; now_us += 1000) {
		int64_t full_us = (int64_t)(w->bytes * 1000000 / bps);

		window_acked(w, bps / 1000, now_us);
		window_held_up(w);
		if (window_looks(w, now_us))
			window_rtt(w, full_us > way_us ? full_us : way_us, now_us);
	}
	return now_us;
}

static void test_window_leaves_a_short_queue_whatever_the_rate(void **state)
{
	struct window w;
	int64_t now_us = 1000000;

	(void)state;
	window_init(&w, now_us);
	window_rtt(&w, 2000, now_us);
	now_us = carry(&w, now_us, 100000000, 2000);
	assert_in_range(w.bytes, 200000, 650000);
	now_us = carry(&w, now_us, 1000000000, 2000);
	assert_in_range(w.bytes, 2000000, 6500000);
	now_us = carry(&w, now_us, 12500000, 2000);
	assert_in_range(w.bytes, WINDOW_MIN, 81000);
	assert_in_range(window_rate(&w), 12000000, 16000000);
}

static void test_window_is_not_narrow_for_slow_processors(void **state)
{
	struct window w;
	int64_t now_us = 0;

	(void)state;
	/* Little arrives, and the link has no queue. */
	window_init(&w, now_us);
	for (; now_us < 2000000; now_us += 5000) {
		window_acked(&w, 50000, now_us);
		window_held_up(&w);
		window_rtt(&w, 100, now_us);
	}
	assert_int_equal(w.bytes, WINDOW_MAX);
}

static void test_window_has_bounds_whatever_is_measured(void **state)
{
	struct window w;
	int64_t now_us = 1;

	(void)state;
	window_init(&w, 0);
	for (; now_us < 1000000; now_us += 10000) {
		window_acked(&w, 1ull << 32, now_us);
		window_rtt(&w, now_us == 1 ? 1 : INT64_MAX, now_us);
	}
	assert_int_equal(w.bytes, WINDOW_MIN);
	window_rtt(&w, 0, now_us);
	window_rtt(&w, -1, now_us);
	assert_int_equal(w.bytes, WINDOW_MIN);
	/* After an hour of silence nothing is known of the rate. */
	window_acked(&w, 1, 3600000000);
	assert_int_equal(window_rate(&w), 0);
}

/* Setup */

static void test_setup_comes_back_and_takes_no_impossible_cache(void **state)
{
	uint8_t list[2] = {0, 0}, out[SETUP_MAX], small[SETUP_ACK_SIZE + 1] = {0};
	struct setup back, setup = {.cache_bytes = CACHE_MIN, .sources = list, .sources_len = 2};
	struct setup_ack ack_back, ack = {.cache_bytes = CACHE_MAX, .sources = 0x8001};
	static const uint64_t bad[] = {1, CACHE_MIN - 1, CACHE_MAX + 1, UINT64_MAX};
	size_t len;

	(void)state;
	memset(setup.key, 7, sizeof(setup.key));
	len = setup_encode(&setup, out);
	assert_int_equal(len, PAGEHASH_KEY + 8 + 2);
	assert_int_equal(setup_decode(out, len, &back, NULL), 0);
	assert_int_equal(back.cache_bytes, CACHE_MIN);
	assert_memory_equal(back.key, setup.key, sizeof(back.key));
	assert_int_equal(back.sources_len, 2);
	for (size_t cut = 0; cut < PAGEHASH_KEY + 8; cut++)
		assert_int_equal(setup_decode(out, cut, &back, NULL), -1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		setup.cache_bytes = bad[i];
		len = setup_encode(&setup, out);
		assert_int_equal(setup_decode(out, len, &back, NULL), -1);
		setup_ack_encode(&(struct setup_ack){.cache_bytes = bad[i]}, small);
		assert_int_equal(setup_ack_decode(small, SETUP_ACK_SIZE, &ack_back, NULL), -1);
	}
	setup_ack_encode(&ack, small);
	assert_int_equal(setup_ack_decode(small, SETUP_ACK_SIZE, &ack_back, NULL), 0);
	assert_true(ack_back.cache_bytes == CACHE_MAX);
	assert_int_equal(ack_back.sources, 0x8001);
	assert_int_equal(setup_ack_decode(small, SETUP_ACK_SIZE - 1, &ack_back, NULL), -1);
	assert_int_equal(setup_ack_decode(small, SETUP_ACK_SIZE + 1, &ack_back, NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames_go_by_number_whenever_they_are_ready),
		cmocka_unit_test(test_frames_of_a_lost_lane_go_again_and_no_others),
		cmocka_unit_test(test_frame_that_is_being_sent_is_not_given_back),
		cmocka_unit_test(test_what_was_not_sent_cannot_be_acknowledged),
		cmocka_unit_test(test_each_frame_comes_in_once_and_only_in_the_window),
		cmocka_unit_test(test_frames_are_taken_as_they_come_and_come_out_in_order),
		cmocka_unit_test(test_only_what_waits_is_found_waiting),
		cmocka_unit_test(test_lanes_that_lose_what_is_on_them_lose_nothing),
		cmocka_unit_test(test_window_leaves_a_short_queue_whatever_the_rate),
		cmocka_unit_test(test_window_is_not_narrow_for_slow_processors),
		cmocka_unit_test(test_window_has_bounds_whatever_is_measured),
		cmocka_unit_test(test_setup_comes_back_and_takes_no_impossible_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
