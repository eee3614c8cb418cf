/* Certificates, identities and join tokens. */
#include "test_node_support.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <sys/stat.h>

#define CLUSTER "00112233445566778899aabbccddeeff"

struct pair {
	char *ca_key, *ca, *key, *request, *cert;
};

static struct pair make_pair(const char *name)
{
	struct pair p;

	assert_int_equal(pki_make_ca(CLUSTER, &p.ca_key, &p.ca, NULL), 0);
	assert_int_equal(pki_make_request(name, &p.key, &p.request, NULL), 0);
	p.cert = pki_sign(p.ca_key, p.ca, p.request, name, 3600, NULL);
	assert_non_null(p.cert);
	return p;
}

static void free_pair(struct pair *p)
{
	pki_free_key(p->ca_key);
	pki_free_key(p->key);
	free(p->ca);
	free(p->request);
	free(p->cert);
}

static void test_certificate_is_accepted_only_for_its_ca_name_and_key(void **state)
{
	struct pair a = make_pair("node1"), b = make_pair("node1");
	struct error *err = NULL;

	(void)state;
	assert_int_equal(pki_check(a.cert, a.ca, "node1", a.key, &err), 0);
	assert_int_equal(pki_check(a.cert, a.ca, "node2", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "node1 was shown where node2");
	assert_int_equal(pki_check(a.cert, b.ca, "node1", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "not of this cluster");
	assert_int_equal(pki_check(a.cert, a.ca, "node1", b.key, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "not for its key");
	assert_int_equal(pki_check("nothing", a.ca, "node1", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "read a certificate");
	free_pair(&a);
	free_pair(&b);
}

static void test_expired_certificate_is_refused(void **state)
{
	struct pair a = make_pair("node1");
	struct error *err = NULL;
	char *old = pki_sign(a.ca_key, a.ca, a.request, "node1", -1, &err);

	(void)state;
	assert_int_equal(pki_check(old, a.ca, "node1", a.key, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "expired");
	free(old);
	free_pair(&a);
}

static void test_node_certificate_signs_no_other(void **state)
{
	struct pair a = make_pair("node1");
	struct error *err = NULL;
	char *forged = pki_sign(a.key, a.cert, a.request, "node9", 3600, &err);

	(void)state;
	assert_non_null(forged);
	assert_int_equal(pki_check(forged, a.ca, "node9", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "not of this cluster");
	/* Not even where it is taken for the CA. */
	assert_int_equal(pki_check(forged, a.cert, "node9", NULL, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "not of this cluster");
	free(forged);
	free_pair(&a);
}

static gnutls_datum_t der_of(const char *pem)
{
	gnutls_datum_t text = {(unsigned char *)pem, (unsigned)strlen(pem)}, der;

	assert_int_equal(gnutls_pem_base64_decode2("CERTIFICATE", &text, &der), 0);
	return der;
}

static void test_certificate_that_was_verified_stands_for_no_other(void **state)
{
	struct pair a = make_pair("node1"), b = make_pair("node1");
	gnutls_datum_t good = der_of(a.cert), bad = der_of(b.cert);
	struct pki_verified verified = {0};
	struct error *err = NULL;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pki_verify(&verified, good.data, good.size, a.ca, &err), 0);
		assert_string_equal(verified.name, "node1");
		assert_int_equal(pki_verify(&verified, bad.data, bad.size, a.ca, &err), -1);
		expect_error(&err, ERROR_CERTIFICATE, "not of this cluster");
		assert_int_equal(pki_verify(&verified, bad.data, bad.size, a.ca, &err), -1);
		expect_error(&err, ERROR_CERTIFICATE, "not of this cluster");
	}
	assert_int_equal(pki_verify(&verified, good.data, good.size - 1, a.ca, &err), -1);
	expect_error(&err, ERROR_CERTIFICATE, "read a certificate");
	gnutls_free(good.data);
	gnutls_free(bad.data);
	free_pair(&a);
	free_pair(&b);
}

/* A request that asks to be a CA named "node1" too. */
static char *greedy_request(gnutls_pk_algorithm_t algorithm, unsigned bits)
{
	gnutls_x509_privkey_t key;
	gnutls_x509_crq_t request;
	gnutls_datum_t text;
	char *pem;

	gnutls_x509_privkey_init(&key);
	assert_int_equal(gnutls_x509_privkey_generate(key, algorithm, bits, 0), 0);
	gnutls_x509_crq_init(&request);
	gnutls_x509_crq_set_version(request, 1);
	gnutls_x509_crq_set_dn(request, "CN=node1", NULL);
	gnutls_x509_crq_set_subject_alt_name(
		request, GNUTLS_SAN_DNSNAME, "node1", 5, GNUTLS_FSAN_SET);
	gnutls_x509_crq_set_basic_constraints(request, 1, -1);
	gnutls_x509_crq_set_key_usage(request, GNUTLS_KEY_KEY_CERT_SIGN);
	gnutls_x509_crq_set_key(request, key);
	assert_int_equal(gnutls_x509_crq_sign2(request, key, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crq_export2(request, GNUTLS_X509_FMT_PEM, &text), 0);
	pem = fs_format("%.*s", (int)text.size, (char *)text.data);
	gnutls_free(text.data);
	gnutls_x509_crq_deinit(request);
	gnutls_x509_privkey_deinit(key);
	return pem;
}

static void test_what_a_request_asks_for_is_ignored(void **state)
{
	struct pair a = make_pair("node1");
	char *greedy =
		greedy_request(GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1));
	char *cert = pki_sign(a.ca_key, a.ca, greedy, "node2", 3600, NULL);
	gnutls_datum_t text = {(unsigned char *)cert, (unsigned)strlen(cert)};
	gnutls_x509_crt_t crt;
	unsigned critical, ca = 1;
	char name[64];
	size_t len = sizeof(name);

	(void)state;
	assert_int_equal(pki_check(cert, a.ca, "node2", NULL, NULL), 0);
	gnutls_x509_crt_init(&crt);
	gnutls_x509_crt_import(crt, &text, GNUTLS_X509_FMT_PEM);
	assert_true(gnutls_x509_crt_get_basic_constraints(crt, &critical, &ca, NULL) <= 0);
	assert_int_equal(ca, 0);
	gnutls_x509_crt_get_subject_alt_name(crt, 0, name, &len, NULL);
	assert_string_equal(name, "node2");
	len = sizeof(name);
	assert_int_equal(gnutls_x509_crt_get_subject_alt_name(crt, 1, name, &len, NULL),
		GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE);
	gnutls_x509_crt_deinit(crt);
	free(cert);
	free(greedy);
	free_pair(&a);
}

static void test_requests_that_are_none_are_refused(void **state)
{
	struct pair a = make_pair("node1");
	char *rsa = greedy_request(GNUTLS_PK_RSA, 2048);
	char *big = malloc(PKI_PEM_MAX + 2), *broken = fs_format("%s", a.request);
	struct error *err = NULL;

	(void)state;
	memset(big, 'A', PKI_PEM_MAX + 1);
	big[PKI_PEM_MAX + 1] = '\0';
	/* Within the signature, which is at the end. */
	char *at = strstr(broken, "\n-----END") - 12;
	*at = *at == 'A' ? 'B' : 'A';
	assert_null(pki_sign(a.ca_key, a.ca, "", "node2", 3600, &err));
	expect_error(&err, ERROR_REQUEST, "read the certificate request");
	assert_null(pki_sign(a.ca_key, a.ca, a.cert, "node2", 3600, &err));
	expect_error(&err, ERROR_REQUEST, "read the certificate request");
	assert_null(pki_sign(a.ca_key, a.ca, big, "node2", 3600, &err));
	expect_error(&err, ERROR_REQUEST, "more than");
	assert_null(pki_sign(a.ca_key, a.ca, rsa, "node2", 3600, &err));
	expect_error(&err, ERROR_REQUEST, "not ECDSA");
	assert_null(pki_sign(a.ca_key, a.ca, broken, "node2", 3600, &err));
	expect_error(&err, ERROR_REQUEST, "certificate request");
	free(rsa);
	free(big);
	free(broken);
	free_pair(&a);
}

static void test_names_that_could_be_addresses_are_refused(void **state)
{
	static const char *const good[] = {"node1", "NODE-1", "n1.example.com", "4a", "a.b4", NULL};
	static const char *const bad[] = {"", "1", "10.0.0.1", "node.1", "0x1f", "a.0X7F", "a..b",
		"a.", "a-", "a-.b", "a.-b", "a_b", "../x", "a b", "a/b", "node1\n",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NULL};
	struct error *err = NULL;

	(void)state;
	for (int i = 0; good[i]; i++)
		assert_int_equal(pki_check_name(good[i], NULL), 0);
	for (int i = 0; bad[i]; i++) {
		assert_int_equal(pki_check_name(bad[i], &err), -1);
		expect_error(&err, ERROR_NAME, "");
	}
}

static void test_fingerprint_is_the_sha256_of_the_certificate(void **state)
{
	struct pair a = make_pair("node1");
	gnutls_datum_t text = {(unsigned char *)a.cert, (unsigned)strlen(a.cert)};
	unsigned char hash[32];
	size_t len = sizeof(hash), size = 65;
	char want[65], got[PKI_FINGERPRINT_SIZE], other[PKI_FINGERPRINT_SIZE];
	gnutls_x509_crt_t crt;

	(void)state;
	gnutls_x509_crt_init(&crt);
	gnutls_x509_crt_import(crt, &text, GNUTLS_X509_FMT_PEM);
	gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, hash, &len);
	gnutls_x509_crt_deinit(crt);
	gnutls_hex_encode(&(gnutls_datum_t){hash, 32}, want, &size);
	assert_int_equal(pki_fingerprint(a.cert, got, NULL), 0);
	assert_string_equal(got, want);
	assert_true(pki_fingerprint_equal(got, want));
	assert_int_equal(pki_fingerprint(a.ca, other, NULL), 0);
	assert_false(pki_fingerprint_equal(got, other));
	assert_false(pki_fingerprint_equal(got, ""));
	assert_false(pki_fingerprint_equal("", ""));
	free_pair(&a);
}

static void test_identity_is_loaded_as_it_was_saved(void **state)
{
	struct error *err = NULL;
	cleanup_free char *dir = in_scratch("node1");
	struct identity *id = init_node1(&err), *back;
	struct stat st;

	(void)state;
	back = identity_load(dir, &err);
	expect_no_error(&err);
	assert_string_equal(back->name, "node1");
	assert_string_equal(back->address, "127.0.0.1:7780");
	assert_string_equal(back->pool_dir, id->pool_dir);
	assert_string_equal(back->cluster_id, id->cluster_id);
	assert_string_equal(back->fingerprint, id->fingerprint);
	assert_string_equal(back->key_pem, id->key_pem);
	assert_string_equal(back->ca_key_pem, id->ca_key_pem);
	assert_int_equal(stat(back->key_file, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(identity_save(dir, back, &err), -1);
	expect_error(&err, ERROR_EXISTS, "in a cluster already");
	assert_int_equal(identity_remove(dir, &err), 0);
	assert_int_equal(identity_remove(dir, &err), 0);
	assert_null(identity_load(dir, &err));
	expect_error(&err, ERROR_NO_CLUSTER, "`drover init` makes one");
	identity_free(id);
	identity_free(back);
}

static void write_file(const char *dir, const char *name, const char *text)
{
	cleanup_free char *path = fs_format("%s/%s", dir, name);

	assert_int_equal(fs_write(path, text, strlen(text), 0600, NULL), 0);
}

static void test_broken_identity_is_refused_with_its_reason(void **state)
{
	struct error *err = NULL;
	cleanup_free char *dir = in_scratch("node1");
	cleanup_free char *conf = fs_format("%s/node.conf", dir);
	struct identity *id = init_node1(&err);
	struct pair other = make_pair("node1");
	cleanup_free char *good = fs_read(conf, 4096, NULL, &err);

	(void)state;
	write_file(dir, "node.key", other.key);
	assert_null(identity_load(dir, &err));
	expect_error(&err, ERROR_CERTIFICATE, "not for its key");
	write_file(dir, "node.key", other.key);
	write_file(dir, "node.crt", other.cert);
	assert_null(identity_load(dir, &err));
	expect_error(&err, ERROR_CERTIFICATE, "not of this cluster");
	write_file(dir, "node.key", id->key_pem);
	write_file(dir, "node.crt", id->cert_pem);
	write_file(dir, "node.conf", "[node]\nname = node1\nadress = x\n");
	assert_null(identity_load(dir, &err));
	expect_error(&err, ERROR_DEFINITION, "adress");
	write_file(dir, "node.conf", "[node]\nname = node1\n");
	assert_null(identity_load(dir, &err));
	expect_error(&err, ERROR_DEFINITION, "lacks");
	write_file(dir, "node.conf",
		"[node]\nname = node1\naddress = a\npool = /p\n"
		"cluster = 00112233445566778899aabbccddeeff0011\n");
	assert_null(identity_load(dir, &err));
	expect_error(&err, ERROR_DEFINITION, "not 32 hexadecimal");
	write_file(dir, "node.conf", good);
	identity_free(id);
	id = identity_load(dir, &err);
	expect_no_error(&err);
	identity_free(id);
	free_pair(&other);
}

static void test_init_that_fails_leaves_no_identity(void **state)
{
	struct error *err = NULL;
	cleanup_free char *dir = in_scratch("node2"), *pool = in_scratch("pool");
	struct identity *id = init_node1(&err);

	(void)state;
	assert_null(join_init(dir, "node2", "127.0.0.1", pool, &err));
	expect_error(&err, ERROR_EXISTS, "");
	assert_false(identity_exists(dir));
	identity_free(id);
}

static struct db *open_db(void)
{
	cleanup_free char *path = in_scratch("drover.db");
	struct error *err = NULL;
	struct db *db = db_open(path, TOKEN_SCHEMA, &err);

	expect_no_error(&err);
	return db;
}

static void issue(struct db *db, char text[TOKEN_TEXT_SIZE], struct token *token)
{
	struct error *err = NULL;
	char fingerprint[65];

	pki_sha256_hex("ca", 2, fingerprint);
	assert_int_equal(token_issue(db, fingerprint, "node1", clock_wall_ms(), text, &err), 0);
	assert_int_equal(token_parse(text, token, &err), 0);
	expect_no_error(&err);
	assert_string_equal(token->ca_fingerprint, fingerprint);
	assert_string_equal(token->issuer, "node1");
}

static void test_token_is_used_once(void **state)
{
	struct db *db = open_db();
	struct error *err = NULL;
	char text[TOKEN_TEXT_SIZE];
	struct token token;

	(void)state;
	issue(db, text, &token);
	assert_int_equal(token_check(db, &token, clock_wall_ms(), &err), 0);
	assert_int_equal(token_use(db, &token, "node2", clock_wall_ms(), &err), 0);
	assert_int_equal(token_use(db, &token, "node3", clock_wall_ms(), &err), -1);
	expect_error(&err, ERROR_TOKEN, "used already, by node2");
	db_close(db);
	/* Also after a restart. */
	db = open_db();
	assert_int_equal(token_use(db, &token, "node3", clock_wall_ms(), &err), -1);
	expect_error(&err, ERROR_TOKEN, "used already, by node2");
	db_close(db);
}

static void test_token_ends_after_an_hour(void **state)
{
	struct db *db = open_db();
	struct error *err = NULL;
	char text[TOKEN_TEXT_SIZE];
	struct token token;
	int64_t later = clock_wall_ms() + TOKEN_LIFE_MS + 1000;

	(void)state;
	issue(db, text, &token);
	assert_int_equal(token_use(db, &token, "node2", later, &err), -1);
	expect_error(&err, ERROR_TOKEN, "older than an hour");
	assert_int_equal(token_use(db, &token, "node2", later - 2000, &err), 0);
	db_close(db);
}

static void test_token_of_another_node_is_not_known(void **state)
{
	struct db *db = open_db();
	struct error *err = NULL;
	char text[TOKEN_TEXT_SIZE];
	struct token token;

	(void)state;
	issue(db, text, &token);
	token.secret[15] ^= 1;
	assert_int_equal(token_use(db, &token, "node2", clock_wall_ms(), &err), -1);
	expect_error(&err, ERROR_TOKEN, "not known on this node");
	db_close(db);
}

static void count_found(const char *what, bool *found)
{
	cleanup_free char *path = in_scratch("drover.db"), *wal = in_scratch("drover.db-wal");
	size_t len[2] = {0};
	char *text[2] = {
		fs_read(path, 1 << 20, &len[0], NULL), fs_read(wal, 1 << 20, &len[1], NULL)};

	for (int i = 0; i < 2; i++) {
		if (text[i] && memmem(text[i], len[i], what, TOKEN_SECRET_BYTES))
			*found = true;
		free(text[i]);
	}
}

static void test_secret_of_a_token_is_not_stored(void **state)
{
	struct db *db = open_db();
	char text[TOKEN_TEXT_SIZE];
	struct token token;
	bool found = false;

	(void)state;
	issue(db, text, &token);
	count_found((const char *)token.secret, &found);
	count_found(text + strlen("drover1."), &found);
	assert_false(found);
	db_close(db);
}

static void test_texts_that_are_no_tokens_are_refused(void **state)
{
	struct db *db = open_db();
	char text[TOKEN_TEXT_SIZE], longer[4096];
	struct token token;
	struct error *err = NULL;
	const char *bad[] = {"", "drover1.", "drover2.AAAA", "drover1.!!!!", "hello", longer};

	(void)state;
	memset(longer, 'A', sizeof(longer) - 1);
	memcpy(longer, "drover1.", 8);
	longer[sizeof(longer) - 1] = '\0';
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(token_parse(bad[i], &token, &err), -1);
		expect_error(&err, ERROR_TOKEN, "not a join token");
	}
	issue(db, text, &token);
	/* Cut anywhere it is either refused or names another node, never read past its end. */
	for (size_t len = strlen(text) - 1; len > 0; len--) {
		text[len] = '\0';
		if (token_parse(text, &token, &err) == 0)
			assert_string_not_equal(token.issuer, "node1");
		error_free(&err);
	}
	db_close(db);
}

#define RACERS 8

struct race {
	struct db *db;
	struct token token;
	int won;
	pthread_barrier_t start;
};

static void *race_for_token(void *arg)
{
	struct race *race = arg;

	pthread_barrier_wait(&race->start);
	if (token_use(race->db, &race->token, "node2", clock_wall_ms(), NULL) == 0)
		__atomic_add_fetch(&race->won, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void test_one_of_many_that_race_for_a_token_gets_it(void **state)
{
	struct race race = {.db = open_db()};
	char text[TOKEN_TEXT_SIZE];
	pthread_t threads[RACERS];

	(void)state;
	issue(race.db, text, &race.token);
	pthread_barrier_init(&race.start, NULL, RACERS);
	for (int i = 0; i < RACERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, race_for_token, &race), 0);
	for (int i = 0; i < RACERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(race.won, 1);
	pthread_barrier_destroy(&race.start);
	db_close(race.db);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_scratch, remove_scratch)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_certificate_is_accepted_only_for_its_ca_name_and_key),
		TEST(test_expired_certificate_is_refused),
		TEST(test_node_certificate_signs_no_other),
		TEST(test_certificate_that_was_verified_stands_for_no_other),
		TEST(test_what_a_request_asks_for_is_ignored),
		TEST(test_requests_that_are_none_are_refused),
		TEST(test_names_that_could_be_addresses_are_refused),
		TEST(test_fingerprint_is_the_sha256_of_the_certificate),
		TEST(test_identity_is_loaded_as_it_was_saved),
		TEST(test_broken_identity_is_refused_with_its_reason),
		TEST(test_init_that_fails_leaves_no_identity),
		TEST(test_token_is_used_once),
		TEST(test_token_ends_after_an_hour),
		TEST(test_token_of_another_node_is_not_known),
		TEST(test_secret_of_a_token_is_not_stored),
		TEST(test_texts_that_are_no_tokens_are_refused),
		TEST(test_one_of_many_that_race_for_a_token_gets_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
