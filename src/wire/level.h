/*
 * Which compression level the next batch gets. A controller looks, every LEVEL_LOOK_US, at what the
 * reader of the stream waited for: for a link that was in use all the time, then encoders have time
 * to spare and the level goes up; for encoders, then it goes down. A step up that had to be taken
 * back is not tried again for a while, longer each time. While the link has time to spare, what is
 * waited for is a processor of either node or the hypervisor there: compressing harder would only
 * take more of that, and the level goes down.
 *
 * Storing is another matter: what it does to the rate cannot be told from waiting, since pages that
 * are not compressed make every link look slow. So, at the lowest level, held up by the encoders
 * and with room on the link for the pages as they are, storing is tried for a moment, and kept when
 * enough more of the stream got through: was acknowledged, for a queue in front of the link takes
 * more than the link does. Where that keeps the link in use, the lowest level is tried in the same
 * way from time to time.
 *
 * No lock of its own.
 */
#ifndef DROVER_WIRE_LEVEL_H
#define DROVER_WIRE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEVEL_COUNT 8u
/* The levels there are, from 0 (store) upwards. */
extern const int level_list[LEVEL_COUNT];

#define LEVEL_LOOK_US 20000

/* What the reader has done since the last look. */
struct level_work {
	int64_t link_us, encoder_us; /* waited for them */
	int64_t busy_us;             /* the link was in use */
	uint64_t bytes;              /* that could be compressed */
	uint64_t sent_bytes;         /* all that was made for the link */
	uint64_t acked_bytes;        /* of that, as the other side says, has arrived */
};

struct level {
	unsigned now; /* index into level_list */
	int64_t look_us;
	struct level_work work;
	double busy;    /* the share of the time that the link was in use, of late */
	unsigned looks; /* of which that is the average, at first */
	/* A step up is taken at this time at the soonest; after one that is taken back, it is so
	 * much later. */
	int64_t up_us, up_again_us;
	bool went_up;
	double bps; /* bytes a second that could be compressed, of late; not those of a trial */
	/* A trial of storing, or of not storing. */
	bool trial;
	unsigned trial_looks;
	uint64_t sent, acked; /* since the beginning */
	uint64_t trial_from;  /* of `sent`: what was made before it */
	uint64_t tried;       /* bytes that got through in it */
	int64_t tried_us;
	int64_t trial_us, trial_again_us; /* the next, at the soonest */
	int64_t useless_again_us;         /* the same, after pages that could not be compressed */
	double carries_bps;               /* the link, when it was full; 0: not known */
	int64_t carries_until_us;
	uint64_t batches[LEVEL_COUNT];
};

void level_init(struct level *l, int64_t now_us);
void level_worked(struct level *l, const struct level_work *work);
/* For the next batch: an index into level_list. `ratio`: what has been left of late of a byte. */
unsigned level_choose(struct level *l, double ratio, int64_t now_us);

#endif
