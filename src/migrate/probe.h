/*
 * Probes of the link: for a moment the data mover carries made-up bytes to another node, over a
 * lane like a migration's, and says how many arrived in a second.
 *
 * A probe ends by itself after its time or 128 MiB, whichever comes first, and a destination ends
 * one that does not, after PROBE_LIFE_MS. A migration that finds no free port for its lane ends the
 * probes of that node: it comes before them.
 */
#ifndef DROVER_MIGRATE_PROBE_H
#define DROVER_MIGRATE_PROBE_H

#include "migrate/estimate.h"
#include "migrate/migrate.h"

/* Probes that a node receives at once. */
#define PROBES_MAX 4
#define PROBE_LIFE_MS 5000

/* Source: measures the link to a node by a probe ("400", "160,4M": wire/endpoint.h); *bps gets the
 * least and the most, in bytes a second. ERROR_NOT_FOUND for a node whose drover is older than
 * probes, ERROR_BUSY, ERROR_TIMEOUT, and whatever makes a lane fail. */
int probe_link(struct migrations *all, const char *node, const char *probe, int64_t deadline_ms,
	struct estimate_range *bps, struct error **err);

/* Destination: receives a probe of another node, request {"id"}: {"port"} where it is listened
 * for. */
json_t *probe_receive(
	struct migrations *all, const char *from, const json_t *request, struct error **err);
/* Ends those that are received here and waits for that; there are no others until they are
 * released.
 */
void probes_hold(struct migrations *all);
void probes_release(struct migrations *all);

#endif
