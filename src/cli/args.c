#include "cli/args.h"

#include "base/fs.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 64 /* longest name that is looked for */
#define WORDS_MAX 128

const struct cli_option cli_common_options[] = {
	{CLI_FLAG, "json", NULL, "prints JSON", NULL},
	{CLI_VALUE, "socket", "PATH", "droverd's socket ($DROVER_SOCKET)", NULL},
	{CLI_FLAG, "help", NULL, "prints this", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

struct parser {
	const struct cli_option *options;
	struct cli_args *args;
	int argc, at;
	const char *const *argv;
	bool only_positional; /* "--" was there */
	struct error **err;
};

/* Whether the first `len` bytes of `name` are the word `word`; '-' and '_' are the same. */
static bool same_name(const char *word, size_t word_len, const char *name, size_t len)
{
	if (word_len != len)
		return false;
	for (size_t i = 0; i < len; i++)
		if (word[i] != name[i] && !(word[i] == '_' && name[i] == '-') &&
			!(word[i] == '-' && name[i] == '_'))
			return false;
	return true;
}

static bool has_name(const struct cli_option *o, const char *name, size_t len)
{
	const char *alias = o->aliases ? o->aliases : "";

	if (same_name(o->name, strlen(o->name), name, len))
		return true;
	while (*alias) {
		size_t alias_len = strcspn(alias, " ");

		if (same_name(alias, alias_len, name, len))
			return true;
		alias += alias_len + (alias[alias_len] == ' ');
	}
	return false;
}

static const struct cli_option *find_in(
	const struct cli_option *options, const char *name, size_t len)
{
	for (const struct cli_option *o = options; o->kind != CLI_END; o++)
		if (o->kind != CLI_KEYS && o->kind != CLI_REST && has_name(o, name, len))
			return o;
	return NULL;
}

static const struct cli_option *find(const struct parser *p, const char *name, size_t len)
{
	const struct cli_option *o = find_in(p->options, name, len);

	return o ? o : find_in(cli_common_options, name, len);
}

static const struct cli_option *of_kind(const struct parser *p, enum cli_kind kind)
{
	for (const struct cli_option *o = p->options; o->kind != CLI_END; o++)
		if (o->kind == kind)
			return o;
	return NULL;
}

/* Distance of Levenshtein with exchanged neighbours as one step (optimal string alignment). */
static size_t distance(const char *a, const char *b)
{
	size_t rows[3][WORD_MAX + 1], la = strlen(a), lb = strlen(b);

	if (la > WORD_MAX || lb > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t *before = rows[(i + 1) % 3], *last = rows[(i - 1) % 3], *now = rows[i % 3];

		now[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			now[j] = last[j - 1] + (a[i - 1] != b[j - 1]);
			if (last[j] + 1 < now[j])
				now[j] = last[j] + 1;
			if (now[j - 1] + 1 < now[j])
				now[j] = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				before[j - 2] + 1 < now[j])
				now[j] = before[j - 2] + 1;
		}
	}
	return rows[la % 3][lb];
}

/* Whether both have the same letters: at a distance of 1, that two neighbours are exchanged. */
static bool same_letters(const char *a, const char *b)
{
	int counts[256] = {0};

	for (; *a; a++)
		counts[(unsigned char)*a]++;
	for (; *b; b++)
		counts[(unsigned char)*b]--;
	for (size_t i = 0; i < 256; i++)
		if (counts[i])
			return false;
	return true;
}

/* How far a word may be from `known` to be taken for it: the shorter, the more words that are
 * something else are near ("vm", "rm"; "move", "node"). */
static bool is_near(const char *word, const char *known, size_t far)
{
	size_t word_len = strlen(word), len = strlen(known);
	size_t shorter = word_len < len ? word_len : len;

	if (far == 0 || (far == 1 && same_letters(word, known)))
		return true;
	if (word[0] != known[0])
		return far == 1 && shorter >= 5;
	return far <= (shorter >= 5 ? 2 : shorter >= 3 ? 1 : 0);
}

const char *cli_closest(const char *word, const char *const *words, size_t count)
{
	const char *found = NULL;
	size_t best = 0;

	for (size_t i = 0; i < count; i++) {
		size_t far = distance(word, words[i]);

		if (!is_near(word, words[i], far) || (found && far >= best))
			continue;
		best = far;
		found = words[i];
	}
	return found;
}

static size_t collect(const struct cli_option *options, const char **words, size_t count)
{
	for (const struct cli_option *o = options; o->kind != CLI_END; o++)
		if (o->kind != CLI_KEYS && o->kind != CLI_REST && count < WORDS_MAX)
			words[count++] = o->name;
	return count;
}

static int unknown(struct parser *p, const char *dashes, const char *name, size_t len)
{
	const char *words[WORDS_MAX];
	size_t count = collect(cli_common_options, words, collect(p->options, words, 0));
	cleanup_free char *word = fs_format("%.*s", (int)(len < WORD_MAX ? len : WORD_MAX), name);
	const char *closest = cli_closest(word, words, count);
	const char *after = !*dashes && name[len] == '=' ? "=" : "";

	p->args->unknown = p->argv[p->at - 1];
	if (closest)
		return error_set(p->err, ERROR_USAGE, 0,
			"%s%s%s is not known here; is %s%s%s meant? --help shows what there is",
			dashes, word, after, *dashes ? "--" : "", closest, after);
	return error_set(p->err, ERROR_USAGE, 0, "%s%s%s is not known here; --help shows what is",
		dashes, word, after);
}

static const struct cli_given *find_given(
	const struct cli_args *args, const struct cli_option *option)
{
	for (size_t i = 0; i < args->count; i++)
		if (args->given[i].option == option)
			return &args->given[i];
	return NULL;
}

static int check_value(struct parser *p, const char *name, const char *value)
{
	json_t *text;

	if (strlen(value) > CLI_VALUE_MAX)
		return error_set(
			p->err, ERROR_USAGE, 0, "%s is longer than %d bytes", name, CLI_VALUE_MAX);
	text = json_string(value);
	if (!text)
		return error_set(p->err, ERROR_USAGE, 0, "%s is not UTF-8 text", name);
	json_decref(text);
	return 0;
}

/* `typed`: as the user has named it; NULL: by its place. */
static int store(struct parser *p, const struct cli_option *o, const char *key, const char *typed,
	const char *value)
{
	struct cli_args *args = p->args;
	const char *named = typed ? typed : o->value;

	if (check_value(p, named, value) < 0 || (o->check && o->check(value, p->err) < 0))
		return -1;
	if (args->count == CLI_ARGS_MAX)
		return error_set(p->err, ERROR_USAGE, 0, "more than %d arguments", CLI_ARGS_MAX);
	args->given[args->count++] = (struct cli_given){.option = o,
		.typed = fs_format("%s", named),
		.by_place = !typed,
		.key = key ? fs_format("%s", key) : NULL,
		.value = fs_format("%s", value)};
	return 0;
}

static int take_flag(
	struct parser *p, const struct cli_option *o, const char *typed, const char *value)
{
	bool on = true;

	if (value && cli_parse_bool(typed, value, &on, p->err) < 0)
		return -1;
	if (!strcmp(o->name, "help"))
		p->args->help = on;
	return store(p, o, NULL, typed, on ? "1" : "0");
}

static int given_twice(
	struct parser *p, const struct cli_given *before, const char *typed, const char *value)
{
	if (before->by_place)
		return error_set(p->err, ERROR_USAGE, 0,
			"%s \"%.64s\" is one too many: %s is given by its place already, as "
			"\"%.64s\"",
			typed, value, before->typed, before->value);
	return error_set(p->err, ERROR_USAGE, 0, "%s is given twice: \"%.64s\" and \"%.64s\"",
		typed, before->value, value);
}

/* A value for a named option, or NULL: then it is the next word. */
static int take_named(
	struct parser *p, const struct cli_option *o, const char *typed, const char *value)
{
	const struct cli_given *before = find_given(p->args, o);

	if (o->kind == CLI_FLAG)
		return take_flag(p, o, typed, value);
	if (o->kind == CLI_MAYBE && !value)
		value = "1";
	if (!value && p->at < p->argc && strncmp(p->argv[p->at], "--", 2) != 0)
		value = p->argv[p->at++];
	if (!value || !*value)
		return error_set(p->err, ERROR_USAGE, 0, "%s needs a value, %s: %s", typed,
			o->value, o->help);
	if (o->kind != CLI_LIST && o->kind != CLI_WORDS && before)
		return given_twice(p, before, typed, value);
	return store(p, o, NULL, typed, value);
}

/* A key=value that the table does not name; the value may be empty. */
static int take_key(struct parser *p, const struct cli_option *keys, const char *word, size_t len)
{
	const char *value = word[len] == '=' ? word + len + 1 : NULL;
	cleanup_free char *key = fs_format("%.*s", (int)(len < WORD_MAX ? len : WORD_MAX), word);

	p->args->unknown = p->argv[p->at - 1];
	if (!value && p->at < p->argc && strncmp(p->argv[p->at], "--", 2) != 0)
		value = p->argv[p->at++];
	if (!value)
		return error_set(
			p->err, ERROR_USAGE, 0, "--%s needs a value: --%s=VALUE", key, key);
	return store(p, keys, key, key, value);
}

static int take_option(struct parser *p, const char *word)
{
	size_t len = strcspn(word, "=");
	const struct cli_option *o = find(p, word, len), *keys = of_kind(p, CLI_KEYS);
	cleanup_free char *typed =
		fs_format("--%.*s", (int)(len < WORD_MAX ? len : WORD_MAX), word);

	if (o)
		return take_named(p, o, typed, word[len] ? word + len + 1 : NULL);
	if (keys && len > 0)
		return take_key(p, keys, word, len);
	return unknown(p, "--", word, len);
}

/* Whether a word is key=value: a name, then '='. */
static bool is_key_value(const char *word)
{
	size_t len = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				  "_.-");

	return len > 0 && word[len] == '=' && isalpha((unsigned char)*word);
}

static int take_key_value(struct parser *p, const char *word)
{
	size_t len = strcspn(word, "=");
	const struct cli_option *o = find(p, word, len), *keys = of_kind(p, CLI_KEYS);
	cleanup_free char *typed = fs_format("%.*s", (int)(len < WORD_MAX ? len : WORD_MAX), word);

	if (o)
		return take_named(p, o, typed, word + len + 1);
	if (keys)
		return take_key(p, keys, word, len);
	return unknown(p, "", word, len);
}

static int take_rest(struct parser *p, const struct cli_option *rest)
{
	for (p->at--; p->at < p->argc; p->at++)
		if (store(p, rest, NULL, NULL, p->argv[p->at]) < 0)
			return -1;
	return 0;
}

/* A word that has no place: often a key whose value is missing. */
static int too_many(struct parser *p, const char *word)
{
	cleanup_free char *pair = fs_format("%.*s=", WORD_MAX, word);
	const struct cli_option *o = find(p, word, strlen(word)), *keys = of_kind(p, CLI_KEYS);
	bool valued = o && (o->kind == CLI_VALUE || o->kind == CLI_LIST || o->kind == CLI_MAYBE);

	if (!p->only_positional && is_key_value(pair) && (valued || (keys && !o)))
		return error_set(p->err, ERROR_USAGE, 0, "\"%.64s\" has no value: write %.64s=%s",
			word, word, valued ? o->value : "VALUE");
	return error_set(p->err, ERROR_USAGE, 0,
		"\"%.64s\" is one word too many; --help shows what there is", word);
}

static int take_positional(struct parser *p, const char *word)
{
	const struct cli_option *rest = of_kind(p, CLI_REST), *words = of_kind(p, CLI_WORDS);

	for (const struct cli_option *o = p->options; o->kind != CLI_END; o++)
		if ((o->kind == CLI_POSITIONAL || o->kind == CLI_OPTIONAL) &&
			!find_given(p->args, o))
			return *word ? store(p, o, NULL, NULL, word)
				     : error_set(p->err, ERROR_USAGE, 0, "%s is empty", o->value);
	if (words && *word)
		return store(p, words, NULL, NULL, word);
	if (rest)
		return take_rest(p, rest);
	return too_many(p, word);
}

static int take_word(struct parser *p, const char *word)
{
	if (p->only_positional)
		return take_positional(p, word);
	if (!strcmp(word, "--")) {
		p->only_positional = true;
		return 0;
	}
	if (!strcmp(word, "-h"))
		return take_option(p, "help");
	if (!strncmp(word, "--", 2))
		return take_option(p, word + 2);
	if (word[0] == '-' && word[1])
		return unknown(p, "-", word + 1, strcspn(word + 1, "="));
	return is_key_value(word) ? take_key_value(p, word) : take_positional(p, word);
}

static int check_required(struct parser *p)
{
	for (const struct cli_option *o = p->options; o->kind != CLI_END; o++)
		if ((o->kind == CLI_POSITIONAL || o->kind == CLI_REST) && !find_given(p->args, o))
			return error_set(p->err, ERROR_USAGE, 0,
				"%s is missing: %s; --help shows how it is written", o->value,
				o->help);
	return 0;
}

int cli_args_parse(const struct cli_option *options, int argc, const char *const *argv,
	struct cli_args *args, struct error **err)
{
	struct parser p = {
		.options = options, .args = args, .argc = argc, .argv = argv, .err = err};

	memset(args, 0, sizeof(*args));
	if (argc > CLI_ARGS_MAX)
		return error_set(err, ERROR_USAGE, 0, "more than %d arguments", CLI_ARGS_MAX);
	while (p.at < argc && !args->help)
		if (take_word(&p, argv[p.at++]) < 0)
			return -1;
	return args->help ? 0 : check_required(&p);
}

void cli_args_free(struct cli_args *args)
{
	for (size_t i = 0; i < args->count; i++) {
		free(args->given[i].typed);
		free(args->given[i].key);
		free(args->given[i].value);
	}
	args->count = 0;
}

const char *cli_get_nth(const struct cli_args *args, const char *name, size_t n)
{
	for (size_t i = 0; i < args->count; i++)
		if (!strcmp(args->given[i].option->name, name) && n-- == 0)
			return args->given[i].value;
	return NULL;
}

const char *cli_get(const struct cli_args *args, const char *name)
{
	return cli_get_nth(args, name, 0);
}

/* The last one counts: `yes=0` after an alias that says --yes. */
bool cli_flag(const struct cli_args *args, const char *name)
{
	bool on = false;

	for (size_t i = 0; i < args->count; i++)
		if (!strcmp(args->given[i].option->name, name))
			on = !strcmp(args->given[i].value, "1");
	return on;
}

bool cli_is_given(const struct cli_args *args, const char *name)
{
	for (size_t i = 0; i < args->count; i++)
		if (!strcmp(args->given[i].option->name, name))
			return args->given[i].option->kind != CLI_FLAG || cli_flag(args, name);
	return false;
}

bool cli_get_key(const struct cli_args *args, size_t n, const char **key, const char **value)
{
	for (size_t i = 0; i < args->count; i++) {
		if (args->given[i].option->kind != CLI_KEYS || n-- > 0)
			continue;
		*key = args->given[i].key;
		*value = args->given[i].value;
		return true;
	}
	return false;
}
