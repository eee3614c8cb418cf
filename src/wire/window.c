#include "wire/window.h"

/* A rate is taken over at least so long: acknowledgements come in bursts. */
#define MEASURE_US 5000

void window_init(struct window *w, int64_t now_us)
{
	*w = (struct window){.bytes = WINDOW_FIRST,
		.look_us = now_us,
		.least_us = INT64_MAX,
		.measure_us = now_us,
		.slot_us = now_us};
}

static void turn_slots(struct window *w, int64_t now_us)
{
	/* What was seen before a long silence is as good as nothing. */
	if (now_us - w->slot_us > WINDOW_SLOTS * WINDOW_RATE_US) {
		for (unsigned i = 0; i < WINDOW_SLOTS; i++)
			w->rates[i] = 0;
		w->slot_us = now_us;
	}
	while (now_us - w->slot_us >= WINDOW_RATE_US) {
		w->slot_us += WINDOW_RATE_US;
		w->slot = (w->slot + 1) % WINDOW_SLOTS;
		w->rates[w->slot] = 0;
	}
}

void window_acked(struct window *w, uint64_t bytes, int64_t now_us)
{
	int64_t us = now_us - w->measure_us, rate;

	turn_slots(w, now_us);
	w->acked += bytes;
	if (us < MEASURE_US)
		return;
	rate = (int64_t)((w->acked - w->measured) * 1000000 / (uint64_t)us);
	if (rate > w->rates[w->slot])
		w->rates[w->slot] = rate;
	w->measure_us = now_us;
	w->measured = w->acked;
}

void window_held_up(struct window *w)
{
	w->held_up = true;
}

bool window_looks(const struct window *w, int64_t now_us)
{
	return now_us - w->look_us >= WINDOW_LOOK_US;
}

void window_rtt(struct window *w, int64_t rtt_us, int64_t now_us)
{
	int64_t queue_us;

	w->look_us = now_us;
	if (rtt_us <= 0)
		return;
	if (rtt_us < w->least_us)
		w->least_us = rtt_us;
	queue_us = rtt_us - w->least_us;
	if (queue_us > WINDOW_QUEUE_US)
		w->bytes -= w->bytes / 4;
	else if (w->held_up && queue_us < WINDOW_QUEUE_US / 2)
		w->bytes += w->bytes / 4;
	if (w->bytes < WINDOW_MIN)
		w->bytes = WINDOW_MIN;
	if (w->bytes > WINDOW_MAX)
		w->bytes = WINDOW_MAX;
	w->held_up = false;
}

uint64_t window_rate(const struct window *w)
{
	int64_t rate = 0;

	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		if (w->rates[i] > rate)
			rate = w->rates[i];
	return (uint64_t)rate;
}
