/*
 * What is measured of a guest for the estimate of its migration: its pages, by a sample that the
 * data mover's own code looks at (drover-wire sample), and how fast it changes them.
 */
#ifndef DROVER_MIGRATE_MEASURE_H
#define DROVER_MIGRATE_MEASURE_H

#include "migrate/estimate.h"
#include "migrate/migrate.h"

/* Places that are looked at, at most: one in each of so many equal parts of the memory, in no
 * order, until the time for it has passed. At each, so many pages of 128 KiB: 16 MiB in all. A
 * hypervisor that has little to do gives thousands in a second, a busy one under TCG a few hundred,
 * and fewer when they are longer. */
#define MEASURE_PLACES 512
#define MEASURE_PAGES 8u
#define MEASURE_STEP (16u << 10)
/* Fewer places tell nothing. */
#define MEASURE_PLACES_MIN 12
/* How long a look at these places takes at most, and what passes before the second one. */
struct measure_times {
	int64_t look_ms, window_ms;
};

/* Fills in whether it is paused, and what is said of sample, changes and dirty rate; what cannot be
 * had says why there. Ends at the deadline, or a little after it. */
void measure_guest(struct migrations *all, const char *vm, const struct measure_times *times,
	int64_t deadline_ms, struct estimate_input *in);

#endif
