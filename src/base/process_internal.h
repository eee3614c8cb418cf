/*
 * What process.c needs of the operating system: process_linux.c, process_freebsd.c. Nobody else
 * includes this. Besides, those files have process_signal, process_harden, process_yield_disk and
 * process_program.
 */
#ifndef DROVER_BASE_PROCESS_INTERNAL_H
#define DROVER_BASE_PROCESS_INTERNAL_H

#include "base/process.h"

/* Identity of a process that is there, and whether it has ended and only waits to be reaped. -1
 * when there is none of that pid, or it cannot be looked at. */
int process_look(pid_t pid, struct process_id *id, bool *ended);

enum process_found { PROCESS_FOUND, PROCESS_GONE, PROCESS_NOT_KNOWN };
/* A descriptor that becomes readable when that very process has ended with all its threads (the
 * first may be a zombie while others still end); the caller closes it. With PROCESS_NOT_KNOWN it
 * may be open or -1. */
enum process_found process_open(const struct process_id *id, int *fd);

/* In the child, between fork and exec: only calls that are allowed there. */

/* Takes away what a program could ever gain besides its user's rights. */
void process_drop_bounds(void);
/* No program that is executed gets more rights (setuid). -1 with errno. */
int process_no_new_privs(void);
/* Has the child killed when its parent ends; after its change of user, which would undo it. -1 with
 * errno. */
int process_die_with_parent(void);

#endif
