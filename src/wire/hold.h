/*
 * Streams of a hypervisor that asks nobody before it lets a guest run (bhyve; docs/bhyve.md).
 *
 * Its source waits after its last byte for an answer, and goes on by itself with any but one; its
 * destination runs the guest as soon as it has read all. So both sides read the stream along:
 *
 * - The sender takes what it reads for the end when all devices have come, though the connection
 *   stays open; it says "sent", and passes no answer on from there on. It does not end before it is
 *   told to (SIGTERM) or the hypervisor is gone, since that would close the connection; then it
 *   answers "no". A sender that has failed does the same at once when nobody reads its status.
 * - The receiver writes no byte that comes after the guest's memory before SIGUSR1. It says "held"
 *   when all has come and is what was sent, and does without the sender from there on; it says
 *   "releasing" before it writes the rest. Without the rest the hypervisor takes a connection that
 * breaks for an error, and not for a guest.
 */
#ifndef DROVER_WIRE_HOLD_H
#define DROVER_WIRE_HOLD_H

#include "base/buf.h"
#include "base/error.h"
#include "wire/run.h"

/* What comes after memory: kernel structures and devices, some MiB. */
#define HOLD_MAX (256u << 20)

struct hold;

/* For a guest with so much memory. NULL and ERROR_USAGE when it cannot have that. */
struct hold *hold_open(uint64_t memory_bytes, struct error **err);
/* The next bytes of the stream. How many of them are memory, or before it; -1 when it is not
 * bhyve's stream. */
ssize_t hold_feed(struct hold *h, const uint8_t *data, size_t len, struct error **err);
/* Whether the source's guest stands still from here on: the last round, or all of a warm move. */
bool hold_last_round(const struct hold *h);
/* Whether all has come. */
bool hold_ended(const struct hold *h);

/* Receiver: how SIGUSR1 is waited for; to be called before other threads are. */
int hold_catch_release(struct error **err);
void hold_wait_release(void);

/* Sender: its connection to the hypervisor. */
void hold_keep(int fd);
/* Before the process ends: what a sender with such a connection does then, see above. */
void hold_leave(struct run *run, bool failed);

#endif
