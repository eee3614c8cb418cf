/*
 * What the destination asks of the source, when it waits for something that may never come: its
 * droverd was away, or the network between them, when the source told it that all is off.
 */
#include "migrate/dest.h"

#include "base/clock.h"
#include "base/json.h"

#include <string.h>

#define ASK_MS 3000
#define ASK_AGAIN_MS 5000

/* How the source's side stands, as GET /v1/migrations/ID tells; NULL when it was asked a moment
 * ago, or does not answer. The caller's. */
static json_t *ask(struct migration *m)
{
	cleanup_free char *path = fs_format("/v1/migrations/%s", m->id);
	json_t *said = NULL;
	const char *side;

	if (clock_ms() - m->asked_ms < ASK_AGAIN_MS)
		return NULL;
	m->asked_ms = clock_ms();
	if (node_call(m->all->set.peers, m->peer, "GET", path, NULL, ASK_MS, &said, NULL) < 0)
		return NULL;
	side = json_get_string(said, "side", NULL);
	if (!side || strcmp(side, "source") != 0)
		json_free(&said);
	else
		m->heard_ms = clock_ms();
	return said;
}

static bool is_state(const json_t *said, const char *name)
{
	const char *state = said ? json_get_string(said, "state", NULL) : NULL;

	return state && !strcmp(state, name);
}

/* Whether the source, by what it says of its side, has served pages in post-copy. */
static bool has_served(const json_t *said)
{
	const char *step = json_get_string(said, "step", NULL);
	int64_t served_ms = 0;

	json_opt_int(
		json_object_get(said, "report"), "postcopy_ms", 0, INT64_MAX, 0, &served_ms, NULL);
	return served_ms > 0 || (step && !strcmp(step, migrate_step_name(STEP_POSTCOPY)));
}

bool dest_source_has_failed(struct migration *m)
{
	cleanup_json json_t *said = ask(m);

	return (is_state(said, "failed") || is_state(said, "cancelled")) &&
	       (migration_in_postcopy(m) || has_served(said));
}

void dest_set_stuck(struct migration *m, bool stuck)
{
	pthread_mutex_lock(&m->all->lock);
	m->stuck = stuck;
	pthread_mutex_unlock(&m->all->lock);
}

static int check_said(struct migration *m, const json_t *said, struct error **err)
{
	if (!is_state(said, "failed") && !is_state(said, "cancelled"))
		return 0;
	return error_set(err, is_state(said, "failed") ? ERROR_FAILED : ERROR_CANCELLED, 0,
		"%s gave the migration of %s up, which %s did not hear at the time", m->peer,
		m->vm_name, m->all->set.node);
}

int dest_check_given_up(struct migration *m, struct error **err)
{
	cleanup_json json_t *said = ask(m);

	return check_said(m, said, err);
}

bool dest_source_may_keep(struct migration *m)
{
	cleanup_json json_t *said = ask(m);
	const char *step = said ? json_get_string(said, "step", NULL) : NULL;

	if (!said)
		return true;
	return (is_state(said, "running") || is_state(said, "undecided")) &&
	       !(step && !strcmp(step, migrate_step_name(STEP_END)));
}

int dest_check_source(struct migration *m, struct error **err)
{
	cleanup_json json_t *said = ask(m);

	if (!m->heard_ms)
		m->heard_ms = clock_ms();
	dest_set_stuck(m, clock_ms() - m->heard_ms > MIGRATE_RECONNECT_S * 1000);
	return check_said(m, said, err);
}
