#include "stream_gen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM_ID 2u
#define HUGE_PAGE (2u << 20)

struct gen {
	const struct stream_gen *o;
	stream_gen_sink sink;
	void *arg;
	uint64_t random, sent;
	uint64_t at_page, round; /* of the page that comes next */
	unsigned at_block;
	unsigned last_block; /* of the page before; o->blocks: none */
};

/* splitmix64. */
uint64_t stream_gen_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static bool chance(struct gen *g, unsigned one_in)
{
	return stream_gen_next(&g->random) % one_in == 0;
}

static bool has(const struct gen *g, unsigned flag)
{
	return g->o->flags & flag;
}

static void other(struct gen *g, const void *bytes, size_t len)
{
	if (len > 0)
		g->sink(g->arg, bytes, len, NULL);
}

static void u8(struct gen *g, uint8_t v)
{
	other(g, &v, 1);
}

static void be16(struct gen *g, uint16_t v)
{
	uint8_t bytes[2];
	put_be16(bytes, v);
	other(g, bytes, sizeof(bytes));
}

static void be32(struct gen *g, uint32_t v)
{
	uint8_t bytes[4];
	put_be32(bytes, v);
	other(g, bytes, sizeof(bytes));
}

static void be64(struct gen *g, uint64_t v)
{
	uint8_t bytes[8];
	put_be64(bytes, v);
	other(g, bytes, sizeof(bytes));
}

static void noise(struct gen *g, size_t len)
{
	for (; len > 0; len--)
		u8(g, (uint8_t)stream_gen_next(&g->random));
}

static void name(struct gen *g, const char *text)
{
	u8(g, (uint8_t)strlen(text));
	other(g, text, strlen(text));
}

static void block_name(struct gen *g, unsigned block)
{
	char text[256];
	if (block == 0)
		snprintf(text, sizeof(text), "pc.ram");
	else if (block == 1) /* the longest that there can be */
		snprintf(text, sizeof(text), "%0255d", 1);
	else
		snprintf(text, sizeof(text), "/rom@%u", block);
	name(g, text);
}

static void subsection(struct gen *g, const char *text)
{
	u8(g, 0x05);
	name(g, text);
	be32(g, 1);
}

static void header(struct gen *g)
{
	other(g, "QEVM\0\0\0\3", 8);
	if (has(g, STREAM_GEN_NO_CONFIGURATION))
		return;
	u8(g, 0x07);
	be32(g, 10);
	other(g, "pc-q35-7.2", 10);
	if (has(g, STREAM_GEN_UUID)) {
		subsection(g, "configuration/target-page-bits");
		be32(g, 12);
	}
	if (has(g, STREAM_GEN_IGNORE_SHARED)) {
		subsection(g, "configuration/capabilities");
		be32(g, 1);
		name(g, "x-ignore-shared");
	}
	if (has(g, STREAM_GEN_UUID)) {
		subsection(g, "configuration/uuid");
		noise(g, 16);
	}
}

static void command(struct gen *g, uint16_t number, uint16_t len)
{
	u8(g, 0x08);
	be16(g, number);
	be16(g, len);
	if (number == 3 && len == 16) {
		be64(g, STREAM_PAGE | (has(g, STREAM_GEN_HUGE_PAGES) ? HUGE_PAGE : 0));
		be64(g, STREAM_PAGE);
	} else {
		noise(g, len);
	}
}

static void end_of_section(struct gen *g)
{
	be64(g, 0x10);
	if (!has(g, STREAM_GEN_NO_FOOTER)) {
		u8(g, 0x7e);
		be32(g, RAM_ID);
	}
}

static void block_list(struct gen *g)
{
	uint64_t bytes = g->o->block_pages * STREAM_PAGE;
	be64(g, bytes * g->o->blocks | 0x04);
	for (unsigned block = 0; block < g->o->blocks; block++) {
		block_name(g, block);
		be64(g, bytes);
		if (has(g, STREAM_GEN_POSTCOPY) && has(g, STREAM_GEN_HUGE_PAGES) && block % 2 == 1)
			be64(g, HUGE_PAGE);
		if (has(g, STREAM_GEN_IGNORE_SHARED))
			be64(g, HUGE_PAGE); /* looks like the word before it */
	}
}

static void setup(struct gen *g)
{
	header(g);
	if (has(g, STREAM_GEN_RETURN_PATH)) {
		command(g, 1, 0);
		command(g, 2, 4);
	}
	if (has(g, STREAM_GEN_POSTCOPY))
		command(g, 3, 16);
	u8(g, 0x01);
	be32(g, RAM_ID);
	name(g, "ram");
	be32(g, 0);
	be32(g, 4);
	block_list(g);
	if (has(g, STREAM_GEN_FLUSH))
		be64(g, 0x200);
	end_of_section(g);
}

void stream_gen_contents(
	uint64_t seed, unsigned block, uint64_t number, uint64_t version, uint8_t page[STREAM_PAGE])
{
	uint64_t state = seed ^ ((uint64_t)block << 48 | number) * 0xd6e8feb86659fd93;
	for (unsigned i = 0; i < STREAM_PAGE; i += 8) {
		uint64_t word = stream_gen_next(&state);
		memcpy(page + i, &word, 8);
	}
	for (unsigned i = 0; version > 0 && i < 4; i++) {
		uint64_t word = state + version * 4 + i;
		word = stream_gen_next(&word);
		memcpy(page + word % (STREAM_PAGE / 8) * 8, &word, 8);
	}
}

/* The word, and the block's name where it belongs; whether it is the usual word, which then belongs
 * to the item. */
static bool word(struct gen *g, uint64_t value)
{
	bool same = g->at_block == g->last_block && !(has(g, STREAM_GEN_NAMES) && chance(g, 8));
	g->last_block = g->at_block;
	if (same)
		return true;
	be64(g, value);
	block_name(g, g->at_block);
	return false;
}

static void plain_page(struct gen *g, bool zero)
{
	uint8_t bytes[STREAM_WORD + STREAM_PAGE];
	uint64_t address = g->at_page * STREAM_PAGE, flag = zero ? 0x02 : 0x08;
	bool same = word(g, address | flag);
	size_t len = same ? STREAM_WORD : 0;
	if (same)
		put_be64(bytes, address | flag | 0x20);
	if (zero)
		bytes[len++] = 0;
	else
		stream_gen_contents(g->o->seed, g->at_block, g->at_page, g->round, bytes + len);
	if (!zero)
		len += STREAM_PAGE;
	struct stream_item item = {.address = address,
		.kind = zero ? STREAM_ZERO : STREAM_FULL,
		.block = (uint8_t)g->at_block,
		.word = same};
	g->sink(g->arg, bytes, len, g->at_block < STREAM_BLOCKS_MAX ? &item : NULL);
}

/* A page in a form that no table has. */
static void odd_page(struct gen *g, unsigned flag)
{
	uint64_t value = g->at_page * STREAM_PAGE | flag;
	if (word(g, value))
		be64(g, value | 0x20);
	uint32_t len = (uint32_t)(stream_gen_next(&g->random) % (STREAM_PAGE + 1));
	switch (flag) {
	case 0x02:
		u8(g, (uint8_t)(1 + len % 255));
		break;
	case 0x40:
		u8(g, 1);
		be16(g, (uint16_t)len);
		noise(g, len);
		break;
	default:
		be32(g, len);
		noise(g, len);
	}
}

static void any_page(struct gen *g)
{
	uint64_t key = g->o->seed + g->at_block * 1000003ull + g->at_page;
	bool zero = stream_gen_next(&key) % 100 < g->o->zero_percent;
	if (has(g, STREAM_GEN_FLUSH) && chance(g, 64))
		be64(g, 0x200);
	if (has(g, STREAM_GEN_HOOK) && chance(g, 64))
		be64(g, 0x80);
	if (zero && has(g, STREAM_GEN_FILL) && chance(g, 8))
		odd_page(g, 0x02);
	else if (!zero && has(g, STREAM_GEN_XBZRLE) && chance(g, 8))
		odd_page(g, 0x40);
	else if (!zero && has(g, STREAM_GEN_COMPRESS) && chance(g, 8))
		odd_page(g, 0x100);
	else
		plain_page(g, zero);
	g->sent++;
	if (++g->at_page < g->o->block_pages)
		return;
	g->at_page = 0;
	if (++g->at_block < g->o->blocks)
		return;
	g->at_block = 0;
	g->round++;
}

static void rounds(struct gen *g, uint64_t until)
{
	while (g->sent < until) {
		u8(g, 0x02);
		be32(g, RAM_ID);
		for (unsigned i = 0; i < g->o->round_pages && g->sent < until; i++)
			any_page(g);
		end_of_section(g);
	}
}

static void switch_to_postcopy(struct gen *g)
{
	command(g, 6, 40);
	if (has(g, STREAM_GEN_RETURN_PATH))
		command(g, 2, 4);
	u8(g, 0x08);
	be16(g, 7);
	be16(g, 4);
	be32(g, 30000);
	noise(g, 30000);
}

void stream_gen(const struct stream_gen *options, stream_gen_sink sink, void *arg)
{
	struct gen g = {.o = options,
		.sink = sink,
		.arg = arg,
		.random = options->seed,
		.last_block = options->blocks};
	bool postcopy = has(&g, STREAM_GEN_POSTCOPY);
	setup(&g);
	rounds(&g, options->pages / 2);
	if (postcopy)
		switch_to_postcopy(&g);
	rounds(&g, options->pages - options->pages / 8);
	u8(&g, 0x03);
	be32(&g, RAM_ID);
	while (g.sent < options->pages)
		any_page(&g);
	end_of_section(&g);
	if (!postcopy) {
		u8(&g, 0x04);
		noise(&g, 30000);
	}
	u8(&g, 0x00);
}

struct stream_gen stream_gen_random(uint64_t seed, unsigned flags)
{
	uint64_t state = seed;
	struct stream_gen o = {.seed = seed, .flags = flags & stream_gen_next(&state)};
	if (o.flags & STREAM_GEN_HUGE_PAGES)
		o.flags &= ~(unsigned)STREAM_GEN_IGNORE_SHARED;
	if (o.flags & STREAM_GEN_NO_CONFIGURATION)
		o.flags &= ~(unsigned)STREAM_GEN_IGNORE_SHARED;
	o.blocks = stream_gen_next(&state) % 16 == 0 ? 300 : 1 + stream_gen_next(&state) % 6;
	o.block_pages = 1 + stream_gen_next(&state) % 40;
	o.pages = 1 + stream_gen_next(&state) % 400;
	o.zero_percent = stream_gen_next(&state) % 101;
	o.round_pages = 1 + stream_gen_next(&state) % 100;
	return o;
}

void stream_table_add(struct stream_table *t, const struct stream_item *item)
{
	if (t->items_len == t->items_cap) {
		t->items_cap = t->items_cap ? t->items_cap * 2 : 256;
		t->items = realloc(t->items, t->items_cap * sizeof(*t->items));
		if (!t->items)
			abort();
	}
	t->items[t->items_len++] = *item;
	t->zero_pages += item->kind == STREAM_ZERO;
	t->items_bytes += stream_item_len(item);
}

static void to_table(void *arg, const uint8_t *bytes, size_t len, const struct stream_item *item)
{
	struct stream_table *t = arg;
	if (item) {
		struct stream_item there = *item;
		there.at = (uint32_t)t->bytes.len;
		stream_table_add(t, &there);
	}
	if (!buf_add(&t->bytes, bytes, len))
		abort();
}

void stream_table_make(struct stream_table *t, const struct stream_gen *options)
{
	*t = (struct stream_table){0};
	buf_init(&t->bytes, 1u << 30);
	stream_gen(options, to_table, t);
}

void stream_table_free(struct stream_table *t)
{
	buf_free(&t->bytes);
	free(t->items);
}
