/*
 * What the files of the source's side share: source.c (the move), postcopy.c (its part after a
 * switch to post-copy) and settle.c (its failures).
 */
#ifndef DROVER_MIGRATE_SOURCE_H
#define DROVER_MIGRATE_SOURCE_H

#include "migrate/internal.h"

/* One request that must be answered while guests may stand still. */
#define SOURCE_CALL_MS 10000

/* The migration is left as it is because droverd stops; nothing may be decided any more. */
#define SOURCE_LEFT (-2)

enum verdict {
	OURS,
	THEIRS,
	UNKNOWN,
	BROKEN /* theirs, but they will never have all of its memory */
};

/* A request to the destination's droverd about this migration; needs m->link. */
int source_call(struct migration *m, const char *method, const char *what, const json_t *body,
	int timeout_ms, json_t **answer, struct error **err);
/* Whether a request that failed with `e` is worth being sent again: the other side cannot be
 * reached, and not for as long yet, since `since_ms`, as a lane is made again. A droverd that is
 * not there at all is waited for only where the migration survives that. */
bool source_may_call_again(struct migration *m, const struct error *e, int64_t since_ms);
/* A POST that may be sent several times: it is, while the network is cut, and as long as
 * `meanwhile` (may be NULL), called in between, says so. SOURCE_LEFT when droverd stops. */
int source_call_again(struct migration *m, const char *what, bool (*meanwhile)(struct migration *m),
	json_t **answer, struct error **err);
/* Takes a step after which a cancel is refused, unless one has come before: ERROR_CANCELLED. */
int source_pass_cancel(struct migration *m, enum migrate_step step, struct error **err);
/* Whose the VM is by the destination's answer to handover or abort; its reason becomes *err. */
enum verdict source_take_word(const json_t *answer, struct error **err);
/* The guest runs on the other side: ends our copy. */
void source_end_copy(struct migration *m);
/* Where a node listens for a lane: HOST:PORT. */
int source_lane_address(
	struct migrations *all, const char *peer, int port, char lane[300], struct error **err);
/* Ends the data mover and gives the connection to the destination back. */
void source_release_lane(struct migration *m);
/* The pool's verdict, else the destination's word; asks both again until one is known. UNKNOWN:
 * droverd stops. */
enum verdict source_settle_ownership(struct migration *m, struct error **why);
/* What a later owner than the destination, `now`, means to us: BROKEN, and why. */
enum verdict source_taken_since(
	struct migration *m, const struct pool_owner *now, struct error **err);
/* Says once, where everybody sees it, that it is not known who runs the VM. */
void source_say_undecided(struct migration *m, const struct error *e);
/* Post-copy, after the rounds: pauses the guest and orders the switch. Nothing is done, and 0
 * returned, while the destination's droverd does not answer. */
int source_switch(struct migration *m, struct error **err);
/* Makes a broken lane of a post-copy again, if that can be done now. It decides nothing: for a
 * destination that cannot say who runs the guest before it has a page. False when our hypervisor
 * has ended after a switch, and such a destination will never say it. */
bool source_mend_lane(struct migration *m);
/* The guest runs on the other side, and our hypervisor has pages of it: until it has sent them all.
 * SOURCE_LEFT; else an error means that they will never be there. */
int source_follow(struct migration *m, struct error **err);
/* source_settle_ownership for a stream that may have been switched to post-copy. */
enum verdict source_settle_switched(struct migration *m, struct error **why);
/* Decides who runs the VM, and brings that about. Takes `e`, why it did not go through, over. */
void source_settle(struct migration *m, struct error *e);

#endif
