/*
 * XXH3, 64 bits, seed 0: the running hash of a stream, which finds our own mistakes (against others
 * there is TLS), and the fingerprint of a block, which finds where its contents are to be had.
 *
 * xxHash is compiled in from its header, once for any processor and on x86-64 once for AVX2, which
 * is three times as fast (0.017 against 0.049 ns a byte on a 2024 EPYC: at 1.5 GB/s a twentieth of
 * a processor at each end).
 */
#ifndef DROVER_WIRE_HASH_H
#define DROVER_WIRE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash;

/* Never NULL (aborts without memory). */
struct hash *hash_open(void);
void hash_close(struct hash *hash);
void hash_update(struct hash *hash, const void *data, size_t len);
uint64_t hash_digest(const struct hash *hash);

/* Of bytes in memory, in one go. */
uint64_t hash_of(const void *data, size_t len);

#endif
