/*
 * What the two files of the source's side share: source.c (the move) and settle.c (its failures).
 */
#ifndef DROVER_MIGRATE_SOURCE_H
#define DROVER_MIGRATE_SOURCE_H

#include "migrate/internal.h"

/* The migration is left as it is because droverd stops; nothing may be decided any more. */
#define SOURCE_LEFT (-2)

enum verdict { OURS, THEIRS, UNKNOWN };

/* A request to the destination's droverd about this migration; needs m->link. */
int source_call(struct migration *m, const char *method, const char *what, const json_t *body,
	int timeout_ms, json_t **answer, struct error **err);
/* Whose the VM is by the destination's answer to handover or abort; its reason becomes *err. */
enum verdict source_take_word(const json_t *answer, struct error **err);
/* The guest runs on the other side: ends our copy. */
void source_end_copy(struct migration *m);
/* Ends the data mover and gives the connection to the destination back. */
void source_release_lane(struct migration *m);
/* Decides who runs the VM, and brings that about. Takes `e`, why it did not go through, over. */
void source_settle(struct migration *m, struct error *e);

#endif
