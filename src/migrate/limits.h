/*
 * What a move can be asked for with: the API refuses, and the command says beforehand, what is
 * outside of these.
 */
#ifndef DROVER_MIGRATE_LIMITS_H
#define DROVER_MIGRATE_LIMITS_H

#include <stdint.h>

#define MIGRATE_DOWNTIME_MS 300 /* where nothing is said */
#define MIGRATE_DOWNTIME_MAX_MS 600000
#define MIGRATE_TIMEOUT_MAX_S (7 * 86400)
#define MIGRATE_ROUNDS_MAX 1000
#define MIGRATE_RECONNECT_MAX_S 3600
/* Bytes a second. QEMU sends whole buffers, at least so much; below 10 its limit is none. */
#define MIGRATE_BANDWIDTH_MIN 1000000
#define MIGRATE_BANDWIDTH_MAX ((int64_t)1 << 40)
/* The sentence for one that is lower, a long long. */
#define MIGRATE_BANDWIDTH_TOO_LOW \
	"the bandwidth is at least 1M (1000000 bytes a second), not %lld: hypervisors keep no " \
	"smaller limit"

#endif
