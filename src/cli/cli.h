/*
 * What the verbs of `drover` share: the table's row, calls to droverd, and what is printed.
 *
 * A verb returns 0, or -1 with an error, which main() prints ("drover: …" on standard error, and
 * with --json as an object on standard output) and whose kind is the exit status. A verb that has
 * said everything itself returns an exit status above 0.
 */
#ifndef DROVER_CLI_CLI_H
#define DROVER_CLI_CLI_H

#include "base/error.h"
#include "cli/args.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CLI_SOCKET "/run/drover/droverd.sock"
/* Longest that a call may take which changes something; one that only asks has a tenth of it. A VM
 * that is stopped has its own limit. */
#define CLI_CALL_MS 600000
/* What one long poll asks for. */
#define CLI_WAIT_MS 25000

struct http_client;
struct cli_verb;

struct cli {
	const struct cli_verb *verb;
	const struct cli_verb *verbs; /* the whole table */
	struct cli_args args;
	bool json;
	const char *socket_path;
	struct http_client *client; /* made by the first call */
};

typedef int cli_function(struct cli *cli, struct error **err);

/* What a verb asks of droverd, made of its words alone; NULL and an error for what makes no sense.
 * `task new` makes it too: what the verb would refuse at night is refused when it is queued. The
 * caller owns it. */
typedef json_t *cli_request_function(const struct cli_args *args, struct error **err);

/* A row of the table in main.c. */
struct cli_verb {
	const char *name; /* "create", or "task new" */
	cli_function *run;
	const char *summary;
	const struct cli_option *options;
	const char *examples;          /* a command a line */
	bool hidden;                   /* used by drover itself */
	cli_request_function *request; /* NULL: its options are all that it can refuse */
};

/* help.c */

/* The verb of these first words, NULL when there is none; *words (1 or 2) of them name it. */
const struct cli_verb *cli_find_verb(
	const struct cli_verb *verbs, int argc, const char *const *argv, int *words);
/* ERROR_USAGE: what there is instead of these words. */
int cli_unknown_verb(
	const struct cli_verb *verbs, int argc, const char *const *argv, struct error **err);
/* The verb that a link to drover (argv[0]'s last part) stands for: "migrate" of "bmigrate", "rm" of
 * "bremove"; the name itself where it is none of these. */
const char *cli_verb_of_link(const char *name);
void cli_help_verb(FILE *out, const struct cli_verb *verb);
/* All verbs, or those that begin with "FAMILY ". */
void cli_help_all(FILE *out, const struct cli_verb *verbs, const char *family);
/* Whether there are verbs of two words that begin with it. */
bool cli_is_family(const struct cli_verb *verbs, const char *word);

/* call.c */

/* "%s" in `format` is replaced by `value`, escaped. The caller frees it. */
char *cli_path(const char *format, const char *value);
/* One request to droverd. `node` NULL or "": this node answers; else it is passed on. The answer is
 * the caller's. ERROR_DAEMON and all that droverd answers. */
json_t *cli_call(struct cli *cli, const char *method, const char *node, const char *path,
	const json_t *body, struct error **err);
/* The same with a limit of its own, and over a connection of its own when `client` is not NULL. */
json_t *cli_call_within(struct cli *cli, struct http_client *client, int timeout_ms,
	const char *method, const char *node, const char *path, const json_t *body,
	struct error **err);
/* A further connection, for another thread. The caller closes it with http_close. */
struct http_client *cli_connect(const struct cli *cli, struct error **err);
/* Name of this node; the caller frees it. */
char *cli_this_node(struct cli *cli, struct error **err);
/* Where a VM is: *node is NULL when that is this node, or nobody's. The caller frees it.
 * ERROR_NO_VM and others. */
int cli_find_vm(struct cli *cli, const char *vm, char **node, struct error **err);

/* output.c */

/* Member as text, `none` when it is missing, null or no string. Belongs to the object. */
const char *cli_text(const json_t *object, const char *key, const char *none);
/* Member as a number, `none` when it is missing, no number or not within 2^61. */
int64_t cli_number(const json_t *object, const char *key, int64_t none);
/* Prints an object on a line of its own. */
void cli_print_json(const json_t *object);
/* Prints text that came from elsewhere: on a terminal no control characters but newline and tab. */
void cli_print_text(const char *text);
/* The message, and with --json the object, which `more` (may be NULL) is a part of. Returns the
 * exit status. */
int cli_print_error(const struct cli *cli, const struct error *e, const json_t *more);
/* "1.5 GiB", "512 MiB", "0 B" into `out`; "271 MB" in powers of 1000 for what crosses a network. */
void cli_format_size(int64_t bytes, char out[32]);
void cli_format_traffic(int64_t bytes, char out[32]);
/* "1 VM", "2 VMs". */
void cli_format_count(int64_t count, const char *thing, char out[64]);
/* "43 ms", "2.31 s", "3 min 4 s", "2 d 4 h". */
void cli_format_time(int64_t ms, char out[32]);
/* Whether a terminal is there that takes colours: no NO_COLOR, no TERM=dumb. */
bool cli_color(FILE *out);
/* Columns of the terminal on `fd`, 0 when it is none. */
int cli_width(int fd);
/* Asks on the terminal; false without one (*asked is false then). Only "y" and "yes" are yes. */
bool cli_confirm(const char *question, bool *asked);
/* Asks unless --yes is there; ERROR_CANCELLED after a no, ERROR_USAGE where nobody can be asked. */
int cli_must_confirm(struct cli *cli, const char *question, struct error **err);

/* A table: rows are added, then it is printed with aligned columns, on a terminal cut to its width
 * (the last column gives first). */
struct cli_table;
struct cli_table *cli_table_new(size_t columns, const char *const *titles);
/* `columns` texts, which are copied; a column whose title begins with '>' is right-aligned. `loud`
 * rows are red and bold where there are colours. */
void cli_table_add(struct cli_table *table, bool loud, const char *const *texts);
/* Prints and frees it. */
void cli_table_print(struct cli_table *table);

/* A list of droverd's, as a table. */
struct cli_list {
	const char *path;   /* of the list; `node` as for cli_call */
	const char *member; /* of the answer, with the list in it */
	size_t columns;
	const char *const *titles;
	void (*add)(struct cli_table *table, const json_t *entry);
};
/* Asks for it and prints it, or with --json the answer. */
int cli_print_list(
	struct cli *cli, const char *node, const struct cli_list *list, struct error **err);

/* follow.c */

/*
 * Shows a migration's progress to its end, then its result. `node` NULL: on this node. With
 * `cancels`, Ctrl-C asks whether to cancel it (in a pipe: cancels it); without, it stops following.
 * Returns 0 when the VM was moved; else the error's exit status, or -1 with what kept us from
 * following.
 */
int cli_follow(struct cli *cli, const char *node, const char *id, bool cancels, struct error **err);
/* One sentence where a migration's guest stood still for longer than was allowed. */
void cli_print_overstep(const json_t *migration, const char *indent);

#endif
