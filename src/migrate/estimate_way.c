#include "migrate/estimate_way.h"

#include "migrate/converge.h"

#include <math.h>

#define PAGE 4096.0
/* Rounds that are played through; a guest that has not converged by then does not. */
#define ROUNDS_MAX 40

/* docs/estimate.md, "Constants", says what these were taken from. */
struct three {
	double likely, good, bad;
};
/* What a page costs besides its compression, in the hypervisors, the kernels and the data movers,
 * and what finding a page of zeros does. Microseconds. */
static const struct three page_us = {7.0, 4.0, 13.0};
static const struct three zero_us = {0.2, 0.1, 0.5};
/* Before the first byte of the stream when nothing is ready yet; what is around the rounds: orders,
 * device state, the handover, the end of the source's hypervisor. Milliseconds. */
static const struct three begin_ms = {350, 230, 700};
static const struct three around_ms = {60, 25, 200};
/* What a guest stands still for besides the last pages, and in a switch to post-copy. */
static const struct three still_ms = {40, 6, 250};
static const struct three switch_ms = {100, 30, 400};
/* What is sent besides pages: device state, handshakes, acknowledgements. */
static const struct three other_bytes = {200e3, 40e3, 500e3};
#define TLS_SHARE 1.004
/* As files, where their place was not measured: bytes per second. What bhyve takes to end and to
 * start; milliseconds, guessed. */
static const struct three unknown_files_bps = {300e6, 2e9, 50e6};
static const struct three restart_ms = {1000, 300, 4000};
/* Without a sample: of each page of memory. */
static const struct three unknown_page = {500, 30, PAGE};
/* What pages take of what those of a sample take: neighbours are compressed together. */
static const struct three coded = {0.94, 0.85, 1.06};
/* What changed pages take, of what those take that were seen. */
static const struct three changed = {1, 0.75, 1.3};
/* A guest is not the same later: its dirty rate may be these parts of what was seen. */
static const struct three dirty_share = {1, 0.8, 1.3};
/* It works on a part of the memory that it uses, and changes no more. */
static const struct three worked_on = {0.6, 0.3, 1};
/* Errors of the random choice are allowed so many times their standard deviation. */
#define SIGMAS 1.8
#define SLOWER_MAX 8
/* Pages of one place tell as much as so many places of one page. */
#define PLACE_WORTH 1
/* Pages that are seen to have changed are so many of one place. */
#define CLUSTER 2
/* Pages may be stored where a link carries them so much faster than they can be compressed; and as
 * far as compression leaves more than the first part of them, all from the second on. */
#define STORED_SPARE 2
#define STORED_FROM 0.5
#define STORED_ALL 0.75

static double clamp(double v, double low, double high)
{
	return v < low || isnan(v) ? low : v > high ? high : v;
}

static double pick(const struct three *t, enum choice choice)
{
	return choice == GOOD ? t->good : choice == BAD ? t->bad : t->likely;
}

static double mix(double a, double b, double share)
{
	return a + (b - a) * share;
}

/* Two signs: what the sample took of the clock and of a processor, and how many processes are ready
 * to run. */
double way_slower(const struct estimate_input *in, enum choice choice)
{
	double waited = in->sample_cpu_ns > 0 ? in->sample_wall_ns / in->sample_cpu_ns : 1;
	double queued = in->load / clamp(in->processors, 1, 1e4);
	struct three t;

	waited = clamp(waited, 1, SLOWER_MAX);
	queued = clamp(queued, 1, SLOWER_MAX);
	t.likely = sqrt(waited * queued);
	t.good = waited < queued ? waited : queued;
	t.bad = waited < queued ? queued : waited;
	return pick(&t, choice);
}

/* The standard deviation of a share that was seen at `places` places, one in each part of the
 * memory, which tells more than places anywhere, and several pages at each. */
static double deviation(double share, double places)
{
	double n = clamp(places * PLACE_WORTH, 1, 1e12);

	return sqrt(clamp(share * (1 - share), 0, 1) / n) + 0.5 / n;
}

static double share_off(double share, double places, double sigmas)
{
	return clamp(share + sigmas * deviation(share, places), 0, 1);
}

/* Processors that encode; the others' work needs some of them. */
static double encoders(const struct estimate_input *in, enum choice choice)
{
	double n = clamp(in->processors, 1, 4);
	struct three t = {n * 0.75, n, n / 2};

	return clamp(pick(&t, choice), 1, 4) / way_slower(in, choice);
}

struct coding {
	double bytes, us; /* of a page that is not zero */
};

static struct coding coding_of(const struct estimate_pages *p, double threads)
{
	double full = p->pages - p->zero;
	struct coding c = {0};

	if (!(full >= 1))
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

/* Which part of the data goes as it is, at most: all where the link carries pages much faster than
 * they can be compressed; the more, the less compression leaves of them. */
static double stored_most(const struct estimate_input *in, double link_bps)
{
	const struct estimate_pages *first = &in->levels[0];

	if (PAGE / link_bps * 1e6 * STORED_SPARE < page_us.likely)
		return 1;
	if (first->data < 1)
		return 0;
	return clamp((first->bytes / first->data / PAGE - STORED_FROM) / (STORED_ALL - STORED_FROM),
		0, 1);
}

static double stored_share(const struct estimate_input *in, double link_bps, enum choice choice)
{
	double most = stored_most(in, link_bps);
	struct three t = {most * 0.4, 0, most};

	return pick(&t, choice);
}

/* What all pages take of what those of the sample take, if more or fewer of them are data. */
static double data_factor(const struct estimate_input *in, enum choice choice)
{
	double data = in->levels[0].data / in->levels[0].pages;
	struct three t;

	if (!(data > 0))
		return 1;
	t = (struct three){1, share_off(data, in->places, -SIGMAS) / data,
		share_off(data, in->places, SIGMAS) / data};
	return pick(&t, choice);
}

static double zero_share(const struct estimate_input *in, enum choice choice)
{
	double zero = clamp(in->levels[0].zero / in->levels[0].pages, 0, 1);
	struct three t = {
		zero, share_off(zero, in->places, SIGMAS), share_off(zero, in->places, -SIGMAS)};

	return pick(&t, choice);
}

static bool has_sample(const struct estimate_input *in)
{
	return !*in->no_sample && in->levels_count > 0 && in->levels[0].pages >= 1;
}

static void set_pages(
	const struct estimate_input *in, const enum choice choices[FACTORS], struct way *w)
{
	const struct estimate_pages *first = &in->levels[0];
	double threads = encoders(in, choices[FACTOR_PROCESSOR]);
	double least_us = pick(&page_us, choices[FACTOR_PROCESSOR]) *
			  way_slower(in, choices[FACTOR_PROCESSOR]);
	double zero, each;
	struct coding c;

	w->page_bytes = pick(&unknown_page, choices[FACTOR_CODING]);
	w->page_s = w->again_s = least_us * 1e-6;
	w->zero_s = pick(&zero_us, choices[FACTOR_PROCESSOR]) * 1e-6;
	if (!has_sample(in))
		return;
	c = choices[FACTOR_CODING] == BAD ? coding_of(first, threads)
					  : choose_level(in, w->link_bps, threads, least_us);
	each = c.bytes * (1 - clamp(first->zero / first->pages, 0, 1)) *
	       pick(&coded, choices[FACTOR_CODING]);
	each = mix(each, first->data / first->pages * PAGE,
		stored_share(in, w->link_bps, choices[FACTOR_CODING]));
	zero = zero_share(in, choices[FACTOR_SHARES]);
	w->zero_pages = zero * w->memory_pages;
	w->page_bytes = each * data_factor(in, choices[FACTOR_SHARES]) / clamp(1 - zero, 1e-6, 1);
	w->page_s = (c.us > least_us ? c.us : least_us) * 1e-6;
}

/* How many pages a second change, by the hypervisor and by the sample together: what one page that
 * was seen to change stands for, and how many were, which tells the less the fewer they are. */
static double dirty_pps(const struct estimate_input *in, double memory_pages, enum choice choice)
{
	double seen = 0, exposure = 0;
	struct three t;

	if (has_sample(in) && in->window_ms > 0 && in->seen_again >= 1 && memory_pages >= 1) {
		exposure += in->seen_again * (double)in->window_ms / 1000 / memory_pages;
		seen += in->whole.pages;
	}
	if (!*in->no_dirty && in->dirty_step_bps > 0) {
		exposure += PAGE / in->dirty_step_bps;
		seen += in->dirty_bps / in->dirty_step_bps;
	}
	if (!(exposure > 0)) {
		t = (struct three){memory_pages / 100, 0, memory_pages};
		return pick(&t, choice);
	}
	t.likely = seen / exposure;
	t.good = clamp(seen - SIGMAS * sqrt(CLUSTER * seen), 0, seen) / exposure;
	t.bad = (seen + SIGMAS * sqrt(CLUSTER * (seen + 1))) / exposure;
	return pick(&t, choice) * pick(&dirty_share, choice);
}

static double bytes_each(const struct estimate_pages *p)
{
	return p->pages >= 1 ? p->bytes / p->pages : PAGE;
}

static void set_dirty(
	const struct estimate_input *in, const enum choice choices[FACTORS], struct way *w)
{
	enum choice choice = choices[FACTOR_CHANGED];
	struct three unknown = {w->page_bytes / 2, w->page_bytes / 4, PAGE},
		     unknown_again = {512, 64, PAGE};
	double stored, factor = pick(&changed, choice);

	if (in->paused)
		return;
	w->dirty_pps = dirty_pps(in, w->memory_pages, choices[FACTOR_DIRTY]);
	w->dirty_most = (w->memory_pages - w->zero_pages) * pick(&worked_on, choice);
	if (!has_sample(in) || in->window_ms <= 0 || in->whole.pages < 8) {
		w->dirty_bytes = pick(&unknown, choice);
		w->again_bytes = pick(&unknown_again, choice);
		return;
	}
	stored = stored_share(in, w->link_bps, choices[FACTOR_CODING]);
	w->dirty_bytes = mix(bytes_each(&in->whole) * factor, PAGE, stored);
	w->again_bytes = mix(bytes_each(&in->difference) * factor, PAGE, stored / 2);
}

struct way way_make(const struct estimate_input *in, const enum choice choices[FACTORS])
{
	struct three link = {sqrt(clamp(in->link_bps.high * in->link_bps.low, 0, 1e24)),
		in->link_bps.high, in->link_bps.low};
	struct way w = {.memory_pages = (double)in->memory_bytes / PAGE};

	w.link_bps = *in->no_link ? 1e12 : clamp(pick(&link, choices[FACTOR_LINK]), 1, 1e12);
	set_pages(in, choices, &w);
	set_dirty(in, choices, &w);
	/* What is asked for bounds the hypervisor's own stream, which the pipeline carries. */
	if (in->bandwidth_bps > 0) {
		double s = PAGE / (double)in->bandwidth_bps;

		w.page_s = w.page_s > s ? w.page_s : s;
		w.again_s = w.again_s > s ? w.again_s : s;
	}
	return w;
}

/* The stream: how long, how many bytes, and for how long of it the guest stands still. */
struct stream {
	double s, bytes, still_s;
	bool converges, switched; /* by post-copy */
};

/* The time that `pages` take, `bytes` on the wire, `each_s` in the pipeline. */
static double takes_s(const struct way *w, double pages, double bytes, double each_s)
{
	double link_s = bytes / w->link_bps, pipe_s = pages * each_s;

	return link_s > pipe_s ? link_s : pipe_s;
}

/* Sends so many pages in a round; the time that this takes. */
static double send(struct stream *p, const struct way *w, int round, double pages)
{
	double each = round == 1 ? w->page_bytes : round < 4 ? w->dirty_bytes : w->again_bytes;
	double s = takes_s(w, pages, pages * each, round == 1 ? w->page_s : w->again_s);

	p->bytes += pages * each;
	p->s += s;
	return s;
}

static bool goes_postcopy(const struct estimate_input *in, int round, double before, double left)
{
	return in->postcopy && converge_needs_postcopy(in->postcopy_rounds, round,
				       (int64_t)clamp(before * PAGE, 0, 9e18),
				       (int64_t)clamp(left * PAGE, 0, 9e18));
}

/* Whether the guest is stopped now that a round has left so many pages. */
static bool ends(const struct estimate_input *in, const struct way *w, int round, double before,
	double left, struct stream *p)
{
	double each = round < 3 ? w->dirty_bytes : w->again_bytes;
	double s = takes_s(w, left, left * each, w->again_s);

	p->converges = s * 1000 <= (double)converge_downtime_ms(in->downtime_limit_ms, round + 1);
	p->switched = !p->converges && goes_postcopy(in, round + 1, before, left);
	p->still_s = p->converges ? s : 0;
	p->converges |= p->switched;
	return p->converges;
}

static struct stream play_stream(const struct estimate_input *in, const struct way *w)
{
	struct stream p = {.s = w->zero_pages * w->zero_s};
	double pages = w->memory_pages - w->zero_pages, left;

	for (int round = 1; round <= ROUNDS_MAX && !p.converges; round++, pages = left) {
		double s = send(&p, w, round, pages);

		left = in->pause ? 0 : clamp(w->dirty_pps * s, 0, w->dirty_most);
		if (ends(in, w, round, pages, left, &p))
			send(&p, w, round + 1, left);
	}
	if (in->pause)
		p.still_s = p.s;
	return p;
}

/* What a guest that moves as files stands still for besides the stream, which writes the other
 * node's files as it comes: its own are written before it, the other node's are read after it. */
static void play_files(const struct estimate_input *in, enum choice choice, struct stream *s)
{
	struct three bps = {sqrt(clamp(in->files_bps.high * in->files_bps.low, 1, 1e24)),
		in->files_bps.high, in->files_bps.low};
	double files_s = (double)in->memory_bytes /
			 clamp(pick(*in->no_room ? &unknown_files_bps : &bps, choice), 1, 1e12);

	s->s = s->s > files_s ? s->s : files_s;
	s->s += 2 * files_s + pick(&restart_ms, choice) / 1000;
	s->still_s = s->s;
}

struct played way_play(const struct estimate_input *in, const enum choice choices[FACTORS])
{
	enum choice around = choices[FACTOR_AROUND];
	struct way w = way_make(in, choices);
	struct stream s = play_stream(in, &w);
	double before = (double)in->elapsed_ms + (in->ready ? 0 : pick(&begin_ms, around));

	if (in->files)
		play_files(in, choices[FACTOR_FILES], &s);
	return (struct played){.total_ms = before + pick(&around_ms, around) + s.s * 1000,
		.wire_bytes = (s.bytes + pick(&other_bytes, around)) * TLS_SHARE,
		.downtime_ms = pick(s.switched ? &switch_ms : &still_ms, around) + s.still_s * 1000,
		.converges = s.converges};
}
