#include "migrate/estimate.h"

#include "base/fs.h"
#include "migrate/estimate_way.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PAGE 4096.0
#define MB 1e6
/* What was measured is not all that moves differ in (docs/estimate.md, "Constants"). */
#define SPREAD 1.12
/* What a guest stands still for is worth a word from there on. */
#define STILL_SAID_MS 100

static void because(struct estimate *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void because(struct estimate *e, const char *fmt, ...)
{
	va_list ap;

	if (e->reasons_count == ESTIMATE_REASONS)
		return;
	va_start(ap, fmt);
	vsnprintf(e->because[e->reasons_count++], sizeof(e->because[0]), fmt, ap);
	va_end(ap);
}

const char *estimate_end_name(enum estimate_end end)
{
	static const char *const names[] = {"yes", "unsure", "no"};

	return names[end];
}

static double clamp(double v, double low, double high)
{
	return v < low || isnan(v) ? low : v > high ? high : v;
}

static int decimals(double value)
{
	return value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
}

static void explain_unknown(const struct estimate_input *in, struct estimate *e)
{
	if (*in->no_link)
		because(e, "the time is not known: %s", in->no_link);
	if (*in->no_sample)
		because(e, "what the pages take is not known: %s", in->no_sample);
	if (in->paused)
		because(e, "the guest is paused and changes nothing");
	else if (*in->no_dirty && (*in->no_sample || !in->window_ms))
		because(e, "how fast the guest changes its memory is not known: %s", in->no_dirty);
}

/* `what` LOW to HIGH MB/s `more`, with three figures. */
static void because_rate(
	struct estimate *e, const char *what, double low, double high, const char *more)
{
	because(e, "%s %.*f to %.*f MB/s%s", what, decimals(low), low, decimals(high), high, more);
}

static void explain_link(const struct estimate_input *in, struct estimate *e)
{
	if (!*in->no_link)
		because_rate(
			e, "the link carried", in->link_bps.low / MB, in->link_bps.high / MB, "");
}

static void explain_files(const struct estimate_input *in, struct estimate *e)
{
	if (!in->files)
		return;
	because(e, "%.0f MB of memory go to files here, and from files there",
		(double)in->memory_bytes / MB);
	if (*in->no_room)
		because(e, "how fast these files can be written is not known: %s", in->no_room);
	else
		because_rate(e, "files were written at", in->files_bps.low / MB,
			in->files_bps.high / MB,
			" here, and the other node is taken to be as fast");
}

static void explain_pages(const struct estimate_input *in, struct estimate *e)
{
	const struct estimate_pages *p = &in->levels[0];

	if (*in->no_sample || p->pages < 1)
		return;
	because(e,
		"of %.0f pages %.0f %% are zero, %.0f %% in a base image, %.0f %% data of which "
		"compression leaves %.0f %%",
		p->pages, 100 * p->zero / p->pages, 100 * p->reference / p->pages,
		100 * p->data / p->pages,
		p->data >= 1 ? clamp(100 * p->bytes / p->data / PAGE, 0, 100) : 100);
}

static void explain_load(const struct estimate_input *in, struct estimate *e)
{
	double low = way_slower(in, GOOD), high = way_slower(in, BAD);

	if (high > 1.3)
		because(e, "others use the processors: all takes %.2g to %.2g times as long", low,
			high);
}

/* The bytes of pages that change in a second. */
static double dirty_mb(const struct estimate_input *in, enum choice choice)
{
	enum choice choices[FACTORS] = {[FACTOR_DIRTY] = choice};

	return way_make(in, choices).dirty_pps * PAGE / MB;
}

static void explain_dirty(const struct estimate_input *in, struct estimate *e)
{
	if (in->paused || (*in->no_dirty && (*in->no_sample || !in->window_ms)))
		return;
	because_rate(e, "the guest changes", dirty_mb(in, GOOD), dirty_mb(in, BAD), " of pages");
}

/* The range of one value: how far each factor alone moves it from what is likely, all of them
 * together as independent errors add up. */
struct spread {
	double likely, up, down; /* squares of logarithms */
};

static void spread_add(struct spread *s, double value)
{
	double off = log(clamp(value, 1e-3, 1e300) / clamp(s->likely, 1e-3, 1e300));

	if (off > 0)
		s->up += off * off;
	else
		s->down += off * off;
}

static struct estimate_range spread_range(const struct spread *s)
{
	return (struct estimate_range){clamp(s->likely * exp(-SPREAD * sqrt(s->down)), 0, INFINITY),
		clamp(s->likely * exp(SPREAD * sqrt(s->up)), 0, INFINITY)};
}

struct spreads {
	struct spread total, bytes, downtime;
	int converged, diverged; /* ways that do and do not, but for the likely one */
};

static void spreads_begin(struct spreads *s, const struct played *p)
{
	*s = (struct spreads){.total = {p->total_ms, 0, 0},
		.bytes = {p->wire_bytes, 0, 0},
		.downtime = {p->downtime_ms, 0, 0}};
}

static void spreads_add(struct spreads *s, const struct played *p)
{
	if (!p->converges) {
		s->diverged++;
		return;
	}
	s->converged++;
	spread_add(&s->total, p->total_ms);
	spread_add(&s->bytes, p->wire_bytes);
	spread_add(&s->downtime, p->downtime_ms);
}

/* From what is likely, or where that does not converge, from the best way that does. */
static bool begin(const struct estimate_input *in, enum choice choices[FACTORS], struct played *p)
{
	*p = way_play(in, choices);
	if (p->converges)
		return true;
	for (int f = 0; f < FACTORS; f++) {
		choices[f] = GOOD;
		*p = way_play(in, choices);
		choices[f] = LIKELY;
		if (p->converges) {
			choices[f] = GOOD;
			return true;
		}
	}
	return false;
}

static void set_ranges(const struct estimate_input *in, struct estimate *e)
{
	enum choice choices[FACTORS] = {0};
	struct spreads s;
	struct played p;
	bool likely;

	e->converges = ESTIMATE_NO;
	likely = way_play(in, choices).converges;
	if (!begin(in, choices, &p))
		return;
	spreads_begin(&s, &p);
	for (int f = 0; f < FACTORS; f++) {
		enum choice was = choices[f];

		for (int choice = GOOD; choice <= BAD; choice++) {
			choices[f] = (enum choice)choice;
			p = way_play(in, choices);
			spreads_add(&s, &p);
		}
		choices[f] = was;
	}
	e->converges = likely && !s.diverged ? ESTIMATE_YES : ESTIMATE_UNSURE;
	e->total_ms = spread_range(&s.total);
	e->wire_bytes = spread_range(&s.bytes);
	e->downtime_ms = spread_range(&s.downtime);
	if (e->converges == ESTIMATE_UNSURE)
		e->total_ms.high = e->wire_bytes.high = INFINITY;
}

/* Whether it would rather come to an end without the limit that it was given. */
static bool is_held_back(const struct estimate_input *in, enum estimate_end end)
{
	struct estimate_input free_of_it = *in;
	struct estimate e = {0};

	if (in->bandwidth_bps <= 0)
		return false;
	free_of_it.bandwidth_bps = 0;
	set_ranges(&free_of_it, &e);
	return e.converges < end;
}

static void explain_end(const struct estimate_input *in, struct estimate *e)
{
	char limit[96] = "";

	if (e->converges == ESTIMATE_YES || *in->no_link)
		return;
	if (is_held_back(in, e->converges))
		snprintf(limit, sizeof(limit),
			"a --bandwidth above %.1f MB/s, or none, sends it faster, ",
			(double)in->bandwidth_bps / MB);
	because(e,
		"%s: it changes its memory %s it is sent, so that the rest may not fit into "
		"%lld ms; %s--downtime allows more, --postcopy lets it run there before all is "
		"there, --pause moves it standing still",
		e->converges == ESTIMATE_NO ? "it will not come to a switchover"
					    : "it may not come to a switchover",
		e->converges == ESTIMATE_NO ? "faster than" : "about as fast as",
		(long long)in->downtime_limit_ms, limit);
}

void estimate_make(const struct estimate_input *in, struct estimate *e)
{
	bool ends;

	*e = (struct estimate){0};
	set_ranges(in, e);
	ends = e->converges != ESTIMATE_NO;
	/* Nothing is known of the rounds then. */
	if (*in->no_link && e->converges == ESTIMATE_YES && !in->paused && !in->pause)
		e->converges = ESTIMATE_UNSURE;
	e->time_known = ends && !*in->no_link;
	e->bytes_known = ends;
	e->downtime_known = ends && !(*in->no_link && in->pause);
	explain_unknown(in, e);
	explain_link(in, e);
	explain_files(in, e);
	explain_pages(in, e);
	explain_load(in, e);
	explain_dirty(in, e);
	explain_end(in, e);
	if (e->time_known && in->timeout_ms && e->total_ms.high > (double)in->timeout_ms)
		because(e, "--timeout of %lld s may end it before",
			(long long)in->timeout_ms / 1000);
}

/* Whole, and never more than a program can read. */
static json_t *number(double v)
{
	return isfinite(v) ? json_integer((json_int_t)clamp(round(v), 0, 9e15)) : json_null();
}

static json_t *range_json(bool known, const struct estimate_range *r)
{
	return known ? json_pack("[o, o]", number(r->low), number(r->high)) : json_null();
}

json_t *estimate_json(const struct estimate *e)
{
	json_t *reasons = json_array();

	for (int i = 0; i < e->reasons_count; i++)
		json_array_append_new(reasons, json_string(e->because[i]));
	return json_pack("{s:o, s:o, s:o, s:s, s:o}", "total_ms",
		range_json(e->time_known, &e->total_ms), "wire_bytes",
		range_json(e->bytes_known, &e->wire_bytes), "downtime_ms",
		range_json(e->downtime_known, &e->downtime_ms), "converges",
		estimate_end_name(e->converges), "because", reasons);
}

static json_t *pages_json(const struct estimate_pages *p)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "pages", number(p->pages), "bytes",
		number(p->bytes), "ns", number(p->ns), "zero", number(p->zero), "reference",
		number(p->reference), "difference", number(p->difference), "data", number(p->data));
}

json_t *estimate_measured_json(const struct estimate_input *in)
{
	json_t *levels = json_array();

	for (int i = 0; i < in->levels_count; i++)
		json_array_append_new(levels, pages_json(&in->levels[i]));
	return json_pack(
		"{s:I, s:b, s:i, s:f, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o, "
		"s:o, s:o, s:o}",
		"memory_bytes", (json_int_t)in->memory_bytes, "paused", in->paused, "processors",
		in->processors, "load", isfinite(in->load) ? in->load : 0, "elapsed_ms",
		(json_int_t)in->elapsed_ms, "ready", in->ready, "link_bps",
		range_json(!*in->no_link, &in->link_bps), "places", number(in->places), "levels",
		levels, "sample_cpu_ns", number(in->sample_cpu_ns), "sample_wall_ns",
		number(in->sample_wall_ns), "seen_again", number(in->seen_again), "window_ms",
		(json_int_t)in->window_ms, "whole", pages_json(&in->whole), "difference",
		pages_json(&in->difference), "dirty_bps", number(in->dirty_bps), "dirty_step_bps",
		number(in->dirty_step_bps), "sampled", json_boolean(!*in->no_sample));
}

char *estimate_text(const json_t *estimate)
{
	const json_t *ms = json_object_get(estimate, "total_ms");
	const json_t *low = json_array_get(ms, 0), *high = json_array_get(ms, 1);
	const char *end = json_string_value(json_object_get(estimate, "converges"));
	const json_t *still = json_object_get(estimate, "downtime_ms");

	if (!json_is_integer(low))
		return fs_format("the time is not known; converges: %s", end);
	if (json_integer_value(json_array_get(still, 0)) >= STILL_SAID_MS &&
		json_is_integer(json_array_get(still, 1)))
		return fs_format("%.1f to %.1f s, standing still for %.1f to %.1f s of it",
			(double)json_integer_value(low) / 1000,
			(double)json_integer_value(high) / 1000,
			(double)json_integer_value(json_array_get(still, 0)) / 1000,
			(double)json_integer_value(json_array_get(still, 1)) / 1000);
	if (!json_is_integer(high))
		return fs_format("%.1f s or more; converges: %s",
			(double)json_integer_value(low) / 1000, end);
	return fs_format("%.1f to %.1f s", (double)json_integer_value(low) / 1000,
		(double)json_integer_value(high) / 1000);
}

static double off_percent(double actual, double low, double high)
{
	if (actual < low)
		return low > 0 ? (actual - low) * 100 / low : 0;
	if (actual > high)
		return high > 0 ? (actual - high) * 100 / high : 100;
	return 0;
}

json_t *estimate_compare(const json_t *estimate, const json_t *report)
{
	static const char *const names[] = {"total_ms", "wire_bytes", "downtime_ms"};
	json_t *result = json_object();

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const json_t *range = json_object_get(estimate, names[i]);
		const json_t *actual = json_object_get(report, names[i]), *low, *high;
		double off;

		low = json_array_get(range, 0);
		high = json_array_get(range, 1);
		if (!json_is_integer(low) || !json_is_integer(actual))
			continue;
		off = off_percent((double)json_integer_value(actual),
			(double)json_integer_value(low),
			json_is_integer(high) ? (double)json_integer_value(high) : INFINITY);
		json_object_set_new(result, names[i],
			json_pack("{s:O, s:b, s:i}", "actual", actual, "inside", off == 0,
				"off_percent",
				(int)clamp(off < 0 ? floor(off) : ceil(off), -100, 1e6)));
	}
	return result;
}
