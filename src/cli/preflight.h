/*
 * What `drover migrate` shows of the checks before a move.
 */
#ifndef DROVER_CLI_PREFLIGHT_H
#define DROVER_CLI_PREFLIGHT_H

#include "cli/cli.h"

/* What --force names, as the API takes it; NULL when it was not given. */
json_t *cli_force(const struct cli_args *args);
/* A report of --check: a table, or JSON. Returns the exit status: 0, or that of the first check
 * that would stop the move. */
int cli_print_preflight(const struct cli *cli, const json_t *report);
/* The checks that were not ok and did not stop the move, on standard error; with --json also as an
 * object {"warnings":[…]}. */
void cli_print_warnings(const struct cli *cli, const json_t *warnings);
/* An estimate below the table of the checks; nothing where there is none. */
void cli_print_estimate(const json_t *estimate);
/* Of a migration's report: what was estimated, and how far off that was. */
void cli_print_compared(const json_t *report);

#endif
