/*
 * Convergence: how long the guest may stand still at the switchover, while the rounds go on.
 *
 * A guest that changes little is switched over within a fraction of what the user allows. For one
 * that changes more, the limit doubles with each round that was not enough, up to the user's limit.
 */
#ifndef DROVER_MIGRATE_CONVERGE_H
#define DROVER_MIGRATE_CONVERGE_H

#include <stdint.h>

/* The downtime limit in ms for a round (1 is the first pass over all memory); limit_ms is the
 * user's. It begins at a tenth of that, but not below 20 ms: an idle guest of 1 GiB under TCG moves
 * with 6 ms when 20 are allowed. */
int64_t converge_downtime_ms(int64_t limit_ms, int round);

#endif
