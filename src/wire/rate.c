#include "wire/rate.h"

void rate_arrived(struct rate *r, uint64_t bytes, int64_t now_us)
{
	unsigned n = r->count;

	if (n == RATE_POINTS)
		return;
	if (n > 0 &&
		(bytes <= r->points[n - 1].bytes || now_us < r->points[n - 1].us + RATE_STEP_US))
		return;
	r->points[n].us = now_us;
	r->points[n].bytes = bytes;
	r->count++;
}

/* The first point that is not before `us`. */
static unsigned point_at(const struct rate *r, int64_t us)
{
	unsigned i = 0;

	while (i + 1 < r->count && r->points[i].us < us)
		i++;
	return i;
}

static uint64_t between(const struct rate *r, unsigned from, unsigned to)
{
	int64_t us = r->points[to].us - r->points[from].us;

	if (us <= 0)
		return 0;
	return (uint64_t)((double)(r->points[to].bytes - r->points[from].bytes) * 1e6 / (double)us);
}

struct rate_found rate_find(const struct rate *r)
{
	struct rate_found found = {0};
	unsigned last = r->count ? r->count - 1 : 0, half, quarter;
	int64_t begin_us = r->points[0].us, us = r->points[last].us - begin_us;
	uint64_t third, fourth;

	if (us < RATE_LEAST_US)
		return found;
	half = point_at(r, begin_us + us / 2);
	/* All of it, of one that was over after few. */
	half = half < last ? half : 0;
	quarter = point_at(r, begin_us + us * 3 / 4);
	found.bps = between(r, half, last);
	third = quarter > half ? between(r, half, quarter) : found.bps;
	fourth = last > quarter ? between(r, quarter, last) : found.bps;
	found.least_bps = third < fourth ? third : fourth;
	found.most_bps = third < fourth ? fourth : third;
	return found;
}
