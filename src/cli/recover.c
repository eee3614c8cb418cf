/* recover: takes a VM over from a node that has died. */
#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

const struct cli_option cli_recover_options[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname name", cli_check_vm},
	{CLI_FLAG, "start", NULL, "starts it here, too", NULL},
	{CLI_FLAG, "fenced", NULL,
		"says that its node is off, or that its hypervisor has ended there: neither the "
		"machine nor the locks of the disks are asked",
		NULL},
	{CLI_FLAG, "yes", NULL, "does not ask", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

static json_t *ask_daemon(struct cli *cli, const char *vm, bool check, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s/recover", vm);
	cleanup_json json_t *body =
		json_pack("{s:b, s:b}", "fenced", cli_flag(&cli->args, "fenced"), "check", check);

	return cli_call(cli, "POST", NULL, path, body, err);
}

/* Whoever is asked knows what was found out, and what was not. */
static int confirm(struct cli *cli, const char *vm, struct error **err)
{
	cleanup_json json_t *found = NULL;
	cleanup_free char *question = NULL;

	if (cli_flag(&cli->args, "yes"))
		return 0;
	found = ask_daemon(cli, vm, true, err);
	if (!found)
		return -1;
	question = fs_format("%s belongs to %s, which does not answer. If it runs there, behind a "
			     "network that is cut, there will be two of it. Is %s off, and is %s "
			     "to be taken over?",
		vm, cli_text(found, "from", "?"), cli_text(found, "from", "?"), vm);
	return cli_must_confirm(cli, question, err);
}

int cli_recover(struct cli *cli, struct error **err)
{
	const char *vm = cli_get(&cli->args, "vm");
	cleanup_free char *path = cli_path("/v1/vms/%s/start", vm);
	cleanup_json json_t *answer = NULL, *started = NULL;
	bool start = cli_flag(&cli->args, "start");

	if (confirm(cli, vm, err) < 0)
		return -1;
	answer = ask_daemon(cli, vm, false, err);
	if (!answer)
		return -1;
	if (start) {
		started = cli_call(cli, "POST", NULL, path, NULL, err);
		if (!started)
			return error_prefix(err, "%s belongs to %s now, but does not start", vm,
				cli_text(answer, "node", "this node"));
	}
	json_object_set_new(answer, "started", json_boolean(start));
	if (cli->json)
		cli_print_json(answer);
	else if (start)
		printf("%s runs on %s\n", vm, cli_text(answer, "node", "?"));
	else
		printf("%s belongs to %s now; `drover start %s` starts it\n", vm,
			cli_text(answer, "node", "?"), vm);
	return 0;
}
