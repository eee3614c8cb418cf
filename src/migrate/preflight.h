/*
 * Preflight: what would make a migration fail, or harm the VM, is found out on both nodes before
 * anything moves.
 *
 * preflight_table.c has the table of checks. Each gives a result, the two values that it compared
 * and, unless it is well, a sentence with what to do. The source's droverd runs its own checks and
 * asks the destination's for the others (POST /v1/preflight, docs/api.md) at the same time; those
 * that compare both run when the answer is there. Nobody is waited for longer than
 * PREFLIGHT_WAIT_MS: what has not answered by then is "unknown", which stops nothing and is said.
 */
#ifndef DROVER_MIGRATE_PREFLIGHT_H
#define DROVER_MIGRATE_PREFLIGHT_H

#include "migrate/migrate.h"

#define PREFLIGHT_WAIT_MS 6000

/*
 * All checks of a move that would be made, from the node that has the VM:
 *
 *     {"vm","from","to","ready":BOOL,"took_ms","checks":[{"id","compares","result","here","there",
 *     "message","kind","can_force","forced"}]}
 *
 * "result" is "ok", "warning", "unknown" or "failed"; "message" and "kind" are null when it is ok.
 * "ready" is false when a check has failed that options->forced does not override. NULL and an
 * error where there is nothing to check: no such VM, or it is there already.
 */
json_t *preflight_run(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, struct error **err);
/* The first failed check of a report that is not ready, as an error: "cannot move VM to NODE: …".
 * 0 when it is ready. */
int preflight_refusal(const json_t *report, struct error **err);
/* What is to be said of a report that is ready: a new array of its checks that are not ok. */
json_t *preflight_warnings(const json_t *report);

/* Reads ["memory",…], NULL for none, into a set of checks. ERROR_USAGE for a name that is no check,
 * ERROR_REFUSED for a check that is not safe to override. */
int preflight_parse_force(const json_t *list, uint32_t *forced, struct error **err);
/* Those of the set that the destination makes again when a VM is announced, as JSON; NULL when
 * there are none. */
json_t *preflight_expected_force(uint32_t forced);

/* Destination: the answer to another node's request, which is as in docs/api.md. */
json_t *preflight_answer(
	struct migrations *all, const char *from, const json_t *request, struct error **err);
/* Destination: what must be so for a VM to be received, looked at again when it is announced. */
int preflight_expected(struct migrations *all, const char *from, const struct vm_def *def,
	const struct migrate_options *options, struct error **err);

#endif
