/* migrate; migration ls, show, cancel, follow; receive. */
#include "cli/verbs.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "cli/interrupt.h"
#include "cli/preflight.h"
#include "migrate/limits.h"

#include <string.h>

#define NODE_OPTION \
	{ \
		CLI_VALUE, "node", "NODE", "a migration that this node does not know", NULL, \
			cli_check_node \
	}
#define ID \
	{ \
		CLI_POSITIONAL, "id", "ID", "of the migration; its beginning is enough", NULL \
	}

const struct cli_option cli_migrate_options[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname name", cli_check_vm},
	{CLI_POSITIONAL, "node", "NODE", "where it is to run", "to", cli_check_node},
	{CLI_VALUE, "downtime", "MS", "longest that the guest may stand still (300)", NULL},
	{CLI_VALUE, "bandwidth", "RATE", "100M (bytes a second), 800mbit (no limit)", NULL},
	{CLI_VALUE, "timeout", "SECONDS", "gives up when it has not moved by then (never)", NULL},
	{CLI_FLAG, "pause", NULL, "pauses the guest first: one round, and no --downtime", NULL},
	{CLI_FLAG, "warm", NULL,
		"accepts that a guest of bhyve is suspended to files where there is no better way",
		NULL},
	{CLI_MAYBE, "postcopy", "ROUNDS|auto",
		"runs there after so many rounds (1), with pages still on their way; auto: when it "
		"does not converge",
		NULL},
	{CLI_VALUE, "reconnect", "SECONDS", "how long a broken lane is made again (60)", NULL},
	{CLI_FLAG, "check", NULL, "moves nothing: says whether it would be moved, and why not",
		NULL},
	{CLI_FLAG, "estimate", NULL,
		"measures the link and the guest while it prepares, and estimates the move", NULL},
	{CLI_FLAG, "no-estimate", NULL, "with --check: measures and estimates nothing", NULL},
	{CLI_LIST, "force", "CHECK[,CHECK]", "moves it although that check fails", NULL},
	{CLI_FLAG, "detach", NULL, "prints the migration's id and returns", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_migration_ls_options[] = {
	{CLI_VALUE, "node", "NODE", "those of that node", NULL, cli_check_node},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_migration_show_options[] = {
	ID, NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_migration_cancel_options[] = {
	ID, NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_migration_follow_options[] = {
	ID, NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_receive_options[] = {
	{CLI_POSITIONAL, "id", "ID", "of the migration", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* What the API takes: a number of rounds or "auto". */
static json_t *make_postcopy(const struct cli_args *args, struct error **err)
{
	const char *text = cli_get(args, "postcopy");
	int64_t rounds;

	if (text && !strcmp(text, "auto"))
		return json_string(text);
	if (text && (!strcmp(text, "no") || !strcmp(text, "off")))
		return json_integer(0);
	return cli_get_number(args, "postcopy", 0, MIGRATE_ROUNDS_MAX, 0, &rounds, err) < 0
		       ? NULL
		       : json_integer(rounds);
}

/* Options of which one makes no sense beside the other. */
static int check_apart(const struct cli_args *args, struct error **err)
{
	/* A guest that is paused first stands still all the time, and --check estimates anyway. */
	static const char *const apart[][2] = {{"estimate", "no-estimate"}, {"check", "detach"},
		{"check", "estimate"}, {"pause", "warm"}, {"pause", "downtime"}};

	for (size_t i = 0; i < sizeof(apart) / sizeof(apart[0]); i++)
		if (cli_is_given(args, apart[i][0]) && cli_is_given(args, apart[i][1]))
			return error_set(err, ERROR_USAGE, 0, "--%s and --%s exclude each other",
				apart[i][0], apart[i][1]);
	if (cli_is_given(args, "no-estimate") && !cli_is_given(args, "check"))
		return error_set(err, ERROR_USAGE, 0, "--no-estimate goes only with --check");
	return 0;
}

json_t *cli_migrate_request(const struct cli_args *args, struct error **err)
{
	int64_t downtime_ms, timeout_s, reconnect_s, bandwidth = 0;
	const char *rate = cli_get(args, "bandwidth");
	json_t *postcopy;

	if (check_apart(args, err) < 0 ||
		cli_get_number(args, "downtime", 1, MIGRATE_DOWNTIME_MAX_MS, MIGRATE_DOWNTIME_MS,
			&downtime_ms, err) < 0 ||
		cli_get_number(args, "timeout", 0, MIGRATE_TIMEOUT_MAX_S, 0, &timeout_s, err) < 0 ||
		cli_get_number(
			args, "reconnect", 1, MIGRATE_RECONNECT_MAX_S, 0, &reconnect_s, err) < 0 ||
		(rate && cli_parse_rate("the bandwidth", rate, &bandwidth, err) < 0))
		return NULL;
	/* droverd says the same; what is wrong by itself needs no droverd. */
	if (rate && bandwidth < MIGRATE_BANDWIDTH_MIN) {
		error_set(err, ERROR_USAGE, 0, MIGRATE_BANDWIDTH_TOO_LOW, (long long)bandwidth);
		return NULL;
	}
	postcopy = make_postcopy(args, err);
	if (!postcopy)
		return NULL;
	/* What is not asked for is not said: an older droverd would refuse the word. */
	return json_pack("{s:s, s:s, s:o*, s:{s:I, s:I, s:I, s:I, s:o, s:b, s:o*, s:o*, s:o*}}",
		"vm", cli_get(args, "vm"), "node", cli_get(args, "node"), "check",
		cli_flag(args, "check") ? json_true() : NULL, "options", "downtime_ms",
		(json_int_t)downtime_ms, "bandwidth", (json_int_t)bandwidth, "timeout_ms",
		(json_int_t)timeout_s * 1000, "reconnect_s", (json_int_t)reconnect_s, "postcopy",
		postcopy, "pause", cli_flag(args, "pause"), "warm",
		cli_flag(args, "warm") ? json_true() : NULL, "force", cli_force(args), "estimate",
		cli_flag(args, "no-estimate") ? json_false()
		: cli_flag(args, "estimate")  ? json_true()
					      : NULL);
}

int cli_migrate(struct cli *cli, struct error **err)
{
	cleanup_json json_t *body = cli_migrate_request(&cli->args, err), *answer = NULL;
	const char *id, *node;

	if (!body)
		return -1;
	/* droverd passes it on to the node that has the VM, and says which that is. */
	answer = cli_call(cli, "POST", NULL, "/v1/migrations", body, err);
	if (!answer)
		return -1;
	if (cli_flag(&cli->args, "check"))
		return cli_print_preflight(cli, answer);
	cli_print_warnings(cli, json_object_get(answer, "warnings"));
	node = cli_text(answer, "node", NULL);
	id = cli_text(answer, "id", "");
	if (!cli_flag(&cli->args, "detach"))
		return cli_follow(cli, node, id, true, err);
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%s\n", id);
	return 0;
}

/* A migration's node and whole id, from an option and the id's beginning; `what` (may be NULL) gets
 * "the move of web1 from node1 to node2". The caller frees both. */
static int find_migration(
	struct cli *cli, char **id, char **what, const char **node, struct error **err)
{
	const char *given = cli_get(&cli->args, "id");
	cleanup_json json_t *list = NULL;
	const json_t *m;
	size_t i;

	*id = NULL;
	if (what)
		*what = NULL;
	*node = cli_get(&cli->args, "node");
	list = cli_call(cli, "GET", *node, "/v1/migrations", NULL, err);
	if (!list)
		return -1;
	json_array_foreach(json_object_get(list, "migrations"), i, m)
	{
		const char *whole = cli_text(m, "id", "");

		if (strncmp(whole, given, strlen(given)) != 0 || (*id && !strcmp(*id, whole)))
			continue;
		if (*id)
			return error_set(err, ERROR_USAGE, 0,
				"more than one migration's id begins with %s: %s, %s; give more "
				"of it",
				given, *id, whole);
		*id = fs_format("%s", whole);
		if (what)
			*what = fs_format("the move of %s from %s to %s", cli_text(m, "vm", "?"),
				cli_text(m, "from", "?"), cli_text(m, "to", "?"));
	}
	if (!*id && strspn(given, "0123456789abcdef") != strlen(given))
		return error_set(err, ERROR_NOT_FOUND, 0,
			"no migration \"%.64s\"; `drover migration ls` shows their ids", given);
	/* Not in the list: droverd says so in its own words. */
	if (!*id)
		*id = fs_format("%s", given);
	return 0;
}

/* Only the source knows when the guest stood still; 0 is what nobody has measured. */
static bool measures_downtime(const json_t *m)
{
	return cli_number(json_object_get(m, "report"), "downtime_ms", 0) > 0;
}

static void add_migration(struct cli_table *table, const json_t *m)
{
	const json_t *report = json_object_get(m, "report"), *e = json_object_get(m, "error");
	int64_t started = cli_number(m, "started_ms", 0), ended = cli_number(m, "ended_ms", 0);
	const char *state = cli_text(m, "state", "?");
	char when[32], took[32] = "-", still[32] = "-";

	clock_format(started, when);
	when[19] = '\0'; /* whole seconds */
	cli_format_time((ended ? ended : clock_wall_ms()) - started, took);
	if (measures_downtime(m))
		cli_format_time(cli_number(report, "downtime_ms", 0), still);
	cli_table_add(table, !strcmp(state, "undecided"),
		(const char *const[]){cli_text(m, "id", "?"), cli_text(m, "vm", "?"),
			cli_text(m, "from", "?"), cli_text(m, "to", "?"), when, took, still, state,
			cli_text(e, "message", "")});
}

int cli_migration_ls(struct cli *cli, struct error **err)
{
	static const char *const titles[] = {
		"ID", "VM", "FROM", "TO", "BEGUN (UTC)", ">TOOK", ">STOOD STILL", "STATE", "ERROR"};
	static const struct cli_list list = {
		"/v1/migrations", "migrations", 9, titles, add_migration};

	return cli_print_list(cli, cli_get(&cli->args, "node"), &list, err);
}

/* How its pages went, and from where. */
static void print_pages(const json_t *report)
{
	const json_t *pages = json_object_get(report, "pages"), *source, *count;
	char reconnected[64];
	const char *level;
	size_t i;

	if (!pages)
		return;
	cli_format_count(cli_number(report, "reconnections", 0), "time", reconnected);
	printf("  pages:        %lld zero, %lld references, %lld differences, %lld data\n",
		(long long)cli_number(pages, "zero", 0),
		(long long)cli_number(pages, "reference", 0),
		(long long)cli_number(pages, "difference", 0),
		(long long)cli_number(pages, "data", 0));
	json_array_foreach(json_object_get(report, "sources"), i, source)
		printf("  references:   %lld to %s, %lld of them missed\n",
			(long long)cli_number(source, "hits", 0),
			json_string_value(json_object_get(source, "name")),
			(long long)cli_number(source, "misses", 0));
	json_object_foreach((json_t *)json_object_get(report, "levels"), level, count)
	{
		printf("  level %-6s  %lld %s\n", level, (long long)json_integer_value(count),
			json_integer_value(count) == 1 ? "batch" : "batches");
	}
	if (cli_number(report, "reconnections", 0))
		printf("  reconnected:  %s\n", reconnected);
}

static void print_report(const json_t *m)
{
	const json_t *report = json_object_get(m, "report");
	char text[32], rounds[64];

	cli_format_time(cli_number(report, "total_ms", 0), text);
	printf("  took:         %s\n", text);
	if (measures_downtime(m)) {
		cli_format_time(cli_number(report, "downtime_ms", 0), text);
		printf("  stood still:  %s\n", text);
		cli_print_overstep(m, "                ");
	}
	cli_format_traffic(cli_number(report, "wire_bytes", 0), text);
	printf("  network:      %s", text);
	cli_format_traffic(cli_number(report, "stream_bytes", 0), text);
	cli_format_count(cli_number(report, "rounds", 0), "round", rounds);
	printf(" for a stream of %s, in %s\n", text, rounds);
	print_pages(report);
	cli_print_compared(report);
	if (cli_number(report, "postcopy_ms", 0)) {
		cli_format_time(cli_number(report, "postcopy_ms", 0), text);
		printf("  post-copy:    %s, in which it ran there already\n", text);
	}
}

static void print_migration(const json_t *m)
{
	const json_t *report = json_object_get(m, "report"), *e = json_object_get(m, "error");
	char when[32];

	printf("%s from %s to %s: %s", cli_text(m, "vm", "?"), cli_text(m, "from", "?"),
		cli_text(m, "to", "?"), cli_text(m, "state", "?"));
	if (*cli_text(m, "phase", ""))
		printf(", %s", cli_text(m, "phase", ""));
	clock_format(cli_number(m, "started_ms", 0), when);
	printf("\n  id:           %s\n  begun:        %s\n", cli_text(m, "id", "?"), when);
	if (cli_number(m, "ended_ms", 0)) {
		clock_format(cli_number(m, "ended_ms", 0), when);
		printf("  ended:        %s\n", when);
	}
	if (json_is_object(report))
		print_report(m);
	if (json_is_object(e)) {
		printf("  error:        ");
		cli_print_text(cli_text(e, "message", "?"));
		putchar('\n');
	}
}

int cli_migration_show(struct cli *cli, struct error **err)
{
	cleanup_free char *id = NULL, *path = NULL;
	cleanup_json json_t *m = NULL;
	const char *node;

	if (find_migration(cli, &id, NULL, &node, err) < 0)
		return -1;
	path = cli_path("/v1/migrations/%s", id);
	m = cli_call(cli, "GET", node, path, NULL, err);
	if (!m)
		return -1;
	if (cli->json)
		cli_print_json(m);
	else
		print_migration(m);
	return 0;
}

int cli_migration_cancel(struct cli *cli, struct error **err)
{
	cleanup_free char *id = NULL, *what = NULL, *path = NULL;
	cleanup_json json_t *answer = NULL;
	const char *node;

	if (find_migration(cli, &id, &what, &node, err) < 0)
		return -1;
	path = cli_path("/v1/migrations/%s/cancel", id);
	answer = cli_call(cli, "POST", node, path, NULL, err);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%s is being cancelled; `drover migration follow %s` shows its end\n",
			what ? what : "the migration", id);
	return 0;
}

int cli_migration_follow(struct cli *cli, struct error **err)
{
	cleanup_free char *id = NULL;
	const char *node;

	if (find_migration(cli, &id, NULL, &node, err) < 0)
		return -1;
	return cli_follow(cli, node, id, false, err);
}

/*
 * The destination's part, as a task of this node: lasts as long as that does. A signal cancels it,
 * and the call then ends with the error that this has made of it.
 */
int cli_receive(struct cli *cli, struct error **err)
{
	const char *id = cli_get(&cli->args, "id");
	cleanup_free char *path = cli_path("/v1/migrations/%s/receive", id);
	struct interrupt *interrupt = interrupt_start(cli, NULL, id, false, err);
	json_t *answer;

	if (!interrupt)
		return -1;
	answer = cli_call_within(cli, NULL, 0, "POST", NULL, path, NULL, err);
	interrupt_stop(interrupt);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	json_decref(answer);
	return 0;
}
