#include "wire/level.h"

const int level_list[LEVEL_COUNT] = {0, -5, -1, 1, 3, 5, 7, 9, 12};

/* What zstd 1.5 does with a guest's memory on one core of a 2024 EPYC (bench/codec). */
static const struct level_figures guess[LEVEL_COUNT] = {{0.1, 1.0}, {1.1, 0.34}, {1.6, 0.28},
	{2.2, 0.24}, {4.0, 0.225}, {8.0, 0.215}, {12, 0.21}, {18, 0.205}, {40, 0.20}};

/* The newest batch counts so much; the newest comparison. */
#define WEIGHT 0.15
#define COMPARED_WEIGHT 0.3
/* Smaller batches tell nothing. */
#define SMALL_BYTES (16u << 10)
/* A neighbour is tried every so many batches at most, when it has not been for so long and would
 * not take longer than so many times the present one. */
#define TRY_EVERY 8u
#define TRY_AGE_US 300000
#define TRY_COST 4.0
/* A level is good enough when it gives so much of the rate of the best one. */
#define ENOUGH 0.85
/* And a higher one is worth its while when it leaves at most so much of what a lower one leaves. */
#define WORTH 0.98
/* How much slower than its processor time encoding can be believed to be. */
#define SLOWNESS_MAX 4.0

void level_init(struct level *l, unsigned threads)
{
	*l = (struct level){.threads = threads ? threads : 1,
		.now = LEVEL_REFERENCE,
		.seen = guess[LEVEL_REFERENCE],
		.slowness = 1};
	for (unsigned i = 0; i < LEVEL_COUNT; i++)
		l->relative[i] = (struct level_figures){
			guess[i].ns_per_byte / guess[LEVEL_REFERENCE].ns_per_byte,
			guess[i].ratio / guess[LEVEL_REFERENCE].ratio};
}

void level_capacity(struct level *l, uint64_t bps)
{
	l->capacity_bps = bps;
}

static struct level_figures figures(const struct level_sample *sample)
{
	double in = (double)(sample->in ? sample->in : 1);

	return (struct level_figures){(double)sample->cpu_ns / in, (double)sample->out / in};
}

static void follow(double *value, double newest, double weight)
{
	*value += weight * (newest - *value);
}

static void see(struct level *l, const struct level_sample *sample)
{
	const struct level_figures *relative = &l->relative[sample->index];
	struct level_figures now = figures(sample);
	double slowness =
		(double)sample->clock_ns / (double)(sample->cpu_ns > 0 ? sample->cpu_ns : 1);

	/* Storing tells nothing of what compressing would do. */
	if (sample->in < SMALL_BYTES || sample->index == 0)
		return;
	now.ns_per_byte /= relative->ns_per_byte;
	now.ratio /= relative->ratio;
	follow(&l->seen.ns_per_byte, now.ns_per_byte, l->any ? WEIGHT : 1);
	follow(&l->seen.ratio, now.ratio, l->any ? WEIGHT : 1);
	follow(&l->slowness, slowness < SLOWNESS_MAX ? slowness : SLOWNESS_MAX, WEIGHT);
	l->any = true;
}

void level_encoded(struct level *l, const struct level_sample *sample)
{
	l->batches[sample->index]++;
	see(l, sample);
}

void level_compared(
	struct level *l, const struct level_sample *sent, const struct level_sample *tried)
{
	const struct level_figures *base = &l->relative[sent->index];
	struct level_figures *relative = &l->relative[tried->index];
	struct level_figures a = figures(sent), b = figures(tried);

	if (sent->in < SMALL_BYTES || !sent->cpu_ns || !sent->out)
		return;
	if (sent->index == 0) {
		see(l, tried);
	} else if (tried->index > 0) {
		follow(&relative->ns_per_byte, base->ns_per_byte * b.ns_per_byte / a.ns_per_byte,
			COMPARED_WEIGHT);
		follow(&relative->ratio, base->ratio * b.ratio / a.ratio, COMPARED_WEIGHT);
	}
}

struct level_figures level_expect(const struct level *l, unsigned index)
{
	if (index == 0)
		return guess[0];
	return (struct level_figures){l->seen.ns_per_byte * l->relative[index].ns_per_byte,
		l->seen.ratio * l->relative[index].ratio};
}

/* Bytes of the stream a second. */
static double rate(const struct level *l, unsigned index)
{
	struct level_figures e = level_expect(l, index);
	double encode = 1e9 * l->threads / (e.ns_per_byte * l->slowness);
	double send = (double)l->capacity_bps / e.ratio;

	return encode < send ? encode : send;
}

/* Of the levels that are fast enough, the lowest of those that leave the least. */
static unsigned best(const struct level *l)
{
	double most = 0, least = 0;
	unsigned index = 0;

	for (unsigned i = 0; i < LEVEL_COUNT; i++)
		if (rate(l, i) > most)
			most = rate(l, i);
	for (unsigned i = 0; i < LEVEL_COUNT; i++) {
		double left = level_expect(l, i).ratio;

		if (rate(l, i) < ENOUGH * most || (least > 0 && left > WORTH * least))
			continue;
		least = left;
		index = i;
	}
	return index;
}

/* A neighbour that is worth a try, or the present level. */
static unsigned neighbour(struct level *l, int64_t now_us)
{
	unsigned other = l->count / TRY_EVERY % 2 ? l->now + 1 : l->now - 1;

	if (other == 0 || other >= LEVEL_COUNT || now_us - l->tried_us[other] < TRY_AGE_US)
		return l->now;
	if (l->now > 0 &&
		l->relative[other].ns_per_byte > TRY_COST * l->relative[l->now].ns_per_byte)
		return l->now;
	l->tried_us[other] = now_us;
	return other;
}

unsigned level_choose(struct level *l, int64_t now_us, unsigned *also)
{
	if (l->capacity_bps)
		l->now = best(l);
	*also = ++l->count % TRY_EVERY == 0 ? neighbour(l, now_us) : l->now;
	return l->now;
}
