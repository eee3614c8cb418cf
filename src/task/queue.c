#include "task/internal.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

const char task_schema[] =
	"CREATE TABLE IF NOT EXISTS task ("
	"id INTEGER PRIMARY KEY AUTOINCREMENT, argv TEXT NOT NULL, verb TEXT NOT NULL, "
	"state TEXT NOT NULL, after INTEGER NOT NULL, at_ms INTEGER NOT NULL, "
	"exclusive INTEGER NOT NULL, asked_by TEXT, created_ms INTEGER NOT NULL, "
	"started_ms INTEGER, ended_ms INTEGER, exit INTEGER, pid INTEGER, pid_start INTEGER);"
	"CREATE INDEX IF NOT EXISTS task_state ON task (state);";

/* Who may queue it: people on this node, other nodes. */
static const struct {
	const char *name;
	bool people, peers;
} verbs[] = {{"create", true, false}, {"migrate", true, true}, {"receive", false, true},
	{"rename", true, false}, {"rm", true, false}, {"set", true, false}, {"start", true, true},
	{"stop", true, true}, {"suspend", true, true}};

#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

int task_verb_check(const char *verb, bool from_peer, struct error **err)
{
	char known[160] = "";
	bool found = false;

	for (size_t i = 0; i < VERBS; i++) {
		size_t len = strlen(known);

		if (from_peer ? !verbs[i].peers : !verbs[i].people)
			continue;
		found = found || !strcmp(verb, verbs[i].name);
		/* What drover queues itself is nobody's to choose. */
		if (!verbs[i].people)
			continue;
		snprintf(known + len, sizeof(known) - len, "%s%s", len ? ", " : "", verbs[i].name);
	}
	if (found)
		return 0;
	return error_set(err, ERROR_REFUSED, 0, "\"%.40s\" cannot be %s; these can: %s", verb,
		from_peer ? "queued by another node" : "queued as a task", known);
}

/*
 * Opening and closing.
 */

static void make_env(struct task_queue *q, const char *socket_path)
{
	size_t count = 0, used = 0;

	while (environ[count])
		count++;
	q->env = calloc(count + 2, sizeof(*q->env));
	if (!q->env)
		abort();
	/* NOTIFY_SOCKET would let a task speak for droverd to systemd. */
	for (size_t i = 0; i < count; i++)
		if (strncmp(environ[i], "DROVER_SOCKET=", 14) != 0 &&
			strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0)
			q->env[used++] = fs_format("%s", environ[i]);
	q->env[used] = fs_format("DROVER_SOCKET=%s", socket_path);
}

static int kill_left_over(sqlite3_stmt *row, void *arg)
{
	struct process_id id = {.pid = (pid_t)sqlite3_column_int64(row, 1),
		.start = (uint64_t)sqlite3_column_int64(row, 2)};

	(void)arg;
	log_warning("task %lld was interrupted", (long long)sqlite3_column_int64(row, 0));
	process_signal(&id, SIGKILL);
	process_wait(&id, clock_ms() + 5000, NULL);
	return 0;
}

static int interrupt_left_over(struct db *db, struct error **err)
{
	if (db_query(db, kill_left_over, NULL, err,
		    "SELECT id, pid, pid_start FROM task WHERE state = 'running'", "") < 0)
		return -1;
	return db_run(db, NULL, err,
		"UPDATE task SET state = 'interrupted', ended_ms = ? WHERE state = 'running'", "i",
		clock_wall_ms());
}

static void free_queue(struct task_queue *q)
{
	for (char **e = q->env; e && *e; e++)
		free(*e);
	free(q->env);
	free(q->drover);
	free(q->log_dir);
	pthread_cond_destroy(&q->work);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

struct task_queue *task_queue_open(struct db *db, const char *drover, const char *socket_path,
	const char *log_dir, struct error **err)
{
	struct task_queue *q = calloc(1, sizeof(*q));
	int errnum;

	if (!q)
		abort();
	q->db = db;
	q->drover = fs_format("%s", drover);
	q->log_dir = fs_format("%s", log_dir);
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->work, NULL);
	cond_init(&q->changed);
	make_env(q, socket_path);
	if (fs_mkdirs(log_dir, 0700, err) < 0 || interrupt_left_over(db, err) < 0) {
		free_queue(q);
		return NULL;
	}
	errnum = pthread_create(&q->scheduler, NULL, task_scheduler, q);
	if (errnum) {
		error_set(err, ERROR_FAILED, errnum, "cannot start the task queue");
		free_queue(q);
		return NULL;
	}
	return q;
}

void task_queue_close(struct task_queue *q)
{
	if (!q)
		return;
	pthread_mutex_lock(&q->lock);
	q->closing = true;
	for (struct task_running *r = q->running; r; r = r->next) {
		r->interrupted = true;
		task_end_running(r, SIGKILL, clock_ms());
	}
	pthread_cond_broadcast(&q->work);
	pthread_cond_broadcast(&q->changed);
	while (q->running)
		pthread_cond_wait(&q->changed, &q->lock);
	pthread_mutex_unlock(&q->lock);
	pthread_join(q->scheduler, NULL);
	free_queue(q);
}

/*
 * Adding.
 */

static int check_argv(const json_t *argv, bool from_peer, struct error **err)
{
	size_t count = json_array_size(argv);

	if (!json_is_array(argv) || count < 1 || count > TASK_ARGS_MAX)
		return error_set(err, ERROR_REQUEST, 0,
			"\"argv\" is a list of 1 to %d words: a verb of drover and its arguments",
			TASK_ARGS_MAX);
	for (size_t i = 0; i < count; i++) {
		const json_t *word = json_array_get(argv, i);

		if (!json_is_string(word) || json_string_length(word) > TASK_ARG_MAX ||
			strlen(json_string_value(word)) != json_string_length(word))
			return error_set(err, ERROR_REQUEST, 0,
				"word %zu of \"argv\" is not a text of at most %d bytes", i + 1,
				TASK_ARG_MAX);
		/* A task is a client of its own node and of no other daemon. */
		if (!strncmp(json_string_value(word), "--socket", 8) ||
			!strncmp(json_string_value(word), "socket=", 7))
			return error_set(err, ERROR_REFUSED, 0, "a task cannot be given a socket");
	}
	return task_verb_check(json_string_value(json_array_get(argv, 0)), from_peer, err);
}

static int count_row(sqlite3_stmt *row, void *arg)
{
	*(int64_t *)arg = sqlite3_column_int64(row, 0);
	return 0;
}

static int check_room(struct task_queue *q, struct error **err)
{
	int64_t pending = 0;

	if (db_query(q->db, count_row, &pending, err,
		    "SELECT count(*) FROM task WHERE state IN ('queued', 'running')", "") < 0)
		return -1;
	if (pending >= TASK_PENDING_MAX)
		return error_set(err, ERROR_BUSY, 0,
			"the queue is full: %lld tasks have not ended; cancel some, or add this "
			"one later",
			(long long)pending);
	return 0;
}

static int check_after(struct task_queue *q, int64_t after, struct error **err)
{
	int64_t found = 0;

	if (after == 0)
		return 0;
	if (db_query(q->db, count_row, &found, err, "SELECT count(*) FROM task WHERE id = ?", "i",
		    after) < 0)
		return -1;
	if (found)
		return 0;
	return error_set(err, ERROR_NOT_FOUND, 0,
		"no task %lld to run after; `drover task ls` lists the tasks", (long long)after);
}

int task_add(struct task_queue *q, const struct task_new *t, int64_t *id, struct error **err)
{
	cleanup_free char *argv = NULL;
	int64_t now = clock_wall_ms();

	if (check_argv(t->argv, t->from != NULL, err) < 0 || check_room(q, err) < 0 ||
		check_after(q, t->after, err) < 0)
		return -1;
	if (t->at_ms < 0 || t->at_ms > now + TASK_AT_MAX_MS)
		return error_set(err, ERROR_REQUEST, 0, "a task can be put off by a year at most");
	argv = json_text(t->argv);
	if (db_run(q->db, NULL, err,
		    "INSERT INTO task (argv, verb, state, after, at_ms, exclusive, asked_by, "
		    "created_ms) VALUES (?, ?, 'queued', ?, ?, ?, ?, ?)",
		    "ssiiisi", argv, json_string_value(json_array_get(t->argv, 0)), t->after,
		    t->at_ms, (int64_t)t->exclusive, t->from, now) < 0)
		return -1;
	*id = db_last_id(q->db);
	pthread_mutex_lock(&q->lock);
	pthread_cond_broadcast(&q->work);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

/*
 * Looking.
 */

#define SELECT \
	"SELECT t.id, t.argv, t.state, t.after, t.at_ms, t.exclusive, t.asked_by, t.created_ms, " \
	"t.started_ms, t.ended_ms, t.exit, a.state FROM task t LEFT JOIN task a ON a.id = " \
	"t.after "

static json_t *number_or_null(sqlite3_stmt *row, int column, int64_t none)
{
	int64_t value = sqlite3_column_int64(row, column);

	if (sqlite3_column_type(row, column) == SQLITE_NULL || value == none)
		return json_null();
	return json_integer(value);
}

static const char *shown_state(sqlite3_stmt *row)
{
	const char *state = db_text(row, 2);
	bool early = sqlite3_column_int64(row, 4) > clock_wall_ms();
	bool behind = sqlite3_column_int64(row, 3) && strcmp(db_text(row, 11), "done") != 0;

	return !strcmp(state, "queued") && (early || behind) ? "waiting" : state;
}

static json_t *task_json(sqlite3_stmt *row)
{
	json_t *argv = json_loads(db_text(row, 1), 0, NULL), *task = json_object();
	const char *from = db_text(row, 6);

	json_object_set_new(task, "id", json_integer(sqlite3_column_int64(row, 0)));
	json_object_set_new(task, "argv", argv ? argv : json_array());
	json_object_set_new(task, "state", json_string(shown_state(row)));
	json_object_set_new(task, "after", number_or_null(row, 3, 0));
	json_object_set_new(task, "at_ms", number_or_null(row, 4, 0));
	json_object_set_new(task, "exclusive", json_boolean(sqlite3_column_int64(row, 5)));
	json_object_set_new(task, "from", *from ? json_string(from) : json_null());
	json_object_set_new(task, "created_ms", number_or_null(row, 7, 0));
	json_object_set_new(task, "started_ms", number_or_null(row, 8, 0));
	json_object_set_new(task, "ended_ms", number_or_null(row, 9, 0));
	json_object_set_new(task, "exit", number_or_null(row, 10, -1));
	return task;
}

static int list_row(sqlite3_stmt *row, void *arg)
{
	return json_array_append_new(arg, task_json(row));
}

json_t *task_show(struct task_queue *q, int64_t id, struct error **err)
{
	cleanup_json json_t *found = json_array();

	if (db_query(q->db, list_row, found, err, SELECT "WHERE t.id = ?", "i", id) < 0)
		return NULL;
	if (json_array_size(found) == 0) {
		error_set(err, ERROR_NOT_FOUND, 0, "no task %lld; `drover task ls` lists the tasks",
			(long long)id);
		return NULL;
	}
	return json_incref(json_array_get(found, 0));
}

json_t *task_list(struct task_queue *q, struct error **err)
{
	cleanup_json json_t *tasks = json_array();

	if (db_query(q->db, list_row, tasks, err, SELECT "ORDER BY t.id DESC", "") < 0)
		return NULL;
	return json_pack("{s:O}", "tasks", tasks);
}

/*
 * Ending.
 */

int task_cancel(struct task_queue *q, int64_t id, struct error **err)
{
	cleanup_json json_t *task = task_show(q, id, err);
	struct task_running *r;
	int64_t changes = 0;
	int rc = 0;

	if (!task)
		return -1;
	/* The lock keeps the scheduler from picking it between the two questions. */
	pthread_mutex_lock(&q->lock);
	r = task_find_running(q, id);
	if (r)
		task_end_running(r, SIGINT, clock_ms() + TASK_CANCEL_LIMIT_MS);
	else
		rc = db_run(q->db, &changes, err,
			"UPDATE task SET state = 'cancelled', ended_ms = ? WHERE id = ? AND "
			"state = 'queued'",
			"ii", clock_wall_ms(), id);
	if (!r && rc == 0 && changes == 0)
		rc = error_set(err, ERROR_REFUSED, 0, "task %lld has ended already", (long long)id);
	/* Others may run after it: they are to be skipped. */
	pthread_cond_broadcast(&q->work);
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	return rc;
}

static int collect_id(sqlite3_stmt *row, void *arg)
{
	return json_array_append_new(arg, json_integer(sqlite3_column_int64(row, 0)));
}

int task_remove_ended(struct task_queue *q, int64_t keep, int64_t *removed, struct error **err)
{
	cleanup_json json_t *ids = json_array();
	const json_t *id;
	size_t i;

	if (db_query(q->db, collect_id, ids, err,
		    "DELETE FROM task WHERE state NOT IN ('queued', 'running') "
		    "AND id NOT IN (SELECT after FROM task WHERE state = 'queued') "
		    "AND id NOT IN (SELECT id FROM task WHERE state NOT IN ('queued', 'running') "
		    "ORDER BY id DESC LIMIT ?) RETURNING id",
		    "i", keep) < 0)
		return -1;
	json_array_foreach(ids, i, id)
	{
		cleanup_free char *path = task_log_path(q, json_integer_value(id));

		unlink(path);
	}
	if (removed)
		*removed = (int64_t)json_array_size(ids);
	return 0;
}

int task_flush(struct task_queue *q, int64_t *removed, struct error **err)
{
	return task_remove_ended(q, 0, removed, err);
}
