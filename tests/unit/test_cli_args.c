#include "cli/args.h"

#include "base/fs.h"
#include "cli/cli.h"
#include "cli/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct cli_option options[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname name"},
	{CLI_OPTIONAL, "node", "NODE", "where", NULL},
	{CLI_VALUE, "memory", "SIZE", "memory", "vm_ram ram"},
	{CLI_LIST, "disk", "FILE", "disks", NULL},
	{CLI_VALUE, "own-address", "HOST", "address", NULL},
	{CLI_FLAG, "yes", NULL, "does not ask", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
static const struct cli_option with_keys[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname"},
	{CLI_KEYS, "key", "KEY=VALUE", "keys", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
static const struct cli_option with_rest[] = {
	{CLI_VALUE, "after", "ID", "after", NULL},
	{CLI_REST, "words", "VERB", "words", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

static int parse(const struct cli_option *table, struct cli_args *args, struct error **err,
	int count, const char *const *words)
{
	return cli_args_parse(table, count, words, args, err);
}

#define PARSE(table, args, err, ...) \
	parse(table, args, err, (int)COUNT(((const char *const[]){__VA_ARGS__})), \
		(const char *const[]){__VA_ARGS__})

/* Expects a usage error whose message holds `part`. */
#define EXPECT_ERROR(table, part, ...) \
	do { \
		struct cli_args bad; \
		cleanup_error struct error *e = NULL; \
\
		assert_int_equal(PARSE(table, &bad, &e, __VA_ARGS__), -1); \
		assert_int_equal(e->kind, ERROR_USAGE); \
		if (!strstr(e->message, part)) \
			fail_msg("\"%s\" is not in: %s", part, e->message); \
		cli_args_free(&bad); \
	} while (0)

static void expect_web1_on_node2(struct cli_args *args)
{
	assert_string_equal(cli_get(args, "vm"), "web1");
	assert_string_equal(cli_get(args, "node"), "node2");
	assert_string_equal(cli_get(args, "memory"), "1G");
	cli_args_free(args);
}

static void test_all_spellings_mean_the_same(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(PARSE(options, &args, NULL, "web1", "node2", "--memory", "1G"), 0);
	expect_web1_on_node2(&args);
	assert_int_equal(PARSE(options, &args, NULL, "--memory=1G", "web1", "node2"), 0);
	expect_web1_on_node2(&args);
	assert_int_equal(PARSE(options, &args, NULL, "jname=web1", "node=node2", "vm_ram=1G"), 0);
	expect_web1_on_node2(&args);
	assert_int_equal(PARSE(options, &args, NULL, "node=node2", "ram=1G", "web1"), 0);
	expect_web1_on_node2(&args);
	assert_int_equal(
		PARSE(options, &args, NULL, "--vm", "web1", "--node=node2", "memory=1G"), 0);
	expect_web1_on_node2(&args);
}

static void test_dash_and_underscore_are_the_same_in_names(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(PARSE(options, &args, NULL, "web1", "own_address=a"), 0);
	assert_string_equal(cli_get(&args, "own-address"), "a");
	cli_args_free(&args);
}

static void test_values_may_hold_equal_signs_and_spaces(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(
		PARSE(options, &args, NULL, "web1", "disk=a.raw,size=1G", "--disk", "b c=d"), 0);
	assert_string_equal(cli_get_nth(&args, "disk", 0), "a.raw,size=1G");
	assert_string_equal(cli_get_nth(&args, "disk", 1), "b c=d");
	assert_null(cli_get_nth(&args, "disk", 2));
	cli_args_free(&args);
}

static void test_flags_can_be_switched_off(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(PARSE(options, &args, NULL, "web1", "--yes"), 0);
	assert_true(cli_flag(&args, "yes"));
	cli_args_free(&args);
	assert_int_equal(PARSE(options, &args, NULL, "web1", "--yes", "yes=0"), 0);
	assert_false(cli_flag(&args, "yes"));
	cli_args_free(&args);
	EXPECT_ERROR(options, "yes or no", "web1", "--yes=maybe");
}

static void test_unknown_options_name_the_closest(void **state)
{
	(void)state;
	EXPECT_ERROR(options, "--memory", "web1", "--memroy", "1G");
	EXPECT_ERROR(options, "memory=", "web1", "memori=1G");
	EXPECT_ERROR(options, "--json", "web1", "--jsn");
	EXPECT_ERROR(options, "not known", "web1", "--frobnicate");
	EXPECT_ERROR(options, "not known", "web1", "-x");
}

static void test_words_that_are_missing_or_too_many_are_errors(void **state)
{
	(void)state;
	EXPECT_ERROR(options, "VM is missing", "--yes");
	EXPECT_ERROR(options, "too many", "web1", "node2", "more");
	EXPECT_ERROR(options, "needs a value", "web1", "--memory");
	EXPECT_ERROR(options, "needs a value", "web1", "--memory", "--yes");
	EXPECT_ERROR(options, "ram needs a value, SIZE: memory", "web1", "ram=");
	EXPECT_ERROR(options, "--disk needs a value, FILE: disks", "web1", "--disk=");
	EXPECT_ERROR(options, "given twice", "web1", "memory=1G", "--memory", "2G");
	EXPECT_ERROR(
		options, "jname is given twice: \"web1\" and \"web2\"", "vm=web1", "jname=web2");
	EXPECT_ERROR(
		options, "VM is given by its place already, as \"web1\"", "web1", "jname=web2");
	EXPECT_ERROR(options, "empty", "");
}

static void test_arguments_are_bounded(void **state)
{
	cleanup_free char *big = fs_format("%0*d", CLI_VALUE_MAX + 1, 0);
	const char *many[CLI_ARGS_MAX + 1];
	struct cli_args args;

	(void)state;
	EXPECT_ERROR(options, "longer than", big);
	EXPECT_ERROR(options, "UTF-8", "web1", "--disk", "\xff\xfe");
	for (size_t i = 0; i < COUNT(many); i++)
		many[i] = "disk=x";
	assert_int_equal(cli_args_parse(options, (int)COUNT(many), many, &args, NULL), -1);
	cli_args_free(&args);
}

static void test_after_two_dashes_all_is_positional(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(PARSE(options, &args, NULL, "--yes", "--", "--memory", "a=b"), 0);
	assert_string_equal(cli_get(&args, "vm"), "--memory");
	assert_string_equal(cli_get(&args, "node"), "a=b");
	cli_args_free(&args);
}

static void test_help_needs_nothing_else(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(PARSE(options, &args, NULL, "--help", "--nonsense"), 0);
	assert_true(args.help);
	cli_args_free(&args);
}

static void test_other_keys_are_kept_with_their_values(void **state)
{
	struct cli_args args;
	const char *key, *value;

	(void)state;
	assert_int_equal(PARSE(with_keys, &args, NULL, "web1", "disk0.cache=none",
				 "--vnc=", "--append", "a=b"),
		0);
	assert_true(cli_get_key(&args, 0, &key, &value));
	assert_string_equal(key, "disk0.cache");
	assert_string_equal(value, "none");
	assert_true(cli_get_key(&args, 1, &key, &value));
	assert_string_equal(key, "vnc");
	assert_string_equal(value, "");
	assert_true(cli_get_key(&args, 2, &key, &value));
	assert_string_equal(key, "append");
	assert_string_equal(value, "a=b");
	assert_false(cli_get_key(&args, 3, &key, &value));
	cli_args_free(&args);
}

static void test_the_rest_is_taken_as_it_is(void **state)
{
	struct cli_args args;

	(void)state;
	assert_int_equal(PARSE(with_rest, &args, NULL, "--after", "3", "migrate", "web1", "--after",
				 "x=y", "--help"),
		0);
	assert_string_equal(cli_get(&args, "after"), "3");
	assert_string_equal(cli_get_nth(&args, "words", 0), "migrate");
	assert_string_equal(cli_get_nth(&args, "words", 2), "--after");
	assert_string_equal(cli_get_nth(&args, "words", 4), "--help");
	assert_null(cli_get_nth(&args, "words", 5));
	assert_false(args.help);
	cli_args_free(&args);
	EXPECT_ERROR(with_rest, "VERB is missing", "--after", "3");
}

static void test_rates_are_bytes_or_bits(void **state)
{
	static const struct {
		const char *text;
		int64_t bytes;
	} good[] = {{"100M", 100 << 20}, {"100M/s", 100 << 20}, {"800mbit", 100000000},
		{"1gbit", 125000000}, {"1.5Mbit", 187500}, {"64kbit", 8000}, {"4096", 4096}};
	static const char *const bad[] = {
		"", "0", "mbit", "1zbit", "-1mbit", "1mbits", "nan", "0mbit", "9999999gbit", "1e9"};
	cleanup_error struct error *e = NULL;
	int64_t bytes;

	(void)state;
	for (size_t i = 0; i < COUNT(good); i++) {
		assert_int_equal(cli_parse_rate("rate", good[i].text, &bytes, NULL), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_int_equal(cli_parse_rate("rate", bad[i], &bytes, NULL), -1);
	assert_int_equal(cli_parse_rate("rate", "1T", &bytes, NULL), 0);
	assert_int_equal(cli_parse_rate("rate", "99999999999999T", &bytes, &e), -1);
	assert_non_null(strstr(e->message, "at most 1T"));
}

static void test_the_closest_word_is_near(void **state)
{
	static const char *const words[] = {
		"migrate", "migration", "rm", "rename", "node", "init", "start", "set", "ls"};
	static const char *const near[][2] = {{"migrat", "migrate"}, {"imgrate", "migrate"},
		{"bmigrate", "migrate"}, {"mgrtion", "migration"}, {"renam", "rename"},
		{"sl", "ls"}, {"nod", "node"}, {"strt", "start"}, {"rm", "rm"}};
	static const char *const far[] = {"frobnicate", "", "vm", "mv", "rn", "r", "move", "info",
		"edit", "get", "mode", "restart", "resize"};

	(void)state;
	for (size_t i = 0; i < COUNT(near); i++)
		assert_string_equal(cli_closest(near[i][0], words, COUNT(words)), near[i][1]);
	for (size_t i = 0; i < COUNT(far); i++)
		assert_null(cli_closest(far[i], words, COUNT(words)));
}

static void test_figures_are_for_people(void **state)
{
	char text[32], count[64];

	(void)state;
	cli_format_size(0, text);
	assert_string_equal(text, "0 B");
	cli_format_count(1, "VM", count);
	assert_string_equal(count, "1 VM");
	cli_format_count(0, "VM", count);
	assert_string_equal(count, "0 VMs");
	cli_format_size(512ll << 20, text);
	assert_string_equal(text, "512 MiB");
	cli_format_size(3ll << 29, text);
	assert_string_equal(text, "1.5 GiB");
	cli_format_traffic(271000000, text);
	assert_string_equal(text, "271 MB");
	cli_format_time(43, text);
	assert_string_equal(text, "43 ms");
	cli_format_time(2310, text);
	assert_string_equal(text, "2.31 s");
	cli_format_time(184000, text);
	assert_string_equal(text, "3 min 4 s");
}

static json_t *event(void)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:I}", "phase", "rounds", "sent",
		(json_int_t)64 << 20, "remaining", (json_int_t)64 << 20, "total",
		(json_int_t)256 << 20, "rate_bps", (json_int_t)100000000, "dirty_rate_bps",
		(json_int_t)3000000, "round", 2, "eta_ms", (json_int_t)1500);
}

static void test_a_progress_line_shows_all_where_there_is_room(void **state)
{
	json_t *e = event();
	char line[200];

	(void)state;
	progress_line(e, 199, line, sizeof(line));
	assert_string_equal(line, "round 2  75 %  [###############.....]  64 MiB left  100 MB/s  "
				  "ETA 2 s  dirty 3 MB/s  64 MiB sent");
	progress_line(e, 79, line, sizeof(line));
	assert_string_equal(line, "round 2  75 %  [#######...]  64 MiB left  100 MB/s  ETA 2 s  "
				  "dirty 3 MB/s");
	json_decref(e);
}

static void test_a_progress_line_fits_every_width(void **state)
{
	json_t *e = event();
	char line[200];

	(void)state;
	for (size_t width = 0; width < sizeof(line); width++) {
		progress_line(e, width, line, sizeof(line));
		assert_true(strlen(line) <= width);
	}
	json_decref(e);
}

static void test_a_progress_line_survives_odd_numbers(void **state)
{
	static const char *const odd[] = {"{}",
		"{\"phase\": 1, \"total\": -5, \"remaining\": -9, \"sent\": -1}",
		"{\"total\": 1, \"remaining\": 9223372036854775807, \"sent\": 1}",
		"{\"total\": 9223372036854775807, \"remaining\": 0, \"sent\": 9223372036854775807}",
		"{\"total\": 1, \"sent\": 1, \"eta_ms\": 9223372036854775807}",
		"{\"total\": 1, \"sent\": 1, \"rate_bps\": 1e300}"};
	char line[200];

	(void)state;
	for (size_t i = 0; i < COUNT(odd); i++) {
		json_t *e = json_loads(odd[i], 0, NULL);

		progress_line(e, 79, line, sizeof(line));
		assert_true(strlen(line) <= 79);
		json_decref(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_spellings_mean_the_same),
		cmocka_unit_test(test_dash_and_underscore_are_the_same_in_names),
		cmocka_unit_test(test_values_may_hold_equal_signs_and_spaces),
		cmocka_unit_test(test_flags_can_be_switched_off),
		cmocka_unit_test(test_unknown_options_name_the_closest),
		cmocka_unit_test(test_words_that_are_missing_or_too_many_are_errors),
		cmocka_unit_test(test_arguments_are_bounded),
		cmocka_unit_test(test_after_two_dashes_all_is_positional),
		cmocka_unit_test(test_help_needs_nothing_else),
		cmocka_unit_test(test_other_keys_are_kept_with_their_values),
		cmocka_unit_test(test_the_rest_is_taken_as_it_is),
		cmocka_unit_test(test_rates_are_bytes_or_bits),
		cmocka_unit_test(test_the_closest_word_is_near),
		cmocka_unit_test(test_figures_are_for_people),
		cmocka_unit_test(test_a_progress_line_shows_all_where_there_is_room),
		cmocka_unit_test(test_a_progress_line_fits_every_width),
		cmocka_unit_test(test_a_progress_line_survives_odd_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
