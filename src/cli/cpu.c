/* cpu: what the nodes' hypervisors can give to guests, and the best that they all can. */
#include "cli/verbs.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_MAX (64u << 10)
/* Columns of nodes beside each other; more are not told apart by eye. */
#define COLUMNS_MAX 12

const struct cli_option cli_cpu_options[] = {
	{CLI_WORDS, "node", "NODE", "only these nodes (all)", NULL, cli_check_node},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* Texts of an array with a comma between them; the caller frees it. */
static char *join(const json_t *array)
{
	const json_t *text;
	struct buf out;
	size_t i;

	buf_init(&out, TEXT_MAX);
	json_array_foreach(array, i, text)
	{
		if (json_is_string(text))
			buf_printf(&out, "%s%s", i ? ", " : "", json_string_value(text));
	}
	buf_string(&out);
	return (char *)out.data;
}

static bool holds(const json_t *array, const char *text)
{
	const json_t *member;
	size_t i;

	json_array_foreach(array, i, member)
	{
		if (json_is_string(member) && !strcmp(json_string_value(member), text))
			return true;
	}
	return false;
}

static void print_nodes(const json_t *nodes)
{
	static const char *const titles[] = {"NODE", "HYPERVISOR", "ACCEL", "CPU OF", "LACKS"};
	struct cli_table *table = cli_table_new(5, titles);
	const json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		bool emulated = !strcmp(cli_text(node, "accel", ""), "tcg");
		cleanup_free char *lacks = join(json_object_get(node, "lacks"));
		cleanup_free char *hypervisor = fs_format(
			"%s %s", cli_text(node, "driver", "-"), cli_text(node, "version", ""));

		cli_table_add(table, *lacks || *cli_text(node, "problem", ""),
			(const char *const[]){cli_text(node, "node", "?"), hypervisor,
				cli_text(node, "accel", "-"),
				emulated ? "emulated" : cli_text(node, "vendor", "-"),
				*lacks ? lacks : cli_text(node, "problem", "nothing")});
	}
	cli_table_print(table);
}

/* Nodes × features that not all of them have. */
static void print_differences(const json_t *answer)
{
	const json_t *nodes = json_object_get(answer, "nodes"), *node, *feature;
	const char *texts[COLUMNS_MAX + 1] = {"FEATURE"};
	struct cli_table *table;
	size_t i, j, columns = 1;

	json_array_foreach(nodes, j, node)
	{
		if (json_object_get(node, "features") && columns <= COLUMNS_MAX)
			texts[columns++] = cli_text(node, "node", "?");
	}
	table = cli_table_new(columns, texts);
	json_array_foreach(json_object_get(answer, "differ"), i, feature)
	{
		columns = 1;
		texts[0] = json_is_string(feature) ? json_string_value(feature) : "?";
		json_array_foreach(nodes, j, node)
		{
			const json_t *has = json_object_get(node, "features");

			if (has && columns <= COLUMNS_MAX)
				texts[columns++] = holds(has, texts[0]) ? "yes" : "-";
		}
		cli_table_add(table, false, texts);
	}
	putchar('\n');
	cli_table_print(table);
}

/* "Westmere-v1 with abm, adx" of an exact CPU; the caller frees it. */
static char *in_words(const char *cpu)
{
	struct buf out;

	buf_init(&out, TEXT_MAX);
	buf_printf(&out, "%.*s", (int)strcspn(cpu, ","), cpu);
	cpu += strcspn(cpu, ",");
	for (int n = 0; *cpu; n++) {
		size_t len = strcspn(++cpu, ",");

		/* Behind the sign. */
		buf_printf(&out, "%s%.*s", n ? ", " : " with ", (int)len - 1, cpu + 1);
		cpu += len;
	}
	buf_string(&out);
	return (char *)out.data;
}

static void print_baselines(const json_t *baselines)
{
	const json_t *group;
	size_t i;

	json_array_foreach(baselines, i, group)
	{
		cleanup_free char *nodes = join(json_object_get(group, "nodes"));
		cleanup_free char *cpu = in_words(cli_text(group, "cpu", ""));

		printf("\ncpu = baseline is now, on %s:\n  ", nodes);
		cli_print_text(*cpu ? cpu : cli_text(group, "problem", "nothing"));
		putchar('\n');
	}
}

static void print_costs(const json_t *nodes)
{
	const json_t *node;
	size_t i;

	json_array_foreach(nodes, i, node)
	{
		const char *without = cli_text(node, "without_it", NULL);
		cleanup_free char *cpu = without ? in_words(without) : NULL;

		if (cpu)
			printf("\nWithout %s it would be:\n  %s\n", cli_text(node, "node", "?"),
				cpu);
	}
}

static void print_stuck(const json_t *vms)
{
	const json_t *vm, *to;
	size_t i, j;

	json_array_foreach(vms, i, vm)
	{
		json_array_foreach(json_object_get(vm, "cannot_move_to"), j, to)
		{
			const char *node = cli_text(to, "node", "?");
			cleanup_free char *missing = join(json_object_get(to, "missing"));

			printf("%s%s on %s cannot move to %s: ", i + j ? "" : "\n",
				cli_text(vm, "vm", "?"), cli_text(vm, "node", "?"), node);
			if (*missing)
				printf("its CPU has %s\n", missing);
			else
				printf("%s\n", cli_text(to, "problem", "?"));
		}
	}
}

/* "/v1/cpu?nodes=a,b"; the caller frees it. */
static char *make_path(const struct cli_args *args)
{
	struct buf nodes;
	const char *node;
	char *path;

	buf_init(&nodes, TEXT_MAX);
	for (size_t i = 0; (node = cli_get_nth(args, "node", i)); i++)
		buf_printf(&nodes, "%s%s", i ? "," : "", node);
	path = nodes.len ? cli_path("/v1/cpu?nodes=%s", buf_string(&nodes)) : fs_format("/v1/cpu");
	buf_free(&nodes);
	return path;
}

int cli_cpu(struct cli *cli, struct error **err)
{
	cleanup_free char *path = make_path(&cli->args);
	cleanup_json json_t *answer = cli_call(cli, "GET", NULL, path, NULL, err);
	const json_t *nodes = json_object_get(answer, "nodes");

	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	print_nodes(nodes);
	if (json_array_size(json_object_get(answer, "differ")))
		print_differences(answer);
	print_baselines(json_object_get(answer, "baselines"));
	print_costs(nodes);
	print_stuck(json_object_get(answer, "vms"));
	return 0;
}
