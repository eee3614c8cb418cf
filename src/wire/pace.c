#include "wire/pace.h"

int64_t pace_take(struct pace *pace, uint64_t bytes, int64_t now_us)
{
	int64_t wait_us;

	if (!pace->rate_bps)
		return 0;
	if (pace->due_us < now_us - PACE_BURST_US)
		pace->due_us = now_us - PACE_BURST_US;
	wait_us = pace->due_us > now_us ? pace->due_us - now_us : 0;
	pace->due_us += (int64_t)(bytes * 1000000 / pace->rate_bps);
	return wait_us;
}
