#include "wire/hash.h"

#include "wire/hash_avx2.h"

#include <stdbool.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash {
	XXH3_state_t *state;
	bool avx2;
};

static bool have_avx2(void)
{
#ifdef __x86_64__
	return __builtin_cpu_supports("avx2");
#else
	return false;
#endif
}

struct hash *hash_open(void)
{
	struct hash *hash = malloc(sizeof(*hash));

	if (!hash || !(hash->state = XXH3_createState()))
		abort();
	XXH3_64bits_reset(hash->state);
	hash->avx2 = have_avx2();
	return hash;
}

void hash_close(struct hash *hash)
{
	XXH3_freeState(hash->state);
	free(hash);
}

void hash_update(struct hash *hash, const void *data, size_t len)
{
	if (hash->avx2)
		hash_update_avx2(hash->state, data, len);
	else
		XXH3_64bits_update(hash->state, data, len);
}

uint64_t hash_digest(const struct hash *hash)
{
	return XXH3_64bits_digest(hash->state);
}

uint64_t hash_of(const void *data, size_t len)
{
	return have_avx2() ? hash_of_avx2(data, len) : XXH3_64bits(data, len);
}
