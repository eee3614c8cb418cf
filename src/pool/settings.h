/*
 * Text of settings: INI, read by inih, with what inih leaves open decided strictly.
 *
 *     # a comment; so is what follows " ;" on a line
 *     [section]
 *     key = value
 *
 * An error are: a section or a key that comes twice, a key before the first section, a section
 * with no key or with text behind its "]", a line that starts with white space (to inih that is
 * more of the value before it), a line that is too long (inih would split it), a NUL or another
 * control character, and a line that is none of the above. Each names the line.
 */
#ifndef DROVER_POOL_SETTINGS_H
#define DROVER_POOL_SETTINGS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Bytes of a line that can be read everywhere that inih's limits can be set (Debian). Elsewhere it
 * is inih's own INI_MAX_LINE, 200 unless built otherwise; the message names what it is. */
#define SETTINGS_LINE_MAX 8192

struct settings_key {
	const char *section, *key, *value; /* gone when the function returns */
	int line;
	bool more; /* a further line of the value before; only with SETTINGS_MULTILINE */
};

/* Takes one key; a negative answer, with an error made, ends the reading. */
typedef int settings_key_fn(const struct settings_key *key, void *arg, struct error **err);

/* Lines that start with white space are more lines of the value before them, given one by one. */
#define SETTINGS_MULTILINE 1u

/* Calls `take` for each key of `text` (len bytes), in order. `what` names the text in messages,
 * which start with "WHAT, line N: ", those of `take` too. ERROR_DEFINITION. */
int settings_read(const char *what, const char *text, size_t len, unsigned flags,
	settings_key_fn *take, void *arg, struct error **err);

/* Whether `value` comes back as it is when written as "key = value": one line of printable
 * characters, no white space around it, no " ;" in it, not empty, and short enough. */
bool settings_value_ok(const char *value);

#endif
