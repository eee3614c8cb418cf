/*
 * Convergence: how long the guest may stand still at the switchover, while the rounds go on.
 *
 * A guest that changes little is switched over within a fraction of what the user allows. For one
 * that changes more, the limit doubles with each round that was not enough, up to the user's limit.
 * A guest that changes faster than it is sent never comes that far: it is switched to post-copy,
 * where the user allows that.
 */
#ifndef DROVER_MIGRATE_CONVERGE_H
#define DROVER_MIGRATE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

/* Rounds that are allowed to find out whether a guest converges. */
#define CONVERGE_ROUNDS 3

/* The downtime limit in ms for a round (1 is the first pass over all memory); limit_ms is the
 * user's. It begins at a fifteenth of that, but not below 20 ms: an idle guest of 1 GiB under TCG
 * moves with 6 ms when 20 are allowed. */
int64_t converge_downtime_ms(int64_t limit_ms, int round);

/* Whether to switch to post-copy now that `round` begins. `rounds` is what the user said: so many
 * are gone through; 0: as soon as the guest does not converge. It does not when after
 * CONVERGE_ROUNDS rounds there is hardly less to send than one round ago: left_bytes now,
 * before_bytes then. */
bool converge_needs_postcopy(int rounds, int round, int64_t before_bytes, int64_t left_bytes);

#endif
