#include "wire/outbox.h"

#include <stdlib.h>

static struct out_frame **place(struct outbox *out, uint64_t sequence)
{
	return &out->frames[sequence % OUTBOX_WINDOW_MAX];
}

void outbox_init(struct outbox *out, unsigned window)
{
	*out = (struct outbox){.window = window < OUTBOX_WINDOW_MAX ? window : OUTBOX_WINDOW_MAX};
}

bool outbox_has_room(const struct outbox *out)
{
	return out->last - out->released < out->window;
}

void outbox_begin(struct outbox *out, struct out_frame *frame)
{
	if (!outbox_has_room(out))
		abort();
	*frame = (struct out_frame){.sequence = ++out->last};
	*place(out, frame->sequence) = frame;
}

static void wait_for_lane(struct outbox *out, struct out_frame *frame)
{
	frame->state = OUT_READY;
	out->unsent++;
}

void outbox_ready(struct outbox *out, struct out_frame *frame, int64_t now_us)
{
	frame->ready_us = now_us;
	wait_for_lane(out, frame);
}

struct out_frame *outbox_take(struct outbox *out, unsigned lane)
{
	for (uint64_t n = out->released + 1; out->unsent && n <= out->last; n++) {
		struct out_frame *frame = *place(out, n);

		if (frame->state != OUT_READY)
			continue;
		frame->state = OUT_SENDING;
		frame->lane = lane;
		out->unsent--;
		return frame;
	}
	return NULL;
}

void outbox_taken(struct outbox *out, struct out_frame *frame, bool sent)
{
	if (sent || frame->acknowledged)
		frame->state = OUT_SENT;
	else
		wait_for_lane(out, frame);
}

void outbox_lane_lost(struct outbox *out, unsigned lane)
{
	for (uint64_t n = out->released + 1; n <= out->last; n++) {
		struct out_frame *frame = *place(out, n);

		if (frame->state == OUT_SENT && frame->lane == lane && !frame->acknowledged)
			wait_for_lane(out, frame);
	}
}

bool outbox_acked(struct outbox *out, uint64_t sequence)
{
	if (sequence > out->last)
		return false;
	for (uint64_t n = out->acked + 1; n <= sequence; n++)
		if ((*place(out, n))->state == OUT_BEGUN)
			return false;
	for (; out->acked < sequence; out->acked++) {
		struct out_frame *frame = *place(out, out->acked + 1);

		frame->acknowledged = true;
		if (frame->state == OUT_READY) {
			frame->state = OUT_SENT;
			out->unsent--;
		}
	}
	return true;
}

struct out_frame *outbox_release(struct outbox *out)
{
	struct out_frame *frame;

	if (out->released == out->acked)
		return NULL;
	frame = *place(out, out->released + 1);
	if (frame->state == OUT_SENDING)
		return NULL;
	*place(out, ++out->released) = NULL;
	return frame;
}

struct out_frame *outbox_find(const struct outbox *out, uint64_t sequence)
{
	struct out_frame *frame;

	if (sequence <= out->released || sequence > out->last)
		return NULL;
	frame = out->frames[sequence % OUTBOX_WINDOW_MAX];
	return frame->state == OUT_BEGUN ? NULL : frame;
}
