#include "wire/hash_avx2.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

void hash_update_avx2(void *state, const void *data, size_t len)
{
	XXH3_64bits_update(state, data, len);
}

uint64_t hash_of_avx2(const void *data, size_t len)
{
	return XXH3_64bits(data, len);
}
