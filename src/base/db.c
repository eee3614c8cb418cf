#include "base/db.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct db {
	sqlite3 *handle;
	pthread_mutex_t lock; /* binding, stepping and reading the row id are one */
	char *path;
};

static __thread int64_t last_id;

static int db_error(struct db *db, struct error **err)
{
	int code = sqlite3_errcode(db->handle);

	return error_set(err, code == SQLITE_FULL ? ERROR_NO_SPACE : ERROR_FAILED, 0,
		"the database %s fails: %s", db->path, sqlite3_errmsg(db->handle));
}

struct db *db_open(const char *path, const char *schema, struct error **err)
{
	struct db *db = calloc(1, sizeof(*db));
	mode_t mask;
	int rc;

	if (!db)
		abort();
	pthread_mutex_init(&db->lock, NULL);
	db->path = strdup(path);
	mask = umask(0077);
	rc = sqlite3_open_v2(path, &db->handle,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(db->handle, 5000);
		rc = sqlite3_exec(db->handle,
			"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
			NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db->handle, schema, NULL, NULL, NULL);
	umask(mask);
	if (rc != SQLITE_OK) {
		db_error(db, err);
		db_close(db);
		return NULL;
	}
	return db;
}

void db_close(struct db *db)
{
	if (!db)
		return;
	sqlite3_close(db->handle);
	pthread_mutex_destroy(&db->lock);
	free(db->path);
	free(db);
}

static int bind(sqlite3_stmt *stmt, const char *types, va_list ap)
{
	int rc = SQLITE_OK;

	for (int i = 1; *types && rc == SQLITE_OK; types++, i++) {
		if (*types == 'i') {
			rc = sqlite3_bind_int64(stmt, i, va_arg(ap, int64_t));
		} else {
			rc = sqlite3_bind_text(
				stmt, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
		}
	}
	return rc;
}

static int run(struct db *db, db_row_fn *row, void *arg, int64_t *changes, struct error **err,
	const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *stmt = NULL;
	int rc, result = 0;

	pthread_mutex_lock(&db->lock);
	rc = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK)
		rc = bind(stmt, types, ap);
	if (rc == SQLITE_OK)
		while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
			if (row && (result = row(stmt, arg)) < 0)
				break;
	if (rc != SQLITE_DONE && rc != SQLITE_ROW)
		result = db_error(db, err);
	last_id = sqlite3_last_insert_rowid(db->handle);
	if (changes)
		*changes = sqlite3_changes(db->handle);
	sqlite3_finalize(stmt);
	pthread_mutex_unlock(&db->lock);
	return result;
}

int db_run(struct db *db, int64_t *changes, struct error **err, const char *sql, const char *types,
	...)
{
	va_list ap;
	int rc;

	va_start(ap, types);
	rc = run(db, NULL, NULL, changes, err, sql, types, ap);
	va_end(ap);
	return rc;
}

int db_query(struct db *db, db_row_fn *row, void *arg, struct error **err, const char *sql,
	const char *types, ...)
{
	va_list ap;
	int rc;

	va_start(ap, types);
	rc = run(db, row, arg, NULL, err, sql, types, ap);
	va_end(ap);
	return rc;
}

int64_t db_last_id(struct db *db)
{
	(void)db;
	return last_id;
}

const char *db_text(sqlite3_stmt *row, int column)
{
	const unsigned char *text = sqlite3_column_text(row, column);

	return text ? (const char *)text : "";
}
