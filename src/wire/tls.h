/*
 * TLS as the lanes use it: version 1.3 only, a certificate on both sides, both signed by the
 * cluster's CA, and each side knows beforehand which node the other must be.
 *
 * One place decides what is allowed: the priority string in tls.c. AES-128-GCM comes first where
 * the CPU has AES instructions (GnuTLS does 2.7 to 3.3 GB/s a core with it on a 2024 EPYC),
 * ChaCha20 where it has not. There are no session tickets and no resumption: every lane shows its
 * certificate.
 */
#ifndef DROVER_WIRE_TLS_H
#define DROVER_WIRE_TLS_H

#include "base/error.h"
#include "base/fs.h"

#include <gnutls/gnutls.h>
#include <stddef.h>

/* A PEM file that is longer is refused. A certificate of ours is under 1 KiB. */
#define TLS_PEM_MAX (64u << 10)
/* SHA-256 in lower-case hexadecimal, with its NUL. */
#define TLS_FINGERPRINT_SIZE 65

/* This side's certificate and key, and the CA that signs the other side's. Used by any number of
 * sessions and threads. */
struct tls_credentials;

/* Reads the three files. ERROR_CERTIFICATE when one holds no PEM or the key is not the
 * certificate's. */
struct tls_credentials *tls_credentials_load(
	const char *cert_file, const char *key_file, const char *ca_file, struct error **err);
void tls_credentials_free(struct tls_credentials *credentials);

enum tls_side { TLS_CONNECTS, TLS_LISTENS };

/* Whom the other side's certificate must be for. */
struct tls_peer {
	char name[FS_NAME_MAX + 1]; /* subject's only CN, and a DNS name of the certificate */
	char fingerprint[TLS_FINGERPRINT_SIZE]; /* of that very certificate; "": any of that name */
};

/* Fills it in; `fingerprint` may be NULL. ERROR_NAME, or ERROR_USAGE when it is no SHA-256. */
int tls_peer_set(
	struct tls_peer *peer, const char *name, const char *fingerprint, struct error **err);

/* A session that has sent nothing yet, for the caller to give transport functions to. The
 * credentials stay the caller's and outlive it. Freed with gnutls_deinit. */
int tls_session_open(const struct tls_credentials *credentials, enum tls_side side,
	gnutls_session_t *session, struct error **err);

/*
 * Checks the certificate that a session has been shown: signed by the CA, valid now, meant for this
 * use, and the peer's. ERROR_CERTIFICATE says which of these is not so, as a sentence that goes on
 * after "lane to node2 (10.78.0.2:7801): ". For use inside the handshake (tls_session_verify_with).
 */
int tls_check_peer(gnutls_session_t session, enum tls_side side, const struct tls_peer *peer,
	struct error **err);

/* Makes the handshake fail where tls_check_peer does. The check and *err live as long as the
 * session. */
struct tls_check {
	enum tls_side side;
	const struct tls_peer *peer;
	struct error *err; /* what tls_check_peer found; the caller's to free */
};
void tls_session_verify_with(gnutls_session_t session, struct tls_check *check);

#endif
