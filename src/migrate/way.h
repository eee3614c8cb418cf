/*
 * How a guest gets to another node (hv.h, enum hv_way): by its hypervisor's stream or, where both
 * have nothing better, as files. What a node's hypervisor can is in its record on the pool.
 */
#ifndef DROVER_MIGRATE_WAY_H
#define DROVER_MIGRATE_WAY_H

#include "migrate/migrate.h"

/* The way that a move with these options would take; a node whose record cannot be read is taken to
 * be as this one. */
enum hv_way migrate_way(
	const struct migrations *all, const char *node, const struct migrate_options *options);

/* Puts for how long the guest will stand still, by an estimate (NULL: none), into what the report
 * of a preflight says of its way, where that is files. */
void migrate_way_say(json_t *report, const json_t *estimate);

#endif
