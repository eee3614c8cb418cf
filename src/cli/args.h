/*
 * Arguments: one parser for all verbs. Each verb has a table of what it takes; what the table holds
 * can be given in any of the field's spellings:
 *
 *     --memory 1G    --memory=1G    memory=1G        (and by its other names: vm_ram=1G)
 *     web1           vm=web1        jname=web1       --vm web1
 *
 * After "--" all words are positional. Everything is an error with ERROR_USAGE that the table does
 * not know; the message names what comes closest.
 */
#ifndef DROVER_CLI_ARGS_H
#define DROVER_CLI_ARGS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLI_ARGS_MAX 512   /* words of a command line */
#define CLI_VALUE_MAX 4096 /* bytes of a value: what the API takes (base/json.h) */

enum cli_kind {
	CLI_END,        /* ends a table */
	CLI_POSITIONAL, /* by place or by name; required */
	CLI_OPTIONAL,   /* the same, may be missing */
	CLI_VALUE,      /* by name, once */
	CLI_LIST,       /* by name, any number of times */
	CLI_FLAG,       /* --yes; also yes=1, yes=0 */
	CLI_MAYBE,      /* --limit, which means --limit=1; also --limit=5, limit=5 */
	CLI_WORDS,      /* by place or by name, any number of times; after all other places */
	CLI_KEYS,       /* takes every key=value that the table does not name */
	CLI_REST        /* the first word with no place, and all words after it as they are */
};

struct cli_option {
	enum cli_kind kind;
	const char *name;
	const char *value; /* stands for the value in the help: "SIZE"; NULL for a flag */
	const char *help;
	const char *aliases; /* other names, separated by spaces; NULL: none */
	/* Refuses a value before droverd is asked for anything; NULL: any will do. */
	int (*check)(const char *value, struct error **err);
};

struct cli_given {
	const struct cli_option *option;
	char *typed;   /* "--memory", "vm_ram" or, of what has a place, "VM": for messages */
	bool by_place; /* not by its name */
	char *key;     /* as it was given, for CLI_KEYS; else NULL */
	char *value;   /* "1" and "0" for a flag; "1" where none was given */
};

struct cli_args {
	struct cli_given given[CLI_ARGS_MAX];
	size_t count;
	/* The last word, one of argv's, whose name the table does not have: refused, or taken by
	 * its CLI_KEYS. */
	const char *unknown;
	bool help; /* --help was there: nothing after it was looked at, and nothing is required */
};

/* What every verb takes: json, socket, help. */
extern const struct cli_option cli_common_options[];

/* Reads the words of a verb. The caller frees args with cli_args_free, after an error too. */
int cli_args_parse(const struct cli_option *options, int argc, const char *const *argv,
	struct cli_args *args, struct error **err);
void cli_args_free(struct cli_args *args);

/* Value of an option or positional, NULL when it was not given. */
const char *cli_get(const struct cli_args *args, const char *name);
/* The n-th value (from 0) of a CLI_LIST, CLI_WORDS or CLI_REST, NULL after the last. */
const char *cli_get_nth(const struct cli_args *args, const char *name, size_t n);
bool cli_flag(const struct cli_args *args, const char *name);
/* Whether an option was given a value, or a flag was switched on. */
bool cli_is_given(const struct cli_args *args, const char *name);
/* The n-th key=value of a CLI_KEYS; false after the last. */
bool cli_get_key(const struct cli_args *args, size_t n, const char **key, const char **value);

/* Of `count` words the one that `word` was most likely meant to be, NULL when none is near: with
 * two neighbours exchanged; with one letter too many, missing or wrong; with two, in words of five
 * or more. */
const char *cli_closest(const char *word, const char *const *words, size_t count);

/*
 * values.c: what a value can be.
 */

/* For cli_option.check: the name of a VM, a node, an image. ERROR_NAME. */
int cli_check_vm(const char *value, struct error **err);
int cli_check_node(const char *value, struct error **err);
int cli_check_image(const char *value, struct error **err);

/* Value of a number or time in min..max, `fallback` when it was not given. The message takes its
 * unit, and a word that will do as well, from the option's `value`: "MS", "ROUNDS|auto". */
int cli_get_number(const struct cli_args *args, const char *name, int64_t min, int64_t max,
	int64_t fallback, int64_t *value, struct error **err);

/* Bytes a second: "100M" and "100M/s" are bytes, in powers of 1024; "800mbit", "1gbit" and
 * "500kbit" are bits, in powers of 1000, as tc(8) takes them. */
int cli_parse_rate(const char *what, const char *text, int64_t *bytes, struct error **err);

/* "1", "yes", "on", "true" and their opposites. */
int cli_parse_bool(const char *what, const char *text, bool *value, struct error **err);

#endif
