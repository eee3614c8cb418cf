#include "cli/cli.h"

#include "base/fs.h"
#include "base/json.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "node/http.h"

#include <string.h>

void cli_print_overstep(const json_t *m, const char *indent)
{
	const json_t *report = json_object_get(m, "report");
	int64_t still = cli_number(report, "downtime_ms", 0);
	int64_t limit = cli_number(report, "downtime_limit_ms", 0);

	if (limit > 0 && still > limit)
		printf("%sit stood still for longer than the %lld ms allowed: hypervisors keep "
		       "that "
		       "for the memory that is left, and the rest of a switchover comes on top\n",
			indent, (long long)limit);
}

/* The guest's own sentence for what is left to say when a migration is over. */
static void print_success(const json_t *m)
{
	const json_t *report = json_object_get(m, "report");
	char total[32], still[32], wire[32];

	cli_format_time(cli_number(report, "total_ms", 0), total);
	cli_format_time(cli_number(report, "downtime_ms", 0), still);
	cli_format_traffic(cli_number(report, "wire_bytes", 0), wire);
	printf("%s runs on %s: moved in %s, stood still %s, %s over the network\n",
		cli_text(m, "vm", "the VM"), cli_text(m, "to", "the other node"), total, still,
		wire);
	cli_print_overstep(m, "");
}

/* The error of a migration that is not done. */
static void make_error(const json_t *m, struct error **err)
{
	const char *state = cli_text(m, "state", "?"), *vm = cli_text(m, "vm", "the VM");

	if (json_to_error(m, err) < 0)
		return;
	if (!strcmp(state, "cancelled"))
		error_set(err, ERROR_CANCELLED, 0,
			"the migration of %s to %s was cancelled; it runs on %s", vm,
			cli_text(m, "to", "?"), cli_text(m, "from", "?"));
	else if (!strcmp(state, "undecided"))
		error_set(err, ERROR_UNDECIDED, 0,
			"who owns %s cannot be found out now; it stays paused and drover goes on "
			"trying; see that both nodes and the pool can be reached, then `drover "
			"migration show %s`",
			vm, cli_text(m, "id", "?"));
	else
		error_set(err, !strcmp(state, "interrupted") ? ERROR_INTERRUPTED : ERROR_FAILED, 0,
			"the migration of %s has ended as %s", vm, state);
}

static int print_result(struct cli *cli, const char *node, const char *id, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/migrations/%s", id);
	cleanup_json json_t *m = cli_call(cli, "GET", node, path, NULL, err), *result = NULL;
	cleanup_error struct error *failure = NULL;

	if (!m)
		return -1;
	result = json_pack("{s:O}", "result", m);
	if (strcmp(cli_text(m, "state", ""), "done") != 0) {
		make_error(m, &failure);
		return cli_print_error(cli, failure, result);
	}
	if (cli->json)
		cli_print_json(result);
	else
		print_success(m);
	return 0;
}

/* Shows one answer's events; the number of the last. */
static int64_t show_events(
	struct progress *p, struct interrupt *interrupt, const json_t *answer, int64_t after)
{
	const json_t *event;
	size_t i;

	json_array_foreach(json_object_get(answer, "events"), i, event)
	{
		/* While a question stands there, nothing is drawn over it. */
		if (!interrupt || !interrupt_asking(interrupt))
			progress_event(p, event);
		after = cli_number(event, "seq", after);
	}
	return after;
}

static int show_to_end(struct cli *cli, const char *node, const char *id, struct progress *p,
	struct interrupt *interrupt, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/migrations/%s/events", id);
	int64_t after = 0;

	for (;;) {
		cleanup_free char *whole =
			fs_format("%s?after=%lld&wait_ms=%d", path, (long long)after, CLI_WAIT_MS);
		cleanup_json json_t *answer =
			cli_call_within(cli, NULL, 2 * CLI_WAIT_MS, "GET", node, whole, NULL, err);

		if (!answer)
			return -1;
		after = show_events(p, interrupt, answer, after);
		if (json_is_true(json_object_get(answer, "ended")))
			return 0;
	}
}

int cli_follow(struct cli *cli, const char *node, const char *id, bool cancels, struct error **err)
{
	struct interrupt *interrupt = NULL;
	struct progress p;
	int rc;

	progress_init(&p, cli->json);
	if (cancels) {
		interrupt = interrupt_start(cli, node, id, p.how == PROGRESS_BAR, err);
		if (!interrupt)
			return -1;
	}
	rc = show_to_end(cli, node, id, &p, interrupt, err);
	if (interrupt)
		interrupt_stop(interrupt);
	progress_clear(&p);
	if (rc == 0)
		rc = print_result(cli, node, id, err);
	if (rc < 0 && err && *err &&
		((*err)->kind == ERROR_DAEMON || (*err)->kind == ERROR_UNREACHABLE))
		error_prefix(err,
			"the migration was last seen in phase \"%s\" and may be going on; when "
			"droverd answers again, `drover migration show %s%s%s` tells",
			p.last, id, node ? " --node " : "", node ? node : "");
	return rc;
}
