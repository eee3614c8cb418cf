/*
 * The rate at which a probe has arrived at the other side, by its acknowledgements, without what a
 * connection does at first: TCP begins slowly, and what shapes a link lets a burst through. So only
 * the second half of the time counts; its own two halves say how steady that was.
 *
 * No lock of its own.
 */
#ifndef DROVER_WIRE_RATE_H
#define DROVER_WIRE_RATE_H

#include <stdint.h>

/* Acknowledgements that are kept, those that come within RATE_STEP_US of another not. */
#define RATE_POINTS 1024u
#define RATE_STEP_US 200
/* What was measured in less than this tells nothing. */
#define RATE_LEAST_US 2000

struct rate {
	unsigned count;
	struct {
		int64_t us; /* of clock_us */
		uint64_t bytes;
	} points[RATE_POINTS];
};

/* Bytes a second; all 0: it was too short to tell. */
struct rate_found {
	uint64_t bps;
	uint64_t least_bps, most_bps;
};

/* So many bytes of the stream have arrived there, all in all. */
void rate_arrived(struct rate *r, uint64_t bytes, int64_t now_us);
struct rate_found rate_find(const struct rate *r);

#endif
