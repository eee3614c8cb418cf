#include "base/process_internal.h"

#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The 22nd field of /proc/PID/stat (proc(5)); the 2nd, in parentheses, may hold anything. */
int process_look(pid_t pid, struct process_id *id, bool *ended)
{
	char path[64], state;
	cleanup_free char *stat = NULL;
	unsigned long long start;
	const char *after;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	stat = pid > 0 ? fs_read(path, 4096, NULL, NULL) : NULL;
	after = stat ? strrchr(stat, ')') : NULL;
	if (!after ||
		sscanf(after + 1,
			" %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
			"%*d %llu",
			&state, &start) != 2)
		return -1;
	*id = (struct process_id){.pid = pid, .start = start};
	*ended = state == 'Z' || state == 'X';
	return 0;
}

enum process_found process_open(const struct process_id *id, int *fd)
{
	struct process_id now;
	bool ended;

	*fd = (int)syscall(SYS_pidfd_open, id->pid, 0);
	if (*fd < 0)
		return errno == ESRCH ? PROCESS_GONE : PROCESS_NOT_KNOWN;
	/* Looked at after opening: the pid cannot be used again while the descriptor is open. */
	if (process_look(id->pid, &now, &ended) < 0)
		return kill(id->pid, 0) < 0 && errno == ESRCH ? PROCESS_GONE : PROCESS_NOT_KNOWN;
	return now.start == id->start ? PROCESS_FOUND : PROCESS_GONE;
}

void process_signal(const struct process_id *id, int signal)
{
	cleanup_fd int fd = -1;
	enum process_found found = process_open(id, &fd);

	if (found == PROCESS_FOUND)
		syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0);
	else if (found == PROCESS_NOT_KNOWN && process_alive(id))
		kill(id->pid, signal);
}

/* Without CAP_SETPCAP it stays what it is, and no_new_privs has the same effect. */
void process_drop_bounds(void)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

int process_no_new_privs(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int process_die_with_parent(void)
{
	return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

int process_harden(void)
{
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -1 : process_no_new_privs();
}

/* IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE (ioprio_set(2)); C libraries have no call for it. */
void process_yield_disk(void)
{
	syscall(SYS_ioprio_set, 1, 0, 3 << 13);
}

char *process_program(void)
{
	char path[4096];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (len < 0)
		return NULL;
	path[len] = 0;
	return fs_format("%s", path);
}

/* The state in /proc is that of the first thread; each has its own below task/. */
bool process_stopped(const struct process_id *id)
{
	cleanup_free char *path = fs_format("/proc/%d/task", (int)id->pid);
	DIR *tasks = process_alive(id) ? opendir(path) : NULL;
	bool stopped = tasks != NULL;
	struct dirent *task;

	while (stopped && (task = readdir(tasks))) {
		cleanup_free char *stat_path = fs_format("%s/%s/stat", path, task->d_name);
		cleanup_free char *stat = NULL;
		const char *after;

		if (task->d_name[0] == '.')
			continue;
		stat = fs_read(stat_path, 4096, NULL, NULL);
		after = stat ? strrchr(stat, ')') : NULL;
		stopped = !after || after[1] == 0 || strchr("TXZ", after[2]) != NULL;
	}
	if (tasks)
		closedir(tasks);
	return stopped;
}
