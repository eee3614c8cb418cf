#include "node/pki.h"

#include "base/clock.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>

/* Release at the end of the scope; a handle of NULL is left alone. */
static void free_cert(gnutls_x509_crt_t *cert)
{
	if (*cert)
		gnutls_x509_crt_deinit(*cert);
}

static void free_private(gnutls_x509_privkey_t *key)
{
	if (*key)
		gnutls_x509_privkey_deinit(*key);
}

static void free_request(gnutls_x509_crq_t *request)
{
	if (*request)
		gnutls_x509_crq_deinit(*request);
}

static void free_public(gnutls_pubkey_t *key)
{
	if (*key)
		gnutls_pubkey_deinit(*key);
}

#define cleanup_cert __attribute__((cleanup(free_cert)))
#define cleanup_private __attribute__((cleanup(free_private)))
#define cleanup_request __attribute__((cleanup(free_request)))
#define cleanup_public __attribute__((cleanup(free_public)))

static int tls_error(struct error **err, enum error_kind kind, const char *doing, int code)
{
	return error_set(err, kind, 0, "cannot %s: %s", doing, gnutls_strerror(code));
}

/* Takes a text that GnuTLS allocated. */
static char *take_text(gnutls_datum_t *text)
{
	char *copy = fs_format("%.*s", (int)text->size, (const char *)text->data);

	gnutls_memset(text->data, 0, text->size);
	gnutls_free(text->data);
	return copy;
}

static int is_number_label(const char *label)
{
	if (label[0] == '0' && (label[1] == 'x' || label[1] == 'X'))
		return label[2 + strspn(label + 2, "0123456789abcdefABCDEF")] == '\0';
	return label[strspn(label, "0123456789")] == '\0';
}

int pki_check_name(const char *name, struct error **err)
{
	const char *last;

	if (fs_check_name("node", name, err) < 0)
		return -1;
	last = strrchr(name, '.');
	last = last ? last + 1 : name;
	/* fs_check_name has seen to the first character and to which ones there are. */
	if (strchr(name, '_') || strstr(name, "..") || strstr(name, ".-") || strstr(name, "-.") ||
		!*last || name[strlen(name) - 1] == '-' || is_number_label(last))
		return error_set(err, ERROR_NAME, 0,
			"\"%s\" cannot be a node's name: it must be a host name, of letters, "
			"digits, "
			"'-' and '.', and not a number or an address",
			name);
	return 0;
}

static int new_key(gnutls_x509_privkey_t *key, struct error **err)
{
	int code = gnutls_x509_privkey_init(key);

	if (code == 0)
		code = gnutls_x509_privkey_generate(
			*key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	return code < 0 ? tls_error(err, ERROR_FAILED, "make a key", code) : 0;
}

static char *key_text(gnutls_x509_privkey_t key, struct error **err)
{
	gnutls_datum_t text;
	int code = gnutls_x509_privkey_export2_pkcs8(
		key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &text);

	if (code < 0) {
		tls_error(err, ERROR_FAILED, "write a key", code);
		return NULL;
	}
	return take_text(&text);
}

static char *cert_text(gnutls_x509_crt_t cert, struct error **err)
{
	gnutls_datum_t text;
	int code = gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &text);

	if (code < 0) {
		tls_error(err, ERROR_FAILED, "write a certificate", code);
		return NULL;
	}
	return take_text(&text);
}

/* What every certificate of ours has: serial number, name, time, subject key id. */
static int fill_cert(gnutls_x509_crt_t cert, const char *name, int64_t valid_s)
{
	unsigned char serial[16], id[64];
	size_t id_len = sizeof(id);
	time_t now = (time_t)(clock_wall_ms() / 1000);
	int code = gnutls_rnd(GNUTLS_RND_RANDOM, serial, sizeof(serial));

	serial[0] &= 0x7f; /* positive in DER */
	serial[15] |= 1;   /* and never 0 */
	if (code == 0)
		code = gnutls_x509_crt_set_version(cert, 3);
	if (code == 0)
		code = gnutls_x509_crt_set_serial(cert, serial, sizeof(serial));
	if (code == 0)
		code = gnutls_x509_crt_set_dn_by_oid(
			cert, GNUTLS_OID_X520_COMMON_NAME, 0, name, strlen(name));
	if (code == 0)
		code = gnutls_x509_crt_set_activation_time(cert, now - 86400);
	if (code == 0)
		code = gnutls_x509_crt_set_expiration_time(cert, now + valid_s);
	if (code == 0)
		code = gnutls_x509_crt_get_key_id(cert, GNUTLS_KEYID_USE_SHA256, id, &id_len);
	if (code == 0)
		code = gnutls_x509_crt_set_subject_key_id(cert, id, id_len);
	return code;
}

int pki_make_ca(const char *cluster_id, char **key_pem, char **cert_pem, struct error **err)
{
	cleanup_private gnutls_x509_privkey_t key = NULL;
	cleanup_cert gnutls_x509_crt_t cert = NULL;
	cleanup_free char *name = fs_format("drover %s", cluster_id);
	int code;

	if (new_key(&key, err) < 0)
		return -1;
	code = gnutls_x509_crt_init(&cert);
	if (code == 0)
		code = gnutls_x509_crt_set_key(cert, key);
	if (code == 0)
		code = fill_cert(cert, name, PKI_CA_VALID_S);
	if (code == 0)
		code = gnutls_x509_crt_set_basic_constraints(cert, 1, 0);
	if (code == 0)
		code = gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_KEY_CERT_SIGN);
	if (code == 0)
		code = gnutls_x509_crt_sign2(cert, cert, key, GNUTLS_DIG_SHA256, 0);
	if (code < 0)
		return tls_error(err, ERROR_FAILED, "make the CA's certificate", code);
	*key_pem = key_text(key, err);
	*cert_pem = *key_pem ? cert_text(cert, err) : NULL;
	if (*cert_pem)
		return 0;
	pki_free_key(*key_pem);
	return -1;
}

int pki_make_request(const char *name, char **key_pem, char **request_pem, struct error **err)
{
	cleanup_private gnutls_x509_privkey_t key = NULL;
	cleanup_request gnutls_x509_crq_t request = NULL;
	gnutls_datum_t text;
	int code;

	if (pki_check_name(name, err) < 0 || new_key(&key, err) < 0)
		return -1;
	code = gnutls_x509_crq_init(&request);
	if (code == 0)
		code = gnutls_x509_crq_set_version(request, 1);
	if (code == 0)
		code = gnutls_x509_crq_set_dn_by_oid(
			request, GNUTLS_OID_X520_COMMON_NAME, 0, name, strlen(name));
	if (code == 0)
		code = gnutls_x509_crq_set_key(request, key);
	if (code == 0)
		code = gnutls_x509_crq_sign2(request, key, GNUTLS_DIG_SHA256, 0);
	if (code == 0)
		code = gnutls_x509_crq_export2(request, GNUTLS_X509_FMT_PEM, &text);
	if (code < 0)
		return tls_error(err, ERROR_FAILED, "make a certificate request", code);
	*request_pem = take_text(&text);
	*key_pem = key_text(key, err);
	if (*key_pem)
		return 0;
	free(*request_pem);
	return -1;
}

static int import_cert(gnutls_x509_crt_t *cert, const char *pem, struct error **err)
{
	size_t len = strnlen(pem, PKI_PEM_MAX + 1);
	gnutls_datum_t text = {(unsigned char *)pem, (unsigned)len};
	int code;

	if (len > PKI_PEM_MAX)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"a certificate of more than %u bytes is refused", PKI_PEM_MAX);
	code = gnutls_x509_crt_init(cert);
	if (code == 0)
		code = gnutls_x509_crt_import(*cert, &text, GNUTLS_X509_FMT_PEM);
	return code < 0 ? tls_error(err, ERROR_CERTIFICATE, "read a certificate", code) : 0;
}

static int import_key(gnutls_x509_privkey_t *key, const char *pem, struct error **err)
{
	size_t len = strnlen(pem, PKI_PEM_MAX + 1);
	gnutls_datum_t text = {(unsigned char *)pem, (unsigned)len};
	int code = gnutls_x509_privkey_init(key);

	if (code == 0)
		code = gnutls_x509_privkey_import2(*key, &text, GNUTLS_X509_FMT_PEM, NULL, 0);
	return code < 0 ? tls_error(err, ERROR_CERTIFICATE, "read a private key", code) : 0;
}

/* The public key of a request from another machine, checked. */
static int request_key(const char *pem, gnutls_pubkey_t *key, struct error **err)
{
	cleanup_request gnutls_x509_crq_t request = NULL;
	size_t len = strnlen(pem, PKI_PEM_MAX + 1);
	gnutls_datum_t text = {(unsigned char *)pem, (unsigned)len};
	gnutls_ecc_curve_t curve = GNUTLS_ECC_CURVE_INVALID;
	int code;

	if (len > PKI_PEM_MAX)
		return error_set(err, ERROR_REQUEST, 0,
			"a certificate request of more than %u bytes is refused", PKI_PEM_MAX);
	code = gnutls_x509_crq_init(&request);
	if (code == 0)
		code = gnutls_x509_crq_import(request, &text, GNUTLS_X509_FMT_PEM);
	if (code == 0)
		code = gnutls_pubkey_init(key);
	if (code == 0)
		code = gnutls_pubkey_import_x509_crq(*key, request, 0);
	if (code < 0)
		return tls_error(err, ERROR_REQUEST, "read the certificate request", code);
	if (gnutls_pubkey_get_pk_algorithm(*key, NULL) != GNUTLS_PK_ECDSA ||
		gnutls_pubkey_export_ecc_raw2(*key, &curve, NULL, NULL, 0) < 0 ||
		curve != GNUTLS_ECC_CURVE_SECP256R1)
		return error_set(err, ERROR_REQUEST, 0,
			"the key of the certificate request is not ECDSA on P-256");
	code = gnutls_x509_crq_verify(request, 0);
	if (code < 0)
		return tls_error(err, ERROR_REQUEST, "verify the certificate request", code);
	return 0;
}

/* What only a node's certificate has. */
static int fill_node(gnutls_x509_crt_t cert, gnutls_x509_crt_t ca, const char *name)
{
	unsigned char id[64];
	size_t id_len = sizeof(id);
	int code = gnutls_x509_crt_set_basic_constraints(cert, 0, -1);

	if (code == 0)
		code = gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_DIGITAL_SIGNATURE);
	if (code == 0)
		code = gnutls_x509_crt_set_key_purpose_oid(cert, GNUTLS_KP_TLS_WWW_CLIENT, 0);
	if (code == 0)
		code = gnutls_x509_crt_set_key_purpose_oid(cert, GNUTLS_KP_TLS_WWW_SERVER, 0);
	if (code == 0)
		code = gnutls_x509_crt_set_subject_alt_name(
			cert, GNUTLS_SAN_DNSNAME, name, (unsigned)strlen(name), GNUTLS_FSAN_SET);
	if (code == 0)
		code = gnutls_x509_crt_get_subject_key_id(ca, id, &id_len, NULL);
	if (code == 0)
		code = gnutls_x509_crt_set_authority_key_id(cert, id, id_len);
	return code;
}

char *pki_sign(const char *ca_key_pem, const char *ca_pem, const char *request_pem,
	const char *name, int64_t valid_s, struct error **err)
{
	cleanup_private gnutls_x509_privkey_t ca_key = NULL;
	cleanup_cert gnutls_x509_crt_t ca = NULL, cert = NULL;
	cleanup_public gnutls_pubkey_t key = NULL;
	int code;

	if (pki_check_name(name, err) < 0 || import_key(&ca_key, ca_key_pem, err) < 0 ||
		import_cert(&ca, ca_pem, err) < 0 || request_key(request_pem, &key, err) < 0)
		return NULL;
	code = gnutls_x509_crt_init(&cert);
	if (code == 0)
		code = gnutls_x509_crt_set_pubkey(cert, key);
	if (code == 0)
		code = fill_cert(cert, name, valid_s);
	if (code == 0)
		code = fill_node(cert, ca, name);
	if (code == 0)
		code = gnutls_x509_crt_sign2(cert, ca, ca_key, GNUTLS_DIG_SHA256, 0);
	if (code < 0) {
		tls_error(err, ERROR_FAILED, "sign a certificate", code);
		return NULL;
	}
	return cert_text(cert, err);
}

void pki_sha256_hex(const void *data, size_t len, char out[65])
{
	static const char digits[] = "0123456789abcdef";
	unsigned char hash[32];

	if (gnutls_hash_fast(GNUTLS_DIG_SHA256, data, len, hash) < 0)
		abort(); /* only where GnuTLS was built without SHA-256 */
	for (int i = 0; i < 32; i++) {
		out[2 * i] = digits[hash[i] >> 4];
		out[2 * i + 1] = digits[hash[i] & 15];
	}
	out[64] = '\0';
}

int pki_fingerprint(const char *cert_pem, char out[PKI_FINGERPRINT_SIZE], struct error **err)
{
	cleanup_cert gnutls_x509_crt_t cert = NULL;
	gnutls_datum_t der;
	int code;

	if (import_cert(&cert, cert_pem, err) < 0)
		return -1;
	code = gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_DER, &der);
	if (code < 0)
		return tls_error(err, ERROR_CERTIFICATE, "read a certificate", code);
	pki_sha256_hex(der.data, der.size, out);
	gnutls_free(der.data);
	return 0;
}

bool pki_fingerprint_equal(const char *a, const char *b)
{
	size_t len = strnlen(a, PKI_FINGERPRINT_SIZE);

	return len == PKI_FINGERPRINT_SIZE - 1 && strnlen(b, PKI_FINGERPRINT_SIZE) == len &&
	       gnutls_memcmp(a, b, len) == 0;
}

/* ERROR_CERTIFICATE unless the CA signed it and it is valid now. */
static int verify(
	gnutls_x509_crt_t cert, gnutls_x509_crt_t ca, const char *name, struct error **err)
{
	unsigned status = 0;
	int code = gnutls_x509_crt_verify(cert, &ca, 1, 0, &status);

	if (code < 0)
		return tls_error(err, ERROR_CERTIFICATE, "verify a certificate", code);
	if (status & GNUTLS_CERT_EXPIRED)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"the certificate of %s has expired; remove the node and join it again",
			name);
	if (status & GNUTLS_CERT_NOT_ACTIVATED)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"the certificate of %s is not valid yet; set the clocks of both nodes",
			name);
	if (status)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"the certificate of %s is not of this cluster", name);
	return 0;
}

static int common_name(gnutls_x509_crt_t cert, char name[FS_NAME_MAX + 1], struct error **err)
{
	size_t len = FS_NAME_MAX + 1;

	if (gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, name, &len) <
			0 ||
		strlen(name) != len || pki_check_name(name, NULL) < 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"a certificate without the name of a node was shown");
	return 0;
}

static int verify_der(struct pki_verified *verified, const void *der, size_t len,
	const char *ca_pem, struct error **err)
{
	cleanup_cert gnutls_x509_crt_t cert = NULL, ca = NULL;
	gnutls_datum_t datum = {(unsigned char *)der, (unsigned)len};
	int code = gnutls_x509_crt_init(&cert);

	if (code == 0)
		code = gnutls_x509_crt_import(cert, &datum, GNUTLS_X509_FMT_DER);
	if (code < 0)
		return tls_error(err, ERROR_CERTIFICATE, "read a certificate", code);
	if (import_cert(&ca, ca_pem, err) < 0 || common_name(cert, verified->name, err) < 0)
		return -1;
	return verify(cert, ca, verified->name, err);
}

int pki_verify(struct pki_verified *verified, const void *der, size_t len, const char *ca_pem,
	struct error **err)
{
	char fingerprint[PKI_FINGERPRINT_SIZE];
	int64_t now = clock_ms();

	if (len > PKI_PEM_MAX)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"a certificate of more than %u bytes is refused", PKI_PEM_MAX);
	pki_sha256_hex(der, len, fingerprint);
	if (now < verified->until_ms && pki_fingerprint_equal(fingerprint, verified->fingerprint))
		return 0;
	verified->until_ms = 0;
	if (verify_der(verified, der, len, ca_pem, err) < 0)
		return -1;
	memcpy(verified->fingerprint, fingerprint, sizeof(fingerprint));
	verified->until_ms = now + PKI_VERIFIED_MS;
	return 0;
}

static int check_key(
	gnutls_x509_crt_t cert, const char *key_pem, const char *name, struct error **err)
{
	cleanup_private gnutls_x509_privkey_t key = NULL;
	unsigned char a[64], b[64];
	size_t a_len = sizeof(a), b_len = sizeof(b);

	if (import_key(&key, key_pem, err) < 0)
		return -1;
	if (gnutls_x509_crt_get_key_id(cert, GNUTLS_KEYID_USE_SHA256, a, &a_len) < 0 ||
		gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, b, &b_len) < 0 ||
		a_len != b_len || memcmp(a, b, a_len) != 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"the certificate of %s is not for its key", name);
	return 0;
}

int pki_check(const char *cert_pem, const char *ca_pem, const char *name, const char *key_pem,
	struct error **err)
{
	cleanup_cert gnutls_x509_crt_t cert = NULL, ca = NULL;
	char is[FS_NAME_MAX + 1];

	if (import_cert(&cert, cert_pem, err) < 0 || import_cert(&ca, ca_pem, err) < 0 ||
		common_name(cert, is, err) < 0 || verify(cert, ca, is, err) < 0)
		return -1;
	if (strcmp(is, name) != 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"the certificate of %s was shown where %s was expected", is, name);
	return key_pem ? check_key(cert, key_pem, name, err) : 0;
}

void pki_free_key(char *key_pem)
{
	if (key_pem)
		gnutls_memset(key_pem, 0, strlen(key_pem));
	free(key_pem);
}
