/* What a move is asked for with, as the API has it. */
#include "migrate/migrate.h"

#include "base/json.h"
#include "migrate/limits.h"
#include "migrate/preflight.h"

#include <string.h>

/* "auto", or a number of rounds; 0 is none. */
static int parse_postcopy(const json_t *object, struct migrate_options *o, struct error **err)
{
	const char *text = json_string_value(json_object_get(object, "postcopy"));
	int64_t rounds = 0;

	if (!text && json_opt_int(object, "postcopy", 0, MIGRATE_ROUNDS_MAX, 0, &rounds, err) < 0)
		return -1;
	if (text && strcmp(text, "auto"))
		return error_set(err, ERROR_REQUEST, 0,
			"\"postcopy\" is a number of rounds or \"auto\", not \"%s\"", text);
	o->postcopy = text || rounds > 0;
	o->postcopy_rounds = (int)rounds;
	if (o->postcopy && o->pause)
		return error_set(err, ERROR_USAGE, 0,
			"a guest that is paused first needs no post-copy; say either");
	return 0;
}

static int parse_bandwidth(const json_t *object, struct migrate_options *o, struct error **err)
{
	if (json_opt_int(object, "bandwidth", 0, MIGRATE_BANDWIDTH_MAX, 0, &o->bandwidth_bps, err) <
		0)
		return -1;
	if (o->bandwidth_bps == 0 || o->bandwidth_bps >= MIGRATE_BANDWIDTH_MIN)
		return 0;
	return error_set(
		err, ERROR_USAGE, 0, MIGRATE_BANDWIDTH_TOO_LOW, (long long)o->bandwidth_bps);
}

int migrate_options_parse(const json_t *object, struct migrate_options *o, struct error **err)
{
	static const char *const known[] = {"downtime_ms", "bandwidth", "timeout_ms", "pause",
		"postcopy", "warm", "reconnect_s", "force", "estimate", NULL};
	int64_t reconnect_s;
	const json_t *estimate = json_object_get(object, "estimate");

	*o = (struct migrate_options){.downtime_limit_ms = MIGRATE_DOWNTIME_MS};
	if (!object || json_is_null(object))
		return 0;
	if (!json_is_object(object))
		return error_set(err, ERROR_REQUEST, 0, "\"options\" is not an object");
	if (json_only_known(object, known, err) < 0 ||
		json_opt_int(object, "downtime_ms", 1, MIGRATE_DOWNTIME_MAX_MS, MIGRATE_DOWNTIME_MS,
			&o->downtime_limit_ms, err) < 0 ||
		parse_bandwidth(object, o, err) < 0 ||
		json_opt_int(object, "timeout_ms", 0, (int64_t)MIGRATE_TIMEOUT_MAX_S * 1000, 0,
			&o->timeout_ms, err) < 0 ||
		json_opt_bool(object, "pause", false, &o->pause, err) < 0 ||
		json_opt_bool(object, "warm", false, &o->warm, err) < 0 ||
		json_opt_bool(object, "estimate", false, &o->estimate, err) < 0 ||
		json_opt_int(object, "reconnect_s", 0, MIGRATE_RECONNECT_MAX_S, 0, &reconnect_s,
			err) < 0 ||
		preflight_parse_force(json_object_get(object, "force"), &o->forced, err) < 0)
		return -1;
	o->reconnect_s = (int)reconnect_s;
	o->no_estimate = json_is_false(estimate);
	return parse_postcopy(object, o, err);
}
