/*
 * Inside src/migrate/estimate*.c: one way how a migration may go, played through round by round.
 *
 * What was measured is uncertain in several respects that have little to do with each other
 * (enum factor). A way takes each of them as it is likely, or as good or as bad as it may be.
 */
#ifndef DROVER_MIGRATE_ESTIMATE_WAY_H
#define DROVER_MIGRATE_ESTIMATE_WAY_H

#include "migrate/estimate.h"

enum choice { LIKELY, GOOD, BAD };

enum factor {
	FACTOR_LINK,      /* what the link carries */
	FACTOR_SHARES,    /* how many of the pages are zero, and data */
	FACTOR_CODING,    /* what the data are compressed to */
	FACTOR_PROCESSOR, /* what a page costs of processors that others use, too */
	FACTOR_DIRTY,     /* how many pages change */
	FACTOR_CHANGED,   /* what such a page takes */
	FACTOR_AROUND,    /* what is before and after the stream */
	FACTOR_FILES,     /* how fast files are written and read */
	FACTORS
};

struct way {
	double link_bps;
	double memory_pages, zero_pages;
	double zero_s; /* to find a page of zeros */
	/* Of a page that is not zero: on the wire, and in the pipeline. */
	double page_bytes, page_s;
	double dirty_pps, dirty_most;    /* pages that change in a second, and at most */
	double dirty_bytes, again_bytes; /* of such a page, the first two times and later */
	double again_s;
};

struct played {
	double total_ms, wire_bytes, downtime_ms;
	bool converges;
};

struct way way_make(const struct estimate_input *in, const enum choice choices[FACTORS]);
struct played way_play(const struct estimate_input *in, const enum choice choices[FACTORS]);
/* By how much all that needs a processor takes longer because others want one. */
double way_slower(const struct estimate_input *in, enum choice choice);

#endif
