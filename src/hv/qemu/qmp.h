/*
 * QMP: QEMU's control protocol (docs/interop/qmp-spec in QEMU's sources): JSON objects, one a line,
 * over a Unix socket (or a pair of FIFOs: spare.h).
 *
 * A connection has one thread that reads. Answers are matched to commands by id, so that several
 * threads can have commands under way; events are numbered and the last QMP_EVENTS_KEPT of them are
 * kept, so that a thread can ask for the number, look at the state, and then wait for what came
 * after. Who waits for a state looks at it again after every event and loses nothing when a storm
 * of events drops some.
 *
 * A QEMU whose main thread waits (for a page that post-copy has not brought, say) answers nothing
 * but commands out of band, and these only while few others wait: at most four are sent and not yet
 * answered, and further ones wait for their turn, until their deadline.
 *
 * What QEMU sends is not trusted: a line over JSON_TEXT_MAX (4 MiB), or one that is not a JSON
 * object, ends the connection. When the connection has ended, every call fails at once: with
 * ERROR_NOT_RUNNING when QEMU closed it, with ERROR_HYPERVISOR when it was ended for what it sent.
 */
#ifndef DROVER_HV_QEMU_QMP_H
#define DROVER_HV_QEMU_QMP_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define QMP_EVENTS_KEPT 128
/* Data of a larger event is dropped, so that what is kept is bounded; the largest that drover looks
 * at is some hundred bytes. */
#define QMP_EVENT_MAX (16u << 10)
#define QMP_NAME_MAX 48

struct qmp;

struct qmp_event {
	uint64_t seq; /* 1, 2, … */
	char name[QMP_NAME_MAX];
	json_t *data; /* NULL when there is none, or it was too large; json_free() it */
};

/* Connects to the socket `path` and agrees on capabilities. `who` ("VM web1") starts the messages;
 * it is copied. ERROR_NOT_RUNNING when nobody listens or it closes at once, ERROR_TIMEOUT. */
struct qmp *qmp_connect(const char *path, const char *who, int64_t deadline_ms, struct error **err);
/* The same on a connected socket, which is taken over, also on error. */
struct qmp *qmp_open(int fd, const char *who, int64_t deadline_ms, struct error **err);
/* The same as qmp_connect to a QEMU that may hang: one that has not answered by the deadline has
 * its connection all the same, and what agrees on capabilities is what it answers first when it
 * hangs no more. Until then every command waits until its own deadline, and fails with
 * ERROR_TIMEOUT. */
struct qmp *qmp_connect_silent(
	const char *path, const char *who, int64_t deadline_ms, struct error **err);
/* The same as qmp_open on two FIFOs, opened not to block: answers come from `in`, commands go to
 * `out`. The program ignores SIGPIPE. */
struct qmp *qmp_open_fifos(
	int in, int out, const char *who, int64_t deadline_ms, struct error **err);
/* The same where another program has agreed on capabilities, commands out of band among them, and
 * has gone without the QEMU on the other side having seen that: commands can be sent at once. */
struct qmp *qmp_reopen_fifos(int in, int out, const char *who, struct error **err);
/* Whether QEMU has not yet answered anything on this connection, which has not ended. */
bool qmp_silent(struct qmp *q);
/* Ends the connection and frees it. No other thread may be in a call. */
void qmp_close(struct qmp *q);

/* Sends an open file to QEMU, which `getfd` or `add-fd`, run next, gives a name. The file stays the
 * caller's. Not over FIFOs. */
int qmp_pass_fd(struct qmp *q, int fd, struct error **err);

/* Runs a command and waits for its answer. `arguments` is taken over, NULL for none. *result (may
 * be NULL) gets the "return" member. What QEMU refuses is ERROR_HYPERVISOR with its own words. An
 * answer that comes after the deadline is dropped. */
int qmp_run(struct qmp *q, const char *command, json_t *arguments, int64_t deadline_ms,
	json_t **result, struct error **err);

/* The same out of band: QEMU answers even while something else holds it up. Only the few commands
 * that allow it ("yank"); ERROR_HYPERVISOR when this QEMU offers no such way. */
int qmp_run_oob(struct qmp *q, const char *command, json_t *arguments, int64_t deadline_ms,
	struct error **err);

/* Number of the last event so far; 0 before the first. */
uint64_t qmp_event_seq(struct qmp *q);
/* Waits for an event after number `after`. Gives the oldest such event that is kept. False at the
 * deadline and when the connection has ended. `event` may be NULL. */
bool qmp_wait_event(struct qmp *q, uint64_t after, int64_t deadline_ms, struct qmp_event *event);
/* The newest event of that name that is kept; false when there is none. */
bool qmp_last_event(struct qmp *q, const char *name, struct qmp_event *event);
/* Whether the connection has ended. */
bool qmp_ended(struct qmp *q);

#endif
