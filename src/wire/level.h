/*
 * Which compression level the next batch gets: the one with which the most of the stream gets
 * through, or, since bytes are worth something as well, a higher one that comes near to it. What
 * decides is measured while it goes: how fast the lanes take bytes, and for each level how much
 * processor time encoding takes and how much is left after it. The slower of the two, encoding and
 * sending, is the rate that a level would give.
 *
 * What is in the pages changes all the time, so levels are compared only on the same batch: now and
 * then one is encoded a second time at a neighbouring level, for the figures. All that is kept of a
 * level is what it is in relation to LEVEL_REFERENCE; until it was tried, that is taken from a
 * measurement of ours. What else runs on the machine (the guest) makes encoding slower than its
 * processor time; that is measured for all levels together.
 *
 * No lock of its own.
 */
#ifndef DROVER_WIRE_LEVEL_H
#define DROVER_WIRE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEVEL_COUNT 9u
/* The levels there are, from 0 (store) upwards. */
extern const int level_list[LEVEL_COUNT];
/* Index of zstd's level 1. */
#define LEVEL_REFERENCE 3u

struct level_figures {
	double ns_per_byte; /* processor time to encode, of one thread */
	double ratio;       /* what is left of a byte */
};

struct level {
	unsigned threads;
	struct level_figures seen;                  /* of late, as if at LEVEL_REFERENCE */
	bool any;                                   /* something was seen */
	struct level_figures relative[LEVEL_COUNT]; /* to LEVEL_REFERENCE */
	int64_t tried_us[LEVEL_COUNT];
	uint64_t batches[LEVEL_COUNT];
	double slowness; /* time of the clock for a unit of processor time, in encoding */
	uint64_t capacity_bps;
	unsigned now, count;
};

void level_init(struct level *l, unsigned threads);
/* How many bytes a second the lanes take; 0: not known yet. */
void level_capacity(struct level *l, uint64_t bps);

/* One encoding of a batch: `in` bytes that could be compressed became `out`, in so much time of the
 * processor and of the clock. */
struct level_sample {
	unsigned index; /* into level_list */
	size_t in, out;
	int64_t cpu_ns, clock_ns;
};
/* A batch was encoded and is sent so. */
void level_encoded(struct level *l, const struct level_sample *sample);
/* The same batch was encoded at another level, too. */
void level_compared(
	struct level *l, const struct level_sample *sent, const struct level_sample *tried);

/* For the next batch: an index into level_list. *also gets another one that is worth a try on the
 * same batch, or the same one: none. */
unsigned level_choose(struct level *l, int64_t now_us, unsigned *also);
/* What is expected at that level for what is sent now. */
struct level_figures level_expect(const struct level *l, unsigned index);

#endif
