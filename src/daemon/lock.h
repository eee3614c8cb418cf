/*
 * One droverd a state directory: two would start the same VMs, tasks and migrations.
 */
#ifndef DROVER_DAEMON_LOCK_H
#define DROVER_DAEMON_LOCK_H

#include "base/error.h"

/* Takes STATE/lock for the life of the process and returns its descriptor; the file holds our pid.
 * ERROR_BUSY names the process that has it. */
int lock_take(const char *state_dir, struct error **err);

#endif
