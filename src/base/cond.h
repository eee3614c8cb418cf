/*
 * Condition variables that are waited for until a time of clock_ms().
 */
#ifndef DROVER_BASE_COND_H
#define DROVER_BASE_COND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Made for cond_wait_until; to be destroyed with pthread_cond_destroy. */
void cond_init(pthread_cond_t *cond);
/* As pthread_cond_wait, at most until deadline_ms (of clock_ms): false when that has passed. */
bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ms);

#endif
