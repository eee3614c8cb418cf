#include "wire/report.h"

#include <stdio.h>
#include <stdlib.h>

void report_connected(struct run *run, struct link *link, const struct tls_peer *peer, bool plain)
{
	run_status(run, "connected",
		json_pack("{s:s,s:s,s:s,s:s}", "peer", peer->name, "address", link_address(link),
			"cipher", link_cipher(link), "codec", plain ? "plain" : "pages"));
}

void report_source_unused(struct run *run, const char *name, const struct error *why)
{
	run_status(run, "unused", json_pack("{s:s,s:s}", "source", name, "message", why->message));
}

void report_sources(struct run *run, const struct report *what)
{
	for (size_t i = 0; i < source_set_count(what->sources); i++) {
		const char *name = source_set_name(what->sources, i);

		/* One that the other side cannot read has none any more. */
		if (name)
			run_status(run, "source",
				json_pack("{s:s,s:I,s:I}", "name", name, "hits",
					(json_int_t)what->counts->hits[i], "misses",
					(json_int_t)what->counts->misses[i]));
	}
}

static json_t *kinds(const uint64_t figures[BATCH_KINDS])
{
	json_t *object = json_object();

	for (int i = 0; i < BATCH_KINDS; i++)
		json_object_set_new(object, batch_kind_name((enum batch_kind)i),
			json_integer((json_int_t)figures[i]));
	return object;
}

static json_t *levels(const struct level *level)
{
	json_t *object = json_object();

	for (unsigned i = 0; i < LEVEL_COUNT; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%d", level_list[i]);
		if (level->batches[i])
			json_object_set_new(
				object, name, json_integer((json_int_t)level->batches[i]));
	}
	return object;
}

static void add_steady(json_t *object, const struct rate_found *r)
{
	json_object_set_new(object, "steady_bps", json_integer((json_int_t)r->bps));
	json_object_set_new(object, "steady_least_bps", json_integer((json_int_t)r->least_bps));
	json_object_set_new(object, "steady_most_bps", json_integer((json_int_t)r->most_bps));
}

json_t *report_end(const struct report *what)
{
	json_t *object = json_pack("{s:o,s:o,s:I,s:i}", "pages", kinds(what->counts->pages),
		"bytes", kinds(what->counts->bytes), "other_bytes",
		(json_int_t)what->counts->other_bytes, "reconnections",
		(int)link_reconnections(what->link));

	if (!object)
		abort();
	if (what->stream)
		json_object_set_new(object, "unknown_bytes",
			json_integer((json_int_t)what->stream->unknown_bytes));
	if (what->parser)
		json_object_set_new(object, "parser", json_string(what->parser));
	if (what->steady.bps)
		add_steady(object, &what->steady);
	if (what->drain_us)
		json_object_set_new(object, "drain_us", json_integer(what->drain_us));
	if (what->level)
		json_object_set_new(object, "levels", levels(what->level));
	return object;
}
