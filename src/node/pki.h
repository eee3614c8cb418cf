/*
 * The cluster's certificates: one CA a cluster, one certificate a node.
 *
 * All keys are ECDSA on P-256: GnuTLS, libmicrohttpd and libcurl take it everywhere, a signature is
 * 64 bytes, and a handshake costs under a millisecond of CPU. Keys and certificates are PEM text in
 * memory; where they lie on the disk is node/identity.h's business. What comes from another node (a
 * request, a certificate) is at most PKI_PEM_MAX bytes and is checked before it is used.
 */
#ifndef DROVER_NODE_PKI_H
#define DROVER_NODE_PKI_H

#include "base/error.h"
#include "base/fs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A PEM text from elsewhere that is longer is refused. Ours are under 1 KiB. */
#define PKI_PEM_MAX (16u << 10)
/* SHA-256 in lower-case hexadecimal, with its NUL. */
#define PKI_FINGERPRINT_SIZE 65
#define PKI_CA_VALID_S (20ll * 365 * 86400)
#define PKI_NODE_VALID_S (10ll * 365 * 86400)

/*
 * Whether `name` can be a node's: fs_check_name, and a host name that cannot be taken for an
 * address: labels of letters, digits and '-', the last one not a number. ERROR_NAME.
 */
int pki_check_name(const char *name, struct error **err);

/* A new CA: CN "drover CLUSTER_ID", 20 years, may only sign certificates of nodes. The caller frees
 * *cert_pem with free and *key_pem with pki_free_key. */
int pki_make_ca(const char *cluster_id, char **key_pem, char **cert_pem, struct error **err);

/* A new key, and a request for a certificate for it (PKCS #10). Frees as above. */
int pki_make_request(const char *name, char **key_pem, char **request_pem, struct error **err);

/*
 * Signs a request: CN and DNS name are `name`, for clients and servers, with a random serial of 127
 * bits, valid from a day ago (clocks) until valid_s from now. Only the public key is taken from the
 * request: what name and extensions it asks for is ignored. ERROR_REQUEST when it is no request,
 * its own signature is wrong, or its key is not on P-256; ERROR_NAME. The caller frees the
 * certificate.
 */
char *pki_sign(const char *ca_key_pem, const char *ca_pem, const char *request_pem,
	const char *name, int64_t valid_s, struct error **err);

/* SHA-256 of a certificate's DER. ERROR_CERTIFICATE when the text holds none. */
int pki_fingerprint(const char *cert_pem, char out[PKI_FINGERPRINT_SIZE], struct error **err);
/* Compares two fingerprints in a time that does not depend on where they differ. */
bool pki_fingerprint_equal(const char *a, const char *b);

/* Whether cert_pem was signed by ca_pem, is valid now, and is for `name`; and whether key_pem
 * (NULL: not looked at) is its key. ERROR_CERTIFICATE says which of these is not so. */
int pki_check(const char *cert_pem, const char *ca_pem, const char *name, const char *key_pem,
	struct error **err);

/* A certificate that TLS gave us and that was found good. All zero at first. */
struct pki_verified {
	char name[FS_NAME_MAX + 1];
	char fingerprint[PKI_FINGERPRINT_SIZE];
	int64_t until_ms; /* of clock_ms: then it is verified again */
};
#define PKI_VERIFIED_MS 60000

/*
 * Whether a certificate (DER) was signed by ca_pem and is valid now; fills in *verified. The very
 * same one is not verified again within PKI_VERIFIED_MS: that takes 0.3 ms, which the handover, in
 * which the guest stands still, would pay twice. ERROR_CERTIFICATE.
 */
int pki_verify(struct pki_verified *verified, const void *der, size_t len, const char *ca_pem,
	struct error **err);

/* Clears a key's text and frees it; NULL is left alone. */
void pki_free_key(char *key_pem);

/* Hash of anything, as 64 hexadecimal digits. */
void pki_sha256_hex(const void *data, size_t len, char out[65]);

#endif
