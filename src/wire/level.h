/*
 * Which compression level the next batch gets: the one with which the most of the stream gets
 * through. What decides is measured while it goes: how fast the lanes take bytes, and for each
 * level how long encoding takes and how much is left after it. The slower of the two, encoding and
 * sending, is the rate that a level would give. Levels that have not been seen lately are guessed
 * from those that have, and now and then one of the neighbours is tried.
 *
 * Times are those of the clock, not of the processor: what else runs on the machine (the guest)
 * counts. No lock of its own.
 */
#ifndef DROVER_WIRE_LEVEL_H
#define DROVER_WIRE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

#define LEVEL_COUNT 9u
/* The levels there are, from 0 (store) upwards. */
extern const int level_list[LEVEL_COUNT];

struct level_seen {
	double ns_per_byte; /* processor time to encode, of one thread */
	double ratio;       /* what is left of a byte */
	int64_t seen_us;    /* 0: never */
	uint64_t batches;
};

struct level {
	unsigned threads;
	struct level_seen seen[LEVEL_COUNT];
	unsigned now, count;
	double slowness; /* time of the clock for a unit of processor time, in encoding */
	uint64_t capacity_bps;
};

void level_init(struct level *l, unsigned threads);
/* How many bytes a second the lanes take; 0: not known yet. */
void level_capacity(struct level *l, uint64_t bps);
/* A batch was encoded: `in` bytes that could be compressed became `out` bytes, in so much time of
 * the processor and of the clock. */
void level_encoded(struct level *l, unsigned index, size_t in, size_t out, int64_t cpu_ns,
	int64_t clock_ns, int64_t now_us);
/* For the next batch: an index into level_list. */
unsigned level_choose(struct level *l, int64_t now_us);

#endif
