#include "migrate/estimate.h"

#include "base/fs.h"
#include "migrate/converge.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PAGE 4096.0
#define MB 1e6
/* Rounds that are played through; a guest that has not converged by then does not. */
#define ROUNDS_MAX 40

/* What a page costs besides its compression, in the hypervisors, the kernels and the data movers,
 * and what finding a page of zeros does: docs/estimate.md, "Constants". Microseconds. */
static const struct estimate_range page_us = {4.0, 10.0};
static const struct estimate_range zero_us = {0.1, 0.5};
/* Before the first byte of the stream when nothing is ready yet; what is around the rounds: orders,
 * device state, the handover, the end of the source's hypervisor. Milliseconds. */
static const struct estimate_range begin_ms = {200, 450};
static const struct estimate_range around_ms = {25, 120};
/* What a guest stands still for besides the last pages. */
static const struct estimate_range still_ms = {4, 100};
/* What is sent besides pages: device state, handshakes, acknowledgements. */
static const struct estimate_range other_bytes = {40e3, 400e3};
#define TLS_SHARE 1.004
/* Without a sample, so many bytes of each page of memory are sent. */
static const struct estimate_range unknown_page = {30, PAGE};
/* Errors of the random choice are allowed so many times their standard deviation. */
#define SIGMAS 1.6
#define SLOWER_MAX 8
/* Pages of one place tell as much as so many places of one page. */
#define PLACE_WORTH 1.2
/* Pages that are seen to have changed are so many of one place. */
#define CLUSTER 2
/* Pages may be stored where a link carries them so much faster than they can be compressed. */
#define STORED_SPARE 2
/* And are, as far as compression leaves more than the first part of them: all from the second on.
 */
#define STORED_FROM 0.5
#define STORED_ALL 0.75
/* What pages take of what those of a sample take: neighbours are compressed together. */
#define CODED_LOW 0.88
#define CODED_HIGH 1.05
/* What changed pages take, of what those take that were seen. */
#define CHANGED_LOW 0.8
#define CHANGED_HIGH 1.25
/* A guest is not the same later: its dirty rate may be these parts of what was seen. */
static const struct estimate_range dirty_share = {0.9, 1.15};

/* One way how it may go. */
struct way {
	double link_bps;
	double memory_pages, zero_pages;
	double page_bytes,
		page_s;   /* on the wire, and in the pipeline, of a page that is not zero */
	double dirty_pps; /* pages a second that change */
	double dirty_bytes, again_bytes; /* of such a page, the first two times and later */
	double again_s;
};

struct played {
	double stream_s, bytes, still_s;
	bool converges;
};

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

/* The time that `pages` take, `bytes` on the wire, `each_s` in the pipeline. */
static double takes_s(const struct way *w, double pages, double bytes, double each_s)
{
	double link_s = bytes / w->link_bps, pipe_s = pages * each_s;

	return link_s > pipe_s ? link_s : pipe_s;
}

static bool goes_postcopy(const struct estimate_input *in, int round, double before, double left)
{
	return in->postcopy && converge_needs_postcopy(in->postcopy_rounds, round,
				       (int64_t)(before * PAGE), (int64_t)(left * PAGE));
}

/* Plays one round: what is left of it to send, in pages. */
static double play_round(struct played *p, const struct way *w, int round, double pages)
{
	double bytes, s;

	if (round == 1)
		bytes = pages * w->page_bytes;
	else
		bytes = pages * (round < 4 ? w->dirty_bytes : w->again_bytes);
	s = takes_s(w, pages, bytes, round == 1 ? w->page_s : w->again_s);
	p->bytes += bytes;
	p->stream_s += s;
	return clamp(w->dirty_pps * s, 0, w->memory_pages - w->zero_pages);
}

static struct played play(
	const struct estimate_input *in, const struct way *w, const struct estimate_range *zero)
{
	struct played p = {.stream_s = w->zero_pages * zero->low * 1e-6};
	double pages = w->memory_pages - w->zero_pages, left, s;

	for (int round = 1; round <= ROUNDS_MAX; round++) {
		int64_t limit_ms = converge_downtime_ms(in->downtime_limit_ms, round + 1);
		double bytes;

		left = in->pause || in->paused ? 0 : play_round(&p, w, round, pages);
		if (in->pause || in->paused) {
			play_round(&p, w, 1, pages);
			p.still_s = in->pause ? p.stream_s : 0;
			p.converges = true;
			return p;
		}
		bytes = left * (round < 3 ? w->dirty_bytes : w->again_bytes);
		s = takes_s(w, left, bytes, w->again_s);
		p.converges = s * 1000 <= (double)limit_ms;
		if (p.converges || goes_postcopy(in, round + 1, pages, left)) {
			p.bytes += bytes;
			p.stream_s += s;
			p.still_s = p.converges ? s : 0;
			p.converges = true;
			return p;
		}
		pages = left;
	}
	return p;
}

/* The standard deviation of a share that was seen at `places` places, one in each part of the
 * memory, which tells more than places anywhere, and several pages at each. */
static double deviation(double share, double places)
{
	places *= PLACE_WORTH;
	return sqrt(share * (1 - share) / (places > 1 ? places : 1)) +
	       0.5 / (places > 1 ? places : 1);
}

static double share_low(double share, double places)
{
	return clamp(share - SIGMAS * deviation(share, places), 0, 1);
}

static double share_high(double share, double places)
{
	return clamp(share + SIGMAS * deviation(share, places), 0, 1);
}

/* By how much all that needs a processor takes longer because others want one, by two signs: what
 * the sample took of the clock and of a processor, and how many processes are ready to run. */
static double slower(const struct estimate_input *in, bool good)
{
	double waited = in->sample_cpu_ns > 0 ? in->sample_wall_ns / in->sample_cpu_ns : 1;
	double queued = in->load / clamp(in->processors, 1, 1e4);
	double least = waited < queued ? waited : queued, most = waited < queued ? queued : waited;
	double apart = (most - least) / 4;

	return clamp(good ? least + apart : most - apart, 1, SLOWER_MAX);
}

/* Processors that encode; the others' work needs one of two. */
static double encoders(const struct estimate_input *in, bool good)
{
	double n = in->processors < 4 ? in->processors : 4;

	return clamp(good ? n : n / 2, 1, 4);
}

struct coding {
	double bytes, us; /* of a page that is not zero */
};

static struct coding coding_of(const struct estimate_pages *p, double threads)
{
	double full = p->pages - p->zero;
	struct coding c = {0};

	if (full < 1)
		return c;
	c.bytes = p->bytes / full;
	c.us = p->ns / 1000 / full / threads;
	return c;
}

/* The time of a page at that coding: the slowest stage counts. */
static double coded_us(const struct coding *c, double link_bps, double least_us)
{
	double us = c->bytes / link_bps * 1e6;

	us = us > c->us ? us : c->us;
	return us > least_us ? us : least_us;
}

/* The level that the controller comes to: the one that gets most pages through. */
static struct coding choose_level(
	const struct estimate_input *in, double link_bps, double threads, double least_us)
{
	struct coding best = coding_of(&in->levels[0], threads);

	for (int i = 1; i < in->levels_count; i++) {
		struct coding c = coding_of(&in->levels[i], threads);

		/* Harder only where the link is what is waited for. */
		if (c.bytes < best.bytes && best.bytes / link_bps * 1e6 > best.us &&
			coded_us(&c, link_bps, least_us) < coded_us(&best, link_bps, least_us))
			best = c;
	}
	return best;
}

/* Which part of the data may go as it is: all where the link carries pages much faster than they
 * can be compressed; the more, the less compression leaves of them. */
static double stored_share(const struct estimate_input *in, double link_bps)
{
	const struct estimate_pages *first = &in->levels[0];

	if (PAGE / link_bps * 1e6 * STORED_SPARE < page_us.high)
		return 1;
	if (first->data < 1)
		return 0;
	return clamp((first->bytes / first->data / PAGE - STORED_FROM) / (STORED_ALL - STORED_FROM),
		0, 1);
}

static double mix(double a, double b, double share)
{
	return a + (b - a) * share;
}

/* Of a page of memory that is sent as data; all others take next to nothing. */
static double data_factor(const struct estimate_input *in, bool good)
{
	double data = in->levels[0].data / in->levels[0].pages;

	if (data <= 0)
		return 1;
	return (good ? share_low(data, in->places) : share_high(data, in->places)) / data;
}

/* In the good way at the level that the link leads to, in the bad one at the first. */
static void set_pages(const struct estimate_input *in, struct way *w, bool good)
{
	const struct estimate_pages *first = &in->levels[0];
	double slow = slower(in, good), threads = encoders(in, good) / slow;
	double base_us = (good ? page_us.low : page_us.high) * slow, zero, each;
	struct coding c;

	w->page_bytes = good ? unknown_page.low : unknown_page.high;
	w->page_s = base_us * 1e-6;
	if (*in->no_sample || in->levels_count == 0 || first->pages < 1)
		return;
	c = good ? choose_level(in, w->link_bps, threads, base_us) : coding_of(first, threads);
	zero = first->zero / first->pages;
	each = c.bytes * (1 - zero) * (good ? CODED_LOW : CODED_HIGH);
	if (!good)
		each = mix(each, first->data / first->pages * PAGE, stored_share(in, w->link_bps));
	zero = good ? share_high(zero, in->places) : share_low(zero, in->places);
	w->zero_pages = zero * w->memory_pages;
	w->page_bytes = each * data_factor(in, good) / clamp(1 - zero, 1e-6, 1);
	w->page_s = (c.us > base_us ? c.us : base_us) * 1e-6;
}

static double bytes_each(const struct estimate_pages *p, double otherwise)
{
	return p->pages >= 1 ? p->bytes / p->pages : otherwise;
}

/* How many pages a second change, by the hypervisor and by the sample together: what one page that
 * was seen to change stands for, and how many were, which tells the less the fewer they are. */
static double dirty_pps(const struct estimate_input *in, double memory_pages, bool good)
{
	double seen = 0, exposure = 0, off;

	if (!*in->no_sample && in->window_ms > 0 && in->seen_again >= 1) {
		exposure += in->seen_again * (double)in->window_ms / 1000 / memory_pages;
		seen += in->whole.pages;
	}
	if (!*in->no_dirty && in->dirty_step_bps > 0) {
		exposure += PAGE / in->dirty_step_bps;
		seen += in->dirty_bps / in->dirty_step_bps;
	}
	if (exposure <= 0)
		return good ? 0 : memory_pages;
	off = SIGMAS * sqrt(CLUSTER * (seen + (good ? 0 : 1)));
	if (good)
		return clamp(seen - off, 0, seen) / exposure * dirty_share.low;
	return (seen + off) / exposure * dirty_share.high;
}

static void set_dirty(const struct estimate_input *in, struct way *w, bool good)
{
	bool known = !*in->no_sample && in->window_ms > 0 && in->whole.pages >= 8;
	double factor = good ? CHANGED_LOW : CHANGED_HIGH, stored;

	if (in->paused)
		return;
	w->dirty_pps = dirty_pps(in, w->memory_pages, good);
	w->again_s = (good ? page_us.low : page_us.high) * slower(in, good) * 1e-6;
	if (!known) {
		w->dirty_bytes = good ? w->page_bytes / 4 : PAGE;
		w->again_bytes = good ? 64 : PAGE;
		return;
	}
	stored = good ? 0 : stored_share(in, w->link_bps);
	w->dirty_bytes = mix(bytes_each(&in->whole, PAGE) * factor, PAGE, stored);
	w->again_bytes = mix(bytes_each(&in->difference, PAGE) * factor, PAGE, stored / 2);
}

static struct way make_way(const struct estimate_input *in, bool good)
{
	double link = good ? in->link_bps.high : in->link_bps.low;
	struct way w = {.memory_pages = (double)in->memory_bytes / PAGE};

	/* What is asked for may bound the hypervisor's own stream; that is the pipeline then. */
	w.link_bps = *in->no_link ? 1e12 : clamp(link, 1, 1e12);
	set_pages(in, &w, good);
	set_dirty(in, &w, good);
	if (in->bandwidth_bps > 0) {
		double s = PAGE / (double)in->bandwidth_bps;

		w.page_s = w.page_s > s ? w.page_s : s;
		w.again_s = w.again_s > s ? w.again_s : s;
	}
	return w;
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

static void explain_link(const struct estimate_input *in, struct estimate *e)
{
	if (!*in->no_link)
		because(e, "the link carried %.3g to %.3g MB/s", in->link_bps.low / MB,
			in->link_bps.high / MB);
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
	double low = slower(in, true), high = slower(in, false);

	if (high > 1.3)
		because(e, "others use the processors: all takes %.2g to %.2g times as long", low,
			high);
}

static void explain_dirty(const struct estimate_input *in, const struct way *good,
	const struct way *bad, struct estimate *e)
{
	if (in->paused || (*in->no_dirty && (*in->no_sample || !in->window_ms)))
		return;
	because(e, "the guest changes %.3g to %.3g MB/s of pages", good->dirty_pps * PAGE / MB,
		bad->dirty_pps * PAGE / MB);
}

static void explain_end(const struct estimate_input *in, struct estimate *e)
{
	if (e->converges == ESTIMATE_YES)
		return;
	because(e,
		"%s: it changes its memory %s it is sent, so that the rest may not fit into "
		"%lld ms; --downtime allows more, --postcopy lets it run there before all is "
		"there, --pause moves it standing still",
		e->converges == ESTIMATE_NO ? "it will not come to a switchover"
					    : "it may not come to a switchover",
		e->converges == ESTIMATE_NO ? "faster than" : "about as fast as",
		(long long)in->downtime_limit_ms);
}

/* What is good of one measured value may be bad for another. */
static void order(struct estimate_range *r)
{
	struct estimate_range was = *r;

	if (isnan(was.low) || isnan(was.high))
		*r = (struct estimate_range){0, INFINITY};
	else if (was.low > was.high)
		*r = (struct estimate_range){was.high, was.low};
	r->low = r->low > 0 ? r->low : 0;
	r->high = r->high > 0 ? r->high : 0;
}

static void set_ranges(const struct estimate_input *in, const struct played *good,
	const struct played *bad, struct estimate *e)
{
	double slow = slower(in, false);
	double before_low = (double)in->elapsed_ms + (in->ready ? 0 : begin_ms.low);
	double before_high = (double)in->elapsed_ms + (in->ready ? 0 : begin_ms.high * slow);
	double still_high = still_ms.high * slow;

	e->total_ms.low = before_low + around_ms.low + good->stream_s * 1000;
	e->total_ms.high = before_high + around_ms.high * slow + bad->stream_s * 1000;
	e->wire_bytes.low = (good->bytes + other_bytes.low) * TLS_SHARE;
	e->wire_bytes.high = (bad->bytes + other_bytes.high) * TLS_SHARE;
	e->downtime_ms.low =
		still_ms.low + (good->still_s < bad->still_s ? good->still_s : bad->still_s) *
				       (in->pause ? 1000 : 0);
	e->downtime_ms.high =
		still_high + (in->pause ? bad->still_s * 1000 : (double)in->downtime_limit_ms);
	if (!in->pause && bad->converges && !in->postcopy)
		e->downtime_ms.high = still_high + 2000 * bad->still_s + 20;
	order(&e->total_ms);
	order(&e->wire_bytes);
	order(&e->downtime_ms);
	if (!bad->converges)
		e->total_ms.high = e->wire_bytes.high = INFINITY;
}

void estimate_make(const struct estimate_input *in, struct estimate *e)
{
	struct way w[2] = {make_way(in, true), make_way(in, false)};
	struct played good = play(in, &w[0], &zero_us);
	struct played bad = play(in, &w[1], &(struct estimate_range){zero_us.high, zero_us.high});

	*e = (struct estimate){0};
	e->converges = bad.converges    ? ESTIMATE_YES
		       : good.converges ? ESTIMATE_UNSURE
					: ESTIMATE_NO;
	if (*in->no_link && e->converges == ESTIMATE_YES && !in->paused && !in->pause)
		e->converges = ESTIMATE_UNSURE;
	set_ranges(in, &good, &bad, e);
	e->time_known = !*in->no_link && good.converges;
	e->bytes_known = good.converges;
	e->downtime_known = good.converges && (!*in->no_link || !in->pause);
	explain_unknown(in, e);
	explain_link(in, e);
	explain_pages(in, e);
	explain_load(in, e);
	explain_dirty(in, &w[0], &w[1], e);
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

char *estimate_text(const json_t *estimate)
{
	const json_t *ms = json_object_get(estimate, "total_ms");
	const json_t *low = json_array_get(ms, 0), *high = json_array_get(ms, 1);
	const char *end = json_string_value(json_object_get(estimate, "converges"));

	if (!json_is_integer(low))
		return fs_format("the time is not known; converges: %s", end);
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
