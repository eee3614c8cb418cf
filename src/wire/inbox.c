#include "wire/inbox.h"

#include <stdlib.h>

static struct in_slot *place(struct inbox *in, uint64_t sequence)
{
	return &in->slots[sequence % INBOX_WINDOW_MAX];
}

void inbox_init(struct inbox *in, unsigned window)
{
	*in = (struct inbox){
		.window = window < INBOX_WINDOW_MAX ? window : INBOX_WINDOW_MAX, .next = 1};
}

enum inbox_put inbox_put(struct inbox *in, struct chunk *chunk)
{
	struct in_slot *slot = place(in, chunk->sequence);

	if (chunk->sequence < in->next)
		return INBOX_DUPLICATE;
	if (chunk->sequence - in->next >= in->window)
		return INBOX_TOO_FAR;
	if (slot->state != IN_MISSING)
		return INBOX_DUPLICATE;
	*slot = (struct in_slot){.state = IN_ARRIVED, .chunk = chunk};
	in->arrived++;
	return INBOX_KEPT;
}

struct chunk *inbox_take(struct inbox *in)
{
	for (uint64_t n = in->next; in->arrived && n < in->next + in->window; n++) {
		struct in_slot *slot = place(in, n);

		if (slot->state != IN_ARRIVED)
			continue;
		slot->state = IN_TAKEN;
		in->arrived--;
		return slot->chunk;
	}
	return NULL;
}

static void set(struct inbox *in, uint64_t sequence, enum in_state state, void *result)
{
	struct in_slot *slot = place(in, sequence);

	slot->state = state;
	slot->result = result;
}

void inbox_done(struct inbox *in, uint64_t sequence, void *result)
{
	set(in, sequence, IN_DONE, result);
}

void inbox_waiting(struct inbox *in, uint64_t sequence, void *result)
{
	set(in, sequence, IN_WAITING, result);
}

struct in_slot *inbox_find_waiting(struct inbox *in, uint64_t sequence)
{
	struct in_slot *slot = place(in, sequence);

	if (sequence < in->next || sequence - in->next >= in->window || slot->state != IN_WAITING)
		return NULL;
	return slot;
}

bool inbox_next(struct inbox *in, struct in_slot *slot)
{
	struct in_slot *first = place(in, in->next);

	if (first->state != IN_DONE)
		return false;
	*slot = *first;
	*first = (struct in_slot){.state = IN_MISSING};
	in->next++;
	return true;
}
