/* The beginning of a migration, up to where source_run() takes it. */
#include "migrate/internal.h"

#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "migrate/estimating.h"
#include "migrate/preflight.h"
#include "migrate/way.h"

#include <stdio.h>

/* What is known before it is begun; `estimating` is taken over when it is. */
static int begin(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, struct estimating *estimating, char id[33],
	struct error **err)
{
	char operation[128];
	struct error *busy = NULL;
	struct pool_owner owner;
	struct migration *m;
	struct vm *taken;

	snprintf(operation, sizeof(operation), "being moved to %s", node);
	taken = vms_take(all->set.vms, vm, operation, &busy);
	if (!taken) {
		if (busy->kind == ERROR_BUSY && migrations_say_busy(all, vm, err))
			error_free(&busy);
		return busy ? error_move(err, busy) : -1;
	}
	if (pool_owner_read(all->set.pool, vm, &owner, err) < 0) {
		vm_give_back(taken);
		return -1;
	}
	fs_random_hex(id, 16);
	m = migration_new(all, id, true, vm, node);
	m->vm = taken;
	m->epoch = owner.epoch;
	m->options = *options;
	migration_list(m);
	if (fault_point("migrate.src.before_journal", err) < 0 || journal_begin(m, err) < 0) {
		vm_give_back(taken);
		m->vm = NULL;
		migration_ended(m, MIGRATE_FAILED, NULL);
		return -1;
	}
	m->estimate = estimating_recall(all, vm, node, options);
	m->estimating = estimating;
	log_info("migration %s: %s to %s", id, vm, node);
	migration_spawn(m, source_run);
	return 0;
}

/* One that stands still for long is estimated in any case, before it begins. */
static int start_estimated(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, struct estimating **estimating, char id[33],
	json_t **warnings, struct error **err)
{
	cleanup_json json_t *report = preflight_run(all, vm, node, options, err);
	cleanup_json json_t *estimate = NULL;

	if (report && options->files && *estimating) {
		estimate = estimating_finish(*estimating, 0, false);
		estimating_remember(all, vm, node, options, estimate);
		estimating_free(*estimating);
		*estimating = NULL;
		migrate_way_say(report, estimate);
	}
	if (!report || preflight_refusal(report, err) < 0 ||
		begin(all, vm, node, options, *estimating, id, err) < 0)
		return -1;
	*warnings = preflight_warnings(report);
	return 0;
}

int migrations_start(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *asked, char id[33], json_t **warnings, struct error **err)
{
	struct migrate_options options = *asked;
	struct estimating *estimating = NULL;

	options.files = migrate_way(all, node, &options) == HV_WAY_FILES;
	if (options.estimate || options.files || options.pause)
		estimating = estimating_start(all, vm, node, &options, ESTIMATING_QUICKLY);
	if (start_estimated(all, vm, node, &options, &estimating, id, warnings, err) == 0)
		return 0;
	estimating_free(estimating);
	return -1;
}
