#include "wire/window.h"

/* A rate is taken over at least so long: acknowledgements come in bursts. */
#define MEASURE_US 5000
/* No piece needs longer without a queue. */
#define TIME_MAX_US 1000000

static void slots_init(struct window_slots *s, int64_t now_us, int64_t none)
{
	s->begin_us = now_us;
	s->now = 0;
	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		s->value[i] = none;
}

/* What was seen before a long silence is as good as nothing. */
static void slots_turn(struct window_slots *s, int64_t now_us, int64_t slot_us, int64_t none)
{
	if (now_us - s->begin_us > WINDOW_SLOTS * slot_us)
		slots_init(s, now_us, none);
	while (now_us - s->begin_us >= slot_us) {
		s->begin_us += slot_us;
		s->now = (s->now + 1) % WINDOW_SLOTS;
		s->value[s->now] = none;
	}
}

void window_init(struct window *w, int64_t now_us)
{
	*w = (struct window){.start_us = now_us, .measure_us = now_us};
	slots_init(&w->rates, now_us, 0);
	slots_init(&w->times, now_us, TIME_MAX_US);
}

void window_acked(struct window *w, uint64_t bytes, int64_t us, int64_t now_us)
{
	int64_t *time, *rate, seen;

	slots_turn(&w->rates, now_us, WINDOW_RATE_US, 0);
	slots_turn(&w->times, now_us, WINDOW_TIME_US, TIME_MAX_US);
	time = &w->times.value[w->times.now];
	rate = &w->rates.value[w->rates.now];
	w->acked += bytes;
	if (us < *time)
		*time = us;
	if (now_us - w->measure_us < MEASURE_US)
		return;
	seen = (int64_t)((w->acked - w->measured) * 1000000 / (uint64_t)(now_us - w->measure_us));
	if (seen > *rate)
		*rate = seen;
	w->measure_us = now_us;
	w->measured = w->acked;
}

uint64_t window_rate(const struct window *w)
{
	int64_t rate = 0;

	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		if (w->rates.value[i] > rate)
			rate = w->rates.value[i];
	return (uint64_t)rate;
}

uint64_t window_bytes(const struct window *w, int64_t now_us)
{
	int64_t us = TIME_MAX_US;
	uint64_t bytes;

	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		if (w->times.value[i] < us)
			us = w->times.value[i];
	bytes = window_rate(w) / 1000 * (uint64_t)(WINDOW_QUEUE_US + us) / 1000;
	if ((now_us - w->start_us) % WINDOW_PROBE_EVERY_US >
		WINDOW_PROBE_EVERY_US - WINDOW_PROBE_US)
		bytes /= 4;
	if (bytes < WINDOW_MIN)
		return WINDOW_MIN;
	return bytes < WINDOW_MAX ? bytes : WINDOW_MAX;
}
