/*
 * The log: one line an event on standard error, with a level that systemd's journal understands
 * when it started us ("<6>"), and the time otherwise. A line about a migration carries its id,
 * which a thread sets once with log_set_migration().
 */
#ifndef DROVER_BASE_LOG_H
#define DROVER_BASE_LOG_H

enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7
};

/* Lines above `level` are dropped; LOG_LEVEL_INFO at first. `name` is the program's. */
void log_init(const char *name, enum log_level level);

/* Marks this thread's lines with a migration's id until it is set to NULL. Copies it. */
void log_set_migration(const char *id);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
