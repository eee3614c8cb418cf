/*
 * The task queue of a node: drover verbs that are run later, one after another, or because another
 * node asked for it.
 *
 * What is queued is a verb of `drover` and its arguments, never a line for a shell; only verbs of
 * task_verb_check can be queued. A task runs as a child process `drover VERB ARGUMENTS…` in a
 * session of its own with DROVER_SOCKET set to this node's droverd, whose client it is. Its
 * standard output and error are kept in LOG_DIR/ID.log.
 *
 *     queued ──▶ running ──▶ done          it ended with status 0
 *       │           ├──────▶ failed        with another one, or was killed
 *       │           ├──────▶ cancelled     by task_cancel
 *       │           └──────▶ interrupted   droverd stopped or was killed meanwhile
 *       ├──────────────────▶ cancelled
 *       └──────────────────▶ skipped       the task it was to run after did not end with "done"
 *
 * A queued task that waits for another task or for its time is shown as "waiting".
 *
 * Tasks start in the order of their numbers, up to TASK_PARALLEL at once. An exclusive task starts
 * when no other runs, and none starts while it runs or is next. `receive` is never held back by
 * these two rules: it is the part that this node has in another node's migration, and two nodes
 * whose queues waited for each other would wait for ever.
 *
 * All functions may be called by several threads at once.
 */
#ifndef DROVER_TASK_TASK_H
#define DROVER_TASK_TASK_H

#include "base/db.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TASK_PARALLEL 8
/* Running at once with those that are never held back. */
#define TASK_PARALLEL_ALL 64
#define TASK_PENDING_MAX 1000   /* not yet ended; more are refused */
#define TASK_ENDED_KEPT 1000    /* the newest ended ones; older ones and their logs are removed */
#define TASK_ARGS_MAX 64        /* words of one task, its verb included */
#define TASK_ARG_MAX 4096       /* bytes of one word */
#define TASK_LOG_MAX (4u << 20) /* bytes of output kept of one task */
#define TASK_CANCEL_LIMIT_MS 30000            /* from SIGINT to SIGKILL */
#define TASK_AT_MAX_MS (366ll * 86400 * 1000) /* how far ahead a task can be put */

/* The table, for db_open. */
extern const char task_schema[];

struct task_queue;

/*
 * Opens the queue and starts to run what is due. What an earlier droverd left as running becomes
 * interrupted; a child of it that still lives is killed, not asked to stop: asked, it would cancel
 * what this droverd is about to pick up again. `db` stays the caller's and outlives the queue;
 * the strings are copied. `drover` is the path of the program, log_dir is made.
 */
struct task_queue *task_queue_open(struct db *db, const char *drover, const char *socket_path,
	const char *log_dir, struct error **err);
/* Starts nothing more; running tasks are killed and become interrupted, queued ones stay queued. */
void task_queue_close(struct task_queue *queue);

/* Whether `verb` can be queued; by another node (`from_peer`) only what it may also ask for
 * directly. ERROR_REFUSED, with the verbs that can be. */
int task_verb_check(const char *verb, bool from_peer, struct error **err);

struct task_new {
	const json_t *argv; /* ["migrate", "web1", "node2"] */
	int64_t after;      /* number of a task of this queue; 0: none */
	int64_t at_ms;      /* wall clock; 0: at once */
	bool exclusive;
	const char *from; /* name of the node that asked; NULL: this one */
};

/* Queues a task, durably. ERROR_REQUEST for what is no list of words, ERROR_REFUSED for a verb that
 * cannot be queued, ERROR_NOT_FOUND when there is no task `after`, ERROR_BUSY when the queue is
 * full. */
int task_add(
	struct task_queue *queue, const struct task_new *task, int64_t *id, struct error **err);

/* {"id","argv","state","after","at_ms","exclusive","from","created_ms","started_ms","ended_ms",
 * "exit"}; what is not there is null. "exit" is the exit status, or 128 + a signal's number.
 * ERROR_NOT_FOUND. */
json_t *task_show(struct task_queue *queue, int64_t id, struct error **err);
/* {"tasks":[…]}, newest first. */
json_t *task_list(struct task_queue *queue, struct error **err);

/*
 * Output from byte `offset` on, at most 64 KiB: {"text","offset","ended"}: offset is where to go
 * on, ended says that the task has ended and this is the end of its output. Waits up to wait_ms for
 * something to be there. Bytes that are not UTF-8, and NUL, become '?'.
 */
json_t *task_log(
	struct task_queue *queue, int64_t id, int64_t offset, int64_t wait_ms, struct error **err);

/* Takes a queued task out, or sends SIGINT to a running one (and SIGKILL after
 * TASK_CANCEL_LIMIT_MS) without waiting for its end. ERROR_NOT_FOUND; ERROR_REFUSED when it has
 * ended already. */
int task_cancel(struct task_queue *queue, int64_t id, struct error **err);

/* Removes the ended tasks and their logs, but not those that a queued task runs after. */
int task_flush(struct task_queue *queue, int64_t *removed, struct error **err);

#endif
