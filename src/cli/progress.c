#include "cli/progress.h"

#include "base/clock.h"
#include "cli/cli.h"

#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512
#define BAR_CELLS 20
#define BAR_CELLS_NARROW 10 /* below WIDE columns */
#define WIDE 100
/* Between two lines in a pipe. */
#define LINES_MS 1000

void progress_init(struct progress *p, bool json)
{
	*p = (struct progress){.how = json                    ? PROGRESS_JSON
				      : isatty(STDOUT_FILENO) ? PROGRESS_BAR
							      : PROGRESS_LINES,
		.round = -1,
		.last = "none"};
}

/* Adds a part when it fits. */
static void add(char *out, size_t width, size_t size, const char *part)
{
	size_t len = strlen(out), gap = len ? 2 : 0, more = strlen(part);

	if (!*part || len + gap + more > width || len + gap + more >= size)
		return;
	memcpy(out + len, "  ", gap);
	memcpy(out + len + gap, part, more + 1);
}

/* Share of the guest's memory that is over there as it is now, in percent; -1: not known. */
static int percent_of(const json_t *event)
{
	int64_t total = cli_number(event, "total", 0), left = cli_number(event, "remaining", 0);

	if (total <= 0 || left < 0 || cli_number(event, "sent", 0) == 0)
		return -1;
	return left >= total ? 0 : (int)((double)(total - left) * 100 / (double)total);
}

static void bar_text(int percent, int cells, char out[BAR_CELLS + 3])
{
	int filled = percent * cells / 100;

	out[0] = '[';
	memset(out + 1, '#', (size_t)filled);
	memset(out + 1 + filled, '.', (size_t)(cells - filled));
	memcpy(out + 1 + cells, "]", 2);
}

/* "round 2" for the phase of rounds, else the phase. */
static void phase_text(const json_t *event, char *out, size_t size)
{
	const char *phase = cli_text(event, "phase", "waiting");
	int64_t round = cli_number(event, "round", 0);

	if (!strcmp(phase, "rounds") && round > 0)
		snprintf(out, size, "round %lld", (long long)round);
	else
		snprintf(out, size, "%s", phase);
}

/* In whole seconds: more would only flicker. */
static void eta_text(const json_t *event, char *out, size_t size)
{
	int64_t eta = cli_number(event, "eta_ms", -1);
	char time[32];

	out[0] = '\0';
	if (eta <= 0)
		return;
	if (eta >= 60000)
		cli_format_time(eta, time);
	else
		snprintf(time, sizeof(time), "%lld s", (long long)(eta + 999) / 1000);
	snprintf(out, size, "ETA %s", time);
}

static void rate_text(
	const json_t *event, const char *key, const char *before, char *out, size_t size)
{
	int64_t rate = cli_number(event, key, 0);
	char text[32];

	out[0] = '\0';
	if (rate <= 0)
		return;
	cli_format_traffic(rate, text);
	snprintf(out, size, "%s%s/s", before, text);
}

void progress_line(const json_t *event, size_t width, char *out, size_t size)
{
	char bar[BAR_CELLS + 3], part[96], bytes[32];
	int percent = percent_of(event);

	out[0] = '\0';
	phase_text(event, part, sizeof(part));
	add(out, width, size, part);
	if (percent < 0) {
		add(out, width, size, cli_text(event, "message", ""));
		return;
	}
	snprintf(part, sizeof(part), "%d %%", percent);
	add(out, width, size, part);
	bar_text(percent, width < WIDE ? BAR_CELLS_NARROW : BAR_CELLS, bar);
	add(out, width, size, bar);
	cli_format_size(cli_number(event, "remaining", 0), bytes);
	snprintf(part, sizeof(part), "%s left", bytes);
	add(out, width, size, part);
	rate_text(event, "rate_bps", "", part, sizeof(part));
	add(out, width, size, part);
	eta_text(event, part, sizeof(part));
	add(out, width, size, part);
	rate_text(event, "dirty_rate_bps", "dirty ", part, sizeof(part));
	add(out, width, size, part);
	cli_format_size(cli_number(event, "sent", 0), bytes);
	snprintf(part, sizeof(part), "%s sent", bytes);
	add(out, width, size, part);
	add(out, width, size, cli_text(event, "message", ""));
}

/* What a terminal must not get. */
static void make_plain(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text > '~')
			*text = '?';
}

/* Drawn over with blanks, not with an escape sequence: a dumb terminal has none. */
static void draw_bar(struct progress *p, const json_t *event)
{
	char line[LINE_MAX_BYTES];
	int width = cli_width(STDOUT_FILENO);
	size_t len;

	/* The last column is left free: some terminals begin a new line after it. */
	progress_line(event, width > 1 ? (size_t)width - 1 : 0, line, sizeof(line));
	make_plain(line);
	len = strlen(line);
	printf("\r%s%*s", line, p->drawn > len ? (int)(p->drawn - len) : 0, "");
	p->drawn = len;
	fflush(stdout);
}

static void print_line(struct progress *p, const json_t *event)
{
	char line[LINE_MAX_BYTES];
	const char *phase = cli_text(event, "phase", "");
	bool changed = strcmp(phase, p->phase) != 0 || cli_number(event, "round", 0) != p->round ||
		       *cli_text(event, "message", "");

	if (!changed || (p->printed_ms && clock_ms() - p->printed_ms < LINES_MS))
		return;
	snprintf(p->phase, sizeof(p->phase), "%s", phase);
	p->round = cli_number(event, "round", 0);
	p->printed_ms = clock_ms();
	progress_line(event, sizeof(line) - 1, line, sizeof(line));
	printf("%s\n", line);
	fflush(stdout);
}

/* What is expected of it, before it begins: it is not drawn over. */
static bool print_estimate(struct progress *p, const json_t *event)
{
	char line[LINE_MAX_BYTES];

	if (strcmp(cli_text(event, "phase", ""), "estimate") != 0 ||
		!*cli_text(event, "message", ""))
		return false;
	progress_clear(p);
	snprintf(line, sizeof(line), "%s", cli_text(event, "message", ""));
	make_plain(line);
	printf("estimate: %s\n", line);
	fflush(stdout);
	return true;
}

void progress_event(struct progress *p, const json_t *event)
{
	snprintf(p->last, sizeof(p->last), "%s", cli_text(event, "phase", "none"));
	if (p->how == PROGRESS_JSON)
		cli_print_json(event);
	else if (print_estimate(p, event))
		return;
	else if (p->how == PROGRESS_BAR)
		draw_bar(p, event);
	else
		print_line(p, event);
}

void progress_clear(struct progress *p)
{
	if (p->how != PROGRESS_BAR || !p->drawn)
		return;
	printf("\r%*s\r", (int)p->drawn, "");
	p->drawn = 0;
	fflush(stdout);
}
