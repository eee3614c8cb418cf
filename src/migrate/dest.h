/*
 * What the files of the destination's side share: dest.c (until the claim, and after a restart) and
 * dest_resume.c (from the claim on).
 */
#ifndef DROVER_MIGRATE_DEST_H
#define DROVER_MIGRATE_DEST_H

#include "migrate/internal.h"

/* Listens for a lane on the first free port of the settings' range: the socket, or -1. */
int dest_listen(const struct migrate_settings *set, int *port, struct error **err);
/* The same for a migration, for which probes give up the ports that they have (probe.h). */
int dest_listen_lane(struct migrations *all, int *port, struct error **err);
/* Lets the source's calls know where the lane is (0: nowhere), and whether the hypervisor waits. */
void dest_publish(struct migration *m, int port, bool ready);
/* The VM is ours: lets the guest run and, in post-copy, waits for all of its pages. On error the VM
 * has been given back to the source, or up where the guest may have run, and its copy here ended;
 * ERROR_UNDECIDED: droverd stops, and the next one goes on. */
int dest_run_here(struct migration *m, struct error **err);
/* Whether it waits for what may never come: it can be cancelled here then. */
void dest_set_stuck(struct migration *m, bool stuck);
/* Whether the source's part in a post-copy has failed, or was given up, by its own word: no page
 * will come any more. It is asked every few seconds at most; false in between. */
bool dest_source_has_failed(struct migration *m);
/* Fails when the source, by its own word, has ended the migration. It is asked every few seconds at
 * most. */
int dest_check_given_up(struct migration *m, struct error **err);
/* Whether the source may have its copy still: unless it says itself that it has ended it, or is
 * about to. One that does not answer may. */
bool dest_source_may_keep(struct migration *m);
/* For a stream that an earlier droverd began to receive, and of whose data mover nothing is known:
 * fails when the source has ended the migration. A source that has not been heard for as long as a
 * lane is made again lets it be cancelled here (m->stuck). */
int dest_check_source(struct migration *m, struct error **err);
/* After a restart: waits until a hypervisor that is silent (HV_SILENT) answers, or has ended. Fails
 * when it is given up meanwhile, by a user or because the source's part has failed; then what has
 * been claimed has been given up as by dest_run_here. ERROR_UNDECIDED: droverd stops. */
int dest_wait_answer(struct migration *m, struct error **err);

#endif
