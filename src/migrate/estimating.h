/*
 * Making an estimate: measures the link and the guest at the same time, beside whatever else is
 * done, and has as much of it as is there when it is asked for. Nothing that goes wrong in it is an
 * error: it makes the estimate say less.
 */
#ifndef DROVER_MIGRATE_ESTIMATING_H
#define DROVER_MIGRATE_ESTIMATING_H

#include "migrate/estimate.h"
#include "migrate/migrate.h"

/* For `drover migrate --check`, where nothing waits, and for a migration, which does. */
enum estimating_care { ESTIMATING_WELL, ESTIMATING_QUICKLY };

struct estimating;

/* Begins to measure, in threads of its own. NULL where the VM does not run here. */
struct estimating *estimating_start(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, enum estimating_care care);
/* Waits for what is still being measured, for as long as that care allows; then the estimate, as
 * estimate_json with "took_ms". `elapsed_ms` since the migration began, and whether both
 * hypervisors are ready; 0 and false when there is none yet. Once. */
json_t *estimating_finish(struct estimating *s, int64_t elapsed_ms, bool ready);
/* Keeps an estimate for the report of the move that follows within ten minutes. */
void estimating_remember(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, const json_t *estimate);
/* Such an estimate, for a move that begins: all of that VM are forgotten. The caller's; NULL where
 * there is none. */
json_t *estimating_recall(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options);
/* What is still being measured goes on by itself and is freed then. NULL is nothing to free. */
void estimating_free(struct estimating *s);

#endif
