/*
 * Join tokens: what lets a machine into the cluster, once, within an hour.
 *
 * A token is "drover1." and base64url (RFC 4648 section 5, no padding) of
 *
 *     16 bytes    secret, from the kernel's random numbers
 *     32 bytes    SHA-256 of the CA's certificate (DER): the machine that joins trusts nothing else
 *     1..48 bytes name of the node that made the token: the name that its certificate must bear
 *
 * The issuing node keeps only SHA-256 of the secret. It is looked up by that hash, so how long a
 * wrong guess takes says nothing about a right one; the secret has 128 bits and needs no
 * stretching. The table is node-local: a token is good on the node that made it.
 */
#ifndef DROVER_NODE_TOKEN_H
#define DROVER_NODE_TOKEN_H

#include "base/db.h"
#include "base/error.h"
#include "node/pki.h"

#include <stdint.h>

#define TOKEN_SECRET_BYTES 16
#define TOKEN_LIFE_MS (3600ll * 1000)
/* "drover1." and 96 bytes in base64url, with the NUL. */
#define TOKEN_TEXT_SIZE 137

/* The table; to be part of the schema given to db_open. */
#define TOKEN_SCHEMA \
	"CREATE TABLE IF NOT EXISTS join_token (" \
	"hash TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL, " \
	"used_by TEXT, used_ms INTEGER) WITHOUT ROWID;"

struct token {
	uint8_t secret[TOKEN_SECRET_BYTES];
	char ca_fingerprint[PKI_FINGERPRINT_SIZE];
	char issuer[FS_NAME_MAX + 1];
};

/* Reads a token that a person or the network gave. ERROR_TOKEN when it is none. */
int token_parse(const char *text, struct token *token, struct error **err);

/* Makes a token that ends at now_ms + TOKEN_LIFE_MS (wall clock) and stores it; also forgets those
 * that ended a day ago. */
int token_issue(struct db *db, const char *ca_fingerprint, const char *issuer, int64_t now_ms,
	char text[TOKEN_TEXT_SIZE], struct error **err);

/* Whether the token could be used now: what token_use says, with nothing changed. */
int token_check(struct db *db, const struct token *token, int64_t now_ms, struct error **err);

/* Uses it up for the node `used_by`: of any number of callers one gets 0. ERROR_TOKEN says whether
 * it is unknown here, used already (and by whom), or too old. */
int token_use(struct db *db, const struct token *token, const char *used_by, int64_t now_ms,
	struct error **err);

#endif
