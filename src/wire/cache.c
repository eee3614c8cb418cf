#include "wire/cache.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WAYS 8u
#define ADMIT_ONE_IN 4u
#define SEEN_BITS (1u << 24)
#define NO_SLOT 0

/* A place has a tag (0: free) and, once it was used, room for a page, which it keeps for good: room
 * is handed out from the front, so that a cache that is little used takes little memory. */
struct set {
	uint64_t tag[WAYS];
	uint32_t slot[WAYS]; /* number of the page's room, from 1; NO_SLOT: none yet */
	uint8_t again;       /* bit n: the page in place n was sent since its last turn */
	uint8_t hand;        /* where the search for a victim begins */
	uint8_t newcomers;
	uint8_t unused[29];
};
_Static_assert(sizeof(struct set) == 128, "a set is two cache lines");

struct page_cache {
	struct set *sets;
	uint8_t *pages;
	uint8_t *seen; /* a bit for each page of memory: was sent whole before */
	size_t sets_bytes, pages_bytes;
	uint32_t slots; /* handed out */
	unsigned shift; /* 64 less the logarithm of the number of sets */
};

static void *map(size_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
#ifdef MADV_HUGEPAGE
	madvise(at, len, MADV_HUGEPAGE); /* a kernel without them only does without */
#endif
	return at;
}

static void unmap(void *at, size_t len)
{
	if (at)
		munmap(at, len);
}

struct page_cache *page_cache_open(uint64_t size, struct error **err)
{
	struct page_cache *c;
	unsigned bits = 0;

	if (size < CACHE_MIN || size > CACHE_MAX) {
		error_set(err, ERROR_USAGE, 0,
			"a page cache of %llu bytes cannot be had; give 1 MiB to 16 GiB",
			(unsigned long long)size);
		return NULL;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		error_set(err, ERROR_FAILED, 0, "no memory for a page cache");
		return NULL;
	}
	while ((2ull << bits) * WAYS * STREAM_PAGE <= size)
		bits++;
	c->shift = 64 - bits;
	c->sets_bytes = ((size_t)1 << bits) * sizeof(struct set);
	c->pages_bytes = ((size_t)1 << bits) * WAYS * STREAM_PAGE;
	c->sets = map(c->sets_bytes);
	c->pages = map(c->pages_bytes);
	c->seen = map(SEEN_BITS / 8);
	if (!c->sets || !c->pages || !c->seen) {
		error_set(err, ERROR_FAILED, errno, "no memory for a page cache of %zu MiB",
			c->pages_bytes >> 20);
		page_cache_close(c);
		return NULL;
	}
	return c;
}

void page_cache_close(struct page_cache *c)
{
	if (!c)
		return;
	unmap(c->sets, c->sets_bytes);
	unmap(c->pages, c->pages_bytes);
	unmap(c->seen, SEEN_BITS / 8);
	free(c);
}

/* Never 0. */
static uint64_t make_tag(uint8_t block, uint64_t address)
{
	return ((uint64_t)block << 52 | address / STREAM_PAGE) + 1;
}

/* Fibonacci hashing: pages that follow each other spread evenly. */
static struct set *set_of(const struct page_cache *c, uint64_t tag)
{
	return &c->sets[tag * 0x9e3779b97f4a7c15u >> c->shift];
}

/* The place of the tag in its set, WAYS when it is not there. */
static unsigned way_of(const struct set *set, uint64_t tag)
{
	unsigned way = 0;

	while (way < WAYS && set->tag[way] != tag)
		way++;
	return way;
}

static uint8_t *page_at(const struct page_cache *c, uint32_t slot)
{
	return c->pages + (size_t)(slot - 1) * STREAM_PAGE;
}

uint8_t *page_cache_find(struct page_cache *c, uint8_t block, uint64_t address)
{
	uint64_t tag = make_tag(block, address);
	const struct set *set = set_of(c, tag);
	unsigned way = way_of(set, tag);

	return way < WAYS ? page_at(c, set->slot[way]) : NULL;
}

void page_cache_renew(struct page_cache *c, uint8_t block, uint64_t address)
{
	uint64_t tag = make_tag(block, address);
	struct set *set = set_of(c, tag);
	unsigned way = way_of(set, tag);

	if (way < WAYS)
		set->again |= (uint8_t)(1u << way);
}

/* Whether the page was sent whole before; from now on it was. */
static bool seen_before(struct page_cache *c, uint8_t block, uint64_t address)
{
	/* Blocks begin apart from each other, the first one at the front. */
	uint64_t bit = (address / STREAM_PAGE + block * 0x9e3779u) % SEEN_BITS;
	uint8_t mask = (uint8_t)(1u << bit % 8);
	bool seen = c->seen[bit / 8] & mask;

	c->seen[bit / 8] |= mask;
	return seen;
}

/* The place for a newcomer to a full set; WAYS: it is not admitted. */
static unsigned victim(struct set *set)
{
	unsigned way;

	set->newcomers = (uint8_t)((set->newcomers + 1) % ADMIT_ONE_IN);
	if (set->newcomers)
		return WAYS;
	for (way = set->hand; set->again >> way & 1; way = (way + 1) % WAYS)
		set->again &= (uint8_t) ~(1u << way);
	set->hand = (uint8_t)((way + 1) % WAYS);
	return way;
}

/* A place for a page that is not in the set and was sent before; WAYS: there is none. */
static unsigned admit(struct page_cache *c, struct set *set, uint64_t tag)
{
	unsigned way = way_of(set, 0);

	if (way == WAYS)
		way = victim(set);
	if (way == WAYS)
		return WAYS;
	if (set->slot[way] == NO_SLOT)
		set->slot[way] = ++c->slots;
	set->tag[way] = tag;
	set->again &= (uint8_t) ~(1u << way);
	return way;
}

void page_cache_put(
	struct page_cache *c, uint8_t block, uint64_t address, const uint8_t page[STREAM_PAGE])
{
	uint64_t tag = make_tag(block, address);
	struct set *set = set_of(c, tag);
	unsigned way = way_of(set, tag);

	if (way < WAYS)
		set->again |= (uint8_t)(1u << way);
	else if (seen_before(c, block, address))
		way = admit(c, set, tag);
	if (way < WAYS)
		memcpy(page_at(c, set->slot[way]), page, STREAM_PAGE);
}

void page_cache_drop(struct page_cache *c, uint8_t block, uint64_t address)
{
	uint64_t tag = make_tag(block, address);
	struct set *set = set_of(c, tag);
	unsigned way = way_of(set, tag);

	if (way < WAYS)
		set->tag[way] = 0;
}
