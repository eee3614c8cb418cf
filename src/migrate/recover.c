#include "migrate/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <string.h>

#define RETRY_MS 2000
#define RECOVERED "being recovered after a migration" /* what its VM is in use for */

struct vm *migration_take_again(struct migration *m, struct error **err)
{
	bool said = false;

	while (!m->vm) {
		struct error *e = NULL;
		struct vm *vm = vms_take_again(m->all->set.vms, m->vm_name, RECOVERED, &e);

		if (vm)
			return vm;
		if (e->kind != ERROR_BUSY) {
			error_move(err, e);
			return NULL;
		}
		if (!said)
			log_warning("migration %s is taken up later: %s", m->id, e->message);
		said = true;
		error_free(&e);
		if (!migrations_pause(m->all, RETRY_MS)) {
			error_set(err, ERROR_UNDECIDED, 0, "droverd on %s stops", m->all->set.node);
			return NULL;
		}
	}
	return m->vm;
}

/* With the newest first: whether one that comes after this has the VM. */
static bool is_overtaken(struct migration *m)
{
	const struct migration *other;

	pthread_mutex_lock(&m->all->lock);
	for (other = m->all->list; other; other = other->next)
		if (other != m && !other->ended && other->started_ms > m->started_ms &&
			!strcmp(other->vm_name, m->vm_name))
			break;
	pthread_mutex_unlock(&m->all->lock);
	return other != NULL;
}

static void recover_one(struct migration *m, const struct process_id *mover)
{
	struct error *e = NULL;

	log_warning("migration %s of %s (%s %s) was not finished: taking it up at step %s", m->id,
		m->vm_name, m->source ? "to" : "from", m->peer, migrate_step_name(m->step));
	m->mover_left = *mover;
	if (is_overtaken(m)) {
		migration_release_mover(m, clock_ms());
		error_set(&e, ERROR_INTERRUPTED, 0,
			"it was not finished when a later migration of %s began", m->vm_name);
		migration_ended(m, MIGRATE_FAILED, e);
		return;
	}
	/* Its status pipe is gone with the droverd that started it, and so is what it carried: but
	 * for the pages of a post-copy, and for a connection that must not break before it is
	 * decided who runs the VM. */
	if (!migration_runs_at_once(m) &&
		(!m->options.postcopy || (m->source && m->step <= STEP_STREAM)))
		migration_release_mover(m, clock_ms());
	/* A copy that came here and ends before the thread has it is the migration's still. */
	if (!m->source)
		m->vm = vms_take_again(m->all->set.vms, m->vm_name, RECOVERED, NULL);
	migration_spawn(m, m->source ? source_recover : dest_recover);
}

int migrations_recover(struct migrations *all, struct error **err)
{
	return journal_unfinished(all, recover_one, err);
}
