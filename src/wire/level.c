#include "wire/level.h"

const int level_list[LEVEL_COUNT] = {0, -5, -1, 1, 3, 5, 7, 9, 12};

/* What zstd 1.5 does with a guest's memory on one core of a 2024 EPYC (bench/codec): only the
 * proportions count, and only until a level has been seen. */
static const struct expected {
	double ns_per_byte, ratio;
} guess[LEVEL_COUNT] = {{0.1, 1.0}, {1.1, 0.34}, {1.6, 0.28}, {2.2, 0.24}, {4.0, 0.225},
	{8.0, 0.215}, {12, 0.21}, {18, 0.205}, {40, 0.20}};

/* The newest batch counts so much. */
#define WEIGHT 0.15
/* Smaller batches tell nothing. */
#define SMALL_BYTES (16u << 10)
/* Every so many batches another level is tried, when it has not been seen for so long and is not
 * hopeless. */
#define TRY_EVERY 12u
#define TRY_AGE_US 400000
#define TRY_WORTH 0.6
/* A level is good enough when it gives so much of the rate of the best one. */
#define ENOUGH 0.9
/* And a higher one is worth its while when it leaves at most so much of what a lower one leaves. */
#define WORTH 0.98
/* How much slower than its processor time encoding can be believed to be. */
#define SLOWNESS_MAX 4.0

void level_init(struct level *l, unsigned threads)
{
	*l = (struct level){.threads = threads ? threads : 1, .now = 3, .slowness = 1};
}

void level_capacity(struct level *l, uint64_t bps)
{
	l->capacity_bps = bps;
}

void level_encoded(struct level *l, unsigned index, size_t in, size_t out, int64_t cpu_ns,
	int64_t clock_ns, int64_t now_us)
{
	struct level_seen *seen = &l->seen[index];
	double cost = (double)cpu_ns / (double)(in ? in : 1);
	double ratio = (double)out / (double)(in ? in : 1);
	double slowness = (double)clock_ns / (double)(cpu_ns > 0 ? cpu_ns : 1);

	seen->batches++;
	if (in < SMALL_BYTES)
		return;
	if (!seen->seen_us) {
		seen->ns_per_byte = cost;
		seen->ratio = ratio;
	}
	seen->ns_per_byte += WEIGHT * (cost - seen->ns_per_byte);
	seen->ratio += WEIGHT * (ratio - seen->ratio);
	seen->seen_us = now_us;
	if (slowness > SLOWNESS_MAX)
		slowness = SLOWNESS_MAX;
	l->slowness += WEIGHT * (slowness - l->slowness);
}

/* The level that was seen last, to guess from. */
static unsigned newest(const struct level *l)
{
	unsigned index = l->now;

	for (unsigned i = 0; i < LEVEL_COUNT; i++)
		if (l->seen[i].seen_us > l->seen[index].seen_us)
			index = i;
	return index;
}

static struct expected expect(const struct level *l, unsigned index, unsigned known)
{
	const struct level_seen *seen = &l->seen[index], *base = &l->seen[known];
	struct expected e = guess[index];

	if (seen->seen_us)
		return (struct expected){seen->ns_per_byte, seen->ratio};
	if (base->seen_us) {
		e.ns_per_byte *= base->ns_per_byte / guess[known].ns_per_byte;
		if (known > 0 && index > 0)
			e.ratio *= base->ratio / guess[known].ratio;
	}
	return e;
}

/* Bytes of the stream a second. */
static double rate(const struct level *l, unsigned index, unsigned known)
{
	struct expected e = expect(l, index, known);
	double encode = 1e9 * l->threads / (e.ns_per_byte * l->slowness);
	double send = (double)l->capacity_bps / e.ratio;

	return encode < send ? encode : send;
}

static unsigned neighbour(const struct level *l, int64_t now_us, unsigned known)
{
	unsigned other = l->count / TRY_EVERY % 2 ? l->now + 1 : l->now - 1;

	if (other >= LEVEL_COUNT || now_us - l->seen[other].seen_us < TRY_AGE_US ||
		rate(l, other, known) < TRY_WORTH * rate(l, l->now, known))
		return l->now;
	return other;
}

/* Of the levels that are fast enough, the lowest of those that leave the least. */
static unsigned best(const struct level *l, unsigned known)
{
	double most = 0, least = 0;
	unsigned index = 0;

	for (unsigned i = 0; i < LEVEL_COUNT; i++)
		if (rate(l, i, known) > most)
			most = rate(l, i, known);
	for (unsigned i = 0; i < LEVEL_COUNT; i++) {
		double left = expect(l, i, known).ratio;

		if (rate(l, i, known) < ENOUGH * most || (least && left > WORTH * least))
			continue;
		least = left;
		index = i;
	}
	return index;
}

unsigned level_choose(struct level *l, int64_t now_us)
{
	unsigned known = newest(l);

	if (!l->capacity_bps)
		return l->now;
	l->now = best(l, known);
	if (++l->count % TRY_EVERY == 0)
		return neighbour(l, now_us, known);
	return l->now;
}
