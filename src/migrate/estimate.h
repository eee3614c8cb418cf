/*
 * The estimate of a migration: how long it will take, how much it will send, how long the guest
 * will stand still, and whether it will come to an end, each as a range, from what was measured.
 *
 * Only arithmetic: it plays the migration through twice, round by round with the policy of
 * converge.h, once with what is good and once with what is bad of each measured value. What was not
 * measured makes the ranges wider, or unknown, and `because` says so. docs/estimate.md says where
 * the constants come from and how often the ranges held.
 */
#ifndef DROVER_MIGRATE_ESTIMATE_H
#define DROVER_MIGRATE_ESTIMATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Levels of compression that a sample tells of (wire/level.h has one less that compress). */
#define ESTIMATE_LEVELS 8
#define ESTIMATE_REASONS 8

struct estimate_range {
	double low, high; /* INFINITY: without an end */
};

/* Pages that were sent in a sample: how many, in how many bytes, with how much processor time. */
struct estimate_pages {
	double pages, bytes, ns;
	double zero, reference, difference, data;
};

/* What was measured. A part that was not says why, as the rest of a sentence; "" when it was. */
struct estimate_input {
	uint64_t memory_bytes;
	bool paused;        /* the guest stands still: nothing changes */
	int processors;     /* of this node */
	double load;        /* processes that want one, of late (getloadavg); 0: not known */
	int64_t elapsed_ms; /* since the beginning; what it takes until the stream begins, too,
			       when `ready` */
	bool ready;         /* both hypervisors wait for the order */

	char no_link[192];
	struct estimate_range link_bps; /* bytes per second */

	char no_sample[192];
	double places; /* where pages were taken, at random, several at each */
	int levels_count;
	struct estimate_pages levels[ESTIMATE_LEVELS]; /* from the first that compresses */
	double sample_cpu_ns, sample_wall_ns; /* that looking at them took, of each clock */
	/* Of the same pages `window_ms` later, those that had changed: sent whole, and again. */
	int64_t window_ms; /* 0: they were not looked at again */
	double seen_again;
	struct estimate_pages whole, difference;

	char no_dirty[192];
	double dirty_bps, dirty_step_bps; /* as struct hv_dirty_rate has them */

	/* As files (hv.h, HV_WAY_FILES): how fast their place is, from the disk to the cache. */
	bool files;
	char no_room[192];
	struct estimate_range files_bps;

	/* As they were asked for. */
	int64_t downtime_limit_ms, bandwidth_bps, timeout_ms;
	bool pause, postcopy;
	int postcopy_rounds;
};

enum estimate_end { ESTIMATE_YES, ESTIMATE_UNSURE, ESTIMATE_NO };
const char *estimate_end_name(enum estimate_end end); /* "yes", "unsure", "no" */

struct estimate {
	bool time_known, bytes_known, downtime_known;
	struct estimate_range total_ms, wire_bytes, downtime_ms;
	enum estimate_end converges;
	int reasons_count;
	char because[ESTIMATE_REASONS][384];
};

void estimate_make(const struct estimate_input *in, struct estimate *e);

/* {"total_ms":[low,high],"wire_bytes":[…],"downtime_ms":[…],"converges","because":[…]}; a range
 * that is not known is null, and so is an end that there is not. */
json_t *estimate_json(const struct estimate *e);
/* What it was made from, for those who want to look closer: the members of struct estimate_input by
 * their names, without what was asked for. */
json_t *estimate_measured_json(const struct estimate_input *in);
/* One line of it for those who follow a migration: "0.5 to 1.1 s". The caller frees it. */
char *estimate_text(const json_t *estimate);
/* How far off it was, from a migration's report: {"total_ms":{"actual","inside","off_percent"},…};
 * a range that was not known is left out. off_percent: by how much the actual value is above the
 * range's high end, or (less than 0) below its low one. */
json_t *estimate_compare(const json_t *estimate, const json_t *report);

#endif
