#include "wire/sample.h"

#include "base/fs.h"
#include "base/log.h"
#include "wire/batch_format.h"
#include "wire/level.h"
#include "wire/report.h"
#include "wire/run.h"
#include "wire/sandbox.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Levels above the first are tried with so many pages that are not zero. */
#define TRIED_PAGES 96
#define ALL SIZE_MAX / STREAM_PAGE

static const char usage[] =
	"usage: drover-wire sample --pages N [--source NAME=PATH]...\n"
	"\n"
	"Reads N pages of a guest's memory (1 to 4096) from standard input, and, when they\n"
	"are there, the same pages as they were a moment later. Says in a line of JSON how\n"
	"a migration would send them.\n";

struct sample {
	struct run *run;
	struct source_set *sources;
	struct page_cache *cache;
	struct batch_coder *coder;
	struct batch *batch;
	uint8_t *payload, *first, *later; /* `later` NULL: there are none */
	size_t pages;
	int64_t cpu_ns, wall_ns; /* of all that was encoded */
};

/* What encoding some pages has come to. */
struct sum {
	struct batch_counts counts;
	uint64_t pages, bytes;
	int64_t ns; /* of processor time */
};

static int64_t clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static const uint8_t *page(const uint8_t *pages, size_t i)
{
	return pages + i * STREAM_PAGE;
}

/* Puts page number `i` at the end of the batch, as QEMU's stream has it. */
static void put_page(struct batch *b, const uint8_t *contents, size_t i)
{
	bool zero = batch_page_is_zero(contents);
	struct stream_item *item = &b->items[b->items_len++];
	uint8_t *at = b->raw + b->raw_len;

	*item = (struct stream_item){.address = i * STREAM_PAGE,
		.at = (uint32_t)b->raw_len,
		.kind = zero ? STREAM_ZERO : STREAM_FULL,
		.word = true};
	stream_item_header(item, at);
	if (zero)
		at[STREAM_WORD] = 0;
	else
		memcpy(at + STREAM_WORD, contents, STREAM_PAGE);
	b->raw_len += stream_item_len(item);
}

static bool has_room(const struct batch *b)
{
	return b->items_len < BATCH_ITEMS_MAX &&
	       b->raw_len + STREAM_WORD + STREAM_PAGE <= BATCH_RAW_MAX;
}

/* Whether page `i` is to be looked at: all, or those that have changed. */
static bool wanted(const struct sample *s, const uint8_t *pages, size_t i)
{
	return pages != s->later || memcmp(page(s->first, i), page(pages, i), STREAM_PAGE) != 0;
}

/* Puts pages from *i on, which is moved, into the batch, at most `most` that are not zero. */
static void fill(struct sample *s, const uint8_t *pages, size_t *i, size_t most)
{
	struct batch *b = s->batch;

	batch_reset(b);
	for (; *i < s->pages && has_room(b) && b->raw_len < most * STREAM_PAGE; ++*i)
		if (wanted(s, pages, *i))
			put_page(b, page(pages, *i), *i);
}

/* Encodes what is in the batch. */
static void encode_batch(struct sample *s, int level, bool keep, struct sum *sum)
{
	int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), wall = clock_ns(CLOCK_MONOTONIC), ns;

	batch_plan(s->batch, s->cache, s->sources, keep);
	sum->bytes += batch_encode(s->coder, s->batch, level, s->payload);
	ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	s->cpu_ns += ns;
	s->wall_ns += clock_ns(CLOCK_MONOTONIC) - wall;
	sum->ns += ns;
	sum->pages += s->batch->items_len;
	batch_counts_add(&sum->counts, &s->batch->counts);
}

static struct sum encode(struct sample *s, const uint8_t *pages, int level, bool keep, size_t most)
{
	struct sum sum = {0};
	size_t i = 0;

	do {
		fill(s, pages, &i, most);
		if (s->batch->items_len)
			encode_batch(s, level, keep, &sum);
	} while (i < s->pages && most == ALL);
	return sum;
}

static json_t *sum_json(const struct sum *sum)
{
	json_t *o = json_pack("{s:I, s:I, s:I}", "pages", (json_int_t)sum->pages, "bytes",
		(json_int_t)sum->bytes, "ns", (json_int_t)sum->ns);

	for (int i = 0; i < BATCH_KINDS; i++)
		json_object_set_new(o, batch_kind_name((enum batch_kind)i),
			json_integer((json_int_t)sum->counts.pages[i]));
	return o;
}

/* What all pages take by what some of them take: `some` of which took `light` at the first level.
 */
static struct sum scaled(const struct sum *all, const struct sum *light, const struct sum *some)
{
	struct sum sum = *all;

	if (light->bytes)
		sum.bytes = all->bytes * some->bytes / light->bytes;
	if (light->ns > 0)
		sum.ns = (int64_t)((double)all->ns * (double)some->ns / (double)light->ns);
	return sum;
}

static void add_level(json_t *list, unsigned l, const struct sum *sum)
{
	json_t *o = sum_json(sum);

	json_object_set_new(o, "level", json_integer(level_list[l]));
	json_array_append_new(list, o);
}

/* From the first that compresses: what is stored is as long as it is. */
static json_t *levels(struct sample *s)
{
	struct sum all = encode(s, s->first, level_list[1], false, ALL);
	struct sum light = encode(s, s->first, level_list[1], false, TRIED_PAGES);
	json_t *list = json_array();

	add_level(list, 1, &all);
	for (unsigned l = 2; l < LEVEL_COUNT; l++) {
		struct sum some = encode(s, s->first, level_list[l], false, TRIED_PAGES);
		struct sum sum = scaled(&all, &light, &some);

		add_level(list, l, &sum);
	}
	return list;
}

/* Lets the cache have the first version of the pages that have changed. It keeps what is sent whole
 * for the second time (cache.h). */
static void fill_cache(struct sample *s)
{
	for (size_t i = 0; i < s->pages; i++)
		for (int twice = 0; twice < 2; twice++)
			if (wanted(s, s->later, i))
				page_cache_put(s->cache, 0, i * STREAM_PAGE, page(s->first, i));
}

/* What has changed: sent whole, and as a difference as from the third time on. */
static json_t *changes(struct sample *s)
{
	struct sum whole = encode(s, s->later, level_list[1], false, ALL), difference;

	fill_cache(s);
	difference = encode(s, s->later, level_list[1], true, ALL);
	return json_pack(
		"{s:o, s:o}", "whole", sum_json(&whole), "difference", sum_json(&difference));
}

/* How many whole pages there were. */
static ssize_t read_pages(uint8_t *pages, size_t count, struct error **err)
{
	size_t have = 0, want = count * STREAM_PAGE;

	while (have < want) {
		ssize_t n = read(STDIN_FILENO, pages + have, want - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, ERROR_FAILED, errno, "cannot read the pages");
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)(have / STREAM_PAGE);
}

static int read_all(struct sample *s, struct error **err)
{
	ssize_t n = read_pages(s->first, s->pages, err);

	if (n < 0)
		return -1;
	if ((size_t)n < s->pages)
		return error_set(
			err, ERROR_REQUEST, 0, "there are %zd pages, not %zu", n, s->pages);
	n = read_pages(s->later, s->pages, err);
	if (n >= 0 && (size_t)n < s->pages)
		s->later = NULL;
	return n < 0 ? -1 : 0;
}

static void *need(size_t size)
{
	void *p = malloc(size);

	if (!p)
		abort();
	return p;
}

static int prepare(struct sample *s, struct error **err)
{
	static const uint8_t key[PAGEHASH_KEY];
	struct pagehash *hash = pagehash_open(key, err);

	s->first = need(s->pages * STREAM_PAGE);
	s->later = need(s->pages * STREAM_PAGE);
	s->payload = need(BATCH_RAW_MAX + BATCH_EXTRA);
	s->coder = hash ? batch_coder_open(hash, err) : NULL;
	s->cache = s->coder ? page_cache_open(CACHE_DEFAULT, err) : NULL;
	s->batch = s->cache ? batch_new(err) : NULL;
	return s->batch && run_harden(err) == 0 && sandbox_enter(false, err) == 0 ? 0 : -1;
}

static int run(struct sample *s, struct error **err)
{
	json_t *line;

	if (prepare(s, err) < 0 || read_all(s, err) < 0)
		return -1;
	line = json_pack("{s:o}", "levels", levels(s));
	if (s->later)
		json_object_set_new(line, "changed", changes(s));
	json_object_set_new(line, "cpu_ns", json_integer(s->cpu_ns));
	json_object_set_new(line, "wall_ns", json_integer(s->wall_ns));
	run_status(s->run, "sampled", line);
	return 0;
}

/* A source that cannot be used is none, as in a migration. */
static int add_source(struct sample *s, const char *text, struct error **err)
{
	cleanup_error struct error *unusable = NULL;
	const char *path = strchr(text, '=');
	char name[SOURCE_NAME_MAX + 1];
	size_t len = path ? (size_t)(path - text) : 0;

	if (!len || len > SOURCE_NAME_MAX || !path[1])
		return error_set(err, ERROR_USAGE, 0, "--source takes NAME=PATH");
	memcpy(name, text, len);
	name[len] = 0;
	if (source_set_add(s->sources, name, path + 1, true, &unusable) < 0)
		report_source_unused(s->run, name, unusable);
	return 0;
}

static int parse(struct sample *s, int argc, char **argv, struct error **err)
{
	static const struct option options[] = {{"pages", required_argument, NULL, 'p'},
		{"source", required_argument, NULL, 's'}, {0}};
	int64_t pages = 0;
	int option, rc = 0;

	opterr = 0;
	while (rc == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'p')
			rc = fs_parse_number("--pages", optarg, 1, SAMPLE_PAGES_MAX, &pages, err);
		else if (option == 's')
			rc = add_source(s, optarg, err);
		else
			rc = error_set(err, ERROR_USAGE, 0, "%s", usage);
	}
	if (rc == 0 && (optind != argc || !pages))
		rc = error_set(err, ERROR_USAGE, 0, "%s", usage);
	s->pages = (size_t)pages;
	return rc;
}

int sample_main(int argc, char **argv)
{
	cleanup_error struct error *err = NULL;
	struct sample s = {0};

	if (argc == 2 && !strcmp(argv[1], "--help")) {
		fputs(usage, stdout);
		return 0;
	}
	s.run = run_open(STDOUT_FILENO, &err);
	s.sources = source_set_open();
	if (s.run && parse(&s, argc, argv, &err) == 0 && run(&s, &err) == 0)
		return 0;
	log_error("%s", err->message);
	if (s.run)
		run_status(s.run, "error",
			json_pack("{s:s, s:s}", "kind", error_kind_name(err->kind), "message",
				err->message));
	return error_kind_exit(err->kind);
}
