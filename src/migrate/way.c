/* The way that a guest takes, and the checks of it: see way.h and preflight_internal.h. */
#include "migrate/way.h"

#include "base/json.h"
#include "migrate/preflight_internal.h"

#include <stdio.h>
#include <string.h>

static json_t *hypervisor_of(const struct migrations *all, const char *node)
{
	struct pool_node *record = pool_node_read(all->set.pool, node, NULL);
	cleanup_json json_t *facts = NULL;

	if (record && record->facts)
		facts = json_parse("a node's facts", record->facts, strlen(record->facts), NULL);
	pool_node_free(record);
	return json_incref(json_object_get(facts, "hypervisor"));
}

enum hv_way migrate_way(
	const struct migrations *all, const char *node, const struct migrate_options *options)
{
	cleanup_json json_t *there = hypervisor_of(all, node);

	return hv_way(all->set.hv, there, options->pause);
}

/* The guest stands still for long, and nobody is to be surprised by that: it has to be agreed to.
 */
void preflight_check_warm(struct preflight *p, struct finding *f)
{
	struct migrate_options still = p->options;
	enum hv_way way = migrate_way(p->all, p->peer, &p->options);

	still.pause = true;
	finding_here(f, way == HV_WAY_FILES ? "suspended to files" : "moved by bhyve");
	if (way == HV_WAY_STREAM)
		return;
	if (way == HV_WAY_FILES && migrate_way(p->all, p->peer, &still) == HV_WAY_STREAM)
		return; /* preflight_check_defect names --pause, which is shorter */
	if (way == HV_WAY_NONE)
		finding_set(f, PREFLIGHT_FAILED, ERROR_HYPERVISOR,
			"bhyve of %s and of %s have no way in common to move a guest "
			"(docs/bhyve.md): "
			"`drover node ls --json` shows what each can",
			p->all->set.node, p->peer);
	else if (p->options.warm)
		finding_set(f, PREFLIGHT_WARNING, 0, "it is moved by suspending it to files");
	else
		finding_set(f, PREFLIGHT_FAILED, ERROR_REFUSED,
			"it can be moved only by suspending it to files; --warm accepts that");
}

/* Room for the files on one side. */
static bool find_room(
	struct preflight *p, struct finding *f, void (*show)(struct finding *, const char *, ...))
{
	struct error *e = NULL;
	struct hv_room room;

	if (hv_room(p->all->set.hv, p->def, &room, false, &e) < 0) {
		finding_fail(f, &e);
		return false;
	}
	show(f, "%llu MiB free in %s", (unsigned long long)room.free_bytes >> 20, room.dir);
	if (room.free_bytes >= room.needed_bytes)
		return true;
	finding_set(f, PREFLIGHT_FAILED, ERROR_NO_SPACE,
		"its memory goes to files of %llu MiB in %s, where %llu MiB are free; make room, "
		"or "
		"set suspend_dir of [bhyve] in drover.conf to a place that has it",
		(unsigned long long)room.needed_bytes >> 20, room.dir,
		(unsigned long long)room.free_bytes >> 20);
	return false;
}

void preflight_check_room(struct preflight *p, struct finding *f)
{
	if (p->options.files)
		find_room(p, f, finding_there);
}

void preflight_compare_room(struct preflight *p, struct finding *f)
{
	struct finding here = {0};

	if (!p->options.files) {
		finding_here(f, "not needed");
		f->known = true;
		return;
	}
	if (find_room(p, &here, finding_here)) {
		memcpy(f->here, here.here, sizeof(f->here));
		return;
	}
	memcpy(here.there, f->there, sizeof(here.there));
	*f = here;
}

static int decimals(const json_t *ms)
{
	return json_integer_value(ms) < 10000;
}

static void say(json_t *check, const json_t *estimate)
{
	const json_t *ms = json_object_get(estimate, "downtime_ms");
	const json_t *low = json_array_get(ms, 0), *high = json_array_get(ms, 1);
	bool asked = !strcmp(json_string_value(json_object_get(check, "result")), "failed");
	cleanup_free char *time = NULL, *message = NULL;

	if (json_is_integer(low) && json_is_integer(high))
		time = fs_format("about %.*f to %.*f s", decimals(high),
			(double)json_integer_value(low) / 1000, decimals(high),
			(double)json_integer_value(high) / 1000);
	else
		time = fs_format("a time that is not known (`drover migrate --check` says why)");
	message = fs_format("it %s moved %sby suspending it to files and going on from them there, "
			    "and %s still for %s%s",
		asked ? "can be" : "is", asked ? "only " : "", asked ? "would stand" : "stands",
		time, asked ? "; --warm accepts that" : "");
	json_object_set_new(check, "message", json_string(message));
}

void migrate_way_say(json_t *report, const json_t *estimate)
{
	json_t *check;
	size_t i;

	json_array_foreach(json_object_get(report, "checks"), i, check)
	{
		const char *id = json_string_value(json_object_get(check, "id"));
		const char *here = json_string_value(json_object_get(check, "here"));
		const char *result = json_string_value(json_object_get(check, "result"));

		if (!strcmp(id, "warm") && !strcmp(here, "suspended to files") &&
			strcmp(result, "ok") != 0)
			say(check, estimate);
	}
}
