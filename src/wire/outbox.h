/*
 * The outbox: numbered frames that this side sends, each kept until the other side has acknowledged
 * it, so that what was on a lane that broke is sent again on another one or on the next.
 *
 * Frames are numbered when they are begun and may become ready in any order: the other side puts
 * them in order again. No lock of its own: the link's (link.h) is held.
 */
#ifndef DROVER_WIRE_OUTBOX_H
#define DROVER_WIRE_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Frames that can be on their way, at most; the other side's hello may allow fewer. */
#define OUTBOX_WINDOW_MAX 64u

enum out_state { OUT_BEGUN, OUT_READY, OUT_SENDING, OUT_SENT };

/* Owned by whoever numbered it, who has its memory back when it is released. */
struct out_frame {
	uint64_t sequence;
	uint8_t type;
	const uint8_t *data;
	size_t len;
	int64_t ready_us; /* of clock_us, when it became ready */
	size_t expected;  /* length that was expected then (link.h) */
	/* The outbox's. */
	enum out_state state;
	unsigned lane;
	bool acknowledged;
};

struct outbox {
	struct out_frame *frames[OUTBOX_WINDOW_MAX]; /* by sequence */
	unsigned window;
	uint64_t last;     /* number given last */
	uint64_t acked;    /* every frame up to this one was acknowledged */
	uint64_t released; /* every frame up to this one was given back */
	unsigned unsent;   /* ready, and not being sent */
};

void outbox_init(struct outbox *out, unsigned window);
/* Whether another frame may be begun. */
bool outbox_has_room(const struct outbox *out);
/* Numbers a frame; there must be room. */
void outbox_begin(struct outbox *out, struct out_frame *frame);
/* Type, data and length are there. */
void outbox_ready(struct outbox *out, struct out_frame *frame, int64_t now_us);
/* The ready frame with the lowest number, which this lane is to send now; NULL: none. */
struct out_frame *outbox_take(struct outbox *out, unsigned lane);
/* It has been given to the lane, or the lane has broken meanwhile. */
void outbox_taken(struct outbox *out, struct out_frame *frame, bool sent);
/* Frames that were sent on this lane and have not been acknowledged are to be sent again. */
void outbox_lane_lost(struct outbox *out, unsigned lane);
/* The other side has dealt with every frame up to this one; false for one that was not sent. */
bool outbox_acked(struct outbox *out, uint64_t sequence);
/* The next frame that has been acknowledged and that no lane is sending: its owner's again. In the
 * order of their numbers; NULL: none. */
struct out_frame *outbox_release(struct outbox *out);
/* The frame of that number, while it is kept and complete; NULL otherwise. */
struct out_frame *outbox_find(const struct outbox *out, uint64_t sequence);

#endif
