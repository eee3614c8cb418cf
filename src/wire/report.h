/*
 * What drover-wire says of a migration, in the JSON of its status lines (docs/wire-protocol.md):
 * how the pages went, from where, and at which levels.
 */
#ifndef DROVER_WIRE_REPORT_H
#define DROVER_WIRE_REPORT_H

#include "wire/batch.h"
#include "wire/level.h"
#include "wire/link.h"
#include "wire/rate.h"
#include "wire/run.h"

struct report {
	struct link *link;
	const struct batch_counts *counts;
	const struct source_set *sources;
	const struct stream_counts *stream; /* NULL at the receiver */
	const char *parser;                 /* NULL there */
	const struct level *level;          /* NULL there */
	struct rate_found steady;           /* of a probe, at the sender */
	int64_t drain_us; /* from the end of the stream here until it was written there; 0 there */
};

/* The status line "connected". */
void report_connected(struct run *run, struct link *link, const struct tls_peer *peer, bool plain);
/* A status line "unused" for a content source that this side cannot use. */
void report_source_unused(struct run *run, const char *name, const struct error *why);
/* A status line "source" for each content source: hits and misses. */
void report_sources(struct run *run, const struct report *what);
/* Members for the status line "end". */
json_t *report_end(const struct report *what);

#endif
