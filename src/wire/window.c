#include "wire/window.h"

/* A rate is taken over at least so long: acknowledgements come in bursts. */
#define MEASURE_US 5000

void window_init(struct window *w, int64_t now_us)
{
	*w = (struct window){.first_us = now_us, .slot_us = now_us};
	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		w->times[i] = INT64_MAX;
}

static void next_slot(struct window *w, int64_t now_us)
{
	/* What was seen before a long silence is as good as nothing. */
	if (now_us - w->slot_us > WINDOW_SLOTS * WINDOW_SLOT_US)
		w->slot_us = now_us - WINDOW_SLOTS * WINDOW_SLOT_US;
	while (now_us - w->slot_us >= WINDOW_SLOT_US) {
		w->slot_us += WINDOW_SLOT_US;
		w->slot = (w->slot + 1) % WINDOW_SLOTS;
		w->rates[w->slot] = 0;
		w->times[w->slot] = INT64_MAX;
	}
}

void window_acked(struct window *w, uint64_t bytes, int64_t us, int64_t now_us)
{
	uint64_t rate;

	next_slot(w, now_us);
	w->acked += bytes;
	if (us < w->times[w->slot])
		w->times[w->slot] = us;
	if (now_us - w->first_us < MEASURE_US)
		return;
	rate = (w->acked - w->first_acked) * 1000000 / (uint64_t)(now_us - w->first_us);
	if (rate > w->rates[w->slot])
		w->rates[w->slot] = rate;
	w->first_us = now_us;
	w->first_acked = w->acked;
}

uint64_t window_rate(const struct window *w)
{
	uint64_t rate = 0;

	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		if (w->rates[i] > rate)
			rate = w->rates[i];
	return rate;
}

uint64_t window_bytes(const struct window *w)
{
	int64_t us = INT64_MAX;
	uint64_t bytes;

	for (unsigned i = 0; i < WINDOW_SLOTS; i++)
		if (w->times[i] < us)
			us = w->times[i];
	if (us > 1000000)
		us = 1000000;
	bytes = window_rate(w) / 1000 * (uint64_t)(WINDOW_QUEUE_US + us) / 1000;
	if (bytes < WINDOW_MIN)
		return WINDOW_MIN;
	return bytes < WINDOW_MAX ? bytes : WINDOW_MAX;
}
