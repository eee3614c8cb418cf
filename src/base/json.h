/*
 * JSON through Jansson, with the limits and the messages of drover: a text is at most
 * JSON_TEXT_MAX bytes, nests at most 2,048 deep (Jansson's own limit) and holds no key twice.
 */
#ifndef DROVER_BASE_JSON_H
#define DROVER_BASE_JSON_H

#include "base/error.h"

#include <jansson.h>
#include <stdint.h>

#define JSON_TEXT_MAX (4u << 20)

void json_free(json_t **json);
#define cleanup_json __attribute__((cleanup(json_free)))

/* Parses an object. `what` names the text in the message ("the request", "the answer of node2");
 * ERROR_REQUEST. The caller owns the result. */
json_t *json_parse(const char *what, const char *text, size_t len, struct error **err);

/* Members of an object: ERROR_REQUEST when missing, of another type, or (numbers) out of range.
 * Strings belong to the object, hold no NUL and are at most 4,096 bytes. */
const char *json_get_string(const json_t *object, const char *key, struct error **err);
int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *value,
	struct error **err);
/* The same, with what to take when the member is missing; of another type is still an error. */
int json_opt_string(const json_t *object, const char *key, const char *fallback, const char **value,
	struct error **err);
int json_opt_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t fallback,
	int64_t *value, struct error **err);
int json_opt_bool(
	const json_t *object, const char *key, bool fallback, bool *value, struct error **err);
/* ERROR_REQUEST when the object has a member that `known` (NULL at the end) does not name. */
int json_only_known(const json_t *object, const char *const *known, struct error **err);

/* Compact text; the caller frees it. */
char *json_text(const json_t *json);

/* An error as {"error":{"kind":"no-vm","exit":5,"message":"…"}}, and back: json_to_error makes
 * the error that such an object holds and returns -1; 0 when the object holds none. */
json_t *json_from_error(const struct error *e);
int json_to_error(const json_t *object, struct error **err);

#endif
