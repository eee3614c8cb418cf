#include "node/token.h"

#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "drover1."
#define FIXED_BYTES (TOKEN_SECRET_BYTES + 32)
#define TOKEN_BYTES_MAX (FIXED_BYTES + FS_NAME_MAX)
#define DAY_MS (86400ll * 1000)

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode(const uint8_t *data, size_t len, char *out)
{
	uint32_t bits = 0;
	int count = 0;

	for (size_t i = 0; i < len; i++) {
		bits = bits << 8 | data[i];
		for (count += 8; count >= 6; count -= 6)
			*out++ = alphabet[bits >> (count - 6) & 63];
	}
	if (count)
		*out++ = alphabet[bits << (6 - count) & 63];
	*out = '\0';
}

/* Bytes decoded, -1 when the text is not base64url of at most `max` bytes, or not the only text of
 * these bytes. */
static int decode(const char *text, uint8_t *out, size_t max)
{
	uint32_t bits = 0;
	int count = 0;
	size_t len = 0;

	for (; *text; text++) {
		const char *at = strchr(alphabet, *text);

		if (!at)
			return -1;
		bits = bits << 6 | (uint32_t)(at - alphabet);
		count += 6;
		if (count < 8)
			continue;
		if (len == max)
			return -1;
		count -= 8;
		out[len++] = (uint8_t)(bits >> count);
	}
	return count >= 6 || (bits & ((1u << count) - 1)) ? -1 : (int)len;
}

static void to_hex(const uint8_t *data, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		*out++ = digits[data[i] >> 4];
		*out++ = digits[data[i] & 15];
	}
	*out = '\0';
}

int token_parse(const char *text, struct token *token, struct error **err)
{
	uint8_t data[TOKEN_BYTES_MAX];
	int len = -1;

	memset(token, 0, sizeof(*token));
	if (strnlen(text, TOKEN_TEXT_SIZE) < TOKEN_TEXT_SIZE &&
		strncmp(text, PREFIX, strlen(PREFIX)) == 0)
		len = decode(text + strlen(PREFIX), data, sizeof(data));
	if (len <= FIXED_BYTES)
		return error_set(err, ERROR_TOKEN, 0,
			"this is not a join token; `drover token` on a node of the cluster prints "
			"one, which starts with " PREFIX);
	memcpy(token->secret, data, TOKEN_SECRET_BYTES);
	to_hex(data + TOKEN_SECRET_BYTES, 32, token->ca_fingerprint);
	memcpy(token->issuer, data + FIXED_BYTES, (size_t)len - FIXED_BYTES);
	if (strlen(token->issuer) != (size_t)len - FIXED_BYTES ||
		pki_check_name(token->issuer, NULL) < 0)
		return error_set(err, ERROR_TOKEN, 0,
			"the join token is damaged: it names no node; copy it again");
	return 0;
}

static void hash_of(const struct token *token, char hash[65])
{
	pki_sha256_hex(token->secret, sizeof(token->secret), hash);
}

int token_issue(struct db *db, const char *ca_fingerprint, const char *issuer, int64_t now_ms,
	char text[TOKEN_TEXT_SIZE], struct error **err)
{
	uint8_t data[TOKEN_BYTES_MAX];
	char hash[65];
	gnutls_datum_t hex = {(unsigned char *)ca_fingerprint, (unsigned)strlen(ca_fingerprint)};
	size_t len = 32, name_len = strlen(issuer);

	if (pki_check_name(issuer, err) < 0)
		return -1;
	if (gnutls_hex_decode(&hex, data + TOKEN_SECRET_BYTES, &len) < 0 || len != 32 ||
		gnutls_rnd(GNUTLS_RND_KEY, data, TOKEN_SECRET_BYTES) < 0)
		return error_set(err, ERROR_FAILED, 0, "cannot make a join token");
	memcpy(data + FIXED_BYTES, issuer, name_len);
	pki_sha256_hex(data, TOKEN_SECRET_BYTES, hash);
	if (db_run(db, NULL, err, "DELETE FROM join_token WHERE expires_ms < ?", "i",
		    now_ms - DAY_MS) < 0 ||
		db_run(db, NULL, err, "INSERT INTO join_token (hash, expires_ms) VALUES (?, ?)",
			"si", hash, now_ms + TOKEN_LIFE_MS) < 0)
		return -1;
	memcpy(text, PREFIX, strlen(PREFIX));
	encode(data, FIXED_BYTES + name_len, text + strlen(PREFIX));
	return 0;
}

struct row {
	bool found;
	int64_t expires_ms;
	char used_by[FS_NAME_MAX + 1];
};

static int take_row(sqlite3_stmt *stmt, void *arg)
{
	struct row *row = arg;

	row->found = true;
	row->expires_ms = sqlite3_column_int64(stmt, 0);
	strncpy(row->used_by, db_text(stmt, 1), FS_NAME_MAX);
	return 0;
}

int token_check(struct db *db, const struct token *token, int64_t now_ms, struct error **err)
{
	struct row row = {0};
	char hash[65];

	hash_of(token, hash);
	if (db_query(db, take_row, &row, err,
		    "SELECT expires_ms, used_by FROM join_token WHERE hash = ?", "s", hash) < 0)
		return -1;
	if (!row.found)
		return error_set(err, ERROR_TOKEN, 0,
			"this join token is not known on this node; make a new one with `drover "
			"token`, and join the node that it was made on");
	if (row.used_by[0])
		return error_set(err, ERROR_TOKEN, 0,
			"this join token was used already, by %s; make a new one with `drover "
			"token`",
			row.used_by);
	if (row.expires_ms <= now_ms)
		return error_set(err, ERROR_TOKEN, 0,
			"this join token is older than an hour; make a new one with `drover "
			"token`");
	return 0;
}

int token_use(struct db *db, const struct token *token, const char *used_by, int64_t now_ms,
	struct error **err)
{
	int64_t changes = 0;
	char hash[65];

	hash_of(token, hash);
	if (db_run(db, &changes, err,
		    "UPDATE join_token SET used_by = ?, used_ms = ? "
		    "WHERE hash = ? AND used_by IS NULL AND expires_ms > ?",
		    "sisi", used_by, now_ms, hash, now_ms) < 0)
		return -1;
	if (changes == 1)
		return 0;
	if (token_check(db, token, now_ms, err) < 0)
		return -1;
	return error_set(err, ERROR_TOKEN, 0, "this join token was used just now");
}
