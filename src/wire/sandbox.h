/*
 * The sandbox that drover-wire locks itself into once everything it needs is open: afterwards it
 * opens no file and starts no program, whoever has taken it over.
 *
 * Linux (sandbox_linux.c): a seccomp filter for all threads. What is not on its list fails with
 * ENOSYS, is not done, and leaves a line in the kernel's log (audit type 1326) with the number of
 * the call. It does not end the process, because a call that a newer libc makes must not cost a
 * migration: in post-copy the VM is on both sides of it, and another data mover would end in the
 * same way. ENOSYS is what libraries have another way for. Calls that no version of this program
 * makes and only an intruder would (starting programs, looking into other processes, changing
 * users, mounts or the kernel) end it at once: a migration that broke is mended, or given up, by
 * droverd.
 *
 * Elsewhere (sandbox_none.c): nothing.
 */
#ifndef DROVER_WIRE_SANDBOX_H
#define DROVER_WIRE_SANDBOX_H

#include "base/error.h"

#include <stdbool.h>

/* For good, and for threads that are there too. `unix_sockets`: the stream's end is a unix: path,
 * which is still to be connected, or removed. Where a fault point is armed (fault.h), what those do
 * is allowed as well. ERROR_FAILED. */
int sandbox_enter(bool unix_sockets, struct error **err);

#endif
