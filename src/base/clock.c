#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_us(void)
{
	return now_us(CLOCK_MONOTONIC);
}

int64_t clock_ms(void)
{
	return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t clock_wall_ms(void)
{
	return now_us(CLOCK_REALTIME) / 1000;
}

int clock_left_ms(int64_t deadline_ms)
{
	int64_t left = deadline_ms - clock_ms();

	if (left < 0)
		return 0;
	return left > 1000000000 ? 1000000000 : (int)left;
}

void clock_format(int64_t wall_ms, char out[32])
{
	time_t seconds = (time_t)(wall_ms / 1000);
	struct tm tm;
	char date[24];

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, 32, "%s.%03dZ", date, (int)(wall_ms % 1000));
}

static int parse_relative(const char *text, int64_t *wall_ms)
{
	char *end;
	long seconds = strtol(text, &end, 10);

	if (end == text || *end || seconds < 0 || seconds > 366L * 86400)
		return -1;
	*wall_ms = clock_wall_ms() + (int64_t)seconds * 1000;
	return 0;
}

static int parse_time_of_day(const struct tm *tm, int64_t *wall_ms)
{
	int64_t now = clock_wall_ms(), day = 86400000;
	int64_t at = now / day * day + (int64_t)(tm->tm_hour * 60 + tm->tm_min) * 60000;

	*wall_ms = at <= now ? at + day : at;
	return 0;
}

int clock_parse(const char *text, int64_t *wall_ms)
{
	static const char *const formats[] = {
		"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%H:%M"};

	if (*text == '+')
		return parse_relative(text + 1, wall_ms);
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		struct tm tm = {0}, said;
		const char *end = strptime(text, formats[i], &tm);

		if (!end || *end)
			continue;
		if (!strcmp(formats[i], "%H:%M"))
			return parse_time_of_day(&tm, wall_ms);
		said = tm;
		*wall_ms = (int64_t)timegm(&tm) * 1000;
		/* A day that the month has not would become one of the next. */
		return tm.tm_mday == said.tm_mday && tm.tm_mon == said.tm_mon ? 0 : -1;
	}
	return -1;
}
