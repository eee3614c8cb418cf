/*
 * Time: monotonic milliseconds for limits and measurements, and wall-clock text where a person or
 * another node reads it.
 */
#ifndef DROVER_BASE_CLOCK_H
#define DROVER_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t clock_ms(void);
int64_t clock_us(void);
/* Wall-clock time in milliseconds since 1970. */
int64_t clock_wall_ms(void);

/* What is left until `deadline_ms` (of clock_ms) for poll(): 0 when it has passed. */
int clock_left_ms(int64_t deadline_ms);

/* Writes wall_ms as "2026-01-31T02:03:04.005Z" into `out`. */
void clock_format(int64_t wall_ms, char out[32]);
/* Reads "2026-01-31T02:03:04Z", "2026-01-31 02:03", "02:03" (the next one) or "+90" (seconds from
 * now), in UTC, into *wall_ms. Returns -1 when it is none of these. */
int clock_parse(const char *text, int64_t *wall_ms);

#endif
