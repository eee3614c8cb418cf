/*
 * How much may be on its way between the two hypervisors. A guest that is being switched over
 * stands still until the last of it has arrived, so the queue in front of the link is bounded by
 * time, not by bytes.
 *
 * What tells of that queue is TCP's own round-trip time: by how much it is above the lowest that
 * was seen. Above WINDOW_QUEUE_US the window shrinks; below half of that it grows, when the sender
 * was held up by it. What the processors of the two nodes need for a piece is no queue of the link,
 * and does not count. One thread, or under a lock.
 */
#ifndef DROVER_WIRE_WINDOW_H
#define DROVER_WIRE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define WINDOW_QUEUE_US 3000
#define WINDOW_MIN (64u << 10)
#define WINDOW_FIRST (512u << 10)
#define WINDOW_MAX (32u << 20)
/* Between two looks at the round-trip time. */
#define WINDOW_LOOK_US 5000
/* The rate is the highest of so many slots of this length. */
#define WINDOW_SLOTS 10
#define WINDOW_RATE_US 100000

struct window {
	uint64_t bytes; /* may be on their way */
	uint64_t acked; /* bytes, all in all */
	int64_t look_us, least_us;
	bool held_up;
	/* For the rate. */
	int64_t measure_us, slot_us;
	uint64_t measured; /* acked at measure_us */
	unsigned slot;
	int64_t rates[WINDOW_SLOTS];
};

void window_init(struct window *w, int64_t now_us);
/* `bytes` more have arrived there. */
void window_acked(struct window *w, uint64_t bytes, int64_t now_us);
/* The sender has waited for the window. */
void window_held_up(struct window *w);
/* Whether it is time to look at the round-trip time; and what it is (0: it cannot be told). */
bool window_looks(const struct window *w, int64_t now_us);
void window_rtt(struct window *w, int64_t rtt_us, int64_t now_us);
/* Bytes a second that arrived, as seen of late. */
uint64_t window_rate(const struct window *w);

#endif
