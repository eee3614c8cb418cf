#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum {
	PAGE_SIZE = 4096,
	PAGE_WORDS = PAGE_SIZE / 8,
	HEADER_WORDS = 4,
	/* A few words of a page are EDIT_WORDS together, in one of EDIT_SLOTS places in turn. */
	EDIT_SLOTS = 8,
	EDIT_WORDS = 4,
	DIRTY_TICK_MS = 5,
	/* How much is made up for after the guest stood still; more would be a burst. */
	DIRTY_BACKLOG_MS = 50,
};

enum pattern { PATTERN_TEXT, PATTERN_RANDOM, PATTERN_ZERO };
static const char *const pattern_names[] = {"text", "random", "zero"};

/* How often a page was written: whole, and in a few words since. */
struct written {
	uint32_t whole;
	uint32_t edits;
};

pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
	uint64_t *pages;
	struct written *table;
	uint64_t count;
	uint64_t seed;
	uint64_t writes; /* the sum of the table */
	enum pattern pattern;
	/* the dirtier's orders */
	uint64_t dirty_mib_s;
	uint64_t dirty_pages;
	bool dirty_words;
} mem;

/* splitmix64's finalizer: spreads (seed, page, count) over 64 bits. */
uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline uint64_t xorshift(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ (x << 17);
}

/* Words of a log file, in columns of eight. */
static const char vocabulary[] = "the     of      and     to      in      for     from    with    "
				 "node    page    guest   moved   "
				 "error   info    debug   warn    state   start   stop    done    "
				 "wait    read    write   open    "
				 "close   sent    recv    lane    frame   batch   disk    image   "
				 "block   cache   file    name    "
				 "user    group   time    ms      us      bytes   count   total   "
				 "rate    limit   left    right   "
				 "first   last    next    prev    up      down    on      off     "
				 "yes     no      http    tcp     "
				 "udp     tls     as      at      ";

/* Log-like text: two words and a number of eight hexadecimal digits, again and again. */
static void write_text(char *at, char *end, uint64_t x)
{
	for (; at + 25 <= end; at += 25) {
		uint64_t v = x = xorshift(x);
		memcpy(at, vocabulary + (v & 63) * 8, 8);
		memcpy(at + 8, vocabulary + (v >> 6 & 63) * 8, 8);
		v >>= 12;
		for (int i = 16; i < 24; i++, v >>= 4)
			at[i] = "0123456789abcdef"[v & 15];
		at[24] = '\n';
	}
	memset(at, ' ', (size_t)(end - at));
}

/* What page `number` holds after having been written whole `whole` times. */
static void write_page(uint64_t *page, uint64_t number, uint32_t whole)
{
	if (mem.pattern == PATTERN_ZERO) {
		memset(page, 0, PAGE_SIZE);
		return;
	}
	uint64_t x = mix(mem.seed ^ mix(number) ^ mix((uint64_t)whole << 32)) | 1;
	page[0] = CONTENT_MAGIC;
	page[1] = number;
	page[2] = whole;
	page[3] = mem.seed;
	if (mem.pattern == PATTERN_TEXT) {
		write_text((char *)(page + HEADER_WORDS), (char *)page + PAGE_SIZE, x);
		return;
	}
	for (int i = HEADER_WORDS; i < PAGE_WORDS; i++)
		page[i] = x = xorshift(x);
}

/* Edit number `edit` (from 1) of a page since it was last written whole. */
static void write_edit(uint64_t *page, uint64_t number, uint32_t whole, uint32_t edit)
{
	if (mem.pattern == PATTERN_ZERO) {
		page[PAGE_WORDS - 1] = 0;
		return;
	}
	uint64_t slot = edit % EDIT_SLOTS;
	uint64_t x = mix(mem.seed ^ mix(number) ^ mix((uint64_t)whole << 32 | edit)) | 1;
	uint64_t room = (PAGE_WORDS - HEADER_WORDS) / EDIT_SLOTS;
	uint64_t at = HEADER_WORDS + slot * room + mix(number ^ slot) % (room - EDIT_WORDS);
	for (int i = 0; i < EDIT_WORDS; i++)
		page[at + i] = x = xorshift(x);
}

static void expected_page(uint64_t *page, uint64_t number)
{
	struct written w = mem.table[number];
	write_page(page, number, w.whole);
	uint32_t first = w.edits > EDIT_SLOTS ? w.edits - EDIT_SLOTS + 1 : 1;
	for (uint32_t edit = first; edit <= w.edits; edit++)
		write_edit(page, number, w.whole, edit);
}

static void dirty_page(uint64_t number)
{
	uint64_t *page = mem.pages + number * PAGE_WORDS;
	struct written *w = &mem.table[number];
	if (mem.dirty_words) {
		w->edits++;
		write_edit(page, number, w->whole, w->edits);
	} else {
		/* The sum of the table counts every write, so whole takes the edits in. */
		w->whole += w->edits + 1;
		w->edits = 0;
		write_page(page, number, w->whole);
	}
	mem.writes++;
}

void *memory_dirtier(void *arg)
{
	(void)arg;
	uint64_t next = 0;
	double due = 0;
	int64_t last = now_us();
	for (;;) {
		sleep_ms(DIRTY_TICK_MS);
		pthread_mutex_lock(&memory_lock);
		int64_t now = now_us(), passed = now - last;
		last = now;
		if (passed > DIRTY_BACKLOG_MS * 1000)
			passed = DIRTY_BACKLOG_MS * 1000;
		double pages_per_us = (double)mem.dirty_mib_s * (1 << 20) / PAGE_SIZE / 1e6;
		due = pages_per_us > 0 ? due + (double)passed * pages_per_us : 0;
		/* What this machine cannot keep up with is not owed. */
		if (due > pages_per_us * DIRTY_BACKLOG_MS * 1000)
			due = pages_per_us * DIRTY_BACKLOG_MS * 1000;
		for (; due >= 1 && mem.dirty_pages > 0; due--) {
			next = next < mem.dirty_pages ? next : 0;
			dirty_page(next++);
		}
		pthread_mutex_unlock(&memory_lock);
	}
	return NULL;
}

static uint64_t available_kib(void)
{
	char line[128];
	uint64_t kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

static void drop(void)
{
	if (mem.pages) {
		munmap(mem.pages, mem.count * PAGE_SIZE);
		munmap(mem.table, mem.count * sizeof(*mem.table));
	}
	mem.pages = NULL;
	mem.table = NULL;
	mem.count = mem.writes = mem.dirty_mib_s = mem.dirty_pages = 0;
}

static void *map(size_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

void memory_fill(struct answer *a, char **args)
{
	int64_t mib = number(args[1], 1 << 20);
	int pattern = -1;
	for (int i = 0; args[2] && i < 3; i++)
		if (strcmp(args[2], pattern_names[i]) == 0)
			pattern = i;
	if (mib < 1 || pattern < 0) {
		fail(a, "usage: fill MIB text|random|zero");
		return;
	}
	drop();
	uint64_t count = (uint64_t)mib << 8;
	if (count * (PAGE_SIZE + sizeof(*mem.table)) / 1024 > available_kib()) {
		fail(a, "not that much memory left in this guest");
		return;
	}
	mem.pages = map(count * PAGE_SIZE);
	mem.table = map(count * sizeof(*mem.table));
	if (!mem.pages || !mem.table) {
		fail(a, "mmap failed");
		return;
	}
	mem.count = count;
	mem.pattern = (enum pattern)pattern;
	mem.seed = random_u64();
	int64_t start = now_us();
	for (uint64_t i = 0; i < count; i++) {
		mem.table[i].whole = 1;
		write_page(mem.pages + i * PAGE_WORDS, i, 1);
	}
	mem.writes = count;
	say(a, "{\"pages\":%lu,\"pattern\":\"%s\",\"ms\":%ld}", count, pattern_names[pattern],
		(now_us() - start) / 1000);
}

void memory_dirty(struct answer *a, char **args)
{
	int64_t rate = number(args[1], 100000);
	bool words = args[2] && strcmp(args[2], "words") == 0;
	int64_t mib = args[2] && args[3] ? number(args[3], 1 << 20) : (int64_t)(mem.count >> 8);
	if (rate < 0 || !args[2] || (!words && strcmp(args[2], "page") != 0) || mib < 0) {
		fail(a, "usage: dirty MIB_S page|words [MIB]");
		return;
	}
	if (!mem.pages || (uint64_t)mib << 8 > mem.count) {
		fail(a, "fill more memory first");
		return;
	}
	mem.dirty_words = words;
	mem.dirty_pages = (uint64_t)mib << 8;
	mem.dirty_mib_s = (uint64_t)rate;
	say(a, "{\"mib_s\":%ld,\"how\":\"%s\",\"pages\":%lu}", rate, args[2], mem.dirty_pages);
}

void memory_stop(struct answer *a, char **args)
{
	(void)args;
	mem.dirty_mib_s = 0;
	say(a, "{\"writes\":%lu}", mem.writes);
}

void memory_check(struct answer *a, char **args)
{
	(void)args;
	uint64_t page[PAGE_WORDS], bad = 0, first_bad = 0, sum = 0;
	int64_t start = now_us();
	for (uint64_t i = 0; i < mem.count; i++) {
		sum += mem.table[i].whole + mem.table[i].edits;
		expected_page(page, i);
		if (memcmp(page, mem.pages + i * PAGE_WORDS, PAGE_SIZE) == 0)
			continue;
		if (bad++ == 0)
			first_bad = i;
	}
	char first[24] = "null";
	if (bad)
		snprintf(first, sizeof(first), "%lu", first_bad);
	say(a,
		"{\"ok\":%s,\"pages\":%lu,\"bad\":%lu,\"first_bad\":%s,\"writes\":%lu,"
		"\"writes_in_table\":%lu,\"ms\":%ld}",
		!bad && sum == mem.writes && mem.count ? "true" : "false", mem.count, bad, first,
		mem.writes, sum, (now_us() - start) / 1000);
}

int memory_status(char *out, size_t len)
{
	return snprintf(out, len,
		"\"pages\":%lu,\"pattern\":\"%s\",\"dirty_mib_s\":%lu,\"how\":\"%s\",\"writes\":%"
		"lu",
		mem.count, pattern_names[mem.pattern], mem.dirty_mib_s,
		mem.dirty_words ? "words" : "page", mem.writes);
}
