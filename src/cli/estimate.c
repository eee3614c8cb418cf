/* Estimates of a move: before it, and how far off they were. */
#include "cli/preflight.h"

#include <string.h>

struct figure {
	const char *key, *label;
	void (*format)(int64_t value, char out[32]);
};

static const struct figure figures[] = {{"total_ms", "time", cli_format_time},
	{"wire_bytes", "network", cli_format_traffic},
	{"downtime_ms", "stands still", cli_format_time}};
#define FIGURES (sizeof(figures) / sizeof(*figures))

/* "0.52 s to 1.1 s", "from 0.52 s", "not known". */
static void range_text(const struct figure *f, const json_t *estimate, char out[80])
{
	const json_t *range = json_object_get(estimate, f->key);
	const json_t *low = json_array_get(range, 0), *high = json_array_get(range, 1);
	char from[32], to[32];

	snprintf(out, 80, "not known");
	if (!json_is_integer(low))
		return;
	f->format(json_integer_value(low), from);
	if (!json_is_integer(high)) {
		snprintf(out, 80, "from %s, without an end", from);
		return;
	}
	f->format(json_integer_value(high), to);
	snprintf(out, 80, "%s to %s", from, to);
}

static const char *end_text(const json_t *estimate)
{
	const char *end = cli_text(estimate, "converges", "");

	if (!strcmp(end, "yes"))
		return "yes";
	return !strcmp(end, "no") ? "no: it would not come to an end" : "not sure";
}

void cli_print_estimate(const json_t *estimate)
{
	const json_t *reason;
	char text[80];
	size_t i;

	if (!json_is_object(estimate))
		return;
	printf("estimate:\n");
	for (i = 0; i < FIGURES; i++) {
		range_text(&figures[i], estimate, text);
		printf("  %-13s %s\n", figures[i].label, text);
	}
	printf("  %-13s %s\n", "converges", end_text(estimate));
	json_array_foreach(json_object_get(estimate, "because"), i, reason)
	{
		printf("  %-13s ", i ? "" : "because");
		cli_print_text(json_is_string(reason) ? json_string_value(reason) : "?");
		putchar('\n');
	}
}

/* "inside", "12 % above", "30 % below". */
static void off_text(const json_t *compared, char out[32])
{
	long long off = (long long)cli_number(compared, "off_percent", 0);

	if (json_is_true(json_object_get(compared, "inside")))
		snprintf(out, 32, "inside");
	else
		snprintf(out, 32, "%lld %% %s", off < 0 ? -off : off, off < 0 ? "below" : "above");
}

void cli_print_compared(const json_t *report)
{
	const json_t *estimate = json_object_get(report, "estimate");
	const json_t *all = json_object_get(estimate, "compared"), *one;
	char range[80], off[32];

	for (size_t i = 0; i < FIGURES; i++) {
		one = json_object_get(all, figures[i].key);
		if (!json_is_object(one))
			continue;
		range_text(&figures[i], estimate, range);
		off_text(one, off);
		printf("  estimated:    %s %s; it was %s\n", figures[i].label, range, off);
	}
}
