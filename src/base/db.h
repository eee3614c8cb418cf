/*
 * Node-local state in SQLite: one file, write-ahead log, synchronous=FULL: what a call has written
 * is on the disk when it returns. A handle may be used by several threads; each statement is whole.
 */
#ifndef DROVER_BASE_DB_H
#define DROVER_BASE_DB_H

#include "base/error.h"

#include <sqlite3.h>
#include <stdint.h>

struct db;

/* Opens or makes the file (mode 0600) and runs `schema` (CREATE TABLE IF NOT EXISTS …). */
struct db *db_open(const char *path, const char *schema, struct error **err);
void db_close(struct db *db);

/* Runs one statement with its ? bound in turn: 's' const char * (NULL is NULL), 'i' int64_t.
 * `types` has one letter for each. *changes (may be NULL) counts the rows changed. */
int db_run(struct db *db, int64_t *changes, struct error **err, const char *sql, const char *types,
	...);
/* Like db_run, and calls `row` for each result row; a negative answer of it ends the query and
 * becomes the result. `row` must not use the db. */
typedef int db_row_fn(sqlite3_stmt *row, void *arg);
int db_query(struct db *db, db_row_fn *row, void *arg, struct error **err, const char *sql,
	const char *types, ...);
/* Row id of the last INSERT of this db made by this thread's last db_run. */
int64_t db_last_id(struct db *db);
/* Column as text, "" for NULL; valid until the row ends. */
const char *db_text(sqlite3_stmt *row, int column);

#endif
