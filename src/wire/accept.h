/*
 * How the receiving side comes to its lanes: it listens as long as it runs, takes every connection
 * of the one peer that shows the right certificate and says hello for the right migration, and
 * refuses everybody else.
 *
 * Every connection is looked at by a thread of its own, ACCEPT_MAX at a time, within LANE_SETUP_MS,
 * so that one that says nothing does not keep the right one waiting.
 */
#ifndef DROVER_WIRE_ACCEPT_H
#define DROVER_WIRE_ACCEPT_H

#include "wire/link.h"
#include "wire/options.h"
#include "wire/run.h"

#define ACCEPT_MAX 32
/* Refusals that are reported until a lane is there, each as a status line "refused". */
#define ACCEPT_REPORT_MAX 20

/* Listens as the options say; returns the descriptor. ERROR_USAGE, ERROR_FAILED. */
int accept_listen(const struct options *options, struct error **err);
/* Reports "listening", and gives every good lane that comes at `fd` to the link, which outlives the
 * process's threads, as do options and credentials. */
int accept_start(const struct options *options, int fd, struct run *run,
	const struct tls_credentials *credentials, struct link *link, struct error **err);
/* Waits until the first lane is there. ERROR_TIMEOUT at deadline_ms (of clock_ms) names the last
 * refusal; ERROR_CANCELLED. */
int accept_wait(struct run *run, struct link *link, int64_t deadline_ms, struct error **err);

#endif
