#include "bhyve_gen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gen {
	const struct bhyve_gen *o;
	struct stream_table *t;
	uint64_t random;
};

static void add(struct gen *g, const void *bytes, size_t len)
{
	if (!buf_add(&g->t->bytes, bytes, len))
		abort();
}

/* Little-endian, as amd64 has it in memory. */
static void le(struct gen *g, uint64_t v, size_t size)
{
	uint8_t bytes[8];

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(v >> 8 * i);
	add(g, bytes, size);
}

static void noise(struct gen *g, size_t len)
{
	for (; len >= 8; len -= 8)
		le(g, stream_gen_next(&g->random), 8);
	le(g, stream_gen_next(&g->random), len);
}

/* struct migration_message_type. */
static void message(struct gen *g, uint64_t len, uint32_t type, uint32_t request, const char *name)
{
	char field[64] = "";

	snprintf(field, sizeof(field), "%s", name);
	le(g, len, 8);
	le(g, type, 4);
	le(g, request, 4);
	add(g, field, sizeof(field));
}

/* bhyve leaves request and name of this one as they were on its stack. */
static void specs(struct gen *g)
{
	char machine[256] = "amd64", model[256] = "Intel(R) Xeon(R) CPU E5-2650 v2 @ 2.60GHz";

	le(g, sizeof(machine) + sizeof(model) + 8, 8);
	le(g, 1, 4);
	noise(g, 4 + 64);
	add(g, machine, sizeof(machine));
	add(g, model, sizeof(model));
	le(g, STREAM_PAGE, 8);
}

static void page(struct gen *g, uint64_t number, uint64_t version)
{
	struct stream_item item = {.address = number * STREAM_PAGE,
		.at = (uint32_t)g->t->bytes.len,
		.kind = STREAM_FULL};
	uint64_t key = g->o->seed + number;
	uint8_t contents[STREAM_PAGE] = {0};

	if (stream_gen_next(&key) % 100 >= g->o->zero_percent)
		stream_gen_contents(g->o->seed, 0, number, version, contents);
	stream_table_add(g->t, &item);
	add(g, contents, sizeof(contents));
}

static uint64_t all_pages(const struct bhyve_gen *o)
{
	return o->lowmem_pages + o->highmem_pages;
}

static void warm(struct gen *g)
{
	le(g, g->o->lowmem_pages * STREAM_PAGE, 8);
	le(g, g->o->highmem_pages * STREAM_PAGE, 8);
	for (uint64_t number = 0; number < all_pages(g->o); number++)
		page(g, number, 0);
}

static void live(struct gen *g)
{
	uint64_t pages = all_pages(g->o);
	uint8_t *list = malloc(pages);

	if (!list)
		abort();
	le(g, g->o->rounds, 1);
	for (unsigned round = 0; round <= g->o->rounds; round++) {
		for (uint64_t i = 0; i < pages; i++)
			list[i] = round == 0 ||
				  stream_gen_next(&g->random) % 100 < g->o->dirty_percent;
		add(g, list, pages);
		for (uint64_t i = 0; i < pages; i++)
			if (list[i])
				page(g, i, round);
	}
	free(list);
}

static size_t state_len(struct gen *g)
{
	uint64_t random = stream_gen_next(&g->random);

	return random % 5 ? (size_t)(random >> 8) % (g->o->state_max + 1u) : 0;
}

static void state(struct gen *g, uint32_t type, uint32_t request, const char *name)
{
	size_t len = state_len(g);

	message(g, len, type, request, name);
	noise(g, len);
}

uint64_t bhyve_gen_memory(const struct bhyve_gen *options)
{
	return all_pages(options) * STREAM_PAGE;
}

void bhyve_gen_make(struct stream_table *t, const struct bhyve_gen *options)
{
	struct gen g = {.o = options, .t = t, .random = options->seed};

	*t = (struct stream_table){0};
	buf_init(&t->bytes, 1u << 30);
	specs(&g);
	if (options->type != BHYVE_GEN_OLD)
		le(&g, options->type == BHYVE_GEN_LIVE, 4);
	if (options->type == BHYVE_GEN_LIVE)
		live(&g);
	else
		warm(&g);
	for (unsigned i = 0; i < options->structures; i++)
		state(&g, 4, i + 1, "");
	le(&g, options->devices, 4);
	for (unsigned i = 0; i < options->devices; i++)
		state(&g, 5, 0, i % 2 ? "virtio-blk" : "uart");
}

struct bhyve_gen bhyve_gen_random(uint64_t seed)
{
	uint64_t state = seed;
	struct bhyve_gen o = {.seed = seed, .type = stream_gen_next(&state) % BHYVE_GEN_TYPES};

	o.lowmem_pages = 1 + stream_gen_next(&state) % 200;
	if (stream_gen_next(&state) % 2)
		o.highmem_pages = stream_gen_next(&state) % 100;
	o.zero_percent = stream_gen_next(&state) % 101;
	o.rounds = stream_gen_next(&state) % 6;
	o.dirty_percent = stream_gen_next(&state) % 101;
	o.structures = stream_gen_next(&state) % 12;
	o.devices = stream_gen_next(&state) % 20;
	o.state_max = 1 + stream_gen_next(&state) % 9000;
	return o;
}
