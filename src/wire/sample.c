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

/* What a level above the first is tried for, at most; it is told from a part of the pages then. */
#define TRY_NS 25000000

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
};

/* What encoding some pages has come to. */
struct sum {
	struct batch_counts counts;
	uint64_t pages, bytes;
	int64_t ns; /* of processor time */
};

static int64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
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

/* Encodes a batch of the pages from *i on, which is moved. */
static void encode_some(
	struct sample *s, const uint8_t *pages, size_t *i, int level, bool keep, struct sum *sum)
{
	struct batch *b = s->batch;
	int64_t start_ns;

	batch_reset(b);
	for (; *i < s->pages && has_room(b); ++*i)
		if (wanted(s, pages, *i))
			put_page(b, page(pages, *i), *i);
	if (!b->items_len)
		return;
	sum->pages += b->items_len;
	start_ns = cpu_ns();
	batch_plan(b, s->cache, s->sources, keep);
	sum->bytes += batch_encode(s->coder, b, level, s->payload);
	sum->ns += cpu_ns() - start_ns;
	batch_counts_add(&sum->counts, &b->counts);
}

static struct sum encode(
	struct sample *s, const uint8_t *pages, int level, bool keep, int64_t most_ns)
{
	struct sum sum = {0};

	for (size_t i = 0; i < s->pages && sum.ns < most_ns;)
		encode_some(s, pages, &i, level, keep, &sum);
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

/* From the first that compresses: what is stored is as long as it is. */
static json_t *levels(struct sample *s)
{
	json_t *list = json_array();

	for (unsigned l = 1; l < LEVEL_COUNT; l++) {
		struct sum sum = encode(
			s, s->first, level_list[l], false, l == 1 ? INT64_MAX : TRY_NS);
		json_t *o = sum_json(&sum);

		json_object_set_new(o, "level", json_integer(level_list[l]));
		json_array_append_new(list, o);
	}
	return list;
}

/* The cache keeps what is sent whole for the second time (cache.h); from the third on there are
 * differences. */
static json_t *changes(struct sample *s)
{
	struct sum whole = encode(s, s->later, level_list[1], false, INT64_MAX), difference;

	encode(s, s->first, 0, true, INT64_MAX);
	encode(s, s->first, 0, true, INT64_MAX);
	difference = encode(s, s->later, level_list[1], true, INT64_MAX);
	return json_pack("{s:o, s:o}", "whole", sum_json(&whole), "difference",
		sum_json(&difference));
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
		return error_set(err, ERROR_REQUEST, 0, "there are %zd pages, not %zu", n, s->pages);
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
		run_status(s.run, "error", json_pack("{s:s, s:s}", "kind",
						   error_kind_name(err->kind), "message", err->message));
	return error_kind_exit(err->kind);
}
