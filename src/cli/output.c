#include "cli/cli.h"

#include "base/fs.h"
#include "base/json.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

const char *cli_text(const json_t *object, const char *key, const char *none)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : none;
}

int64_t cli_number(const json_t *object, const char *key, int64_t none)
{
	/* Sums and differences of two of these do not overflow. */
	const int64_t limit = (int64_t)1 << 61;
	const json_t *member = json_object_get(object, key);
	double value = json_number_value(member);

	if (!json_is_number(member) || !(value > -(double)limit && value < (double)limit))
		return none;
	return json_is_integer(member) ? json_integer_value(member) : (int64_t)value;
}

void cli_print_json(const json_t *object)
{
	cleanup_free char *text = json_text(object);

	printf("%s\n", text ? text : "{}");
	fflush(stdout);
}

void cli_print_text(const char *text)
{
	bool terminal = isatty(STDOUT_FILENO);

	/* 0x80 to 0x9f are control characters of their own only outside of UTF-8: left alone. */
	for (const char *c = text; *c; c++)
		putchar(terminal && ((*c > 0 && *c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f)
				? '?'
				: *c);
}

int cli_print_error(const struct cli *cli, const struct error *e, const json_t *more)
{
	cleanup_json json_t *object = json_from_error(e);

	fprintf(stderr, "drover: %s\n", e->message);
	if (cli->json) {
		if (more)
			json_object_update(object, (json_t *)more);
		cli_print_json(object);
	}
	return error_kind_exit(e->kind);
}

static void format_scaled(
	int64_t bytes, double step, const char *const *units, int units_count, char out[32])
{
	double value = (double)bytes;
	int unit = 0;

	while (value >= step && unit < units_count - 1) {
		value /= step;
		unit++;
	}
	/* 1.5 GiB, 12 GiB, 512 MiB: two digits are enough to choose by. */
	if (unit == 0 || value >= 10 || value == (double)(int64_t)value)
		snprintf(out, 32, "%.0f %s", value, units[unit]);
	else
		snprintf(out, 32, "%.1f %s", value, units[unit]);
}

void cli_format_size(int64_t bytes, char out[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

	format_scaled(bytes, 1024, units, 6, out);
}

void cli_format_traffic(int64_t bytes, char out[32])
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};

	format_scaled(bytes, 1000, units, 6, out);
}

void cli_format_count(int64_t count, const char *thing, char out[64])
{
	snprintf(out, 64, "%lld %s%s", (long long)count, thing, count == 1 ? "" : "s");
}

void cli_format_time(int64_t ms, char out[32])
{
	long long s = ms / 1000;

	if (ms < 1000)
		snprintf(out, 32, "%lld ms", (long long)ms);
	else if (s < 60)
		snprintf(out, 32, "%.2f s", (double)ms / 1000);
	else if (s < 3600)
		snprintf(out, 32, "%lld min %lld s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, 32, "%lld h %lld min", s / 3600, s % 3600 / 60);
	else
		snprintf(out, 32, "%lld d %lld h", s / 86400, s % 86400 / 3600);
}

bool cli_color(FILE *out)
{
	const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");

	return isatty(fileno(out)) && term && *term && strcmp(term, "dumb") != 0 &&
	       (!no_color || !*no_color);
}

int cli_width(int fd)
{
	struct winsize size;

	if (!isatty(fd))
		return 0;
	return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool cli_confirm(const char *question, bool *asked)
{
	cleanup_fd int fd = isatty(STDIN_FILENO) ? open("/dev/tty", O_RDWR | O_CLOEXEC) : -1;
	char answer[16] = "";
	ssize_t n;

	*asked = fd >= 0;
	if (fd < 0)
		return false;
	dprintf(fd, "%s [y/N] ", question);
	n = read(fd, answer, sizeof(answer) - 1);
	if (n <= 0)
		return false;
	answer[strcspn(answer, "\r\n")] = '\0';
	return !strcasecmp(answer, "y") || !strcasecmp(answer, "yes");
}

int cli_must_confirm(struct cli *cli, const char *question, struct error **err)
{
	bool asked = false;

	if (cli_flag(&cli->args, "yes") || cli_confirm(question, &asked))
		return 0;
	if (asked)
		return error_set(err, ERROR_CANCELLED, 0, "nothing was done");
	return error_set(err, ERROR_USAGE, 0,
		"this cannot be undone and there is no terminal to ask on: give --yes");
}
