/*
 * A run of drover-wire: what its threads share. Worker threads have straight-line code and report
 * how they ended; the main thread waits for that, for signals and for the next progress line.
 *
 * There is one run in a process. A run that has failed is not taken apart: the process reports the
 * error and ends, and its threads with it.
 */
#ifndef DROVER_WIRE_RUN_H
#define DROVER_WIRE_RUN_H

#include "base/error.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RUN_NO_LEVEL 100
/* Between two progress lines. */
#define RUN_TICK_MS 200

struct run;

/* Status lines go to status_fd. SIGINT and SIGTERM end the run with ERROR_CANCELLED; SIGPIPE is
 * ignored. */
struct run *run_open(int status_fd, struct error **err);

/* No core file, no debugger, no new privileges from now on: this process holds a guest's memory and
 * a node's key. Files under /dev/fd must have been opened before. */
int run_harden(struct error **err);

/* Starts a thread that is waited for by nobody. */
int run_thread(void *(*body)(void *), void *arg, struct error **err);

/* From any thread. run_fail takes the error over; the first one counts. run_end: all is done. */
void run_fail(struct run *run, struct error *e);
void run_end(struct run *run);
/* Wakes run_wait, which then returns 1. */
void run_wake(struct run *run);

/* The main thread waits: until the end (0), a failure (-1), or a wake, something to read at `fd`
 * (-1: none) or `ms` have passed (these 1). */
int run_wait(struct run *run, int fd, int64_t ms, struct error **err);

/* Whether SIGTERM or SIGINT has come. */
bool run_cancelled(void);
/* After the run, for a connection `fd` that must not be closed yet: waits until SIGTERM or SIGINT
 * has come or, when the run has `failed`, nobody reads the status lines any more; true. False when
 * the other end of the connection has been closed. */
bool run_wait_told(struct run *run, int fd, bool failed);

/* Writes one status line, {"event":name,…}; takes `fields` over (NULL: none). From any thread;
 * nothing comes after "end" or "error". A reader that has gone, or reads nothing for a second,
 * misses it: a migration does not depend on it. */
void run_status(struct run *run, const char *name, json_t *fields);

struct link;

/* What a side counts; stream_bytes and acked_bytes are set by worker threads. */
struct run_counts {
	struct link *link;
	atomic_uint_fast64_t stream_bytes, acked_bytes;
	atomic_int level; /* of the newest batch; RUN_NO_LEVEL: this side has none */
	int64_t start_ms, last_ms;
	uint64_t last_wire_bytes;
};
/* Starts counting; the link may have carried its handshakes. */
void run_counts_start(struct run_counts *counts, struct link *link);
/* The status lines "progress" and "end"; `more` are members that are added to it, taken over. */
void run_status_progress(struct run *run, struct run_counts *counts);
void run_status_end(struct run *run, struct run_counts *counts, uint64_t hash, json_t *more);

#endif
