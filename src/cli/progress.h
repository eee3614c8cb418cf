/*
 * A migration's progress: on a terminal one line that is drawn over, in a pipe a line where
 * something changes, with --json an object a line.
 */
#ifndef DROVER_CLI_PROGRESS_H
#define DROVER_CLI_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum progress_how { PROGRESS_BAR, PROGRESS_LINES, PROGRESS_JSON };

struct progress {
	enum progress_how how;
	size_t drawn;       /* columns of the bar that are on the screen */
	int64_t printed_ms; /* of clock_ms: the last line; 0: none */
	char phase[32];     /* of the last line */
	int64_t round;
	char last[32]; /* phase of the last event, shown or not */
};

/* How it is shown where standard output goes. */
void progress_init(struct progress *p, bool json);
/* Shows an event of the API. */
void progress_event(struct progress *p, const json_t *event);
/* Removes the bar, so that something else can be printed. */
void progress_clear(struct progress *p);

/* The line for an event, at most `width` columns: what is less important is left out first. In
 * ASCII. Exported for its tests. */
void progress_line(const json_t *event, size_t width, char *out, size_t size);

#endif
