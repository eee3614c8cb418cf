/* node ls, show, rm, add: the members of the cluster. */
#include "cli/verbs.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/json.h"

#include <string.h>

#define PROBLEM_MAX (64u << 10)

const struct cli_option cli_node_ls_options[] = {{CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_node_show_options[] = {
	{CLI_POSITIONAL, "node", "NODE", "name of the node", NULL, cli_check_node},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_node_rm_options[] = {
	{CLI_POSITIONAL, "node", "NODE", "name of the node", NULL, cli_check_node},
	{CLI_FLAG, "force", NULL, "although VMs are still on it: it is dead for good", NULL},
	{CLI_FLAG, "yes", NULL, "does not ask", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_node_add_options[] = {
	{CLI_OPTIONAL, "node", "ADDRESS", "with --token: the node that made it; else the new one",
		NULL},
	{CLI_VALUE, "token", "TOKEN", "enters the cluster of ADDRESS, as `drover join` does", NULL},
	{CLI_VALUE, "name", "NAME", "this node's name (its host name)", NULL, cli_check_node},
	{CLI_VALUE, "pool", "DIR", "where the pool is mounted here", NULL},
	{CLI_VALUE, "own-address", "HOST[:PORT]", "where other nodes reach it", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* Its problem, or else what it lacks; the caller frees it. */
static char *problem_of(const json_t *node)
{
	const json_t *lacks = json_object_get(node, "cpu_lacks"), *feature;
	const char *problem = cli_text(node, "problem", "");
	struct buf text;
	size_t i;

	if (*problem || !json_array_size(lacks))
		return fs_format("%s", problem);
	buf_init(&text, PROBLEM_MAX);
	buf_printf(&text, "costs guests CPU features (drover cpu): ");
	json_array_foreach(lacks, i, feature)
	{
		if (json_is_string(feature))
			buf_printf(&text, "%s%s", i ? ", " : "", json_string_value(feature));
	}
	buf_string(&text);
	return (char *)text.data;
}

static void add_node(struct cli_table *table, const json_t *node)
{
	const json_t *hv = json_object_get(node, "hypervisor");
	cleanup_free char *hypervisor = fs_format("%s %s %s", cli_text(hv, "driver", "-"),
		cli_text(hv, "version", ""), cli_text(hv, "accel", ""));
	cleanup_free char *vms = fs_format("%lld", (long long)cli_number(node, "vms_running", 0));
	cleanup_free char *problem = problem_of(node);
	const char *state = cli_text(node, "state", "?");
	bool up = !strcmp(state, "up");

	cli_table_add(table, !up,
		(const char *const[]){cli_text(node, "name", "?"), state,
			cli_text(node, "address", "-"), cli_text(node, "version", "-"), hypervisor,
			up ? vms : "-", problem});
}

int cli_node_ls(struct cli *cli, struct error **err)
{
	static const char *const titles[] = {
		"NODE", "STATE", "ADDRESS", "VERSION", "HYPERVISOR", ">VMS", "PROBLEM"};
	static const struct cli_list list = {"/v1/nodes", "nodes", 7, titles, add_node};

	return cli_print_list(cli, NULL, &list, err);
}

/* Members of an object as "key: value" lines, those of objects below them indented. */
static void print_object(const json_t *object, int indent)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)object, key, value)
	{
		cleanup_free char *text = json_is_object(value) ? NULL : json_text(value);

		printf("%*s%s:", indent, "", key);
		if (!text) {
			putchar('\n');
			print_object(value, indent + 2);
			continue;
		}
		putchar(' ');
		cli_print_text(json_is_string(value) ? json_string_value(value) : text);
		putchar('\n');
	}
}

int cli_node_show(struct cli *cli, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/nodes/%s", cli_get(&cli->args, "node"));
	cleanup_json json_t *answer = cli_call(cli, "GET", NULL, path, NULL, err);

	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		print_object(answer, 0);
	return 0;
}

int cli_node_rm(struct cli *cli, struct error **err)
{
	const char *node = cli_get(&cli->args, "node");
	cleanup_free char *path = cli_path("/v1/nodes/%s", node), *whole = NULL, *question = NULL;
	cleanup_json json_t *answer = NULL;

	question =
		fs_format("Remove node %s from the cluster? It can do nothing there any more, at "
			  "once.",
			node);
	if (cli_must_confirm(cli, question, err) < 0)
		return -1;
	whole = fs_format("%s%s", path, cli_flag(&cli->args, "force") ? "?force=1" : "");
	answer = cli_call(cli, "DELETE", NULL, whole, NULL, err);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%s is no longer in the cluster.\n", node);
	return 0;
}

/*
 * CBSD's `node mode=add node=ADDRESS` is run on one node and reaches into the other with its root
 * password. Here a node enters by a token that is used on it: with a token this is `join`, without
 * one it is `token`, told for that address.
 */
int cli_node_add(struct cli *cli, struct error **err)
{
	const char *address = cli_get(&cli->args, "node");
	cleanup_json json_t *answer = NULL;

	if (cli_get(&cli->args, "token")) {
		if (!address)
			return error_set(err, ERROR_USAGE, 0,
				"ADDRESS is missing: of the node that made the token");
		return cli_join(cli, err);
	}
	answer = cli_call(cli, "POST", NULL, "/v1/tokens", NULL, err);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("On %s, within an hour:\n    %s\n", address ? address : "the new node",
			cli_text(answer, "command", "drover join"));
	return 0;
}
