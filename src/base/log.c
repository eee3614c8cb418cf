#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *program = "drover";
static enum log_level max_level = LOG_LEVEL_INFO;
static bool journal;
static __thread char migration[40];

void log_init(const char *name, enum log_level level)
{
	program = name;
	max_level = level;
	journal = getenv("JOURNAL_STREAM") != NULL;
}

void log_set_migration(const char *id)
{
	snprintf(migration, sizeof(migration), "%s", id ? id : "");
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error: ";
	case LOG_LEVEL_WARNING:
		return "warning: ";
	default:
		return "";
	}
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[2048], when[32];
	size_t len;
	va_list ap;

	if (level > max_level)
		return;
	clock_format(clock_wall_ms(), when);
	if (journal)
		snprintf(line, sizeof(line), "<%d>%s", level, level_name(level));
	else
		snprintf(line, sizeof(line), "%s %s: %s", when, program, level_name(level));
	len = strlen(line);
	if (*migration) {
		snprintf(line + len, sizeof(line) - len, "[%s] ", migration);
		len = strlen(line);
	}
	va_start(ap, fmt);
	vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	for (char *c = line; *c; c++)
		if (*c == '\n')
			*c = ' ';
	len = strlen(line);
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nobody is left to tell */
}
