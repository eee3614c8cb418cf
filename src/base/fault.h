/*
 * Fault points: named places in the real program where a test can make something go wrong.
 *
 * DROVER_FAULT=NAME:ACTION[,NAME:ACTION…] in the environment chooses them; without it a fault point
 * costs one load and one branch. Actions: `kill` (SIGKILL to this process), `error` (the call fails
 * with ERROR_FAILED "fault point NAME"), `hang` (until the process is ended), `delay=MS`.
 * A `file=PATH` action makes PATH.reached and hangs until PATH exists: a test can hold a migration
 * at a step, look at it, and let it go on. `limit=MS` makes nothing go wrong: where a point is
 * passed when a time limit is over, that limit is so long (fault_limit_ms()), and a test need not
 * wait for minutes.
 */
#ifndef DROVER_BASE_FAULT_H
#define DROVER_BASE_FAULT_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Reads DROVER_FAULT; call once, before threads start. -1 when it names an unknown point/action. */
int fault_init(struct error **err);

/* Passes the fault point `name`, which must stand in the table in fault.c. 0, or -1 and *err. */
int fault_point(const char *name, struct error **err);

/* The time limit after which the point `name` is passed: what `limit=MS` says, else limit_ms. */
int64_t fault_limit_ms(const char *name, int64_t limit_ms);

/* Whether DROVER_FAULT names any. */
bool fault_armed(void);

/* Prints every fault point with the step that it stands before, for `--list-faults`. */
void fault_list(FILE *out);

#endif
