/*
 * The keyed hash that a reference carries: 128 bits over one page, with a key that the source makes
 * for each migration and tells the destination inside TLS.
 *
 * It is GHASH, the universal hash of AES-GCM, as GnuTLS computes it: the authentication tag of an
 * AES-256-GCM message that has the page as its associated data, no plaintext, and always the nonce
 * of 12 zero bytes. For two different pages, chosen by somebody who knows neither key nor hashes,
 * the hashes are equal with a probability of at most 257 / 2^128 (a polynomial of degree 257 in an
 * unknown element of GF(2^128); McGrew and Viega, "The Security and Performance of the
 * Galois/Counter Mode", 2004, lemma 2), whatever the pages hold. A guest that chooses its pages,
 * and an owner of an image who chooses its blocks, are such somebodies: hashes travel inside TLS
 * only. Reusing the nonce breaks GCM where an attacker sees tags; here none does.
 *
 * Measured on a 2024 EPYC, 4 KiB messages in memory: GnuTLS AES-GCM 8.2 GB/s, UMAC-128 6.3 GB/s,
 * Nettle's GMAC 4.2 GB/s, XXH3-128 with a secret 44 GB/s but without any proof. A processor without
 * carry-less multiplication (PCLMULQDQ, PMULL) does well under 1 GB/s.
 */
#ifndef DROVER_WIRE_PAGEHASH_H
#define DROVER_WIRE_PAGEHASH_H

#include "base/error.h"
#include "wire/stream.h"

#define PAGEHASH_KEY 32u /* bytes */
#define PAGEHASH_SIZE 16u

struct pagehash; /* one thread's at a time; pagehash_copy makes one for another thread */

/* A key from the system's random numbers. */
int pagehash_new_key(uint8_t key[PAGEHASH_KEY], struct error **err);
struct pagehash *pagehash_open(const uint8_t key[PAGEHASH_KEY], struct error **err);
struct pagehash *pagehash_copy(const struct pagehash *h, struct error **err);
/* Wipes the key. NULL is nothing to close. */
void pagehash_close(struct pagehash *h);
/* Cannot fail: aborts where GnuTLS says that it did. */
void pagehash(struct pagehash *h, const uint8_t page[STREAM_PAGE], uint8_t out[PAGEHASH_SIZE]);

#endif
