/*
 * Measures the page codec alone: one thread, in memory, no lanes and no TLS. For each kind of page
 * it prints the speed of planning and encoding together and of decoding and completing together, in
 * GB of guest memory a second of processor time, and the bytes of the payloads; for data at each
 * level also the speed of zstd by itself over the same pages, and of the codec compared with it.
 * Medians.
 *
 * usage: codec [--runs N] [--pages FILE] [WORD]
 *
 * WORD: only the cases whose name has it.
 *
 * Data are text-like pages, or those of FILE (a piece of a guest's memory, say). References are to
 * a file in TMPDIR that is made, indexed and removed.
 */
#include "base/fs.h"
#include "wire/batch.h"
#include "wire/index.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#define BATCHES 32u
#define BATCH_PAGES 254u
#define PAGES (BATCHES * BATCH_PAGES)
#define RUNS_MAX 99u

static unsigned runs = 7;
static const char *word = "";
static uint8_t *pages; /* PAGES of them: what is sent */
static struct batch *sent[BATCHES], *received;
static uint8_t payload[BATCH_RAW_MAX + BATCH_EXTRA];
static struct batch_coder *coder;

struct passage {
	double encode_s, decode_s;
	size_t raw, wire;
};

static void fail(struct error *err)
{
	fprintf(stderr, "codec: %s\n", err ? err->message : "no memory");
	exit(1);
}

static double cpu_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), compare_doubles);
	return values[count / 2];
}

static uint64_t random_u64(void)
{
	static uint64_t state = 1;
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void fill_random(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = random_u64();

		memcpy(at + i, &v, 8);
	}
}

/* Words out of 4,096, some more often than others. */
static void fill_text(uint8_t *at, size_t len)
{
	static char words[4096][12];
	size_t i = 0;

	for (unsigned w = 0; !words[4095][0] && w < 4096; w++)
		for (unsigned n = 2 + (unsigned)(random_u64() % 8), c = 0; c < n; c++)
			words[w][c] = (char)('a' + random_u64() % 26);
	while (i < len) {
		uint64_t r = random_u64();
		const char *one = words[(r & 4095) >> (r >> 12 & 7)];

		while (*one && i < len)
			at[i++] = (uint8_t)*one++;
		if (i < len)
			at[i++] = ' ';
	}
}

/* Puts `count` items from page number `first` on into the batch; contents NULL: zero pages. */
static void fill_batch(struct batch *b, uint64_t first, unsigned count, const uint8_t *contents)
{
	batch_reset(b);
	for (unsigned i = 0; i < count; i++) {
		struct stream_item *item = &b->items[b->items_len++];

		*item = (struct stream_item){.address = (first + i) * STREAM_PAGE,
			.at = (uint32_t)b->raw_len,
			.kind = contents ? STREAM_FULL : STREAM_ZERO,
			.word = true};
		stream_item_header(item, b->raw + b->raw_len);
		b->raw_len += stream_item_len(item);
		b->raw[b->raw_len - 1] = 0;
		if (contents)
			memcpy(b->raw + b->raw_len - STREAM_PAGE,
				contents + (size_t)i * STREAM_PAGE, STREAM_PAGE);
	}
}

static void fill_batches(bool zero)
{
	for (unsigned i = 0; i < BATCHES; i++)
		if (zero)
			fill_batch(sent[i], i * BATCH_ITEMS_MAX, BATCH_ITEMS_MAX, NULL);
		else
			fill_batch(sent[i], i * BATCH_PAGES, BATCH_PAGES,
				pages + (size_t)i * BATCH_PAGES * STREAM_PAGE);
}

static void check_arrival(const struct batch *b)
{
	if (received->raw_len == b->raw_len && !memcmp(received->raw, b->raw, b->raw_len))
		return;
	fprintf(stderr, "codec: a batch has changed on its way\n");
	exit(1);
}

/* One passage of all batches, each through both ends before the next. */
static struct passage carry(
	int level, struct page_cache *from, struct page_cache *to, const struct source_set *sources)
{
	struct passage p = {0};

	for (unsigned i = 0; i < BATCHES; i++) {
		struct batch *b = sent[i];
		struct error *err = NULL;
		double start = cpu_s(), middle;
		size_t len;

		/* As batch_reset would, but for the piece and its table. */
		b->words_len = 0;
		b->counts = (struct batch_counts){0};
		batch_plan(b, from, sources, true);
		len = batch_encode(coder, b, level, payload);
		middle = cpu_s();
		batch_reset(received);
		if (batch_decode(coder, payload, len, sources, received, &err) < 0 ||
			batch_complete(received, to, &err) < 0)
			fail(err);
		p.decode_s += cpu_s() - middle;
		p.encode_s += middle - start;
		p.raw += b->raw_len;
		p.wire += len;
		check_arrival(b);
	}
	return p;
}

static double zstd_s(int level, ZSTD_CCtx *c)
{
	static uint8_t out[BATCH_RAW_MAX + BATCH_RAW_MAX / 128 + 64];
	double start = cpu_s();

	ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
	for (unsigned i = 0; i < BATCHES; i++)
		ZSTD_compress2(c, out, sizeof(out), pages + (size_t)i * BATCH_PAGES * STREAM_PAGE,
			(size_t)BATCH_PAGES * STREAM_PAGE);
	return cpu_s() - start;
}

/* Changes `words` words of every page, as a guest does between two rounds. */
static void change_pages(unsigned words)
{
	for (unsigned i = 0; i < PAGES; i++)
		for (unsigned w = 0; w < words; w++)
			pages[(size_t)i * STREAM_PAGE + random_u64() % STREAM_PAGE]++;
	fill_batches(false);
}

struct bench_case {
	const char *name;
	int level;
	bool zero, against_zstd;
	int changed; /* words a page between two passages; -1: no cache */
	const struct source_set *sources;
};

static void measure(const struct bench_case *c)
{
	double encode[RUNS_MAX], decode[RUNS_MAX], alone[RUNS_MAX], against[RUNS_MAX];
	struct page_cache *from = NULL, *to = NULL;
	double gb = (double)(c->zero ? BATCHES * BATCH_ITEMS_MAX : PAGES) * STREAM_PAGE * 1e-9;
	ZSTD_CCtx *zstd;
	struct passage p = {0};

	if (!strstr(c->name, word))
		return;
	zstd = ZSTD_createCCtx();
	if (c->changed >= 0) {
		from = page_cache_open(CACHE_DEFAULT, NULL);
		to = page_cache_open(CACHE_DEFAULT, NULL);
	}
	/* The first two passages fill the caches. */
	for (unsigned run = 0; run < runs + 2; run++) {
		unsigned i = run < 2 ? 0 : run - 2;

		if (c->changed > 0)
			change_pages((unsigned)c->changed);
		if (c->against_zstd)
			alone[i] = zstd_s(c->level, zstd);
		p = carry(c->level, from, to, c->sources);
		encode[i] = p.encode_s;
		decode[i] = p.decode_s;
		against[i] = c->against_zstd ? alone[i] / encode[i] : 0;
	}
	printf("%-24s %9.2f %9.2f %9.2f %8.4f", c->name, gb / median(encode, runs),
		gb / median(decode, runs), (double)p.wire / 1e6, (double)p.wire / (double)p.raw);
	if (c->against_zstd)
		printf(" %9.2f %8.2f", gb / median(alone, runs), median(against, runs));
	putchar('\n');
	fflush(stdout);
	ZSTD_freeCCtx(zstd);
	page_cache_close(from);
	page_cache_close(to);
}

static void measure_levels(const char *what)
{
	static const int levels[] = {0, -5, -1, 1, 3, 5, 9};

	for (size_t i = 0; i < sizeof(levels) / sizeof(*levels); i++) {
		char name[64];

		snprintf(name, sizeof(name), "%s, level %d", what, levels[i]);
		measure(&(struct bench_case){.name = name,
			.level = levels[i],
			.against_zstd = levels[i] != 0,
			.changed = -1});
	}
}

/* A file of random blocks; the pages that are sent are its blocks, in runs of eight. */
static void measure_references(void)
{
	const char *dir = getenv("TMPDIR");
	cleanup_free char *path = fs_format("%s/drover-codec-XXXXXX", dir ? dir : "/tmp");
	cleanup_free char *index = NULL;
	struct source_set *set = source_set_open();
	struct error *err = NULL;
	struct index_built built;
	int fd = mkstemp(path);
	unsigned run;

	fill_random(pages, (size_t)PAGES * STREAM_PAGE);
	if (fd < 0 || write(fd, pages, (size_t)PAGES * STREAM_PAGE) < 0) {
		perror(path);
		exit(1);
	}
	close(fd);
	index = index_path(path);
	if (index_build(path, NULL, &built, &err) < 0 ||
		source_set_add(set, "file", path, true, &err) < 0) {
		unlink(path);
		fail(err);
	}
	for (run = 0; run + 8 <= PAGES; run += 8) {
		unsigned other = (unsigned)(random_u64() % (PAGES / 8)) * 8;
		static uint8_t kept[8 * STREAM_PAGE];

		memcpy(kept, pages + (size_t)run * STREAM_PAGE, sizeof(kept));
		memmove(pages + (size_t)run * STREAM_PAGE, pages + (size_t)other * STREAM_PAGE,
			sizeof(kept));
		memcpy(pages + (size_t)other * STREAM_PAGE, kept, sizeof(kept));
	}
	fill_batches(false);
	measure(&(struct bench_case){.name = "references", .level = 1, .sources = set});
	unlink(index);
	unlink(path);
	source_set_close(set);
}

static void measure_data(const char *file)
{
	FILE *f = file ? fopen(file, "rb") : NULL;

	fill_text(pages, (size_t)PAGES * STREAM_PAGE);
	if (file && (!f || fread(pages, 1, (size_t)PAGES * STREAM_PAGE, f) == 0)) {
		perror(file);
		exit(1);
	}
	if (f)
		fclose(f);
	fill_batches(false);
	measure_levels(file ? "data" : "text");
	measure(&(struct bench_case){.name = "unchanged, level 1", .level = 1});
	measure(&(struct bench_case){.name = "4 words, level 0", .changed = 4});
	measure(&(struct bench_case){.name = "4 words, level 1", .level = 1, .changed = 4});
	measure(&(struct bench_case){.name = "64 words, level 1", .level = 1, .changed = 64});
	fill_random(pages, (size_t)PAGES * STREAM_PAGE);
	fill_batches(false);
	measure_levels("random");
}

static void open_all(void)
{
	uint8_t key[PAGEHASH_KEY];
	struct error *err = NULL;
	struct pagehash *hash = NULL;

	if (pagehash_new_key(key, &err) < 0 || !(hash = pagehash_open(key, &err)) ||
		!(coder = batch_coder_open(hash, &err)) ||
		!(pages = malloc((size_t)PAGES * STREAM_PAGE)))
		fail(err);
	pagehash_close(hash);
	received = batch_new(&err);
	for (unsigned i = 0; received && i < BATCHES; i++) {
		sent[i] = batch_new(&err);
		if (!sent[i])
			fail(err);
	}
	if (!received)
		fail(err);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"runs", required_argument, NULL, 'r'},
		{"pages", required_argument, NULL, 'p'}, {0}};
	const char *file = NULL;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'r')
			runs = (unsigned)strtoul(optarg, NULL, 10);
		else if (option == 'p')
			file = optarg;
		else
			return 2;
	}
	if (optind < argc)
		word = argv[optind++];
	if (runs < 1 || runs > RUNS_MAX || optind < argc) {
		fprintf(stderr, "usage: codec [--runs 1..%u] [--pages FILE] [WORD]\n", RUNS_MAX);
		return 2;
	}
	open_all();
	printf("%-24s %9s %9s %9s %8s %9s %8s\n", "", "encode", "decode", "wire MB", "of raw",
		"zstd", "codec");
	printf("%-24s %9s %9s %9s %8s %9s %8s\n", "", "GB/s", "GB/s", "", "", "GB/s", "of it");
	fill_batches(true);
	measure(&(struct bench_case){.name = "zero", .level = 1, .zero = true});
	measure_references();
	measure_data(file);
	return 0;
}
