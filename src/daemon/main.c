/* droverd(8): reads as the list of its steps. */
#include "base/clock.h"
#include "base/db.h"
#include "base/fault.h"
#include "base/fs.h"
#include "base/log.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/lock.h"
#include "daemon/notify.h"
#include "node/http.h"
#include "node/token.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long the first try may take before droverd says that it is ready: a pool that hangs must not
 * keep `drover status` from saying so. */
#define START_MS 10000
/* systemd's default for a stop is 90 s; what has not ended by then would be killed anyway. */
#define STOP_MS 5000

static const char usage[] =
	"usage: droverd [--config FILE]\n"
	"       droverd --forget [--config FILE]\n"
	"       droverd --list-faults | --version | --help\n"
	"\n"
	"The daemon of a node: runs its VMs, moves them, and answers drover(1).\n"
	"\n"
	"  --config FILE   settings, instead of " CONFIG_PATH "; see drover.conf(5)\n"
	"  --debug         logs more\n"
	"  --forget        forgets the cluster this node was a member of, and ends\n"
	"  --list-faults   lists the fault points that DROVER_FAULT can name, for tests\n"
	"\n"
	"Examples:\n"
	"  droverd                                 as the service runs it\n"
	"  droverd --config /tmp/n1/drover.conf    a second one beside it\n";

struct arguments {
	const char *config;
	bool forget;
	int exit; /* to end with at once; -1: go on */
};

static void read_arguments(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
		{"debug", no_argument, NULL, 'd'}, {"forget", no_argument, NULL, 'f'},
		{"list-faults", no_argument, NULL, 'l'}, {"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'}, {0}};
	int option;

	*a = (struct arguments){.exit = -1};
	while ((option = getopt_long(argc, argv, "c:h", options, NULL)) >= 0) {
		if (option == 'c') {
			a->config = optarg;
		} else if (option == 'd') {
			log_init("droverd", LOG_LEVEL_DEBUG);
		} else if (option == 'f') {
			a->forget = true;
		} else {
			if (option == 'l')
				fault_list(stdout);
			else if (option == 'v')
				printf("droverd %s\n", DROVER_VERSION);
			else
				fputs(usage, option == 'h' ? stdout : stderr);
			a->exit = option == '?' ? error_kind_exit(ERROR_USAGE) : 0;
			return;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "droverd: takes no argument, got \"%s\"\n", argv[optind]);
		a->exit = error_kind_exit(ERROR_USAGE);
	}
}

/* Every thread inherits it: signals are for the one that waits in wait_for_signal. */
static void block_signals(sigset_t *waited)
{
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(waited);
	sigaddset(waited, SIGTERM);
	sigaddset(waited, SIGINT);
	sigaddset(waited, SIGHUP);
	pthread_sigmask(SIG_BLOCK, waited, NULL);
}

static int make_directories(const struct config *config, struct error **err)
{
	umask(022);
	if (fs_mkdirs(config->state, 0700, err) < 0 || fs_mkdirs(config->run, 0755, err) < 0)
		return -1;
	/* One that was there before may be open to others: it holds keys. */
	if (chmod(config->state, 0700) < 0)
		return error_set(
			err, ERROR_FAILED, errno, "cannot close %s to others", config->state);
	return 0;
}

static struct db *open_db(const struct config *config, struct error **err)
{
	cleanup_free char *path = fs_format("%s/state.db", config->state);
	cleanup_free char *schema =
		fs_format("%s\n%s\n%s", TOKEN_SCHEMA, task_schema, migrate_schema);

	return db_open(path, schema, err);
}

/* SIGHUP changes nothing: settings are read at the start, and a restart harms no VM. */
static void wait_for_signal(const sigset_t *waited)
{
	int signal = 0;

	while (sigwait(waited, &signal) != 0 || signal == SIGHUP)
		if (signal == SIGHUP)
			log_info("settings are read at the start only: restart droverd, the VMs go "
				 "on meanwhile");
	log_info("stops: %s", strsignal(signal));
}

static int serve(const struct config *config, const sigset_t *waited, struct error **err)
{
	struct daemon daemon;
	struct db *db = open_db(config, err);

	if (!db)
		return -1;
	daemon_init(&daemon, config, db);
	if (daemon_start(&daemon, START_MS, err) < 0)
		return -1;
	log_info("droverd %s serves on %s", DROVER_VERSION, config->socket_path);
	notify_send("READY=1");

	wait_for_signal(waited);

	notify_send("STOPPING=1");
	if (!daemon_stop(&daemon, STOP_MS)) {
		log_warning("ends with work left, which the next start picks up");
		_exit(0);
	}
	db_close(db);
	return 0;
}

static void warn_of_shared_user(const struct config *config)
{
	if (config->wire_shares)
		log_warning("there is no user " CONFIG_WIRE_USER ": drover-wire runs as %s, as the "
			    "VMs do, so that a guest that breaks out of its hypervisor can stop "
			    "migrations; make that user, or set wire_user in drover.conf",
			config->vm_user);
}

static int run(const struct arguments *a, struct error **err)
{
	sigset_t waited;
	struct config *config;
	cleanup_fd int lock = -1;
	int rc = -1;

	block_signals(&waited);
	if (fault_init(err) < 0 || http_init(err) < 0)
		return -1;
	config = config_load(a->config, err);
	if (!config)
		return -1;
	warn_of_shared_user(config);
	if (make_directories(config, err) == 0)
		lock = lock_take(config->state, err);
	if (lock >= 0 && a->forget)
		rc = identity_keep_ca_key(config->state, err) < 0
			     ? -1
			     : identity_remove(config->state, err);
	else if (lock >= 0)
		rc = serve(config, &waited, err);
	config_free(config);
	return rc;
}

int main(int argc, char **argv)
{
	cleanup_error struct error *e = NULL;
	struct arguments arguments;

	log_init("droverd", LOG_LEVEL_INFO);
	read_arguments(argc, argv, &arguments);
	if (arguments.exit >= 0)
		return arguments.exit;
	if (run(&arguments, &e) == 0)
		return 0;
	log_error("%s", e->message);
	return error_kind_exit(e->kind);
}
