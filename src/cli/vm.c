/* start, stop, show, set, rm, rename: one VM. */
#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

#include <string.h>
#include <time.h>

#define VM \
	{ \
		CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname name", cli_check_vm \
	}
#define STOP_S 60
#define STOP_MAX_S 600 /* as the API takes it */

const struct cli_option cli_start_options[] = {
	VM,
	{CLI_VALUE, "node", "NODE", "on that node", NULL, cli_check_node},
	{CLI_FLAG, "discard", NULL,
		"boots a suspended VM anew: its saved state is lost, as by a power cut", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_suspend_options[] = {
	VM,
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_stop_options[] = {
	VM,
	{CLI_VALUE, "timeout", "SECONDS", "for the guest to power off (60); 0: ends it at once",
		NULL},
	{CLI_FLAG, "hard", NULL, "ends it at once", "force"},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_show_options[] = {
	VM,
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_set_options[] = {
	VM,
	{CLI_VALUE, "memory", "SIZE", "512M, 4G", "vm_ram ram"},
	{CLI_VALUE, "cpus", "N", "virtual CPUs", "vm_cpus"},
	{CLI_KEYS, "key", "KEY=VALUE",
		"a key of its vm.conf, as drover(1) lists them; KEY= removes it", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_rm_options[] = {
	VM,
	{CLI_FLAG, "discard", NULL, "also a suspended VM, whose guest's state is lost", NULL},
	{CLI_FLAG, "yes", NULL, "does not ask", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_rename_options[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname old", cli_check_vm},
	{CLI_POSITIONAL, "to", "NEW", "its new name", "new", cli_check_vm},
	{CLI_END, NULL, NULL, NULL, NULL},
};

static const char *vm_name(const struct cli *cli)
{
	return cli_get(&cli->args, "vm");
}

/* Prints the object, or the sentence. */
static int say(const struct cli *cli, const json_t *answer, const char *sentence)
{
	if (cli->json)
		cli_print_json(answer);
	else
		printf("%s\n", sentence);
	return 0;
}

/* What became of a guest that was suspended, for the end of a sentence. `before`: the VM before it
 * was started, NULL where that is not known. */
static const char *outcome(const json_t *before, bool discard)
{
	if (!json_object_get(before, "saved"))
		return "";
	return discard ? ", started anew; its guest's saved state is gone"
		       : ", and goes on from where it was suspended";
}

static void say_started(struct cli *cli, const json_t *before, const json_t *answer)
{
	bool discard = cli_flag(&cli->args, "discard");
	const char *node = cli_get(&cli->args, "node");
	cleanup_free char *here = node ? NULL : cli_this_node(cli, NULL), *sentence = NULL;

	if (discard && before && !json_object_get(before, "saved"))
		fprintf(stderr, "drover: %s was not suspended: --discard had nothing to discard\n",
			vm_name(cli));
	sentence = fs_format("%s runs on %s%s", vm_name(cli),
		node   ? node
		: here ? here
		       : "this node",
		outcome(before, discard));
	say(cli, answer, sentence);
}

int cli_start(struct cli *cli, struct error **err)
{
	cleanup_free char *vm = cli_path("/v1/vms/%s", vm_name(cli));
	cleanup_free char *path = fs_format("%s/start", vm);
	/* Where it is not told, the start itself will tell why. */
	cleanup_json json_t *before = cli_call(cli, "GET", NULL, vm, NULL, NULL);
	cleanup_json json_t *body =
		cli_flag(&cli->args, "discard") ? json_pack("{s:b}", "discard", 1) : NULL;
	cleanup_json json_t *answer = cli_call_within(cli, NULL, CLI_CALL_MS + CLI_CALL_MS / 5,
		"POST", cli_get(&cli->args, "node"), path, body, err);

	if (!answer)
		return -1;
	say_started(cli, before, answer);
	return 0;
}

json_t *cli_stop_request(const struct cli_args *args, struct error **err)
{
	int64_t seconds;

	if (cli_get_number(args, "timeout", 0, STOP_MAX_S, STOP_S, &seconds, err) < 0)
		return NULL;
	if (cli_flag(args, "hard"))
		seconds = 0;
	return json_pack("{s:I}", "timeout_ms", (json_int_t)seconds * 1000);
}

int cli_stop(struct cli *cli, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s/stop", vm_name(cli)), *sentence = NULL;
	cleanup_json json_t *answer = NULL, *body = cli_stop_request(&cli->args, err);
	int64_t seconds = cli_number(body, "timeout_ms", 0) / 1000;

	if (!body)
		return -1;
	answer = cli_call_within(
		cli, NULL, (int)seconds * 1000 + CLI_CALL_MS / 10, "POST", NULL, path, body, err);
	if (!answer)
		return -1;
	if (seconds > 0 && json_is_true(json_object_get(answer, "forced")))
		sentence = fs_format("%s was ended: its guest had not powered off within %lld s",
			vm_name(cli), (long long)seconds);
	else
		sentence = fs_format("%s is stopped", vm_name(cli));
	return say(cli, answer, sentence);
}

int cli_suspend(struct cli *cli, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s/suspend", vm_name(cli)), *sentence = NULL;
	/* Longer than droverd waits for the hypervisor. */
	cleanup_json json_t *answer = cli_call_within(
		cli, NULL, CLI_CALL_MS + CLI_CALL_MS / 5, "POST", NULL, path, NULL, err);

	if (!answer)
		return -1;
	sentence = fs_format(
		"%s is suspended; `drover start %s` lets it go on", vm_name(cli), vm_name(cli));
	return say(cli, answer, sentence);
}

/* Since when a suspended VM is, and what its state is of. */
static void print_saved(const json_t *saved)
{
	char when[64] = "?", size[32];
	time_t seconds = (time_t)(cli_number(saved, "when_ms", 0) / 1000);
	struct tm tm;

	if (!saved)
		return;
	if (*cli_text(saved, "problem", "")) {
		printf("problem: %s\n", cli_text(saved, "problem", ""));
		return;
	}
	if (localtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	cli_format_size(cli_number(saved, "bytes", 0), size);
	printf("suspended on %s at %s, %s\n", cli_text(saved, "node", "?"), when, size);
}

int cli_show(struct cli *cli, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s", vm_name(cli));
	cleanup_json json_t *vm = cli_call(cli, "GET", NULL, path, NULL, err);
	char time[32];

	if (!vm)
		return -1;
	if (cli->json) {
		cli_print_json(vm);
		return 0;
	}
	printf("%s: %s", vm_name(cli), cli_text(vm, "state", "?"));
	if (*cli_text(vm, "node", ""))
		printf(", on %s", cli_text(vm, "node", ""));
	printf(", epoch %lld", (long long)cli_number(vm, "epoch", 0));
	if (cli_number(vm, "uptime_s", -1) >= 0) {
		cli_format_time(cli_number(vm, "uptime_s", 0) * 1000, time);
		printf(", for %s, process %lld", time, (long long)cli_number(vm, "pid", 0));
	}
	putchar('\n');
	if (*cli_text(vm, "operation", ""))
		printf("%s\n", cli_text(vm, "operation", ""));
	if (*cli_text(vm, "problem", ""))
		printf("problem: %s\n", cli_text(vm, "problem", ""));
	print_saved(json_object_get(vm, "saved"));
	putchar('\n');
	cli_print_text(cli_text(vm, "conf", ""));
	return 0;
}

static json_t *keys_to_set(const struct cli_args *args)
{
	static const char *const named[] = {"memory", "cpus"};
	json_t *set = json_object();
	const char *key, *value;

	for (size_t i = 0; i < 2; i++)
		if (cli_get(args, named[i]))
			json_object_set_new(set, named[i], json_string(cli_get(args, named[i])));
	for (size_t i = 0; cli_get_key(args, i, &key, &value); i++)
		json_object_set_new(set, key, *value ? json_string(value) : json_null());
	return set;
}

json_t *cli_set_request(const struct cli_args *args, struct error **err)
{
	cleanup_json json_t *set = keys_to_set(args);

	if (json_object_size(set) == 0) {
		error_set(err, ERROR_USAGE, 0, "nothing to set: give KEY=VALUE, like memory=2G");
		return NULL;
	}
	return cli_check_keys(set, err) < 0 ? NULL : json_pack("{s:O}", "set", set);
}

int cli_set(struct cli *cli, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s", vm_name(cli)), *sentence = NULL;
	cleanup_json json_t *body = cli_set_request(&cli->args, err), *answer = NULL;

	if (!body)
		return -1;
	answer = cli_call(cli, "PATCH", NULL, path, body, err);
	if (!answer)
		return -1;
	if (json_is_true(json_object_get(answer, "suspended")))
		sentence =
			fs_format("%s is changed; it is suspended, goes on as it was, and gets "
				  "this when it is stopped and started after that, or by `drover "
				  "start %s --discard`",
				vm_name(cli), vm_name(cli));
	else
		sentence = fs_format("%s is changed%s", vm_name(cli),
			json_is_true(json_object_get(answer, "running"))
				? "; it runs, and gets this when it is started again"
				: "");
	return say(cli, answer, sentence);
}

/* Before anything is asked; droverd refuses it, too. */
static int check_discard(const struct cli *cli, const json_t *vm, struct error **err)
{
	if (!json_object_get(vm, "saved") || cli_flag(&cli->args, "discard"))
		return 0;
	return error_set(err, ERROR_REFUSED, 0,
		"%s is suspended, and its guest would be lost: `drover start %s` lets it go on, "
		"with --discard boots it anew; `drover rm %s --discard` removes it all the same",
		vm_name(cli), vm_name(cli), vm_name(cli));
}

int cli_rm(struct cli *cli, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s", vm_name(cli)), *sentence = NULL;
	cleanup_free char *question = NULL, *whole = NULL;
	cleanup_json json_t *answer = NULL, *known = NULL;

	/* Before asking: a name that is wrong needs no question. */
	known = cli_call(cli, "GET", NULL, path, NULL, err);
	question = fs_format("Remove %s with its definition%s and all disks in its directory?",
		vm_name(cli),
		json_object_get(known, "saved") ? ", the saved state of its guest" : "");
	if (!known || check_discard(cli, known, err) < 0 ||
		cli_must_confirm(cli, question, err) < 0)
		return -1;
	/* One that was suspended while the question stood there is kept. */
	whole = fs_format("%s%s", path, json_object_get(known, "saved") ? "?discard=1" : "");
	answer = cli_call(cli, "DELETE", NULL, whole, NULL, err);
	if (!answer)
		return -1;
	sentence = fs_format("%s is removed", vm_name(cli));
	return say(cli, answer, sentence);
}

int cli_rename(struct cli *cli, struct error **err)
{
	const char *to = cli_get(&cli->args, "to");
	cleanup_free char *path = cli_path("/v1/vms/%s/rename", vm_name(cli)), *sentence = NULL;
	cleanup_json json_t *body = json_pack("{s:s}", "to", to), *answer = NULL;

	answer = cli_call(cli, "POST", NULL, path, body, err);
	if (!answer)
		return -1;
	sentence = fs_format("%s is %s now", vm_name(cli), to);
	return say(cli, answer, sentence);
}
