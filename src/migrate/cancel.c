/* What cancels a migration, and until when: for who asks for that, and for who has to wait. */
#include "migrate/internal.h"

#include "base/json.h"

#include <string.h>

/* With the lock held: whether it is too late to cancel. */
static bool is_past_cancel(const struct migration *m)
{
	return m->step > STEP_STREAM && !m->stuck;
}

/* With the lock held: whether only the source can be asked to cancel. Here it is not known whether
 * it has been switched: this copy may be the VM. */
static bool is_sources_to_cancel(const struct migration *m)
{
	return !m->source && m->options.postcopy && !m->stuck;
}

bool migrations_say_busy(struct migrations *all, const char *vm, struct error **err)
{
	const struct migration *m;
	const char *self = all->set.node;

	pthread_mutex_lock(&all->lock);
	m = migration_find_of_vm(all, vm);
	if (m && is_past_cancel(m))
		error_set(err, ERROR_BUSY, 0,
			"%s is being moved from %s to %s, and it is too late to cancel that; wait "
			"until it has ended",
			vm, m->source ? self : m->peer, m->source ? m->peer : self);
	else if (m)
		error_set(err, ERROR_BUSY, 0,
			"%s is being moved from %s to %s; wait until that has ended, or end it "
			"with "
			"`drover migration cancel %s --node %s`",
			vm, m->source ? self : m->peer, m->source ? m->peer : self, m->id,
			is_sources_to_cancel(m) ? m->peer : self);
	pthread_mutex_unlock(&all->lock);
	return m != NULL;
}

/* With the lock held. */
static int too_late(const struct migration *m, struct error **err)
{
	const char *to = m->source ? m->peer : m->all->set.node;

	if (m->step == STEP_SWITCH || m->step == STEP_POSTCOPY)
		return error_set(err, ERROR_REFUSED, 0,
			"it is too late to cancel: %s has been switched to post-copy, and each "
			"node "
			"has a part of it; it will be whole on %s",
			m->vm_name, to);
	return error_set(err, ERROR_REFUSED, 0,
		"it is too late to cancel: %s is being handed over to %s", m->vm_name, to);
}

/* One that is known here has ended: how, for who comes too late. */
static int has_ended(struct migrations *all, const char *id, struct error **err)
{
	cleanup_json json_t *info = journal_show(all, id, NULL);
	const char *state = info ? json_get_string(info, "state", NULL) : NULL;
	const char *vm = info ? json_get_string(info, "vm", NULL) : NULL;
	const char *to = info ? json_get_string(info, "to", NULL) : NULL;

	if (!state || !vm || !to)
		return error_set(err, ERROR_NOT_FOUND, 0,
			"no migration %s is in progress on %s; `drover migration ls` lists them",
			id, all->set.node);
	if (!strcmp(state, "done"))
		return error_set(err, ERROR_NOT_FOUND, 0,
			"it is too late to cancel: %s has been moved to %s", vm, to);
	return error_set(err, ERROR_NOT_FOUND, 0,
		"the migration of %s to %s has ended already (%s); `drover migration show %s` "
		"tells more",
		vm, to, state, id);
}

int migrations_cancel(struct migrations *all, const char *id, struct error **err)
{
	struct migration *m;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	m = migration_find(all, id);
	if (m && m->ended)
		m = NULL;
	if (m && is_past_cancel(m))
		rc = too_late(m, err);
	else if (m && is_sources_to_cancel(m))
		rc = error_set(err, ERROR_REFUSED, 0,
			"a post-copy migration is cancelled on %s, from where %s comes: `drover "
			"migration cancel %s --node %s`",
			m->peer, m->vm_name, id, m->peer);
	else if (m)
		m->cancel = true;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	return m ? rc : has_ended(all, id, err);
}
