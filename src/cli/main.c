#include "base/fs.h"
#include "cli/verbs.h"
#include "node/http.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define VERB(name) cli_##name, .options = cli_##name##_options
#define ASKING_VERB(name) VERB(name), .request = cli_##name##_request

static const struct cli_verb verbs[] = {
	{"init", VERB(init), .summary = "Makes a cluster of this node and a pool",
		.examples = "drover init --pool /pool --name node1"},
	{"join", VERB(join), .summary = "Takes this node into a cluster",
		.examples =
			"drover join 10.0.0.1 --token drover1.TOKEN\n"
			"drover join 10.0.0.1 --token drover1.TOKEN --name node2 --pool /mnt/pool"},
	{"token", VERB(token), .summary = "Makes the command that another node joins with",
		.examples = "drover token"},
	{"status", VERB(status), .summary = "Shows how this node is",
		.examples = "drover status\ndrover status --node node2"},
	{"node ls", VERB(node_ls), .summary = "Lists the nodes", .examples = "drover node ls"},
	{"node show", VERB(node_show), .summary = "Shows what a node is and can do",
		.examples = "drover node show node2"},
	{"node rm", VERB(node_rm), .summary = "Removes a node from the cluster",
		.examples = "drover node rm node2\ndrover node rm node2 --force --yes"},
	{"node add", VERB(node_add), .summary = "Adds a node, in CBSD's words",
		.examples = "drover node mode=add node=10.0.0.2\n"
			    "drover node mode=add node=10.0.0.1 token=drover1.TOKEN"},
	{"cpu", VERB(cpu), .summary = "Shows which CPUs the nodes can give to guests",
		.examples = "drover cpu\ndrover cpu node1 node3\ndrover cpu --json"},
	{"topology", VERB(topology),
		.summary = "Draws the sockets, cores and NUMA nodes of a node, with its VMs",
		.examples = "drover topology\ndrover topology node2"},
	{"create", ASKING_VERB(create), .summary = "Makes a VM",
		.examples =
			"drover create web1 --memory 1G --cpus 2 --disk disk0.qcow2,size=10G "
			"--nic bridge=br0\n"
			"drover create web2 --memory 4G --disk "
			"disk0.qcow2,backing=images/debian.qcow2,backing_format=qcow2 --nic "
			"bridge=br0\n"
			"drover create test --kernel /srv/vmlinuz --initrd /srv/initrd --append "
			"console=ttyS0\n"
			"bcreate jname=web1 vm_ram=1g vm_cpus=2 imgsize=10g"},
	{"start", VERB(start), .summary = "Starts a VM",
		.examples = "drover start web1\ndrover start web1 --node node2\nbstart jname=web1"},
	{"stop", ASKING_VERB(stop), .summary = "Stops a VM, wherever it runs",
		.examples = "drover stop web1\ndrover stop web1 --timeout 300\n"
			    "drover stop web1 --hard"},
	{"suspend", VERB(suspend), .summary = "Saves a running VM's state in the pool and stops it",
		.examples = "drover suspend web1\ndrover start web1 --node node2"},
	{"recover", VERB(recover), .summary = "Takes a VM over from a node that has died",
		.examples = "drover recover web1\ndrover recover web1 --start --yes\n"
			    "drover recover web1 --fenced"},
	{"ls", VERB(ls), .summary = "Lists the VMs", .examples = "drover ls\ndrover ls --json"},
	{"show", VERB(show), .summary = "Shows a VM and its definition",
		.examples = "drover show web1"},
	{"set", ASKING_VERB(set), .summary = "Changes the definition of a VM",
		.examples =
			"drover set web1 memory=2G cpus=4\ndrover set web1 disk0.cache=none vnc="},
	{"rm", VERB(rm), .summary = "Removes a VM and its disks",
		.examples = "drover rm web1\ndrover rm web1 --yes"},
	{"rename", VERB(rename), .summary = "Gives a stopped VM another name",
		.examples = "drover rename web1 www\nbrename jname=web1 new=www"},
	{"console", VERB(console), .summary = "Opens the serial console of a VM",
		.examples = "drover console web1"},
	{"migrate", ASKING_VERB(migrate), .summary = "Moves a running VM to another node",
		.examples = "drover migrate web1 node2\n"
			    "drover migrate web1 node2 --downtime 50 --bandwidth 800mbit\n"
			    "drover migrate web1 node2 --detach\n"
			    "drover migrate web1 node2 --check\n"
			    "bmigrate jname=web1 node=node2"},
	{"migration ls", VERB(migration_ls), .summary = "Lists migrations, newest first",
		.examples = "drover migration ls\ndrover migration ls --node node2"},
	{"migration show", VERB(migration_show), .summary = "Shows a migration and its figures",
		.examples = "drover migration show 3f2a"},
	{"migration cancel", VERB(migration_cancel),
		.summary = "Cancels a migration; the VM runs on where it was",
		.examples = "drover migration cancel 3f2a"},
	{"migration follow", VERB(migration_follow), .summary = "Shows a migration's progress",
		.examples = "drover migration follow 3f2a"},
	{"image add", VERB(image_add),
		.summary = "Copies a disk image into the pool and indexes it",
		.examples = "drover image add debian.qcow2\n"
			    "drover image add /srv/disk.img --name debian.raw\n"
			    "drover image mode=add path=/srv/debian.qcow2"},
	{"image index", VERB(image_index), .summary = "Makes the content index of an image",
		.examples = "drover image index debian.qcow2\n"
			    "drover image index /srv/images/debian.qcow2"},
	{"image ls", VERB(image_ls), .summary = "Lists the images of the pool",
		.examples = "drover image ls\ndrover image ls --json"},
	{"image rm", VERB(image_rm), .summary = "Removes an image that nobody uses",
		.examples = "drover image rm debian.qcow2\ndrover image rm debian.qcow2 --yes"},
	{"task new", VERB(task_new), .summary = "Queues a verb to be run later",
		.examples = "drover task new migrate web1 node2\n"
			    "drover task new --at 02:30 --exclusive migrate web1 node2\n"
			    "drover task new --after 12 --node node2 stop web2"},
	{"task ls", VERB(task_ls), .summary = "Lists tasks, newest first",
		.examples = "drover task ls\ndrover task ls --node node2"},
	{"task show", VERB(task_show), .summary = "Shows a task",
		.examples = "drover task show 12"},
	{"task log", VERB(task_log), .summary = "Shows what a task has printed",
		.examples = "drover task log 12\ndrover task log 12 --follow"},
	{"task cancel", VERB(task_cancel), .summary = "Takes a task out of the queue, or ends it",
		.examples = "drover task cancel 12"},
	{"task flush", VERB(task_flush), .summary = "Forgets the tasks that have ended",
		.examples = "drover task flush"},
	{"receive", VERB(receive), .summary = "Runs the destination's part of a migration",
		.examples = "drover receive 0123456789abcdef0123456789abcdef", .hidden = true},
	{0},
};

static int run(struct cli *cli, int argc, const char *const *argv, struct error **err)
{
	const char *socket_path, *from_env = getenv("DROVER_SOCKET");
	int words = 0;

	cli->verb = cli_find_verb(verbs, argc, argv, &words);
	if (!cli->verb)
		return cli_unknown_verb(verbs, argc, argv, err);
	if (cli_args_parse(cli->verb->options, argc - words, argv + words, &cli->args, err) < 0)
		return -1;
	if (cli->args.help) {
		cli_help_verb(stdout, cli->verb);
		return 0;
	}
	socket_path = cli_get(&cli->args, "socket");
	cli->socket_path = socket_path             ? socket_path
			   : from_env && *from_env ? from_env
						   : CLI_SOCKET;
	cli->json = cli_flag(&cli->args, "json");
	if (http_init(err) < 0)
		return -1;
	return cli->verb->run(cli, err);
}

/* Whether an error in the arguments themselves is to be told as JSON. */
static bool wants_json(int argc, const char *const *argv)
{
	for (int i = 0; i < argc; i++)
		if (!strcmp(argv[i], "--json") || !strcmp(argv[i], "json=1"))
			return true;
	return false;
}

static bool is_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help");
}

/* What `drover`, `drover --help`, `drover node --help` and `drover --version` print; false when it
 * is none of these. */
static bool print_general(int argc, const char *const *argv)
{
	bool family = argc > 0 && cli_is_family(verbs, argv[0]);

	if (argc > 0 && !strcmp(argv[0], "--version"))
		printf("drover %s\n", DROVER_VERSION);
	else if (argc > 0 && is_help(argv[0]))
		cli_help_all(stdout, verbs, NULL);
	else if (family && argc > 1 && is_help(argv[1]))
		cli_help_all(stdout, verbs, argv[0]);
	else
		return false;
	return true;
}

/* `drover --json ls` is `drover ls --json`: options in front of the verb are put behind it, and so
 * is `drover help ls`, which is `drover ls --help`. */
static void move_options_back(const char **words, int count)
{
	int options = 0;

	if (count > 1 && is_help(words[0])) {
		words[0] = "--help";
		options = 1;
	}
	while (options < count && !strncmp(words[options], "--", 2) && !is_help(words[options]) &&
		strcmp(words[options], "--version") != 0)
		options += !strcmp(words[options], "--socket") ? 2 : 1;
	/* Behind the first two words: the second may be a part of the verb. */
	for (int moved = 0; options < count && moved < 2 && options > 0 && moved + options < count;
		moved++) {
		const char *word = words[moved + options];

		memmove(words + moved + 1, words + moved, (size_t)options * sizeof(*words));
		words[moved] = word;
		if (!cli_is_family(verbs, word))
			break;
	}
}

/* The words of the command line, the first being the verb that a link stands for. */
static const char **make_words(int argc, char **argv, int *count)
{
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
	const char *verb = cli_verb_of_link(name);
	const char **words = calloc((size_t)argc + 1, sizeof(*words));

	if (!words)
		abort();
	*count = 0;
	if (verb != name)
		words[(*count)++] = verb;
	for (int i = 1; i < argc; i++)
		words[(*count)++] = argv[i];
	move_options_back(words, *count);
	return words;
}

int main(int argc, char **argv)
{
	cleanup_error struct error *err = NULL;
	struct cli *cli = calloc(1, sizeof(*cli));
	cleanup_free const char **words = NULL;
	int count, status;

	if (!cli || argc < 1)
		abort();
	signal(SIGPIPE, SIG_IGN);
	cli->verbs = verbs;
	words = make_words(argc, argv, &count);
	if (print_general(count, words)) {
		status = 0;
	} else if (count == 0) {
		cli_help_all(stderr, verbs, NULL);
		status = error_kind_exit(ERROR_USAGE);
	} else {
		status = run(cli, count, words, &err);
	}
	if (status < 0) {
		cli->json = cli->json || wants_json(count, words);
		status = cli_print_error(cli, err, NULL);
	}
	if (fflush(stdout) != 0 && status == 0)
		status = error_kind_exit(ERROR_FAILED);
	http_close(cli->client);
	cli_args_free(&cli->args);
	free(cli);
	return status;
}
