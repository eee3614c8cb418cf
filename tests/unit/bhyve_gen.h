/*
 * Synthetic streams of bhyve (docs/wire-bhyve.md), with every message that its source sends. The
 * same options give the same stream.
 */
#ifndef DROVER_TESTS_BHYVE_GEN_H
#define DROVER_TESTS_BHYVE_GEN_H

#include "stream_gen.h"

enum bhyve_gen_type {
	BHYVE_GEN_OLD, /* warm, without a type in the stream */
	BHYVE_GEN_WARM,
	BHYVE_GEN_LIVE,
	BHYVE_GEN_TYPES
};

struct bhyve_gen {
	uint64_t seed;
	enum bhyve_gen_type type;
	uint64_t lowmem_pages; /* at least 1 */
	uint64_t highmem_pages;
	unsigned zero_percent;  /* pages of zeros */
	unsigned rounds;        /* LIVE: lists are one more */
	unsigned dirty_percent; /* of the pages in each round but the first */
	unsigned structures, devices;
	unsigned state_max; /* longest state of these, in bytes; some have none */
};

/* Random options for a small stream. */
struct bhyve_gen bhyve_gen_random(uint64_t seed);
/* A whole stream in memory with its table; stream_table_free frees it. */
void bhyve_gen_make(struct stream_table *t, const struct bhyve_gen *options);
/* What the parser must be told for it. */
uint64_t bhyve_gen_memory(const struct bhyve_gen *options);

#endif
