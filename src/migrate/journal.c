#include "migrate/internal.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Migrations that ended longest ago are forgotten beyond this many. */
#define KEEP "500"

const char migrate_schema[] =
	"CREATE TABLE IF NOT EXISTS migrations ("
	" id TEXT NOT NULL, side TEXT NOT NULL, vm TEXT NOT NULL, peer TEXT NOT NULL,"
	" state TEXT NOT NULL, step TEXT NOT NULL, epoch INTEGER NOT NULL, paused INTEGER NOT NULL,"
	" mover_pid INTEGER NOT NULL DEFAULT 0, mover_start INTEGER NOT NULL DEFAULT 0,"
	" started_ms INTEGER NOT NULL, ended_ms INTEGER, error TEXT, report TEXT,"
	" PRIMARY KEY (id, side));";

/* Bits of the column `paused`, which began as a flag. */
#define OPTION_PAUSE 1
#define OPTION_POSTCOPY 2

#define COLUMNS "id, side, vm, peer, state, step, epoch, started_ms, ended_ms, error, report"

static const char *side_name(const struct migration *m)
{
	return m->source ? "source" : "destination";
}

int journal_begin(struct migration *m, struct error **err)
{
	if (db_run(m->all->set.db, NULL, err,
		    "DELETE FROM migrations WHERE ended_ms IS NOT NULL AND rowid NOT IN (SELECT "
		    "rowid"
		    " FROM migrations ORDER BY started_ms DESC LIMIT " KEEP ")",
		    "") < 0)
		return -1;
	return db_run(m->all->set.db, NULL, err,
		"INSERT INTO migrations (id, side, vm, peer, state, step, epoch, paused, "
		"started_ms)"
		" VALUES (?, ?, ?, ?, 'running', ?, ?, ?, ?)",
		"sssssiii", m->id, side_name(m), m->vm_name, m->peer, migrate_step_name(m->step),
		(int64_t)m->epoch,
		(int64_t)((m->options.pause ? OPTION_PAUSE : 0) |
			  (m->options.postcopy ? OPTION_POSTCOPY : 0)),
		m->started_ms);
}

int journal_step(struct migration *m, enum migrate_step step, struct error **err)
{
	if (db_run(m->all->set.db, NULL, err,
		    "UPDATE migrations SET step = ? WHERE id = ? AND side = ?", "sss",
		    migrate_step_name(step), m->id, side_name(m)) < 0)
		return -1;
	pthread_mutex_lock(&m->all->lock);
	m->step = step;
	pthread_cond_broadcast(&m->all->changed);
	pthread_mutex_unlock(&m->all->lock);
	return 0;
}

int journal_mover(struct migration *m, const struct process_id *id, struct error **err)
{
	return db_run(m->all->set.db, NULL, err,
		"UPDATE migrations SET mover_pid = ?, mover_start = ? WHERE id = ? AND side = ?",
		"iiss", (int64_t)id->pid, (int64_t)id->start, m->id, side_name(m));
}

/* The step of a row that is closed: what the destination may have done with the VM, for an answer
 * to the source after another restart (verdict_before). */
static enum migrate_step last_step(const struct migration *m)
{
	if (m->source || m->state == MIGRATE_DONE)
		return STEP_DONE;
	/* A guest that ran here ran for good, whatever became of it then. */
	if ((m->claimed && m->resumed_ms) || m->step == STEP_POSTCOPY)
		return STEP_POSTCOPY;
	return m->claimed || m->uncertain ? STEP_CLAIM : STEP_DONE;
}

void journal_end(struct migration *m)
{
	cleanup_error struct error *e = NULL;
	cleanup_json json_t *error = m->error ? json_from_error(m->error) : NULL;
	cleanup_free char *error_text = error ? json_text(error) : NULL;
	cleanup_free char *report = m->report ? json_text(m->report) : NULL;

	if (db_run(m->all->set.db, NULL, &e,
		    "UPDATE migrations SET state = ?, step = ?, ended_ms = ?, error = ?, report = ?"
		    " WHERE id = ? AND side = ?",
		    "ssissss", migrate_state_name(m->state), migrate_step_name(last_step(m)),
		    clock_wall_ms(), error_text, report, m->id, side_name(m)) < 0)
		log_error("the end of migration %s is not in the journal: %s", m->id, e->message);
}

static json_t *text_or_null(sqlite3_stmt *row, int column)
{
	const char *text = db_text(row, column);

	return *text ? json_loads(text, 0, NULL) : NULL;
}

static json_t *time_or_null(sqlite3_stmt *row, int column)
{
	return sqlite3_column_type(row, column) == SQLITE_NULL
		       ? json_null()
		       : json_integer(sqlite3_column_int64(row, column));
}

static json_t *row_json(struct migrations *all, sqlite3_stmt *row)
{
	bool source = !strcmp(db_text(row, 1), "source");
	const char *peer = db_text(row, 3);
	json_t *error = text_or_null(row, 9);
	json_t *info = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "id",
		db_text(row, 0), "side", db_text(row, 1), "vm", db_text(row, 2), "from",
		source ? all->set.node : peer, "to", source ? peer : all->set.node, "state",
		db_text(row, 4), "step", db_text(row, 5), "epoch",
		(json_int_t)sqlite3_column_int64(row, 6), "started_ms",
		(json_int_t)sqlite3_column_int64(row, 7), "ended_ms", time_or_null(row, 8));

	json_object_set(info, "error", error ? json_object_get(error, "error") : json_null());
	json_decref(error);
	json_object_set_new(info, "report", text_or_null(row, 10) ?: json_null());
	return info;
}

struct rows {
	struct migrations *all;
	json_t *list;
};

static int add_row(sqlite3_stmt *row, void *arg)
{
	struct rows *rows = arg;

	return json_array_append_new(rows->list, row_json(rows->all, row));
}

/* What a running one knows beyond its journal. */
static void add_live(struct migrations *all, json_t *info)
{
	const char *id = json_string_value(json_object_get(info, "id"));
	const char *side = json_string_value(json_object_get(info, "side"));
	struct migration *m;

	pthread_mutex_lock(&all->lock);
	for (m = all->list; m; m = m->next)
		if (!strcmp(m->id, id) && !strcmp(side_name(m), side))
			break;
	if (m && m->events_count)
		json_object_set(info, "last", m->events[(m->events_count - 1) % EVENTS_MAX]);
	if (m && !m->ended)
		json_object_set_new(info, "state", json_string(migrate_state_name(m->state)));
	if (m && m->error && !m->ended) {
		cleanup_json json_t *error = json_from_error(m->error);

		json_object_set(info, "error", json_object_get(error, "error"));
	}
	pthread_mutex_unlock(&all->lock);
}

json_t *journal_list(struct migrations *all, struct error **err)
{
	struct rows rows = {all, json_array()};
	size_t i;
	json_t *info;

	if (db_query(all->set.db, add_row, &rows, err,
		    "SELECT " COLUMNS " FROM migrations ORDER BY started_ms DESC, side", "") < 0) {
		json_decref(rows.list);
		return NULL;
	}
	json_array_foreach(rows.list, i, info) add_live(all, info);
	return json_pack("{s:o}", "migrations", rows.list);
}

json_t *journal_show(struct migrations *all, const char *id, struct error **err)
{
	struct rows rows = {all, json_array()};
	json_t *info = NULL;

	if (db_query(all->set.db, add_row, &rows, err,
		    "SELECT " COLUMNS " FROM migrations WHERE id = ? ORDER BY started_ms DESC", "s",
		    id) == 0) {
		info = json_incref(json_array_get(rows.list, 0));
		if (info)
			add_live(all, info);
		else
			error_set(err, ERROR_NOT_FOUND, 0,
				"no migration %s is known on %s; `drover migration ls` lists them",
				id, all->set.node);
	}
	json_decref(rows.list);
	return info;
}

struct unfinished {
	struct migrations *all;
	struct found {
		struct migration *m;
		struct process_id mover;
	} found[4096];
	size_t count;
};

static int add_unfinished(sqlite3_stmt *row, void *arg)
{
	struct unfinished *u = arg;
	struct found *f = &u->found[u->count];

	if (u->count == sizeof(u->found) / sizeof(u->found[0]))
		return 0;
	f->m = migration_new(u->all, db_text(row, 0), !strcmp(db_text(row, 1), "source"),
		db_text(row, 2), db_text(row, 3));
	f->m->step = migrate_step_from_name(db_text(row, 4));
	f->m->epoch = (uint64_t)sqlite3_column_int64(row, 5);
	f->m->options.pause = sqlite3_column_int64(row, 6) & OPTION_PAUSE;
	f->m->options.postcopy = sqlite3_column_int64(row, 6) & OPTION_POSTCOPY;
	f->m->started_ms = sqlite3_column_int64(row, 7);
	/* As if this droverd had seen its beginning, for the report. */
	f->m->begin_ms = clock_ms() - (clock_wall_ms() - f->m->started_ms);
	f->m->received = true; /* its recovery is what receives it */
	migration_list(f->m);
	f->mover.pid = (pid_t)sqlite3_column_int64(row, 8);
	f->mover.start = (uint64_t)sqlite3_column_int64(row, 9);
	u->count++;
	return 0;
}

int journal_unfinished(struct migrations *all,
	void (*each)(struct migration *m, const struct process_id *mover), struct error **err)
{
	struct unfinished *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		abort();
	u->all = all;
	rc = db_query(all->set.db, add_unfinished, u, err,
		"SELECT id, side, vm, peer, step, epoch, paused, started_ms, mover_pid, mover_start"
		" FROM migrations WHERE ended_ms IS NULL ORDER BY started_ms DESC",
		"");
	for (size_t i = 0; i < u->count; i++)
		each(u->found[i].m, &u->found[i].mover);
	free(u);
	return rc;
}
