/*
 * Layout of an index file (docs/images.md draws it), for those who write and read it.
 *
 * A header of INDEX_HEADER bytes, then buckets of INDEX_BUCKET bytes, each one cache line: the tags
 * of its slots, then their blocks. All integers are big-endian. A slot's block is its number plus
 * one; 0 is an empty slot, and no used one comes after it. A fingerprint belongs to the bucket
 * index_bucket(), or, when that is full, to one of the next (the first follows the last), up to
 * INDEX_PROBES; its tag is its low half.
 */
#ifndef DROVER_WIRE_INDEX_FORMAT_H
#define DROVER_WIRE_INDEX_FORMAT_H

#include "wire/index.h"

#include <endian.h>
#include <string.h>

#define INDEX_MAGIC "DROVERIX"
#define INDEX_VERSION 1u
#define INDEX_HEADER 4096u /* of which 56 bytes are used */
#define INDEX_HEADER_USED 56u
#define INDEX_BUCKET 64u
#define INDEX_SLOTS 8u
/* A bucket is made for so many: 4 of 8. Then 1 in 18 is full, and 5 contents in a million find no
 * place in INDEX_PROBES. */
#define INDEX_FILL 4u
#define INDEX_BUCKETS_MAX ((uint64_t)INDEX_BLOCKS_MAX / INDEX_FILL + 1)

static inline uint64_t index_bucket(uint64_t fingerprint, uint64_t buckets)
{
	return ((fingerprint >> 32) * buckets) >> 32;
}

static inline uint32_t index_tag(uint64_t fingerprint)
{
	return (uint32_t)fingerprint;
}

/* Tag (column 0) or block (column 1) of a slot. A lookup reads 16 of them: no call for each. */
static inline uint32_t index_slot(
	const uint8_t bucket[INDEX_BUCKET], unsigned column, unsigned slot)
{
	uint32_t v;

	memcpy(&v, bucket + (column * INDEX_SLOTS + slot) * sizeof(v), sizeof(v));
	return be32toh(v);
}

static inline void index_slot_set(
	uint8_t bucket[INDEX_BUCKET], unsigned column, unsigned slot, uint32_t value)
{
	uint32_t v = htobe32(value);

	memcpy(bucket + (column * INDEX_SLOTS + slot) * sizeof(v), &v, sizeof(v));
}

/* index_open of a file that is open; `path` is for messages. */
struct index *index_open_file(
	int fd, const char *path, const struct index_identity *identity, struct error **err);

#endif
