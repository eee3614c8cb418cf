/* The part of hash.c that is compiled for AVX2. `state` is an XXH3_state_t. */
#ifndef DROVER_WIRE_HASH_AVX2_H
#define DROVER_WIRE_HASH_AVX2_H

#include <stddef.h>
#include <stdint.h>

void hash_update_avx2(void *state, const void *data, size_t len);
uint64_t hash_of_avx2(const void *data, size_t len);

#endif
