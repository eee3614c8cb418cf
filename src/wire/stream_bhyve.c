#include "wire/stream_internal.h"

#include <stdlib.h>
#include <string.h>

/* The stream's parts, as structures of C on amd64, packed and little-endian. */
#define HEADER_SIZE 80u /* size_t len, int type, int req_type, char name[64] */
#define HEADER_HEAD 16u /* of these, len to req_type */
#define SIZE_T 8u
#define INT 4u
/* Of the specs: two strings of 256 bytes, and behind them the size of a page. */
#define SPECS_STRINGS 512u

/* enum message_types. */
enum { MESSAGE_SPECS = 1, MESSAGE_KERNEL = 4, MESSAGE_DEVICE = 5 };

/* What follows the specs, where it follows: since live migration. */
enum { MIGRATION_WARM = 0, MIGRATION_LIVE = 1 };

/* Memory below 4 GiB; bhyve puts what is more than 3 GiB above them. */
#define LOWMEM_END (1ull << 32)
/* A structure's state; bhyve's own buffer for it has 4 to 40 MB. */
#define STATE_MAX (256u << 20)

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Passes over up to `len` bytes; how many. */
static uint64_t pass(struct stream_cursor *c, uint64_t len)
{
	uint64_t here = min64(c->len - c->at, len);

	c->at += here;
	return here;
}

/* Collects what the next state needs to see whole. Nothing is left with the caller meanwhile: the
 * destination may have to answer before more comes. */
static bool gather(struct stream_bhyve *b, struct stream_cursor *c, size_t size, struct reader *r)
{
	size_t at = c->at, here = (size_t)pass(c, size - b->held_len);

	memcpy(b->held + b->held_len, c->data + at, here);
	b->held_len += here;
	if (b->held_len < size)
		return false;
	reader_init(r, b->held, size);
	b->held_len = 0;
	return true;
}

static enum stream_step go(struct stream_bhyve *b, enum stream_bhyve_state state)
{
	b->state = state;
	return STREAM_ON;
}

/* The first of the files is the guest's memory. What is left of it over whole pages is no page. */
static enum stream_step files_header(struct stream_bhyve *b, uint64_t memory)
{
	if (memory > STREAM_MEMORY_MAX)
		return STREAM_LOST;
	b->files = true;
	b->memory = memory / STREAM_PAGE * STREAM_PAGE;
	b->rest = memory % STREAM_PAGE;
	return go(b, STREAM_BHYVE_FILES);
}

static enum stream_step files_lengths(struct stream_bhyve *b, struct reader *r)
{
	uint64_t kern = reader_be64(r), meta = reader_be64(r);

	if (kern > STATE_MAX || meta > STATE_MAX)
		return STREAM_LOST;
	b->rest += kern + meta;
	return go(b, STREAM_BHYVE_MEMORY);
}

/* Where memory is over. */
static enum stream_step leave_memory(struct stream_bhyve *b)
{
	b->skip = b->rest;
	return go(b, b->files ? STREAM_BHYVE_END : STREAM_BHYVE_STRUCTURE);
}

/* req_type and name are not looked at: bhyve sends what was on its stack. */
static enum stream_step header(struct stream_bhyve *b, struct reader *r)
{
	struct reader files = *r;
	const uint8_t *magic = reader_bytes(&files, sizeof(stream_bhyve_files_magic));

	if (!memcmp(magic, stream_bhyve_files_magic, sizeof(stream_bhyve_files_magic)))
		return files_header(b, reader_be64(&files));
	if (reader_le64(r) != SPECS_STRINGS + SIZE_T || reader_le32(r) != MESSAGE_SPECS)
		return STREAM_LOST;
	b->skip = HEADER_SIZE - HEADER_HEAD + SPECS_STRINGS;
	return go(b, STREAM_BHYVE_PAGE_SIZE);
}

static enum stream_step page_size(struct stream_bhyve *b, struct reader *r)
{
	return reader_le64(r) == STREAM_PAGE ? go(b, STREAM_BHYVE_TYPE) : STREAM_LOST;
}

/* The type of the migration; or, where bhyve knows only one, the lower half of the size of lowmem,
 * which is a number of pages and at least one: the two cannot be taken for each other. */
static enum stream_step type(struct stream_bhyve *b, struct reader *r)
{
	uint32_t v = reader_le32(r);

	switch (v) {
	case MIGRATION_WARM:
		return go(b, STREAM_BHYVE_LOWMEM);
	case MIGRATION_LIVE:
		return go(b, STREAM_BHYVE_ROUNDS);
	default:
		if (v % STREAM_PAGE)
			return STREAM_LOST;
		b->memory = v;
		return go(b, STREAM_BHYVE_LOWMEM_UPPER);
	}
}

static enum stream_step lowmem(struct stream_bhyve *b, struct reader *r)
{
	b->memory = reader_le64(r);
	if (!b->memory || b->memory % STREAM_PAGE || b->memory >= LOWMEM_END)
		return STREAM_LOST;
	return go(b, STREAM_BHYVE_HIGHMEM);
}

static enum stream_step lowmem_upper(struct stream_bhyve *b, struct reader *r)
{
	return reader_le32(r) ? STREAM_LOST : go(b, STREAM_BHYVE_HIGHMEM);
}

static enum stream_step highmem(struct stream_bhyve *b, struct reader *r)
{
	uint64_t size = reader_le64(r);

	if (size % STREAM_PAGE || size > STREAM_MEMORY_MAX - LOWMEM_END)
		return STREAM_LOST;
	b->memory += size;
	return go(b, STREAM_BHYVE_MEMORY);
}

/* How long a list of pages is, is nowhere in the stream. */
static enum stream_step rounds(struct stream_bhyve *b, struct reader *r)
{
	b->lists_left = reader_u8(r) + 1u;
	b->page = 0;
	return b->list ? go(b, STREAM_BHYVE_LIST) : STREAM_LOST;
}

static enum stream_step state_of(struct stream_bhyve *b, uint64_t len, uint32_t rest)
{
	if (len > STATE_MAX)
		return STREAM_LOST;
	b->skip = len + rest;
	return STREAM_ON;
}

/* A kernel structure, or the number of devices and the first of these. In the place of a kernel
 * structure's type, 4, a device has the upper half of its length, which is 0. */
static enum stream_step structure(struct stream_bhyve *b, struct reader *r)
{
	struct reader device = *r;
	uint64_t len = reader_le64(r);

	if (reader_le32(r) == MESSAGE_KERNEL)
		return state_of(b, len, HEADER_SIZE - HEADER_HEAD);
	b->devices_left = reader_le32(&device);
	len = reader_le64(&device);
	if (!b->devices_left-- || reader_le32(&device) != MESSAGE_DEVICE)
		return STREAM_LOST;
	b->state = STREAM_BHYVE_DEVICE;
	return state_of(b, len, HEADER_SIZE - HEADER_HEAD + INT);
}

static enum stream_step device(struct stream_bhyve *b, struct reader *r)
{
	uint64_t len = reader_le64(r);

	if (!b->devices_left-- || reader_le32(r) != MESSAGE_DEVICE)
		return STREAM_LOST;
	return state_of(b, len, HEADER_SIZE - HEADER_HEAD);
}

static const struct {
	size_t size;
	enum stream_step (*take)(struct stream_bhyve *b, struct reader *r);
} parts[] = {
	[STREAM_BHYVE_HEADER] = {HEADER_HEAD, header},
	[STREAM_BHYVE_PAGE_SIZE] = {SIZE_T, page_size},
	[STREAM_BHYVE_TYPE] = {INT, type},
	[STREAM_BHYVE_LOWMEM] = {SIZE_T, lowmem},
	[STREAM_BHYVE_LOWMEM_UPPER] = {INT, lowmem_upper},
	[STREAM_BHYVE_HIGHMEM] = {SIZE_T, highmem},
	[STREAM_BHYVE_ROUNDS] = {1, rounds},
	[STREAM_BHYVE_STRUCTURE] = {HEADER_HEAD, structure},
	[STREAM_BHYVE_DEVICE] = {HEADER_HEAD, device},
	[STREAM_BHYVE_FILES] = {2 * SIZE_T, files_lengths},
};

/* A page of memory, if all of it is there and the table has room. */
static enum stream_step take_page(struct stream_bhyve *b, struct stream_cursor *c)
{
	if (b->passed) {
		b->passed += (uint32_t)pass(c, STREAM_PAGE - b->passed);
		if (b->passed < STREAM_PAGE)
			return STREAM_ON;
		b->passed = 0;
		b->page++;
		return STREAM_ON;
	}
	if (c->len - c->at < STREAM_PAGE || c->items_len == c->items_max)
		return STREAM_WAIT;
	c->items[c->items_len++] = (struct stream_item){
		.address = b->page * STREAM_PAGE, .at = (uint32_t)c->at, .kind = STREAM_FULL};
	c->items_bytes += STREAM_PAGE;
	c->at += STREAM_PAGE;
	b->page++;
	return STREAM_ON;
}

static enum stream_step memory(struct stream_bhyve *b, struct stream_cursor *c)
{
	enum stream_step step = STREAM_ON;

	while (step == STREAM_ON && b->page < b->memory / STREAM_PAGE && c->at < c->len)
		step = take_page(b, c);
	if (b->page == b->memory / STREAM_PAGE)
		leave_memory(b);
	return step;
}

/* One byte for each page: 1 for those that follow. Both ends of bhyve take no other value for 1. */
static enum stream_step list(struct stream_bhyve *b, struct stream_cursor *c)
{
	for (; b->page < b->list_pages && c->at < c->len; b->page++) {
		uint64_t bit = 1ull << b->page % 64, *word = &b->list[b->page / 64];

		*word = c->data[c->at++] == 1 ? *word | bit : *word & ~bit;
	}
	if (b->page < b->list_pages)
		return STREAM_ON;
	b->page = 0;
	return go(b, STREAM_BHYVE_PAGES);
}

/* The next page on the list, from `page` on. */
static uint64_t listed(const struct stream_bhyve *b, uint64_t page)
{
	while (page < b->list_pages) {
		uint64_t word = b->list[page / 64] >> page % 64;

		if (word)
			return page + (unsigned)__builtin_ctzll(word);
		page = (page / 64 + 1) * 64;
	}
	return b->list_pages;
}

static enum stream_step pages(struct stream_bhyve *b, struct stream_cursor *c)
{
	enum stream_step step = STREAM_ON;

	for (;;) {
		b->page = listed(b, b->page);
		if (b->page == b->list_pages) {
			b->page = 0;
			b->lists_left--;
			return go(b, b->lists_left ? STREAM_BHYVE_LIST : STREAM_BHYVE_STRUCTURE);
		}
		if (c->at == c->len || step != STREAM_ON)
			return step;
		step = take_page(b, c);
	}
}

enum stream_step stream_bhyve_step(struct stream_bhyve *b, struct stream_cursor *c)
{
	struct reader r;

	if (b->skip > 0) {
		b->skip -= pass(c, b->skip);
		return STREAM_ON;
	}
	switch (b->state) {
	case STREAM_BHYVE_MEMORY:
		return memory(b, c);
	case STREAM_BHYVE_LIST:
		return list(b, c);
	case STREAM_BHYVE_PAGES:
		return pages(b, c);
	case STREAM_BHYVE_END:
		return STREAM_LOST;
	default:
		return gather(b, c, parts[b->state].size, &r) ? parts[b->state].take(b, &r)
							      : STREAM_ON;
	}
}

bool stream_bhyve_pass(struct stream_bhyve *b, size_t len)
{
	if ((b->state != STREAM_BHYVE_MEMORY && b->state != STREAM_BHYVE_PAGES) || b->skip ||
		b->passed || len >= STREAM_PAGE)
		return false;
	b->passed = (uint32_t)len;
	return true;
}

bool stream_bhyve_expect(struct stream_bhyve *b, uint64_t memory)
{
	uint64_t *list;

	if (!memory || memory % STREAM_PAGE || memory > STREAM_MEMORY_MAX)
		return false;
	list = calloc((size_t)((memory / STREAM_PAGE + 63) / 64), sizeof(*list));
	if (!list)
		return false;
	free(b->list);
	b->list = list;
	b->list_pages = memory / STREAM_PAGE;
	return true;
}
