/* task new, ls, show, log, cancel, flush: the deferred task queue. */
#include "cli/verbs.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <string.h>

#define PAST_MS 1000

#define NODE_OPTION \
	{ \
		CLI_VALUE, "node", "NODE", "on that node's queue", NULL, cli_check_node \
	}
#define ID \
	{ \
		CLI_POSITIONAL, "id", "ID", "number of the task", NULL \
	}

const struct cli_option cli_task_new_options[] = {
	{CLI_VALUE, "after", "ID", "when that task is done; skipped when it fails", NULL},
	{CLI_VALUE, "at", "TIME", "2026-01-31T02:03:04Z, 02:03 (UTC), +90 (seconds)", NULL},
	{CLI_FLAG, "exclusive", NULL, "while no other task runs", NULL},
	NODE_OPTION,
	{CLI_REST, "words", "VERB", "a verb of drover and its arguments", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_task_ls_options[] = {NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_task_show_options[] = {
	ID, NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_task_log_options[] = {
	ID,
	NODE_OPTION,
	{CLI_FLAG, "follow", NULL, "until the task has ended", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_task_cancel_options[] = {
	ID, NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_task_flush_options[] = {NODE_OPTION, {CLI_END, NULL, NULL, NULL, NULL}};

/* Whether a VM or a node that the words name is there, as droverd says. What an earlier task may
 * make is not asked for. */
static int check_names(struct cli *cli, const struct cli_verb *verb, const struct cli_args *args,
	struct error **err)
{
	bool makes_vm = !strcmp(verb->name, "create"), first = !cli_get(&cli->args, "after");

	for (const struct cli_option *o = verb->options; o->kind != CLI_END; o++) {
		bool vm = !strcmp(o->name, "vm") && !makes_vm && first;
		bool node = o->check == cli_check_node;
		const char *name = cli_get(args, o->name);
		cleanup_free char *path = NULL;
		cleanup_json json_t *found = NULL;

		if (!name || (!vm && !node))
			continue;
		path = cli_path(vm ? "/v1/vms/%s" : "/v1/nodes/%s", name);
		found = cli_call(cli, "GET", NULL, path, NULL, err);
		if (!found)
			return -1;
	}
	return 0;
}

/* A task is done when its verb is, and lets those after it begin: not while a VM is on its way, nor
 * where none was moved. */
static int check_moves(const struct cli_verb *verb, const struct cli_args *args, struct error **err)
{
	if (cli_is_given(args, "detach"))
		return error_set(err, ERROR_USAGE, 0,
			"--detach of %s is not for a task, which would be done while the VM is "
			"still being moved; leave it out: nobody waits for the task",
			verb->name);
	if (cli_is_given(args, "check"))
		return error_set(err, ERROR_USAGE, 0,
			"--check of %s is not for a task, for it moves nothing; check now, and "
			"queue the move",
			verb->name);
	return 0;
}

/* Tries the words as they will be run: what is mistyped is found now and not tonight. */
static int check_words(const struct cli_verb *verb, const struct cli_args *args, struct error **err)
{
	cleanup_json json_t *request = NULL;

	for (const struct cli_option *o = verb->options; o->kind != CLI_END; o++)
		if (!strcmp(o->name, "yes") && !cli_flag(args, "yes"))
			return error_set(err, ERROR_USAGE, 0,
				"nobody can be asked when it runs: give --yes to %s", verb->name);
	if (check_moves(verb, args, err) < 0)
		return -1;
	if (!verb->request || args->help)
		return 0;
	request = verb->request(args, err);
	return request ? 0 : -1;
}

/* What the verb does not know may be an option of the task itself: then the error says where that
 * has its place. */
static void name_own_option(
	const struct cli_verb *verb, const struct cli_args *args, struct error **err)
{
	const char *word = args->unknown ? args->unknown : "";
	size_t dashes = strspn(word, "-"), len = strcspn(word + dashes, "=");

	for (const struct cli_option *o = cli_task_new_options; len && o->kind != CLI_REST; o++) {
		if (strlen(o->name) != len || strncmp(o->name, word + dashes, len) != 0)
			continue;
		error_free(err);
		error_set(err, ERROR_USAGE, 0,
			"--%s is no option of %s; as one of task new it goes before the verb: "
			"`drover task new --%s%s%s %s ...`",
			o->name, verb->name, o->name, o->value ? " " : "", o->value ? o->value : "",
			verb->name);
	}
}

static int check_task(struct cli *cli, const struct cli_verb *verb, int count,
	const char *const *words, struct error **err)
{
	struct cli_args args;
	int rc = cli_args_parse(verb->options, count, words, &args, err);

	if (rc == 0)
		rc = check_words(verb, &args, err);
	if (rc == 0) {
		rc = check_names(cli, verb, &args, err);
	} else {
		name_own_option(verb, &args, err);
		error_prefix(err, "the task");
	}
	cli_args_free(&args);
	return rc;
}

/* The task as a verb and its arguments. */
static json_t *make_argv(struct cli *cli, struct error **err)
{
	const char *words[CLI_ARGS_MAX + 1];
	const struct cli_verb *verb;
	json_t *argv;
	int count = 0, named;

	while ((words[count] = cli_get_nth(&cli->args, "words", (size_t)count)))
		count++;
	words[0] = cli_verb_of_link(words[0]);
	verb = cli_find_verb(cli->verbs, count, words, &named);
	if (!verb)
		cli_unknown_verb(cli->verbs, count, words, err);
	else if (verb->hidden)
		error_set(err, ERROR_REFUSED, 0,
			"\"%s\" cannot be queued: it is for nodes to ask of each other",
			verb->name);
	if (!verb || verb->hidden || check_task(cli, verb, count - named, words + named, err) < 0)
		return NULL;
	argv = json_array();
	for (int i = 0; i < count; i++)
		json_array_append_new(argv, json_string(words[i]));
	return argv;
}

static json_t *make_request(struct cli *cli, struct error **err)
{
	const char *at = cli_get(&cli->args, "at");
	int64_t after, at_ms = 0;
	json_t *argv;

	if (cli_get_number(&cli->args, "after", 1, INT64_MAX, 0, &after, err) < 0)
		return NULL;
	if (at && clock_parse(at, &at_ms) < 0) {
		error_set(err, ERROR_USAGE, 0,
			"--at is a time like 2026-01-31T02:03:04Z, \"2026-01-31 02:03\", 02:03 "
			"(all in UTC) or +90 (seconds from now), not \"%.64s\"",
			at);
		return NULL;
	}
	/* "+0" is now. */
	if (at && at_ms < clock_wall_ms() - PAST_MS) {
		error_set(err, ERROR_USAGE, 0, "--at %.64s is past", at);
		return NULL;
	}
	argv = make_argv(cli, err);
	if (!argv)
		return NULL;
	return json_pack("{s:o, s:o, s:I, s:b}", "argv", argv, "after",
		after ? json_integer(after) : json_null(), "at_ms", (json_int_t)at_ms, "exclusive",
		cli_flag(&cli->args, "exclusive"));
}

static const char *node_of(const struct cli *cli)
{
	return cli_get(&cli->args, "node");
}

int cli_task_new(struct cli *cli, struct error **err)
{
	cleanup_json json_t *body = make_request(cli, err), *answer = NULL;

	if (!body)
		return -1;
	answer = cli_call(cli, "POST", node_of(cli), "/v1/tasks", body, err);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%lld\n", (long long)cli_number(answer, "id", 0));
	return 0;
}

/* "migrate web1 node2" */
static char *command_of(const json_t *task)
{
	const json_t *argv = json_object_get(task, "argv"), *word;
	char *text = fs_format("%s", "");
	size_t i;

	json_array_foreach(argv, i, word)
	{
		char *longer = fs_format("%s%s%s", text, i ? " " : "",
			json_is_string(word) ? json_string_value(word) : "?");

		free_pointer(&text);
		text = longer;
	}
	return text;
}

/* What it waits for, or how it ended. */
static char *note_of(const json_t *task)
{
	const char *state = cli_text(task, "state", "");
	int64_t after = cli_number(task, "after", 0), at_ms = cli_number(task, "at_ms", 0);
	int64_t code = cli_number(task, "exit", 0);
	char when[32];

	if (!strcmp(state, "waiting") && at_ms > clock_wall_ms()) {
		clock_format(at_ms, when);
		return fs_format("until %s", when);
	}
	if (!strcmp(state, "waiting") || !strcmp(state, "skipped"))
		return fs_format("after task %lld", (long long)after);
	if (code > 0)
		return fs_format("exit status %lld", (long long)code);
	return fs_format("%s", "");
}

static void add_task(struct cli_table *table, const json_t *task)
{
	cleanup_free char *command = command_of(task), *note = note_of(task);
	cleanup_free char *id = fs_format("%lld", (long long)cli_number(task, "id", 0));
	char created[32];

	clock_format(cli_number(task, "created_ms", 0), created);
	created[19] = '\0'; /* whole seconds */
	cli_table_add(table, false,
		(const char *const[]){id, cli_text(task, "state", "?"), cli_text(task, "from", "-"),
			created, note, command});
}

int cli_task_ls(struct cli *cli, struct error **err)
{
	static const char *const titles[] = {
		">ID", "STATE", "FROM", "CREATED (UTC)", "NOTE", "TASK"};
	static const struct cli_list list = {"/v1/tasks", "tasks", 6, titles, add_task};

	return cli_print_list(cli, node_of(cli), &list, err);
}

static char *task_path(const struct cli *cli, const char *format, struct error **err)
{
	const char *id = cli_get(&cli->args, "id");
	int64_t number;

	if (cli_get_number(&cli->args, "id", 1, INT64_MAX, 0, &number, err) < 0)
		return NULL;
	return cli_path(format, id);
}

static void print_time(const json_t *task, const char *key, const char *title)
{
	char text[32];

	if (!cli_number(task, key, 0))
		return;
	clock_format(cli_number(task, key, 0), text);
	printf("  %s%s\n", title, text);
}

int cli_task_show(struct cli *cli, struct error **err)
{
	cleanup_free char *path = task_path(cli, "/v1/tasks/%s", err), *command = NULL;
	cleanup_free char *note = NULL;
	cleanup_json json_t *task = NULL;

	task = path ? cli_call(cli, "GET", node_of(cli), path, NULL, err) : NULL;
	if (!task)
		return -1;
	if (cli->json) {
		cli_print_json(task);
		return 0;
	}
	command = command_of(task);
	note = note_of(task);
	printf("task %lld: %s%s%s\n  drover ", (long long)cli_number(task, "id", 0),
		cli_text(task, "state", "?"), *note ? ", " : "", note);
	cli_print_text(command);
	printf("\n  from:     %s\n", cli_text(task, "from", "this node"));
	print_time(task, "created_ms", "created:  ");
	print_time(task, "at_ms", "not before: ");
	print_time(task, "started_ms", "started:  ");
	print_time(task, "ended_ms", "ended:    ");
	if (json_is_true(json_object_get(task, "exclusive")))
		printf("  exclusive\n");
	return 0;
}

int cli_task_log(struct cli *cli, struct error **err)
{
	cleanup_free char *path = task_path(cli, "/v1/tasks/%s/log", err);
	bool follow = cli_flag(&cli->args, "follow"), ended = false;
	int64_t offset = 0, before;

	if (!path)
		return -1;
	do {
		cleanup_free char *whole = fs_format("%s?offset=%lld&wait_ms=%d", path,
			(long long)offset, follow ? CLI_WAIT_MS : 0);
		cleanup_json json_t *answer = cli_call_within(
			cli, NULL, 2 * CLI_WAIT_MS, "GET", node_of(cli), whole, NULL, err);

		if (!answer)
			return -1;
		if (cli->json)
			cli_print_json(answer);
		else
			cli_print_text(cli_text(answer, "text", ""));
		fflush(stdout);
		before = offset;
		offset = cli_number(answer, "offset", offset);
		ended = json_is_true(json_object_get(answer, "ended"));
	} while (!ended && (follow || offset > before));
	return 0;
}

int cli_task_cancel(struct cli *cli, struct error **err)
{
	cleanup_free char *path = task_path(cli, "/v1/tasks/%s/cancel", err);
	cleanup_json json_t *answer =
		path ? cli_call(cli, "POST", node_of(cli), path, NULL, err) : NULL;

	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("task %s is cancelled\n", cli_get(&cli->args, "id"));
	return 0;
}

int cli_task_flush(struct cli *cli, struct error **err)
{
	cleanup_json json_t *answer = cli_call(cli, "DELETE", node_of(cli), "/v1/tasks", NULL, err);
	char removed[64];

	if (!answer)
		return -1;
	cli_format_count(cli_number(answer, "removed", 0), "task", removed);
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%s removed\n", removed);
	return 0;
}
