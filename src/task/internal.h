/*
 * What the parts of the task queue share: queue.c (the table), run.c (running them), log.c (their
 * output).
 */
#ifndef DROVER_TASK_INTERNAL_H
#define DROVER_TASK_INTERNAL_H

#include "base/process.h"
#include "task/task.h"

#include <pthread.h>

/* One that has a thread, from being picked to being written down as ended. */
struct task_running {
	struct task_running *next;
	struct task_queue *queue;
	int64_t id;
	json_t *argv;
	bool exclusive, unheld;
	struct process_id process; /* pid 0: not started yet */
	int wake_fd;               /* readable when kill_at_ms has been set */
	int64_t kill_at_ms;        /* of clock_ms, 0: not asked to end */
	bool interrupted;          /* asked to end because the queue closes */
};

struct task_queue {
	struct db *db;
	char *drover, *log_dir;
	char **env;
	pthread_mutex_t lock;   /* guards all below, and is held while a task is picked */
	pthread_cond_t work;    /* something to pick, or closing; CLOCK_REALTIME, as --at is */
	pthread_cond_t changed; /* output came, or a task ended; CLOCK_MONOTONIC */
	struct task_running *running;
	bool closing;
	pthread_t scheduler;
};

/* run.c */

/* Thread: picks tasks until the queue closes. */
void *task_scheduler(void *queue);
/* Whether the verb is never held back. */
bool task_verb_unheld(const char *verb);
/* The running task of that number, NULL when it does not run; the lock is held. */
struct task_running *task_find_running(struct task_queue *queue, int64_t id);
/* Sends the signal, and makes its thread kill it at kill_at_ms; the lock is held. */
void task_end_running(struct task_running *running, int signal, int64_t kill_at_ms);

/* queue.c */

/* Removes ended tasks but the newest `keep`. */
int task_remove_ended(struct task_queue *queue, int64_t keep, int64_t *removed, struct error **err);

/* log.c */

/* The caller frees it. */
char *task_log_path(const struct task_queue *queue, int64_t id);

#endif
