/*
 * FreeBSD. docs/portability.md says how far this was compiled.
 */
#include "base/process_internal.h"

#include "base/fs.h"

#include <sys/param.h>
#include <sys/event.h>
#include <sys/procctl.h>
#include <sys/sysctl.h>
#include <sys/user.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int process_look(pid_t pid, struct process_id *id, bool *ended)
{
	int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, pid};
	struct kinfo_proc info;
	size_t len = sizeof(info);

	if (pid <= 0 || sysctl(name, 4, &info, &len, NULL, 0) < 0 || len < sizeof(info) ||
		info.ki_structsize != sizeof(info))
		return -1;
	*id = (struct process_id){.pid = pid,
		.start =
			(uint64_t)info.ki_start.tv_sec * 1000000 + (uint64_t)info.ki_start.tv_usec};
	*ended = info.ki_stat == SZOMB;
	return 0;
}

/* A kqueue can be polled. */
enum process_found process_open(const struct process_id *id, int *fd)
{
	struct process_id now;
	struct kevent change;
	bool ended;

	*fd = kqueuex(KQUEUE_CLOEXEC);
	if (*fd < 0)
		return PROCESS_NOT_KNOWN;
	EV_SET(&change, id->pid, EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, NULL);
	if (kevent(*fd, &change, 1, NULL, 0, NULL) < 0)
		return errno == ESRCH ? PROCESS_GONE : PROCESS_NOT_KNOWN;
	/* Looked at after it is watched: had it ended before, that is seen. */
	if (process_look(id->pid, &now, &ended) < 0)
		return kill(id->pid, 0) < 0 && errno == ESRCH ? PROCESS_GONE : PROCESS_NOT_KNOWN;
	return now.start == id->start && !ended ? PROCESS_FOUND : PROCESS_GONE;
}

/* There is no descriptor of a process that is not a child: between the look and the signal the pid
 * could be used again, which takes it 99,999 other processes. */
void process_signal(const struct process_id *id, int signal)
{
	if (process_alive(id))
		kill(id->pid, signal);
}

void process_drop_bounds(void)
{
	/* There are no capabilities that outlive a change of user. */
}

int process_no_new_privs(void)
{
	int enable = PROC_NO_NEW_PRIVS_ENABLE;

	return procctl(P_PID, 0, PROC_NO_NEW_PRIVS_CTL, &enable);
}

int process_die_with_parent(void)
{
	int signal = SIGKILL;

	return procctl(P_PID, 0, PROC_PDEATHSIG_CTL, &signal);
}

int process_harden(void)
{
	int disable = PROC_TRACE_CTL_DISABLE;

	return procctl(P_PID, 0, PROC_TRACE_CTL, &disable) < 0 ? -1 : process_no_new_privs();
}

void process_yield_disk(void)
{
	/* idprio(1) is for the processor; the disk has no such class. */
}

char *process_program(void)
{
	int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PATHNAME, -1};
	char path[4096];
	size_t len = sizeof(path);

	return sysctl(name, 4, path, &len, NULL, 0) < 0 ? NULL : fs_format("%s", path);
}

bool process_stopped(const struct process_id *id)
{
	int name[] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, id->pid};
	struct kinfo_proc info;
	size_t len = sizeof(info);

	return process_alive(id) && sysctl(name, 4, &info, &len, NULL, 0) == 0 &&
	       len >= sizeof(info) && info.ki_stat == SSTOP;
}
