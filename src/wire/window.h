/*
 * How much may be on its way between the two hypervisors: what the link carries in the time that
 * one piece needs anyhow, and WINDOW_QUEUE_US more. A guest that is being switched over stands
 * still until the last of it has arrived, so what queues up is bounded by time, not by bytes.
 *
 * As in BBR (RFC draft-cardwell-iccrg-bbr-congestion-control), the rate is the highest that was
 * seen of late and the time the lowest, so that neither a pause of the hypervisor nor a queue makes
 * the window smaller or larger than it should be. One thread, or under a lock.
 */
#ifndef DROVER_WIRE_WINDOW_H
#define DROVER_WIRE_WINDOW_H

#include <stdint.h>

/* The queue that is allowed: a slow reader at the destination and a busy encoder at the source each
 * need something to go on with. */
#define WINDOW_QUEUE_US 4000
#define WINDOW_MIN (64u << 10)
#define WINDOW_MAX (32u << 20)
#define WINDOW_SLOTS 10
/* The rate is the highest of WINDOW_SLOTS times this long. */
#define WINDOW_SLOT_US 100000

struct window {
	uint64_t acked;            /* bytes, all in all */
	int64_t first_us, slot_us; /* of this measurement; of this slot */
	uint64_t first_acked;
	uint64_t rates[WINDOW_SLOTS]; /* bytes per second, the highest of each slot */
	int64_t times[WINDOW_SLOTS];  /* microseconds, the lowest of each slot */
	unsigned slot;
};

void window_init(struct window *w, int64_t now_us);
/* `bytes` more have arrived there, `us` microseconds after they were begun. */
void window_acked(struct window *w, uint64_t bytes, int64_t us, int64_t now_us);
/* How many bytes may be on their way. */
uint64_t window_bytes(const struct window *w);
/* Bytes a second, as seen of late. */
uint64_t window_rate(const struct window *w);

#endif
