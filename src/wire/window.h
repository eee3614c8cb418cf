/*
 * How much may be on its way between the two hypervisors: what the link carries in the time that
 * one piece needs from one to the other anyhow, and WINDOW_QUEUE_US more. A guest that is being
 * switched over stands still until the last of it has arrived, so what queues up is bounded by
 * time, not by bytes.
 *
 * As in BBR (draft-cardwell-iccrg-bbr-congestion-control), the rate is the highest that was seen of
 * late and the time the lowest, so that neither a pause of the hypervisor nor a queue makes the
 * window smaller or larger than it should be; and since a queue that never empties would pass for
 * the time that is needed, the window is a fourth of itself for a moment now and then. One thread,
 * or under a lock.
 */
#ifndef DROVER_WIRE_WINDOW_H
#define DROVER_WIRE_WINDOW_H

#include <stdint.h>

/* The queue that is allowed, so that a slow reader at the destination has something to go on with
 * while acknowledgements travel. */
#define WINDOW_QUEUE_US 4000
#define WINDOW_MIN (64u << 10)
#define WINDOW_MAX (32u << 20)
/* The highest rate, the lowest time of so many slots are taken, and so long are these. */
#define WINDOW_SLOTS 10
#define WINDOW_RATE_US 100000
#define WINDOW_TIME_US 1000000
/* So often, and so long, the window is a fourth. */
#define WINDOW_PROBE_EVERY_US 5000000
#define WINDOW_PROBE_US 50000

struct window_slots {
	int64_t begin_us;
	unsigned now;
	int64_t value[WINDOW_SLOTS];
};

struct window {
	uint64_t acked; /* bytes, all in all */
	int64_t start_us, measure_us;
	uint64_t measured;         /* acked at measure_us */
	struct window_slots rates; /* bytes per second, the highest of each slot */
	struct window_slots times; /* microseconds, the lowest of each slot */
};

void window_init(struct window *w, int64_t now_us);
/* `bytes` more have arrived there, `us` microseconds after the lanes were given them. */
void window_acked(struct window *w, uint64_t bytes, int64_t us, int64_t now_us);
/* How many bytes may be on their way. */
uint64_t window_bytes(const struct window *w, int64_t now_us);
/* Bytes a second that arrived, as seen of late. */
uint64_t window_rate(const struct window *w);

#endif
