/*
 * The inbox: numbered frames that came in, put into order again. Each is given out once, however
 * often it arrives; what is worked on by several threads comes out in the order of the numbers.
 *
 * No lock of its own: the caller's is held.
 */
#ifndef DROVER_WIRE_INBOX_H
#define DROVER_WIRE_INBOX_H

#include "wire/chunk.h"

/* Frames that may come ahead of the first one that is missing; what this side's hello says. */
#define INBOX_WINDOW_MAX 64u

enum in_state { IN_MISSING, IN_ARRIVED, IN_TAKEN, IN_WAITING, IN_DONE };

struct in_slot {
	enum in_state state;
	struct chunk *chunk; /* the frame, until IN_DONE */
	void *result;        /* the caller's, from IN_WAITING on */
};

struct inbox {
	struct in_slot slots[INBOX_WINDOW_MAX]; /* by sequence */
	unsigned window, arrived;
	uint64_t next; /* the first that has not come out */
};

void inbox_init(struct inbox *in, unsigned window);

enum inbox_put { INBOX_KEPT, INBOX_DUPLICATE, INBOX_TOO_FAR };
/* A frame arrived. It is the inbox's when it was kept. */
enum inbox_put inbox_put(struct inbox *in, struct chunk *chunk);
/* The frame with the lowest number that nobody has taken; NULL: none. It stays in its slot. */
struct chunk *inbox_take(struct inbox *in);
/* What was made of a frame: complete, or waiting for something else to arrive. */
void inbox_done(struct inbox *in, uint64_t sequence, void *result);
void inbox_waiting(struct inbox *in, uint64_t sequence, void *result);
/* The slot of a frame that waits; NULL when there is none of that number. */
struct in_slot *inbox_find_waiting(struct inbox *in, uint64_t sequence);
/* The next in order, when it is done: its chunk (the caller's again) and result. */
bool inbox_next(struct inbox *in, struct in_slot *slot);

#endif
