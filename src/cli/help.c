#include "cli/cli.h"

#include "base/fs.h"

#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 128

static const struct {
	const char *link, *verb;
} links[] = {{"bmigrate", "migrate"}, {"bcreate", "create"}, {"bstart", "start"}, {"bstop", "stop"},
	{"bls", "ls"}, {"bremove", "rm"}, {"bset", "set"}, {"brename", "rename"},
	{"bconsole", "console"}, {"bsuspend", "suspend"}};

const char *cli_verb_of_link(const char *name)
{
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (!strcmp(name, links[i].link))
			return links[i].verb;
	return name;
}

/* Whether the verb is named by these words: "task new", also written `task mode=new`. */
static int match(const struct cli_verb *verb, int argc, const char *const *argv)
{
	const char *space = strchr(verb->name, ' '), *second;
	size_t family = space ? (size_t)(space - verb->name) : strlen(verb->name);

	if (argc < 1 || strlen(argv[0]) != family || strncmp(verb->name, argv[0], family) != 0)
		return 0;
	if (!space)
		return 1;
	second = argc > 1 ? argv[1] : "";
	if (!strncmp(second, "mode=", 5))
		second += 5;
	return !strcmp(second, space + 1) ? 2 : 0;
}

const struct cli_verb *cli_find_verb(
	const struct cli_verb *verbs, int argc, const char *const *argv, int *words)
{
	for (const struct cli_verb *v = verbs; v->name; v++) {
		*words = match(v, argc, argv);
		if (*words)
			return v;
	}
	return NULL;
}

bool cli_is_family(const struct cli_verb *verbs, const char *word)
{
	size_t len = strlen(word);

	for (const struct cli_verb *v = verbs; v->name; v++)
		if (len && !strncmp(v->name, word, len) && v->name[len] == ' ')
			return true;
	return false;
}

/* First or second words of the verbs, each once. */
static size_t names(const struct cli_verb *verbs, const char *family, char **out)
{
	size_t count = 0, len = family ? strlen(family) : 0;

	for (const struct cli_verb *v = verbs; v->name && count < NAMES_MAX; v++) {
		const char *name = v->name;

		if (v->hidden || (family && (strncmp(name, family, len) || name[len] != ' ')))
			continue;
		name += family ? len + 1 : 0;
		out[count] = fs_format("%.*s", (int)strcspn(name, " "), name);
		if (count > 0 && !strcmp(out[count - 1], out[count]))
			free(out[count]);
		else
			count++;
	}
	return count;
}

static void free_names(char **known, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(known[i]);
}

static int need_second_word(const char *family, char **known, size_t count, struct error **err)
{
	char list[128] = "";

	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(list);

		snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "", known[i]);
	}
	free_names(known, count);
	return error_set(
		err, ERROR_USAGE, 0, "\"%s\" needs one more word, one of: %s", family, list);
}

/* What the tools that people come from call a verb, as far as it is among these; else what is
 * written nearly so. */
static const char *meant(const char *word, const char *const *known, size_t count)
{
	static const char *const others[][2] = {{"list", "ls"}, {"delete", "rm"}, {"remove", "rm"},
		{"destroy", "rm"}, {"move", "migrate"}, {"info", "show"}, {"edit", "set"},
		{"resume", "start"}, {"save", "suspend"}, {"shutdown", "stop"}};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		for (size_t j = 0; j < count && !strcmp(word, others[i][0]); j++)
			if (!strcmp(known[j], others[i][1]))
				return known[j];
	return cli_closest(word, known, count);
}

int cli_unknown_verb(
	const struct cli_verb *verbs, int argc, const char *const *argv, struct error **err)
{
	const char *family = argc > 0 && cli_is_family(verbs, argv[0]) ? argv[0] : NULL;
	const char *word = family     ? (argc > 1 && argv[1][0] != '-' ? argv[1] : "")
			   : argc > 0 ? argv[0]
				      : "";
	const char *space = family ? " " : "", *before = family ? family : "", *closest;
	char *known[NAMES_MAX];
	size_t count = names(verbs, family, known);

	if (!strncmp(word, "mode=", 5))
		word += 5;
	if (family && !*word)
		return need_second_word(family, known, count, err);
	closest = meant(word, (const char *const *)known, count);
	if (closest)
		error_set(err, ERROR_USAGE, 0,
			"\"%s%s%.64s\" is no verb; is \"%s%s%s\" meant? `drover --help` lists them",
			before, space, word, before, space, closest);
	else
		error_set(err, ERROR_USAGE, 0,
			"\"%s%s%.64s\" is no verb; `drover --help` lists them", before, space,
			word);
	free_names(known, count);
	return -1;
}

static bool has_place(const struct cli_option *o)
{
	return o->kind == CLI_POSITIONAL || o->kind == CLI_OPTIONAL || o->kind == CLI_WORDS ||
	       o->kind == CLI_KEYS || o->kind == CLI_REST;
}

static void print_place(FILE *out, const struct cli_option *o)
{
	if (o->kind == CLI_POSITIONAL)
		fprintf(out, " %s", o->value);
	else if (o->kind == CLI_OPTIONAL)
		fprintf(out, " [%s]", o->value);
	else if (o->kind == CLI_WORDS)
		fprintf(out, " [%s...]", o->value);
	else
		fprintf(out, " %s...", o->value);
}

static void print_usage(FILE *out, const struct cli_verb *verb)
{
	const char *options = "";

	fprintf(out, "drover %s", verb->name);
	for (const struct cli_option *o = verb->options; o->kind != CLI_END; o++)
		if (!has_place(o))
			options = " [OPTION...]";
	for (const struct cli_option *o = verb->options; o->kind != CLI_END; o++) {
		/* All that follows the first word of a CLI_REST is that word's. */
		if (o->kind == CLI_REST) {
			fputs(options, out);
			options = "";
		}
		if (has_place(o))
			print_place(out, o);
	}
	fprintf(out, "%s\n", options);
}

static void print_option(FILE *out, const struct cli_option *o)
{
	cleanup_free char *left = NULL;
	bool by_place = o->kind == CLI_POSITIONAL || o->kind == CLI_OPTIONAL;

	if (o->kind == CLI_REST || o->kind == CLI_KEYS || o->kind == CLI_WORDS)
		left = fs_format("%s...", o->value);
	else if (by_place)
		left = fs_format("%s, %s=%s", o->value, o->name, o->value);
	else if (o->kind == CLI_MAYBE)
		left = fs_format("--%s[=%s]", o->name, o->value);
	else
		left = fs_format(
			"--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
	fprintf(out, "  %-24s  %s", left, o->help);
	if (o->kind == CLI_LIST)
		fprintf(out, "; can be repeated");
	if (o->aliases)
		fprintf(out, "; also %s", o->aliases);
	fputc('\n', out);
}

void cli_help_verb(FILE *out, const struct cli_verb *verb)
{
	const char *line = verb->examples;

	fprintf(out, "%s.\n\n  ", verb->summary);
	print_usage(out, verb);
	fputc('\n', out);
	for (const struct cli_option *o = verb->options; o->kind != CLI_END; o++)
		print_option(out, o);
	for (const struct cli_option *o = cli_common_options; o->kind != CLI_END; o++)
		print_option(out, o);
	fprintf(out, "\nAn option can be written --name VALUE, --name=VALUE or name=VALUE.\n"
		     "\nExamples:\n");
	while (*line) {
		size_t len = strcspn(line, "\n");

		fprintf(out, "  %.*s\n", (int)len, line);
		line += len + (line[len] == '\n');
	}
}

void cli_help_all(FILE *out, const struct cli_verb *verbs, const char *family)
{
	size_t len = family ? strlen(family) : 0;

	if (!family)
		fprintf(out,
			"drover moves running virtual machines between the nodes of a cluster, "
			"and never loses one.\n\n");
	for (const struct cli_verb *v = verbs; v->name; v++)
		if (!v->hidden &&
			(!family || (!strncmp(v->name, family, len) && v->name[len] == ' ')))
			fprintf(out, "  %-18s  %s\n", v->name, v->summary);
	fprintf(out, "\n`drover VERB --help` shows what a verb takes, with examples. "
		     "Every verb has --json.\n");
	if (!family)
		fprintf(out,
			"bmigrate, bcreate, bstart, bstop, bsuspend, bls, bremove, bset, brename "
			"and bconsole are these\nverbs in CBSD's spelling: bmigrate jname=web1 "
			"node=node2\n");
}
