#include "migrate/internal.h"

#include "base/log.h"

#include <signal.h>

#include "base/clock.h"

#define END_MS 2000

static void recover_one(struct migration *m, const struct process_id *mover)
{
	log_warning("migration %s of %s (%s %s) was not finished: taking it up at step %s", m->id,
		m->vm_name, m->source ? "to" : "from", m->peer, migrate_step_name(m->step));
	/* Its status pipe is gone with the droverd that started it, and so is what it carried. */
	if (process_alive(mover)) {
		process_signal(mover, SIGKILL);
		process_wait(mover, clock_ms() + END_MS, NULL);
	}
	migration_spawn(m, m->source ? source_recover : dest_recover);
}

int migrations_recover(struct migrations *all, struct error **err)
{
	return journal_unfinished(all, recover_one, err);
}
