#include "wire/pagehash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <gnutls/crypto.h>
#include <string.h>

static uint8_t page[STREAM_PAGE];

static struct pagehash *open_hash(const uint8_t key[PAGEHASH_KEY])
{
	struct pagehash *h = pagehash_open(key, NULL);

	assert_non_null(h);
	return h;
}

static void test_the_hash_is_the_tag_of_gcm(void **state)
{
	/* GMAC with AES-256, another road of the library to the same 16 bytes. */
	uint8_t key[PAGEHASH_KEY], nonce[12] = {0}, expected[PAGEHASH_SIZE], hash[PAGEHASH_SIZE];
	gnutls_hmac_hd_t mac;
	struct pagehash *h;

	(void)state;
	assert_int_equal(pagehash_new_key(key, NULL), 0);
	for (unsigned i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)(i * 7);
	assert_int_equal(gnutls_hmac_init(&mac, GNUTLS_MAC_AES_GMAC_256, key, sizeof(key)), 0);
	gnutls_hmac_set_nonce(mac, nonce, sizeof(nonce));
	assert_int_equal(gnutls_hmac(mac, page, sizeof(page)), 0);
	gnutls_hmac_deinit(mac, expected);
	h = open_hash(key);
	pagehash(h, page, hash);
	assert_memory_equal(hash, expected, sizeof(hash));
	pagehash_close(h);
}

static void test_every_bit_of_the_page_counts(void **state)
{
	uint8_t key[PAGEHASH_KEY] = {1}, hash[PAGEHASH_SIZE], other[PAGEHASH_SIZE];
	struct pagehash *h = open_hash(key);

	(void)state;
	memset(page, 0, sizeof(page));
	pagehash(h, page, hash);
	for (unsigned bit = 0; bit < STREAM_PAGE * 8; bit++) {
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
		pagehash(h, page, other);
		assert_memory_not_equal(hash, other, sizeof(hash));
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	pagehash_close(h);
}

static void test_two_keys_give_two_hashes(void **state)
{
	uint8_t key[2][PAGEHASH_KEY], hash[2][PAGEHASH_SIZE];

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct pagehash *h;

		assert_int_equal(pagehash_new_key(key[i], NULL), 0);
		h = open_hash(key[i]);
		pagehash(h, page, hash[i]);
		pagehash_close(h);
	}
	assert_memory_not_equal(key[0], key[1], sizeof(key[0]));
	assert_memory_not_equal(hash[0], hash[1], sizeof(hash[0]));
}

static void test_a_copy_gives_the_same_hashes_and_outlives_the_first(void **state)
{
	uint8_t key[PAGEHASH_KEY] = {2}, hash[PAGEHASH_SIZE], other[PAGEHASH_SIZE];
	struct pagehash *h = open_hash(key), *copy = pagehash_copy(h, NULL);

	(void)state;
	assert_non_null(copy);
	pagehash(h, page, hash);
	pagehash_close(h);
	pagehash(copy, page, other);
	assert_memory_equal(hash, other, sizeof(hash));
	pagehash_close(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_hash_is_the_tag_of_gcm),
		cmocka_unit_test(test_every_bit_of_the_page_counts),
		cmocka_unit_test(test_two_keys_give_two_hashes),
		cmocka_unit_test(test_a_copy_gives_the_same_hashes_and_outlives_the_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
