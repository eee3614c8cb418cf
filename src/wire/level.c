#include "wire/level.h"

const int level_list[LEVEL_COUNT] = {0, 1, 2, 3, 5, 7, 9, 12};

#define STORE 0u
/* The first that compresses. zstd's negative levels leave a fourth more of a guest's memory and
 * made no move faster (bench/codec and a recorded stream at 1 Gbit/s on two processors). */
#define LOWEST 1u
/* Less tells nothing: the hypervisor has sent pages of zeros, or nothing. */
#define WORK_MIN (512u << 10)
#define LOOK_MAX_US 200000
/* Shares of the time. */
#define HELD_UP 0.2
#define HELD_UP_MUCH 0.5
/* By what one must be held up more than by the other. */
#define MORE 2.5
/* The link counts as what holds up when it is in use for more than the first of the time, and has
 * time to spare when it is for less than the second. Linux counts that in ticks of up to 10 ms: how
 * much the newest look counts in the average. */
#define BUSY 0.75
#define SPARE 0.5
#define BUSY_WEIGHT 0.3
/* What leaves more than this of a batch is not worth it. */
#define USELESS 0.95
/* A step up, or a trial, that came to nothing is not repeated for so long; twice as long each time,
 * up to the second. */
#define AGAIN_US 1000000
#define TRIAL_AGAIN_US 250000
#define AGAIN_MAX_US 4000000
/* Looks that a trial takes; the first is for what was on its way before it. */
#define TRIAL_LOOKS 4u
/* How many times as much must get through when it is stored: what is on the link is others' loss.
 */
#define STORE_GAIN 1.25
/* How much the newest look counts in the rate that a trial is compared with. */
#define RATE_WEIGHT 0.3

void level_init(struct level *l, int64_t now_us)
{
	*l = (struct level){.now = LOWEST,
		.look_us = now_us,
		.up_again_us = AGAIN_US,
		.trial_again_us = TRIAL_AGAIN_US};
}

void level_worked(struct level *l, const struct level_work *work)
{
	l->work.link_us += work->link_us;
	l->work.encoder_us += work->encoder_us;
	l->work.busy_us += work->busy_us;
	l->work.bytes += work->bytes;
	l->work.sent_bytes += work->sent_bytes;
}

static void double_up_to_max(int64_t *us)
{
	*us = *us * 2 < AGAIN_MAX_US ? *us * 2 : AGAIN_MAX_US;
}

static void begin_trial(struct level *l, unsigned level)
{
	l->trial = true;
	l->trial_looks = 0;
	l->tried_bps = 0;
	l->now = level;
}

/* What gets through in a trial, until it has been going on for long enough to be compared with what
 * got through before. */
static void follow_trial(struct level *l, double bps, int64_t now_us)
{
	unsigned before = l->now == STORE ? LOWEST : STORE;
	double stored_bps, packed_bps;

	if (l->trial_looks++ > 0)
		l->tried_bps += bps / (TRIAL_LOOKS - 1);
	if (l->trial_looks < TRIAL_LOOKS)
		return;
	stored_bps = l->now == STORE ? l->tried_bps : l->bps;
	packed_bps = l->now == STORE ? l->bps : l->tried_bps;
	l->trial = false;
	l->now = stored_bps < STORE_GAIN * packed_bps ? LOWEST : STORE;
	if (l->now == before) {
		double_up_to_max(&l->trial_again_us);
	} else {
		l->trial_again_us = TRIAL_AGAIN_US;
		l->bps = l->tried_bps;
	}
	l->trial_us = now_us + l->trial_again_us;
}

static void step_down(struct level *l, int64_t now_us)
{
	if (l->went_up) {
		l->up_us = now_us + l->up_again_us;
		double_up_to_max(&l->up_again_us);
	}
	l->went_up = false;
	l->now--;
}

static void step_up(struct level *l, int64_t now_us)
{
	if (now_us < l->up_us || l->now == LEVEL_COUNT - 1)
		return;
	l->now++;
	l->went_up = true;
}

static void store(struct level *l, int64_t now_us)
{
	l->now = STORE;
	l->bps = 0;
	l->trial_us = now_us + AGAIN_US;
}

static void note_busy(struct level *l, double share)
{
	double weight = l->looks < 1 / BUSY_WEIGHT ? 1.0 / ++l->looks : BUSY_WEIGHT;

	l->busy += weight * (share - l->busy);
}

/* Whether the link would carry the pages as they are, going by what it was in use for. */
static bool fits_stored(const struct level *l)
{
	return l->busy * (double)l->work.bytes < SPARE * (double)l->work.sent_bytes;
}

static void note_rate(struct level *l, double bps)
{
	l->bps += (l->bps > 0 ? RATE_WEIGHT : 1) * (bps - l->bps);
}

static void look(struct level *l, double ratio, int64_t now_us)
{
	double us = (double)(now_us - l->look_us), bps = (double)l->work.bytes * 1e6 / us;
	double encoder = (double)l->work.encoder_us / us, share = (double)l->work.busy_us / us,
	       link;
	bool held_up;

	note_busy(l, share);
	if (l->trial) {
		follow_trial(l, bps, now_us);
		return;
	}
	note_rate(l, bps);
	link = l->busy > BUSY ? (double)l->work.link_us / us : 0;
	held_up = encoder > HELD_UP && encoder > MORE * link;
	if (l->now == STORE) {
		if (l->busy > SPARE && now_us >= l->trial_us)
			begin_trial(l, LOWEST);
	} else if (ratio > USELESS) {
		store(l, now_us);
	} else if ((held_up || l->busy < SPARE) && l->now > LOWEST) {
		step_down(l, now_us);
	} else if (held_up && encoder > HELD_UP_MUCH && now_us >= l->trial_us && fits_stored(l)) {
		begin_trial(l, STORE);
	} else if (link > HELD_UP && link > MORE * encoder) {
		step_up(l, now_us);
	}
}

unsigned level_choose(struct level *l, double ratio, int64_t now_us)
{
	int64_t us = now_us - l->look_us;

	/* A slow link takes longer to tell something. */
	if (us < LEVEL_LOOK_US || (us < LOOK_MAX_US && l->work.bytes < WORK_MIN))
		return l->now;
	if (l->work.bytes >= WORK_MIN)
		look(l, ratio, now_us);
	l->look_us = now_us;
	l->work = (struct level_work){0};
	return l->now;
}
