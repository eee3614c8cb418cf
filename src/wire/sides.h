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

/* Pieces of the stream that are on their way at most: the window that the receiver's hello names.
 */
#define SIDES_PIECES 16u
/* The return path: payload of a frame, and the window. */
#define SIDES_RETURN_MAX (64u << 10)
#define SIDES_RETURNS 8u
/* Ends of the return path that are not RETURN frames: SETUP_ACK, END_ACK. */
#define SIDES_RETURN_WINDOW (SIDES_RETURNS + 2u)

/* Buffers besides the window: one for each lane and one for what is being dealt with. */
#define SIDES_SPARE (FRAME_LANES_MAX + 2u)

int send_run(const struct options *options, struct run *run, struct error **err);
int recv_run(const struct options *options, struct run *run, struct error **err);

#endif
