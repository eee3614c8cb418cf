#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

#include <string.h>

const struct cli_option cli_ls_options[] = {
	{CLI_FLAG, "local", NULL, "only what is on this node", NULL},
	{CLI_VALUE, "node", "NODE", "only what is on that node", NULL, cli_check_node},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* "paused", and what is being done with it. */
static void add_vm(struct cli_table *table, const json_t *vm, bool undecided)
{
	int64_t memory = cli_number(vm, "memory", -1), cpus = cli_number(vm, "cpus", -1);
	const char *state = undecided ? "UNDECIDED" : cli_text(vm, "state", "?");
	const char *doing = cli_text(vm, "operation", cli_text(vm, "problem", ""));
	cleanup_free char *cpus_text = fs_format("%lld", (long long)cpus);
	char size[32] = "-";

	if (memory >= 0)
		cli_format_size(memory, size);
	cli_table_add(table, undecided || !strcmp(state, "broken") || !strcmp(state, "failed"),
		(const char *const[]){cli_text(vm, "name", "?"), cli_text(vm, "node", "-"), state,
			size, cpus < 0 ? "-" : cpus_text, doing});
}

/* The undecided migration of a VM, NULL when there is none. */
static const json_t *undecided_of(const json_t *migrations, const json_t *vm)
{
	const json_t *m;
	size_t i;

	json_array_foreach(json_object_get(migrations, "migrations"), i,
		m) if (!strcmp(cli_text(m, "state", ""), "undecided") &&
		       !strcmp(cli_text(m, "vm", ""), cli_text(vm, "name", ""))) return m;
	return NULL;
}

static void print_undecided(const json_t *m)
{
	const char *id = cli_text(m, "id", "?");

	printf("\n%s: who owns it cannot be found out: its migration from %s to %s is UNDECIDED. "
	       "It "
	       "stays\npaused, and drover goes on trying. Do not start it by hand. See that both "
	       "nodes and the\npool can be reached; `drover migration show %s` tells more.\n",
		cli_text(m, "vm", "?"), cli_text(m, "from", "?"), cli_text(m, "to", "?"), id);
}

static void print_table(const json_t *answer, const json_t *migrations)
{
	static const char *const titles[] = {
		"VM", "NODE", "STATE", ">MEMORY", ">CPUS", "OPERATION"};
	struct cli_table *table = cli_table_new(6, titles);
	const json_t *vms = json_object_get(answer, "vms"), *vm;
	size_t i;

	json_array_foreach(vms, i, vm) add_vm(table, vm, undecided_of(migrations, vm) != NULL);
	cli_table_print(table);
	json_array_foreach(vms, i, vm)
	{
		const json_t *m = undecided_of(migrations, vm);

		if (m)
			print_undecided(m);
	}
}

/* Without a pool there is no list, and it is then that something is undecided. */
static void print_all_undecided(const json_t *migrations)
{
	const json_t *m;
	size_t i;

	json_array_foreach(json_object_get(migrations, "migrations"), i,
		m) if (!strcmp(cli_text(m, "state", ""), "undecided")) print_undecided(m);
}

int cli_ls(struct cli *cli, struct error **err)
{
	const char *node = cli_get(&cli->args, "node");
	bool here = node || cli_flag(&cli->args, "local");
	cleanup_json json_t *answer =
		cli_call(cli, "GET", node, here ? "/v1/vms?all=0" : "/v1/vms", NULL, err);
	cleanup_json json_t *migrations = NULL;

	if (cli->json && answer)
		cli_print_json(answer);
	if (cli->json)
		return answer ? 0 : -1;
	migrations = cli_call(cli, "GET", node, "/v1/migrations", NULL, NULL);
	if (!answer) {
		print_all_undecided(migrations);
		return -1;
	}
	print_table(answer, migrations);
	return 0;
}
