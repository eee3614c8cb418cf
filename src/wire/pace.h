/*
 * A limit of bytes per second that is kept over a few milliseconds, so that a limited stream is
 * smooth and not a row of bursts. One thread.
 */
#ifndef DROVER_WIRE_PACE_H
#define DROVER_WIRE_PACE_H

#include <stdint.h>

/* What may go out at once after a pause. */
#define PACE_BURST_US 5000

struct pace {
	uint64_t rate_bps; /* bytes per second; 0: no limit */
	int64_t due_us;    /* when all that has been taken so far may be gone, of clock_us */
};

/* Says that `bytes` will be sent now, and returns for how many microseconds to wait before that. */
int64_t pace_take(struct pace *pace, uint64_t bytes, int64_t now_us);

#endif
