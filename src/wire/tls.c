#include "wire/tls.h"

#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

/* The only place that says what TLS may be. P-256 is what the cluster's keys are. */
#define PRIORITY(ciphers) \
	"NONE:+VERS-TLS1.3:+AEAD:" ciphers ":+GROUP-X25519:+GROUP-SECP256R1:+CTYPE-X509" \
	":+SIGN-ECDSA-SECP256R1-SHA256:+SIGN-ECDSA-SECP384R1-SHA384:+SIGN-EDDSA-ED25519"

static const char priority_aes[] = PRIORITY("+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305");
static const char priority_no_aes[] = PRIORITY("+CHACHA20-POLY1305:+AES-128-GCM:+AES-256-GCM");

/* Three certificates of 16 KiB are far more than a node's chain. */
#define HANDSHAKE_MAX (48u << 10)

struct tls_credentials {
	gnutls_certificate_credentials_t x509;
};

static bool cpu_has_aes(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("aes");
#elif defined(__aarch64__) && defined(__linux__)
	return getauxval(AT_HWCAP) & (1 << 3); /* HWCAP_AES */
#else
	return true;
#endif
}

static int tls_error(struct error **err, const char *what, int code)
{
	return error_set(err, ERROR_CERTIFICATE, 0, "%s: %s", what, gnutls_strerror(code));
}

static void clear_text(char **text)
{
	if (*text)
		gnutls_memset(*text, 0, strlen(*text));
	free(*text);
}

static int load(gnutls_certificate_credentials_t x509, const char *cert_file, const char *key_file,
	const char *ca_file, struct error **err)
{
	cleanup_free char *cert = fs_read(cert_file, TLS_PEM_MAX, NULL, err);
	cleanup_free char *ca = cert ? fs_read(ca_file, TLS_PEM_MAX, NULL, err) : NULL;
	__attribute__((cleanup(clear_text))) char *key =
		ca ? fs_read(key_file, TLS_PEM_MAX, NULL, err) : NULL;
	gnutls_datum_t cert_pem, key_pem, ca_pem;
	int code;

	if (!key)
		return -1;
	cert_pem = (gnutls_datum_t){(void *)cert, (unsigned)strlen(cert)};
	key_pem = (gnutls_datum_t){(void *)key, (unsigned)strlen(key)};
	ca_pem = (gnutls_datum_t){(void *)ca, (unsigned)strlen(ca)};
	code = gnutls_certificate_set_x509_trust_mem(x509, &ca_pem, GNUTLS_X509_FMT_PEM);
	if (code < 1)
		return error_set(err, ERROR_CERTIFICATE, 0, "%s holds no CA's certificate: %s",
			ca_file, gnutls_strerror(code));
	code = gnutls_certificate_set_x509_key_mem(x509, &cert_pem, &key_pem, GNUTLS_X509_FMT_PEM);
	if (code < 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"%s and %s are no certificate and its key: %s", cert_file, key_file,
			gnutls_strerror(code));
	return 0;
}

struct tls_credentials *tls_credentials_load(
	const char *cert_file, const char *key_file, const char *ca_file, struct error **err)
{
	struct tls_credentials *credentials = calloc(1, sizeof(*credentials));

	if (!credentials || gnutls_certificate_allocate_credentials(&credentials->x509) < 0)
		abort();
	if (load(credentials->x509, cert_file, key_file, ca_file, err) < 0) {
		tls_credentials_free(credentials);
		return NULL;
	}
	return credentials;
}

void tls_credentials_free(struct tls_credentials *credentials)
{
	if (!credentials)
		return;
	gnutls_certificate_free_credentials(credentials->x509);
	free(credentials);
}

int tls_peer_set(
	struct tls_peer *peer, const char *name, const char *fingerprint, struct error **err)
{
	memset(peer, 0, sizeof(*peer));
	if (fs_check_name("node", name, err) < 0)
		return -1;
	memcpy(peer->name, name, strlen(name));
	if (!fingerprint)
		return 0;
	if (strlen(fingerprint) != TLS_FINGERPRINT_SIZE - 1 ||
		strspn(fingerprint, "0123456789abcdef") != TLS_FINGERPRINT_SIZE - 1)
		return error_set(err, ERROR_USAGE, 0,
			"a fingerprint is a SHA-256 of 64 lower-case hexadecimal digits");
	memcpy(peer->fingerprint, fingerprint, TLS_FINGERPRINT_SIZE);
	return 0;
}

int tls_session_open(const struct tls_credentials *credentials, enum tls_side side,
	gnutls_session_t *session, struct error **err)
{
	unsigned flags = side == TLS_CONNECTS ? GNUTLS_CLIENT : GNUTLS_SERVER;
	int code = gnutls_init(session, flags | GNUTLS_NO_TICKETS | GNUTLS_NO_AUTO_REKEY);

	if (code < 0) {
		*session = NULL;
		return tls_error(err, "cannot start TLS", code);
	}
	code = gnutls_priority_set_direct(
		*session, cpu_has_aes() ? priority_aes : priority_no_aes, NULL);
	if (code >= 0)
		code = gnutls_credentials_set(*session, GNUTLS_CRD_CERTIFICATE, credentials->x509);
	if (code < 0) {
		gnutls_deinit(*session);
		*session = NULL;
		return tls_error(err, "cannot start TLS", code);
	}
	gnutls_handshake_set_max_packet_length(*session, HANDSHAKE_MAX);
	/* Deadlines are the transport functions' business. */
	gnutls_handshake_set_timeout(*session, 0);
	if (side == TLS_LISTENS)
		gnutls_certificate_server_set_request(*session, GNUTLS_CERT_REQUIRE);
	return 0;
}

static int check_chain(gnutls_session_t session, enum tls_side side, struct error **err)
{
	gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
		.data = (void *)(side == TLS_CONNECTS ? GNUTLS_KP_TLS_WWW_SERVER
						      : GNUTLS_KP_TLS_WWW_CLIENT)};
	gnutls_datum_t text = {0};
	unsigned status;
	int code = gnutls_certificate_verify_peers(session, &purpose, 1, &status);

	if (code == GNUTLS_E_NO_CERTIFICATE_FOUND)
		return error_set(err, ERROR_CERTIFICATE, 0, "it showed no certificate");
	if (code < 0)
		return tls_error(err, "its certificate cannot be checked", code);
	if (status & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNATURE_FAILURE))
		return error_set(
			err, ERROR_CERTIFICATE, 0, "its certificate is of another cluster");
	if (status & GNUTLS_CERT_EXPIRED)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"its certificate has expired, or the clock of this node is wrong");
	if (status & GNUTLS_CERT_NOT_ACTIVATED)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"its certificate is not valid yet, or the clock of this node is wrong");
	if (status == 0)
		return 0;
	if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0)
		return error_set(err, ERROR_CERTIFICATE, 0, "its certificate is not valid");
	error_set(err, ERROR_CERTIFICATE, 0, "its certificate is not valid: %s", text.data);
	gnutls_free(text.data);
	return -1;
}

static bool has_dns_name(gnutls_x509_crt_t cert, const char *name)
{
	char found[256];
	size_t size;
	int type;

	for (unsigned i = 0;; i++) {
		size = sizeof(found) - 1;
		type = gnutls_x509_crt_get_subject_alt_name(cert, i, found, &size, NULL);
		if (type == GNUTLS_E_SHORT_MEMORY_BUFFER)
			continue;
		if (type < 0)
			return false;
		if (type == GNUTLS_SAN_DNSNAME && size == strlen(name) &&
			!memcmp(found, name, size))
			return true;
	}
}

static int check_name(gnutls_x509_crt_t cert, const char *name, struct error **err)
{
	char cn[256] = "", second[256];
	size_t size = sizeof(cn), second_size = sizeof(second);

	if (gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, cn, &size) < 0 ||
		gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 1, 0, second,
			&second_size) != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
		return error_set(err, ERROR_CERTIFICATE, 0, "its certificate names no single node");
	if (size != strlen(name) || memcmp(cn, name, size) != 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"its certificate is that of %s, not of %s", cn, name);
	if (!has_dns_name(cert, name))
		return error_set(
			err, ERROR_CERTIFICATE, 0, "its certificate lacks the DNS name %s", name);
	return 0;
}

static int check_fingerprint(
	const gnutls_datum_t *der, const struct tls_peer *peer, struct error **err)
{
	uint8_t hash[32];
	char hex[TLS_FINGERPRINT_SIZE];
	int code = gnutls_hash_fast(GNUTLS_DIG_SHA256, der->data, der->size, hash);

	if (code < 0)
		return tls_error(err, "its certificate cannot be checked", code);
	for (size_t i = 0; i < sizeof(hash); i++)
		snprintf(hex + 2 * i, 3, "%02x", hash[i]);
	if (memcmp(hex, peer->fingerprint, sizeof(hex)) != 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"its certificate is not the one that %s has now", peer->name);
	return 0;
}

int tls_check_peer(gnutls_session_t session, enum tls_side side, const struct tls_peer *peer,
	struct error **err)
{
	const gnutls_datum_t *list;
	gnutls_x509_crt_t cert;
	unsigned count;
	int result;

	if (check_chain(session, side, err) < 0)
		return -1;
	list = gnutls_certificate_get_peers(session, &count);
	if (!list || !count)
		return error_set(err, ERROR_CERTIFICATE, 0, "it showed no certificate");
	if (*peer->fingerprint && check_fingerprint(&list[0], peer, err) < 0)
		return -1;
	if (gnutls_x509_crt_init(&cert) < 0)
		abort();
	if (gnutls_x509_crt_import(cert, &list[0], GNUTLS_X509_FMT_DER) < 0)
		result = error_set(err, ERROR_CERTIFICATE, 0, "its certificate cannot be read");
	else
		result = check_name(cert, peer->name, err);
	gnutls_x509_crt_deinit(cert);
	return result;
}

static int verify(gnutls_session_t session)
{
	struct tls_check *check = gnutls_session_get_ptr(session);

	if (tls_check_peer(session, check->side, check->peer, &check->err) < 0)
		return GNUTLS_E_CERTIFICATE_ERROR;
	return 0;
}

void tls_session_verify_with(gnutls_session_t session, struct tls_check *check)
{
	gnutls_session_set_ptr(session, check);
	gnutls_session_set_verify_function(session, verify);
}
