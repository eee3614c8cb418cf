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
/* Pages are stored only where that leaves the link idle for most of the time: others use it, too.
 */
#define SPARE_STORED 0.3
#define BUSY_WEIGHT 0.3
/* What leaves more than this of a batch is not worth it. */
#define USELESS 0.95
/* A step up, or a trial, that came to nothing is not repeated for so long; twice as long each time,
 * up to the second. */
#define AGAIN_US 1000000
#define TRIAL_AGAIN_US 250000
#define AGAIN_MAX_US 4000000
/* Looks that a trial takes; the first is for what was on its way before it. */
#define TRIAL_LOOKS 3u
/* By what storing must be better. */
#define STORE_GAIN 1.25

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

static void begin_trial(struct level *l, double bps)
{
	l->trial = true;
	l->trial_looks = 0;
	l->before_bps = bps;
	l->now = STORE;
}

/* `share` of the time that the link was in use. */
static void end_trial(struct level *l, double bps, double share, int64_t now_us)
{
	bool hopeless = share > SPARE_STORED;

	if (++l->trial_looks < TRIAL_LOOKS && !hopeless)
		return;
	l->trial = false;
	if (hopeless || bps < STORE_GAIN * l->before_bps) {
		l->now = LOWEST;
		double_up_to_max(&l->trial_again_us);
	} else {
		l->trial_again_us = TRIAL_AGAIN_US;
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

static void leave_store(struct level *l, int64_t now_us)
{
	l->now = LOWEST;
	l->trial_us = now_us + TRIAL_AGAIN_US;
}

static void store(struct level *l, int64_t now_us)
{
	l->now = STORE;
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

static void look(struct level *l, double ratio, int64_t now_us)
{
	double us = (double)(now_us - l->look_us), bps = (double)l->work.bytes * 1e6 / us;
	double encoder = (double)l->work.encoder_us / us, share = (double)l->work.busy_us / us,
	       link;
	bool held_up;

	note_busy(l, share);
	link = l->busy > BUSY ? (double)l->work.link_us / us : 0;
	held_up = encoder > HELD_UP && encoder > MORE * link;
	if (l->trial)
		end_trial(l, bps, share, now_us);
	else if (l->now == STORE && l->busy > SPARE_STORED && now_us >= l->trial_us)
		leave_store(l, now_us);
	else if (l->now == STORE)
		return;
	else if (ratio > USELESS)
		store(l, now_us);
	else if ((held_up || l->busy < SPARE) && l->now > LOWEST)
		step_down(l, now_us);
	else if (held_up && encoder > HELD_UP_MUCH && now_us >= l->trial_us && fits_stored(l))
		begin_trial(l, bps);
	else if (link > HELD_UP && link > MORE * encoder)
		step_up(l, now_us);
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
