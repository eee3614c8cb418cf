#include "cli/args.h"

#include "base/fs.h"
#include "pool/image.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define RATE_MAX ((double)(1ull << 40)) /* bytes a second, as the API takes it */

int cli_check_vm(const char *value, struct error **err)
{
	return fs_check_name("VM", value, err);
}

int cli_check_node(const char *value, struct error **err)
{
	return fs_check_name("node", value, err);
}

int cli_check_image(const char *value, struct error **err)
{
	return image_check_name(value, err);
}

/* What a number counts, by what stands for it in the help. */
static const char *unit_of(const char *value, size_t len)
{
	static const struct {
		const char *value, *unit;
	} units[] = {
		{"MS", " of milliseconds"}, {"SECONDS", " of seconds"}, {"ROUNDS", " of rounds"}};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strlen(units[i].value) == len && !strncmp(units[i].value, value, len))
			return units[i].unit;
	return "";
}

static int no_number(const struct cli_given *given, int64_t min, int64_t max, struct error **err)
{
	const char *stands = given->option->value, *word = strchr(stands, '|');
	size_t len = word ? (size_t)(word - stands) : strlen(stands);
	cleanup_free char *range =
		max == INT64_MAX ? fs_format("%lld on", (long long)min)
				 : fs_format("%lld to %lld", (long long)min, (long long)max);

	return error_set(err, ERROR_USAGE, 0, "%s is a number%s from %s%s%s, not \"%.64s\"",
		given->typed, unit_of(stands, len), range, word ? ", or " : "",
		word ? word + 1 : "", given->value);
}

int cli_get_number(const struct cli_args *args, const char *name, int64_t min, int64_t max,
	int64_t fallback, int64_t *value, struct error **err)
{
	*value = fallback;
	for (size_t i = 0; i < args->count; i++)
		if (!strcmp(args->given[i].option->name, name))
			return fs_parse_number(name, args->given[i].value, min, max, value, NULL) <
					       0
				       ? no_number(&args->given[i], min, max, err)
				       : 0;
	return 0;
}

/* 0 for what is no rate. */
static double scan_rate(const char *text)
{
	static const struct {
		const char *unit;
		double scale;
	} bits[] = {{"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}};
	size_t number = strspn(text, "0123456789."), len = strlen(text);
	cleanup_free char *plain = NULL;
	double rate;

	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		if (number && !strcasecmp(text + number, bits[i].unit))
			return strtod(text, NULL) * bits[i].scale / 8;
	len -= len > 2 && !strcmp(text + len - 2, "/s") ? 2 : 0;
	plain = fs_format("%.*s", (int)len, text);
	return fs_scan_size(plain, &rate) ? rate : 0;
}

int cli_parse_rate(const char *what, const char *text, int64_t *bytes, struct error **err)
{
	double rate = scan_rate(text);

	if (rate < 1)
		return error_set(err, ERROR_USAGE, 0,
			"%s is a rate like 100M (bytes a second) or 800mbit, not \"%.64s\"", what,
			text);
	if (rate > RATE_MAX)
		return error_set(err, ERROR_USAGE, 0,
			"%s is at most 1T (bytes a second), not \"%.64s\"; without one there is no "
			"limit",
			what, text);
	*bytes = (int64_t)rate;
	return 0;
}

int cli_parse_bool(const char *what, const char *text, bool *value, struct error **err)
{
	static const char *const yes[] = {"1", "yes", "on", "true"};
	static const char *const no[] = {"0", "no", "off", "false"};

	for (size_t i = 0; i < 4; i++) {
		if (strcasecmp(text, yes[i]) && strcasecmp(text, no[i]))
			continue;
		*value = !strcasecmp(text, yes[i]);
		return 0;
	}
	return error_set(err, ERROR_USAGE, 0, "%s is yes or no, not \"%.64s\"", what, text);
}
