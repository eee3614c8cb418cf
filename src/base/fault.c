#include "base/fault.h"

#include "base/clock.h"
#include "base/fs.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In the order in which a migration passes them. */
static const struct {
	const char *name, *before;
} points[] = {
	{"migrate.src.before_journal", "the source writes the migration into its journal"},
	{"migrate.src.before_prepare", "the source asks the destination to prepare"},
	{"migrate.src.before_task", "the source queues the destination's part there"},
	{"migrate.dst.before_listen", "the destination starts its data mover"},
	{"migrate.src.before_lane", "the source starts its data mover"},
	{"migrate.dst.before_start", "the destination starts its hypervisor"},
	{"migrate.dst.before_incoming", "the destination's hypervisor is told to wait"},
	{"migrate.dst.before_ready", "the destination says that it is ready"},
	{"migrate.src.before_stream", "the source's hypervisor starts to write its stream"},
	{"wire.send.connected", "the sending data mover sends its first data"},
	{"wire.recv.connected", "the receiving data mover reads its first data"},
	{"wire.send.half", "the sending data mover sends its first data frame after 1 MiB"},
	{"wire.link.reconnected", "a data mover goes on over a connection that was made again"},
	{"migrate.src.during_rounds", "each look at the progress"},
	{"hv.suspend.before", "bhyve is told to suspend a guest to files"},
	{"hv.suspend.after", "the files of a guest that was suspended are sent"},
	{"migrate.src.before_switch", "the source pauses the guest and orders the post-copy"},
	{"migrate.src.after_switch", "the source, having ordered the post-copy, looks at it"},
	{"migrate.src.before_stop", "the source stops a bhyve that has sent everything"},
	{"wire.recv.held",
		"the receiving data mover waits with what it holds back of bhyve's stream"},
	{"wire.recv.before_release", "it writes what it held back"},
	{"wire.recv.after_release", "it has written what it held back"},
	{"wire.recv.before_ack", "the receiving data mover says that all has been written"},
	{"migrate.src.before_handover", "the source says that its hypervisor is paused for good"},
	{"migrate.dst.before_loaded", "the destination waits until all is loaded"},
	{"migrate.dst.before_claim", "the destination claims the VM"},
	{"pool.claim.before_write", "a claim is written to its temporary file"},
	{"pool.claim.before_link", "a claim is made"},
	{"pool.claim.after_link", "a claim that was made is made durable"},
	{"migrate.dst.after_claim", "the destination, being the owner, lets the guest run"},
	{"hv.restore.before", "a bhyve is started from a guest's files"},
	{"hv.restore.after", "the files of a guest that runs again are removed"},
	{"migrate.dst.before_hand_back", "the destination, which cannot run it, gives it back"},
	{"migrate.dst.after_resume", "the destination notes that the guest runs"},
	{"migrate.dst.before_answer", "the destination answers the handover"},
	{"migrate.src.during_postcopy", "each look of the source at the post-copy"},
	{"migrate.dst.during_postcopy", "each look of the destination at the post-copy"},
	{"migrate.src.before_renew", "the source makes a new lane for an interrupted post-copy"},
	{"migrate.dst.before_renew", "the destination does"},
	{"migrate.dst.before_done", "the destination closes the migration in its journal"},
	{"migrate.src.before_reclaim", "the source claims the VM back after a failure"},
	{"migrate.src.after_reclaim", "the source lets its own copy go on"},
	{"migrate.src.before_abort", "the source tells the destination that it is off"},
	{"migrate.src.before_end", "the source ends its paused copy"},
	{"migrate.src.before_done", "the source closes the migration in its journal"},
	{"migrate.dst.before_give_up",
		"the destination gives up what was announced and does not come"},
	{"migrate.src.before_recover", "a source that was started again takes a migration up"},
	{"migrate.dst.before_recover", "a destination that was started again does"},
	{"vm.start.before_claim", "a VM that is being started is claimed"},
	{"vm.start.after_claim", "a VM that was claimed is started"},
	{"vm.start.before_resume", "a guest is let run, with all prepared"},
	{"vm.start.before_remove", "the saved state of a guest that goes on is removed"},
	{"vm.suspend.before_save", "the hypervisor of a VM that is suspended is told to save"},
	{"vm.suspend.before_publish", "a saved state gets its name"},
	{"vm.suspend.before_release", "a VM whose state is saved is released"},
	{"vm.stop.before_release", "a VM that was stopped is released"},
	{"vm.recover.before_claim", "a VM is taken over from a node that is dead"},
	{"vm.lost.before_end", "a copy whose VM another node owns is ended"},
};

#define POINTS (sizeof(points) / sizeof(points[0]))

/* The action for each point, NULL for none: pointers into the copy of DROVER_FAULT. */
static const char *actions[POINTS];
static bool any;

static int find(const char *name, size_t len)
{
	for (size_t i = 0; i < POINTS; i++)
		if (strlen(points[i].name) == len && !memcmp(points[i].name, name, len))
			return (int)i;
	return -1;
}

static bool action_known(const char *action)
{
	return !strcmp(action, "kill") || !strcmp(action, "error") || !strcmp(action, "hang") ||
	       !strncmp(action, "delay=", 6) || !strncmp(action, "file=", 5) ||
	       !strncmp(action, "limit=", 6);
}

int fault_init(struct error **err)
{
	const char *env = getenv("DROVER_FAULT");
	char *copy, *item, *next;

	if (!env || !*env)
		return 0;
	/* Kept for the life of the process: actions[] points into it. */
	copy = strdup(env);
	for (item = copy; item; item = next) {
		char *colon;
		int i;

		next = strchr(item, ',');
		if (next)
			*next++ = 0;
		colon = strchr(item, ':');
		i = colon ? find(item, (size_t)(colon - item)) : -1;
		if (i < 0 || !action_known(colon + 1))
			return error_set(err, ERROR_USAGE, 0,
				"DROVER_FAULT names no fault point and action: \"%s\"", item);
		actions[i] = colon + 1;
		any = true;
	}
	return 0;
}

static void wait_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* PATH.reached says that it is being waited. */
static void wait_for_file(const char *path)
{
	cleanup_free char *reached = fs_format("%s.reached", path);

	close(open(reached, O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
	while (!fs_exists(path))
		wait_ms(10);
}

static int act(const char *name, const char *action, struct error **err)
{
	if (!strcmp(action, "kill"))
		kill(getpid(), SIGKILL);
	if (!strcmp(action, "error"))
		return error_set(err, ERROR_FAILED, 0, "fault point %s", name);
	if (!strncmp(action, "delay=", 6))
		wait_ms(atoi(action + 6));
	else if (!strncmp(action, "file=", 5))
		wait_for_file(action + 5);
	else if (strncmp(action, "limit=", 6) != 0)
		for (;;)
			pause();
	return 0;
}

/* What is to happen at a point; NULL for nothing. */
static const char *action_at(const char *name)
{
	int i;

	if (!any)
		return NULL;
	i = find(name, strlen(name));
	if (i < 0)
		abort();
	return actions[i];
}

int fault_point(const char *name, struct error **err)
{
	const char *action = action_at(name);

	return action ? act(name, action, err) : 0;
}

int64_t fault_limit_ms(const char *name, int64_t limit_ms)
{
	const char *action = action_at(name);

	return action && !strncmp(action, "limit=", 6) ? atoll(action + 6) : limit_ms;
}

bool fault_armed(void)
{
	return any;
}

void fault_list(FILE *out)
{
	for (size_t i = 0; i < POINTS; i++)
		fprintf(out, "%-30s before %s\n", points[i].name, points[i].before);
}
