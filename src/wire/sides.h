/*
 * The two sides of a lane, as main() runs them. Each opens what it needs, says on the way what
 * happens (status lines, docs/wire-protocol.md), and returns 0 when the whole stream has been
 * written at the destination and both sides agree on its length and hash.
 *
 * When they return -1, threads may still be at work: the caller ends the process.
 */
#ifndef DROVER_WIRE_SIDES_H
#define DROVER_WIRE_SIDES_H

#include "wire/options.h"
#include "wire/run.h"

/* Payload of the frames that are sent, and the longest that is accepted: with the header 4 TLS
 * records. */
#define SIDES_PAYLOAD ((64u << 10) - FRAME_HEADER)
/* The plain codec needs one. */
#define SIDES_CHUNKS 2u

int send_run(const struct options *options, struct run *run, struct error **err);
int recv_run(const struct options *options, struct run *run, struct error **err);

#endif
