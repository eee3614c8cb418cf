#include "wire/pagehash.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>

struct pagehash {
	gnutls_aead_cipher_hd_t gcm;
	uint8_t key[PAGEHASH_KEY];
};

static int gnutls_error(struct error **err, const char *what, int rc)
{
	return error_set(err, ERROR_FAILED, 0, "cannot %s: %s", what, gnutls_strerror(rc));
}

int pagehash_new_key(uint8_t key[PAGEHASH_KEY], struct error **err)
{
	int rc = gnutls_rnd(GNUTLS_RND_KEY, key, PAGEHASH_KEY);

	return rc < 0 ? gnutls_error(err, "make a key for page hashes", rc) : 0;
}

struct pagehash *pagehash_open(const uint8_t key[PAGEHASH_KEY], struct error **err)
{
	struct pagehash *h = malloc(sizeof(*h));
	gnutls_datum_t datum;
	int rc;

	if (!h) {
		error_set(err, ERROR_FAILED, 0, "no memory for a page hash");
		return NULL;
	}
	memcpy(h->key, key, PAGEHASH_KEY);
	datum = (gnutls_datum_t){h->key, PAGEHASH_KEY};
	rc = gnutls_aead_cipher_init(&h->gcm, GNUTLS_CIPHER_AES_256_GCM, &datum);
	if (rc < 0) {
		gnutls_error(err, "start AES-256-GCM for page hashes", rc);
		gnutls_memset(h->key, 0, PAGEHASH_KEY);
		free(h);
		return NULL;
	}
	return h;
}

struct pagehash *pagehash_copy(const struct pagehash *h, struct error **err)
{
	return pagehash_open(h->key, err);
}

void pagehash_close(struct pagehash *h)
{
	if (!h)
		return;
	gnutls_aead_cipher_deinit(h->gcm);
	gnutls_memset(h->key, 0, PAGEHASH_KEY);
	free(h);
}

void pagehash(struct pagehash *h, const uint8_t page[STREAM_PAGE], uint8_t out[PAGEHASH_SIZE])
{
	static const uint8_t nonce[12];
	size_t len = PAGEHASH_SIZE;

	if (gnutls_aead_cipher_encrypt(h->gcm, nonce, sizeof(nonce), page, STREAM_PAGE,
		    PAGEHASH_SIZE, "", 0, out, &len) < 0 ||
		len != PAGEHASH_SIZE)
		abort();
}
