#include "migrate/converge.h"

#define FIRST_MIN_MS 20
/* Rounds at the first limit: all memory, and what changed during that. */
#define FIRST_ROUNDS 2

int64_t converge_downtime_ms(int64_t limit_ms, int round)
{
	int64_t ms = limit_ms / 10 > FIRST_MIN_MS ? limit_ms / 10 : FIRST_MIN_MS;

	for (int r = FIRST_ROUNDS; r < round && ms < limit_ms; r++)
		ms *= 2;
	return ms < limit_ms ? ms : limit_ms;
}
