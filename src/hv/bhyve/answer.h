/*
 * What a source's bhyve is told so that its guest goes on. Used by drover-wire, too.
 */
#ifndef DROVER_HV_BHYVE_ANSWER_H
#define DROVER_HV_BHYVE_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

/* The answer "no", after which all that it still sends is dropped until it closes its end, as it
 * does when its guest goes on. False when it has not by the deadline (of clock_ms). */
bool bhyve_refuse(int fd, int64_t deadline_ms);

#endif
