#include "task/internal.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* After an error of the database: how long until the queue is looked at again. */
#define RETRY_MS 5000

bool task_verb_unheld(const char *verb)
{
	return !strcmp(verb, "receive");
}

struct task_running *task_find_running(struct task_queue *q, int64_t id)
{
	struct task_running *r = q->running;

	while (r && r->id != id)
		r = r->next;
	return r;
}

void task_end_running(struct task_running *r, int signal, int64_t kill_at_ms)
{
	if (!r->kill_at_ms || kill_at_ms < r->kill_at_ms)
		r->kill_at_ms = kill_at_ms;
	if (r->process.pid)
		process_signal(&r->process, signal);
	eventfd_write(r->wake_fd, 1);
}

/*
 * One task: its thread.
 */

struct output {
	int fd; /* the log */
	size_t kept;
	bool cut;
};

static void keep_output(struct output *out, const char *data, size_t len)
{
	static const char note[] = "\n[the rest of the output was not kept]\n";
	size_t room = TASK_LOG_MAX - out->kept;
	bool fits = len <= room;

	if (out->cut)
		return;
	/* What cannot be written (a full disk) is lost, and so is all after it. */
	out->cut = fs_write_all(out->fd, data, fits ? len : room) < 0 || !fits;
	out->kept += fits ? len : room;
	if (!fits && fs_write_all(out->fd, note, sizeof(note) - 1) < 0)
		log_warning("the output of a task cannot be written");
}

/* Reads what there is; false at the end. */
static bool read_output(struct task_running *r, int fd, struct output *out)
{
	char block[16384];
	ssize_t n = read(fd, block, sizeof(block));

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0)
		return false;
	keep_output(out, block, (size_t)n);
	pthread_mutex_lock(&r->queue->lock);
	pthread_cond_broadcast(&r->queue->changed);
	pthread_mutex_unlock(&r->queue->lock);
	return true;
}

/* Kills it when its time is over; else gives the time that it has, -1 for no end. */
static int time_left(struct task_running *r)
{
	int64_t kill_at_ms;

	pthread_mutex_lock(&r->queue->lock);
	kill_at_ms = r->kill_at_ms;
	pthread_mutex_unlock(&r->queue->lock);
	if (!kill_at_ms)
		return -1;
	if (clock_left_ms(kill_at_ms) == 0)
		process_signal(&r->process, SIGKILL);
	/* Killed already or not: the end is near, but must be asked for again. */
	return clock_left_ms(kill_at_ms) ? clock_left_ms(kill_at_ms) : 100;
}

static int wait_for_end(struct task_running *r, int fd, struct output *out)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = r->wake_fd, .events = POLLIN}};
	eventfd_t ignored;
	int status = -1;

	for (;;) {
		int n = poll(p, 2, time_left(r));

		if (n > 0 && p[1].revents)
			eventfd_read(r->wake_fd, &ignored);
		if (n > 0 && p[0].revents && !read_output(r, fd, out))
			break;
	}
	/* Its output is closed: it has ended, or is about to. */
	while (!process_wait(&r->process, clock_ms() + 1000, &status))
		time_left(r);
	return status;
}

static void set_process(struct task_running *r, const struct process_id *id)
{
	pthread_mutex_lock(&r->queue->lock);
	r->process = *id;
	if (r->kill_at_ms)
		process_signal(id, r->interrupted ? SIGKILL : SIGINT);
	pthread_mutex_unlock(&r->queue->lock);
	db_run(r->queue->db, NULL, NULL, "UPDATE task SET pid = ?, pid_start = ? WHERE id = ?",
		"iii", (int64_t)id->pid, (int64_t)id->start, r->id);
}

static int start_child(struct task_running *r, int output_fd, struct error **err)
{
	const char *argv[TASK_ARGS_MAX + 2] = {r->queue->drover};
	struct process_options options = {.argv = argv,
		.env = (const char *const *)r->queue->env,
		.own_session = true,
		.stdin_fd = -1,
		.stdout_fd = output_fd,
		.stderr_fd = output_fd};
	struct process_id id;
	const json_t *word;
	size_t i;

	json_array_foreach(r->argv, i, word) argv[i + 1] = json_string_value(word);
	if (process_start(&options, &id, err) < 0)
		return -1;
	set_process(r, &id);
	return 0;
}

/* Runs the child to its end; *status is wait()'s. */
static int run_child(struct task_running *r, struct output *out, int *status, struct error **err)
{
	int pipe_fds[2];
	cleanup_fd int in = -1;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot run the task");
	in = pipe_fds[0];
	if (start_child(r, pipe_fds[1], err) < 0) {
		close(pipe_fds[1]);
		return -1;
	}
	close(pipe_fds[1]);
	*status = wait_for_end(r, in, out);
	return 0;
}

static void write_down_end(struct task_running *r, int status)
{
	cleanup_error struct error *e = NULL;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	/* Its droverd is this one: when that stops, a task may see it go before it is killed. */
	bool lost =
		code == error_kind_exit(ERROR_DAEMON) || code == error_kind_exit(ERROR_INTERRUPTED);
	const char *state = code == 0                ? "done"
			    : r->interrupted || lost ? "interrupted"
			    : r->kill_at_ms          ? "cancelled"
						     : "failed";

	if (db_run(r->queue->db, NULL, &e,
		    "UPDATE task SET state = ?, ended_ms = ?, exit = ?, pid = NULL, "
		    "pid_start = NULL WHERE id = ?",
		    "siii", state, clock_wall_ms(), (int64_t)code, r->id) < 0 ||
		task_remove_ended(r->queue, TASK_ENDED_KEPT, NULL, &e) < 0)
		log_error("the end of task %lld (%s) was not written down: %s", (long long)r->id,
			state, e->message);
	log_info("task %lld: %s", (long long)r->id, state);
}

static void take_off(struct task_running *r)
{
	struct task_queue *q = r->queue;
	struct task_running **at = &q->running;

	pthread_mutex_lock(&q->lock);
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	pthread_cond_broadcast(&q->work);
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	close(r->wake_fd);
	json_decref(r->argv);
	free(r);
}

static void *run_task(void *arg)
{
	struct task_running *r = arg;
	cleanup_error struct error *e = NULL;
	cleanup_free char *path = task_log_path(r->queue, r->id);
	struct output out = {
		.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600)};
	int status = 1 << 8; /* as if it had ended with 1 */

	/* Without a log (a full disk) a task runs all the same: it may be what makes room. */
	out.cut = out.fd < 0;
	if (run_child(r, &out, &status, &e) < 0) {
		log_error("task %lld: %s", (long long)r->id, e->message);
		keep_output(&out, e->message, strlen(e->message));
	}
	close_fd(&out.fd);
	write_down_end(r, status);
	take_off(r);
	return NULL;
}

/*
 * Which one is next: the scheduler's thread, which holds the lock but while it waits.
 */

struct pick {
	struct task_queue *queue;
	int running, running_held; /* all, and those that count against TASK_PARALLEL */
	bool alone;                /* an exclusive one runs */
	bool blocked; /* one that is due cannot start yet: none of those behind it may overtake */
	struct task_running *picked;
};

static void count_running(struct pick *pick)
{
	for (struct task_running *r = pick->queue->running; r; r = r->next) {
		pick->running++;
		pick->running_held += !r->unheld;
		pick->alone = pick->alone || (r->exclusive && !r->unheld);
	}
}

static bool may_start(struct pick *pick, bool exclusive, bool unheld)
{
	if (pick->running >= TASK_PARALLEL_ALL)
		return false;
	if (unheld)
		return true;
	if (pick->blocked || pick->alone || pick->running_held >= (exclusive ? 1 : TASK_PARALLEL)) {
		pick->blocked = true;
		return false;
	}
	return true;
}

static int pick_row(sqlite3_stmt *row, void *arg)
{
	struct pick *pick = arg;
	bool exclusive = sqlite3_column_int64(row, 2), unheld = task_verb_unheld(db_text(row, 3));
	struct task_running *r;

	if (!may_start(pick, exclusive, unheld))
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		abort();
	*r = (struct task_running){.queue = pick->queue,
		.id = sqlite3_column_int64(row, 0),
		.argv = json_loads(db_text(row, 1), 0, NULL),
		.exclusive = exclusive,
		.unheld = unheld,
		.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	pick->picked = r;
	return -1; /* enough rows */
}

/* Tasks whose predecessor did not end well, and those behind them. */
static int skip_behind_failed(struct task_queue *q, struct error **err)
{
	int64_t changes;

	do {
		if (db_run(q->db, &changes, err,
			    "UPDATE task SET state = 'skipped', ended_ms = ? WHERE state = "
			    "'queued' AND after IN (SELECT id FROM task WHERE state IN ('failed', "
			    "'cancelled', 'interrupted', 'skipped'))",
			    "i", clock_wall_ms()) < 0)
			return -1;
		if (changes)
			pthread_cond_broadcast(&q->changed);
	} while (changes);
	return 0;
}

/* The next task that may start now, NULL for none (with *err when that is not known). */
static struct task_running *pick_next(struct task_queue *q, struct error **err)
{
	struct pick pick = {.queue = q};

	if (skip_behind_failed(q, err) < 0)
		return NULL;
	count_running(&pick);
	db_query(q->db, pick_row, &pick, err,
		"SELECT t.id, t.argv, t.exclusive, t.verb FROM task t LEFT JOIN task a ON "
		"a.id = t.after WHERE t.state = 'queued' AND t.at_ms <= ? AND (t.after = 0 OR "
		"a.state = 'done') ORDER BY t.id",
		"i", clock_wall_ms());
	return pick.picked;
}

static int start_task(struct task_queue *q, struct task_running *r, struct error **err)
{
	pthread_attr_t detached;
	pthread_t thread;
	int errnum;

	if (db_run(q->db, NULL, err,
		    "UPDATE task SET state = 'running', started_ms = ? WHERE id = ?", "ii",
		    clock_wall_ms(), r->id) < 0) {
		close(r->wake_fd);
		json_decref(r->argv);
		free(r);
		return -1;
	}
	r->next = q->running;
	q->running = r;
	log_info("task %lld: starts", (long long)r->id);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	errnum = pthread_create(&thread, &detached, run_task, r);
	pthread_attr_destroy(&detached);
	if (errnum == 0)
		return 0;
	q->running = r->next;
	db_run(q->db, NULL, NULL,
		"UPDATE task SET state = 'queued', started_ms = NULL WHERE id = ?", "i", r->id);
	close(r->wake_fd);
	json_decref(r->argv);
	free(r);
	return error_set(err, ERROR_FAILED, errnum, "cannot start a thread for a task");
}

static int next_time_row(sqlite3_stmt *row, void *arg)
{
	if (sqlite3_column_type(row, 0) != SQLITE_NULL)
		*(int64_t *)arg = sqlite3_column_int64(row, 0);
	return 0;
}

/* Waits for something to do: a change, the time of the next task, or another try. */
static void wait_for_work(struct task_queue *q, bool failed)
{
	int64_t now = clock_wall_ms(), until = 0;
	struct timespec ts;

	if (failed)
		until = now + RETRY_MS;
	else
		db_query(q->db, next_time_row, &until, NULL,
			"SELECT min(at_ms) FROM task WHERE state = 'queued' AND at_ms > ?", "i",
			now);
	if (until == 0) {
		pthread_cond_wait(&q->work, &q->lock);
		return;
	}
	ts = (struct timespec){.tv_sec = until / 1000, .tv_nsec = until % 1000 * 1000000};
	pthread_cond_timedwait(&q->work, &q->lock, &ts);
}

void *task_scheduler(void *arg)
{
	struct task_queue *q = arg;

	pthread_mutex_lock(&q->lock);
	while (!q->closing) {
		cleanup_error struct error *e = NULL;
		struct task_running *r = pick_next(q, &e);

		if (r && start_task(q, r, &e) == 0)
			continue;
		if (e)
			log_error("the task queue cannot go on now: %s", e->message);
		wait_for_work(q, e != NULL);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}
