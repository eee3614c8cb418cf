/*
 * How the receiving side comes to its lane: it listens until one peer has shown the right
 * certificate and said hello for the right migration, and refuses everybody else.
 *
 * Every connection is looked at by a thread of its own, ACCEPT_MAX at a time, within LANE_SETUP_MS,
 * so that one that says nothing does not keep the right one waiting.
 */
#ifndef DROVER_WIRE_ACCEPT_H
#define DROVER_WIRE_ACCEPT_H

#include "wire/options.h"
#include "wire/run.h"

#define ACCEPT_MAX 32
/* Refusals that are reported until the lane is there, each as a status line "refused". */
#define ACCEPT_REPORT_MAX 20

/*
 * Listens as the options say, reports "listening", and returns the lane, whose hello has been
 * answered; `theirs` gets the other side's hello. Credentials and options outlive the process's
 * threads. NULL: ERROR_TIMEOUT at deadline_ms (of clock_ms) names the last refusal;
 * ERROR_CANCELLED.
 */
struct lane *accept_lane(const struct options *options, struct run *run,
	const struct tls_credentials *credentials, const struct frame_hello *mine,
	struct frame_hello *theirs, int64_t deadline_ms, struct error **err);

#endif
