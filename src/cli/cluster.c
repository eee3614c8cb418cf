/* init, join, token, status: this node and its cluster. */
#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct cli_option cli_init_options[] = {
	{CLI_VALUE, "pool", "DIR", "directory that all nodes mount", NULL},
	{CLI_VALUE, "name", "NAME", "this node's name (its host name)", NULL, cli_check_node},
	{CLI_VALUE, "address", "HOST[:PORT]", "where other nodes reach it (found out)", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

const struct cli_option cli_join_options[] = {
	{CLI_POSITIONAL, "address", "ADDRESS", "address of the node that made the token", "node"},
	{CLI_VALUE, "token", "TOKEN", "what `drover init` or `drover token` printed there", NULL},
	{CLI_VALUE, "name", "NAME", "this node's name (its host name)", NULL, cli_check_node},
	{CLI_VALUE, "pool", "DIR", "where the pool is mounted here (as over there)", NULL},
	{CLI_VALUE, "own-address", "HOST[:PORT]", "where other nodes reach it (found out)", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

const struct cli_option cli_token_options[] = {{CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_status_options[] = {
	{CLI_VALUE, "node", "NODE", "of another node", NULL, cli_check_node},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* droverd has another working directory. */
static char *absolute(const char *path)
{
	cleanup_free char *here = NULL;

	if (*path == '/')
		return fs_format("%s", path);
	here = getcwd(NULL, 0);
	return here ? fs_format("%s/%s", here, path) : fs_format("%s", path);
}

static void put(json_t *body, const char *key, const char *value)
{
	if (value)
		json_object_set_new(body, key, json_string(value));
}

static void print_join_command(const json_t *answer)
{
	printf("On each node that is to join, within an hour (a token is good once):\n    %s\n",
		cli_text(answer, "command", "drover join"));
}

int cli_init(struct cli *cli, struct error **err)
{
	cleanup_json json_t *body = json_object(), *answer = NULL;
	const char *pool = cli_get(&cli->args, "pool");
	cleanup_free char *dir = pool ? absolute(pool) : NULL;

	if (!pool)
		return error_set(err, ERROR_USAGE, 0,
			"--pool is missing: the directory that all nodes mount");
	put(body, "pool", dir);
	put(body, "name", cli_get(&cli->args, "name"));
	put(body, "address", cli_get(&cli->args, "address"));
	answer = cli_call(cli, "POST", NULL, "/v1/init", body, err);
	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	printf("%s is the first node of cluster %s.\n", cli_text(answer, "node", "This node"),
		cli_text(answer, "cluster", ""));
	print_join_command(answer);
	return 0;
}

int cli_join(struct cli *cli, struct error **err)
{
	cleanup_json json_t *body = json_object(), *answer = NULL;
	const char *pool = cli_get(&cli->args, "pool");
	cleanup_free char *dir = pool ? absolute(pool) : NULL;

	if (!cli_get(&cli->args, "token"))
		return error_set(err, ERROR_USAGE, 0,
			"--token is missing: `drover token` on a node of the cluster makes one");
	/* By `node mode=add` it is called a node. */
	put(body, "address", cli_get(&cli->args, cli->verb->run == cli_join ? "address" : "node"));
	put(body, "token", cli_get(&cli->args, "token"));
	put(body, "name", cli_get(&cli->args, "name"));
	put(body, "pool", dir);
	put(body, "own_address", cli_get(&cli->args, "own-address"));
	answer = cli_call(cli, "POST", NULL, "/v1/join", body, err);
	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	printf("%s has joined cluster %s.\n", cli_text(answer, "node", "This node"),
		cli_text(answer, "cluster", ""));
	if (json_array_size(json_object_get(answer, "cpu_lacks")))
		printf("It can give guests less than the other nodes: `drover cpu` shows what that "
		       "costs.\n");
	return 0;
}

int cli_token(struct cli *cli, struct error **err)
{
	cleanup_json json_t *answer = cli_call(cli, "POST", NULL, "/v1/tokens", NULL, err);

	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		print_join_command(answer);
	return 0;
}

static void print_problems(const json_t *status)
{
	const json_t *problems = json_object_get(status, "problems"), *problem;
	size_t i;

	json_array_foreach(problems, i, problem)
	{
		printf("  problem:     ");
		cli_print_text(json_is_string(problem) ? json_string_value(problem) : "?");
		putchar('\n');
	}
}

int cli_status(struct cli *cli, struct error **err)
{
	const char *node = cli_get(&cli->args, "node");
	cleanup_json json_t *status = cli_call(cli, "GET", node, "/v1/status", NULL, err);
	const json_t *hv = json_object_get(status, "hypervisor");
	char vms[64], migrations[64];

	if (!status)
		return -1;
	if (cli->json) {
		cli_print_json(status);
		return 0;
	}
	printf("%s, drover %s, %s\n", cli_text(status, "node", "this node (in no cluster)"),
		cli_text(status, "version", "?"),
		json_is_true(json_object_get(status, "ready")) ? "ready" : "NOT READY");
	printf("  cluster:     %s\n", cli_text(status, "cluster", "none: `drover init` makes one"));
	printf("  pool:        %s\n", cli_text(status, "pool", "none"));
	printf("  hypervisor:  %s %s, %s\n", cli_text(hv, "driver", "none"),
		cli_text(hv, "version", ""), cli_text(hv, "accel", "no VM can run"));
	if (*cli_text(hv, "no_live", ""))
		printf("  live moves:  no: %s\n", cli_text(hv, "no_live", ""));
	cli_format_count(cli_number(status, "vms_running", 0), "VM", vms);
	cli_format_count(cli_number(status, "migrations_running", 0), "migration", migrations);
	printf("  running:     %s, %s\n", vms, migrations);
	print_problems(status);
	return 0;
}
