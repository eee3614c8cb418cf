#include "base/json.h"

#include <string.h>

#define STRING_MAX 4096

void json_free(json_t **json)
{
	json_decref(*json);
	*json = NULL;
}

json_t *json_parse(const char *what, const char *text, size_t len, struct error **err)
{
	json_error_t why;
	json_t *json;

	if (len > JSON_TEXT_MAX) {
		error_set(err, ERROR_REQUEST, 0, "%s is larger than %u bytes", what, JSON_TEXT_MAX);
		return NULL;
	}
	json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	if (!json) {
		error_set(err, ERROR_REQUEST, 0, "%s is not JSON: line %d, column %d: %s", what,
			why.line, why.column, why.text);
		return NULL;
	}
	if (!json_is_object(json)) {
		json_decref(json);
		error_set(err, ERROR_REQUEST, 0, "%s is not a JSON object", what);
		return NULL;
	}
	return json;
}

static int wrong_type(const char *key, const char *type, struct error **err)
{
	return error_set(err, ERROR_REQUEST, 0, "\"%s\" is missing or is not %s", key, type);
}

const char *json_get_string(const json_t *object, const char *key, struct error **err)
{
	const json_t *member = json_object_get(object, key);

	if (!json_is_string(member)) {
		wrong_type(key, "a string", err);
		return NULL;
	}
	if (json_string_length(member) > STRING_MAX) {
		error_set(err, ERROR_REQUEST, 0, "\"%s\" is longer than %d bytes", key, STRING_MAX);
		return NULL;
	}
	return json_string_value(member);
}

int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *value,
	struct error **err)
{
	const json_t *member = json_object_get(object, key);

	if (!json_is_integer(member))
		return wrong_type(key, "a whole number", err);
	if (json_integer_value(member) < min || json_integer_value(member) > max)
		return error_set(err, ERROR_REQUEST, 0, "\"%s\" is out of range: %lld to %lld", key,
			(long long)min, (long long)max);
	*value = json_integer_value(member);
	return 0;
}

static bool absent(const json_t *object, const char *key)
{
	const json_t *member = json_object_get(object, key);

	return !member || json_is_null(member);
}

int json_opt_string(const json_t *object, const char *key, const char *fallback, const char **value,
	struct error **err)
{
	*value = fallback;
	if (absent(object, key))
		return 0;
	*value = json_get_string(object, key, err);
	return *value ? 0 : -1;
}

int json_opt_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t fallback,
	int64_t *value, struct error **err)
{
	*value = fallback;
	return absent(object, key) ? 0 : json_get_int(object, key, min, max, value, err);
}

int json_opt_bool(
	const json_t *object, const char *key, bool fallback, bool *value, struct error **err)
{
	const json_t *member = json_object_get(object, key);

	*value = fallback;
	if (absent(object, key))
		return 0;
	if (!json_is_boolean(member))
		return wrong_type(key, "true or false", err);
	*value = json_is_true(member);
	return 0;
}

int json_only_known(const json_t *object, const char *const *known, struct error **err)
{
	const char *key;
	json_t *member;

	json_object_foreach((json_t *)object, key, member)
	{
		const char *const *k = known;

		while (*k && strcmp(*k, key))
			k++;
		if (!*k)
			return error_set(err, ERROR_REQUEST, 0, "\"%s\" is not known here", key);
	}
	return 0;
}

char *json_text(const json_t *json)
{
	return json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
}

json_t *json_from_error(const struct error *e)
{
	json_t *message = json_string(e->message);

	/* A message cut in the middle of a UTF-8 sequence, or a name that was never UTF-8. */
	if (!message)
		message = json_string("the message is not text");
	return json_pack("{s:{s:s,s:i,s:o}}", "error", "kind", error_kind_name(e->kind), "exit",
		error_kind_exit(e->kind), "message", message);
}

int json_to_error(const json_t *object, struct error **err)
{
	const json_t *e = json_object_get(object, "error");
	const char *kind, *message;

	if (!e || json_is_null(e))
		return 0;
	kind = json_string_value(json_object_get(e, "kind"));
	message = json_string_value(json_object_get(e, "message"));
	return error_set(err, error_kind_from_name(kind ? kind : ""), 0, "%s",
		message ? message : "an error without a message");
}
