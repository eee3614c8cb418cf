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
/* What leaves more than this of a batch is not worth it; that pages of another kind have come shows
 * only when it is tried again: so soon at first, twice as late each time. */
#define USELESS 0.95
#define USELESS_AGAIN_US 40000
/* A step up, or a trial, that came to nothing is not repeated for so long; twice as long each time,
 * up to the second. */
#define AGAIN_US 1000000
#define TRIAL_AGAIN_US 250000
#define AGAIN_MAX_US 4000000
/* Looks that a trial takes, after what was on its way before it has arrived. */
#define TRIAL_LOOKS 3u
/* What has arrived while the link was in use for more than this share of the time, and was waited
 * for, is what it carries at least; for as long as this, that is believed to be all. */
#define FULL 0.9
#define CARRIES_US 4000000
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
		.trial_again_us = TRIAL_AGAIN_US,
		.useless_again_us = USELESS_AGAIN_US};
}

void level_worked(struct level *l, const struct level_work *work)
{
	l->work.link_us += work->link_us;
	l->work.encoder_us += work->encoder_us;
	l->work.busy_us += work->busy_us;
	l->work.bytes += work->bytes;
	l->work.sent_bytes += work->sent_bytes;
	l->work.acked_bytes += work->acked_bytes;
	l->sent += work->sent_bytes;
	l->acked += work->acked_bytes;
}

static void double_up_to_max(int64_t *us)
{
	*us = *us * 2 < AGAIN_MAX_US ? *us * 2 : AGAIN_MAX_US;
}

/* What of the stream got through in this look: stored pages that wait in front of the link have
 * not. */
static uint64_t got_through(const struct level *l)
{
	const struct level_work *work = &l->work;

	return l->now == STORE && work->acked_bytes < work->bytes ? work->acked_bytes : work->bytes;
}

static void begin_trial(struct level *l, unsigned level)
{
	l->trial = true;
	l->trial_looks = 0;
	l->trial_from = l->sent;
	l->tried = 0;
	l->tried_us = 0;
	l->now = level;
}

static void end_trial(struct level *l, int64_t now_us)
{
	unsigned before = l->now == STORE ? LOWEST : STORE;
	double tried = (double)l->tried * 1e6 / (double)l->tried_us,
	       stored = l->now == STORE ? tried : l->bps, packed = l->now == STORE ? l->bps : tried;

	l->trial = false;
	l->now = stored < STORE_GAIN * packed ? LOWEST : STORE;
	if (l->now == before) {
		double_up_to_max(&l->trial_again_us);
	} else {
		l->trial_again_us = TRIAL_AGAIN_US;
		l->bps = tried;
	}
	l->trial_us = now_us + l->trial_again_us;
}

/* Until a trial has been going on for long enough to be compared with what got through before. */
static void follow_trial(struct level *l, int64_t us, int64_t now_us)
{
	if (l->acked < l->trial_from)
		return;
	if (l->trial_looks++ > 0) {
		l->tried += got_through(l);
		l->tried_us += us;
	}
	if (l->trial_looks > TRIAL_LOOKS)
		end_trial(l, now_us);
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
	l->trial_us = now_us + l->useless_again_us;
	double_up_to_max(&l->useless_again_us);
}

static void note_busy(struct level *l, double share)
{
	double weight = l->looks < 1 / BUSY_WEIGHT ? 1.0 / ++l->looks : BUSY_WEIGHT;

	l->busy += weight * (share - l->busy);
}

/* What the link carries shows only while that is what holds up. */
static void note_link(struct level *l, int64_t us, double share, int64_t now_us)
{
	double bps = (double)l->work.acked_bytes * 1e6 / (double)us;

	if (now_us >= l->carries_until_us)
		l->carries_bps = 0;
	if (share < FULL || (double)l->work.link_us < HELD_UP_MUCH * (double)us)
		return;
	if (bps > l->carries_bps)
		l->carries_bps = bps;
	l->carries_until_us = now_us + CARRIES_US;
}

/* Whether the link would carry the pages as they are, and enough more of them: going by what it was
 * in use for, and by what it carried when it was full. */
static bool fits_stored(const struct level *l)
{
	if (l->carries_bps > 0 && l->carries_bps < STORE_GAIN * l->bps)
		return false;
	return l->busy * (double)l->work.bytes < SPARE * (double)l->work.sent_bytes;
}

static void note_rate(struct level *l, double bps)
{
	l->bps += (l->bps > 0 ? RATE_WEIGHT : 1) * (bps - l->bps);
}

static void look(struct level *l, double ratio, int64_t us, int64_t now_us)
{
	double encoder = (double)l->work.encoder_us / (double)us,
	       share = (double)l->work.busy_us / (double)us, link;
	bool held_up;

	note_busy(l, share);
	note_link(l, us, share, now_us);
	if (l->trial) {
		follow_trial(l, us, now_us);
		return;
	}
	note_rate(l, (double)got_through(l) * 1e6 / (double)us);
	link = l->busy > BUSY ? (double)l->work.link_us / (double)us : 0;
	held_up = encoder > HELD_UP && encoder > MORE * link;
	if (l->now != STORE && ratio <= USELESS)
		l->useless_again_us = USELESS_AGAIN_US;
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

static bool link_waits(const struct level *l, int64_t us)
{
	return (double)l->work.link_us > HELD_UP_MUCH * (double)us;
}

unsigned level_choose(struct level *l, double ratio, int64_t now_us)
{
	int64_t us = now_us - l->look_us;

	/* A slow link takes longer to tell something, however long. */
	if (us < LEVEL_LOOK_US ||
		(l->work.bytes < WORK_MIN && (us < LOOK_MAX_US || link_waits(l, us))))
		return l->now;
	if (l->work.bytes >= WORK_MIN)
		look(l, ratio, us, now_us);
	l->look_us = now_us;
	l->work = (struct level_work){0};
	return l->now;
}
