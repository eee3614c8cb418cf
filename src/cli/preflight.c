/* What is known before a move: `migrate --check`, and the warnings of one that goes on. */
#include "cli/cli.h"
#include "cli/preflight.h"

#include "base/json.h"

#include <string.h>

json_t *cli_force(const struct cli_args *args)
{
	json_t *list = NULL;
	const char *text;

	for (size_t n = 0; (text = cli_get_nth(args, "force", n)); n++)
		for (const char *at = text; *at; at += *at == ',') {
			size_t len = strcspn(at, ",");

			list = list ? list : json_array();
			if (len > 0)
				json_array_append_new(list, json_stringn(at, len));
			at += len;
		}
	return list;
}

static bool is(const json_t *check, const char *result)
{
	return !strcmp(cli_text(check, "result", ""), result);
}

static bool forced(const json_t *check)
{
	return json_is_true(json_object_get(check, "forced"));
}

static void print_table(const json_t *checks)
{
	static const char *const titles[] = {"CHECK", "RESULT", "HERE", "THERE", "WHAT TO DO"};
	/* On a terminal a sentence has no room in a column. */
	bool narrow = cli_width(1) > 0;
	struct cli_table *table = cli_table_new(narrow ? 4 : 5, titles);
	const json_t *check;
	size_t i;

	json_array_foreach(checks, i, check)
	{
		const char *here = cli_text(check, "here", ""),
			   *there = cli_text(check, "there", "");
		bool failed = is(check, "failed");

		cli_table_add(table, failed && !forced(check),
			(const char *const[]){cli_text(check, "id", "?"),
				failed && forced(check) ? "forced" : cli_text(check, "result", "?"),
				*here ? here : "-", *there ? there : "-",
				cli_text(check, "message", "")});
	}
	cli_table_print(table);
	json_array_foreach(checks, i, check)
	{
		if (!narrow || is(check, "ok"))
			continue;
		printf("%s: ", cli_text(check, "id", "?"));
		cli_print_text(cli_text(check, "message", ""));
		putchar('\n');
	}
}

/* The error of the first check that stops the move. */
static int make_refusal(const json_t *report, struct error **err)
{
	const json_t *check;
	size_t i;

	json_array_foreach(json_object_get(report, "checks"), i, check)
	{
		if (is(check, "failed") && !forced(check))
			return error_set(err, error_kind_from_name(cli_text(check, "kind", "")), 0,
				"%s would not be moved to %s: %s", cli_text(report, "vm", "?"),
				cli_text(report, "to", "?"), cli_text(check, "message", "?"));
	}
	return error_set(err, ERROR_FAILED, 0, "%s would not be moved, and %s does not say why",
		cli_text(report, "vm", "?"), cli_text(report, "from", "?"));
}

/* The checks do not say whether it comes to an end, the estimate does. */
static void print_ready(const json_t *report)
{
	const json_t *estimate = json_object_get(report, "estimate");
	const char *vm = cli_text(report, "vm", "?"), *to = cli_text(report, "to", "?");

	if (!strcmp(cli_text(estimate, "converges", ""), "no"))
		printf("no check stands against a move of %s to %s, but this one would not come "
		       "to an end: see the estimate for what helps\n",
			vm, to);
	else
		printf("%s can be moved to %s\n", vm, to);
}

int cli_print_preflight(const struct cli *cli, const json_t *report)
{
	cleanup_error struct error *e = NULL;
	bool ready = json_is_true(json_object_get(report, "ready"));

	if (!ready)
		make_refusal(report, &e);
	if (!cli->json) {
		print_table(json_object_get(report, "checks"));
		cli_print_estimate(json_object_get(report, "estimate"));
	}
	fflush(stdout);
	if (!ready)
		return cli_print_error(cli, e, report);
	if (cli->json)
		cli_print_json(report);
	else
		print_ready(report);
	return 0;
}

/* Checks that say the same, as those do that an older drover does not know, in one line. */
static void print_alike(const json_t *warnings, size_t first)
{
	const char *message = cli_text(json_array_get(warnings, first), "message", "");
	const char *separator = "";
	const json_t *check;
	size_t i;

	json_array_foreach(warnings, i, check)
	{
		if (strcmp(cli_text(check, "message", ""), message) != 0)
			continue;
		if (i < first)
			return;
		fprintf(stderr, "%s%s",
			*separator ? separator : "drover: warning: ", cli_text(check, "id", "?"));
		separator = ", ";
	}
	fprintf(stderr, ": %s\n", message);
}

void cli_print_warnings(const struct cli *cli, const json_t *warnings)
{
	cleanup_json json_t *object = NULL;

	if (json_array_size(warnings) == 0)
		return;
	for (size_t i = 0; i < json_array_size(warnings); i++)
		print_alike(warnings, i);
	object = json_pack("{s:O}", "warnings", warnings);
	if (cli->json)
		cli_print_json(object);
}
