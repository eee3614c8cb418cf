#include "migrate/converge.h"

#define FIRST_MIN_MS 20
#define FIRST_SHARE 15
/* Rounds at the first limit: all memory, and what changed during that. */
#define FIRST_ROUNDS 2

/* A round that is worth having sends away this much of what the round before left, in percent. */
#define WORTH_PERCENT 20

bool converge_needs_postcopy(int rounds, int round, int64_t before_bytes, int64_t left_bytes)
{
	if (rounds > 0)
		return round > rounds;
	return round > CONVERGE_ROUNDS &&
	       (double)left_bytes * 100 > (double)before_bytes * (100 - WORTH_PERCENT);
}

int64_t converge_downtime_ms(int64_t limit_ms, int round)
{
	int64_t first_ms = limit_ms / FIRST_SHARE;
	int64_t ms = first_ms > FIRST_MIN_MS ? first_ms : FIRST_MIN_MS;

	for (int r = FIRST_ROUNDS; r < round && ms < limit_ms; r++)
		ms *= 2;
	return ms < limit_ms ? ms : limit_ms;
}
