/*
 * What is measured of a guest for the estimate of its migration: its pages, by a sample that the
 * data mover's own code looks at (drover-wire sample), and how fast it changes them.
 */
#ifndef DROVER_MIGRATE_MEASURE_H
#define DROVER_MIGRATE_MEASURE_H

#include "migrate/estimate.h"
#include "migrate/migrate.h"

/* Places that are looked at, one in each of so many equal parts of the memory, and pages at each:
 * 12 MiB in all. */
#define MEASURE_PLACES 768
#define MEASURE_PAGES 4u

/* Fills memory_bytes, paused, and what is said of sample, changes and dirty rate; what cannot be had
 * says why there. `window_ms`: how long the guest is watched. Ends at the deadline, or a little
 * after it. */
void measure_guest(struct migrations *all, const char *vm, int64_t window_ms, int64_t deadline_ms,
	struct estimate_input *in);

#endif
