/*
 * Programs: started with an argument vector (never a shell), in a session of their own where they
 * must outlive us, and known by pid and start time, so that a pid used again by another process is
 * never mistaken for ours.
 */
#ifndef DROVER_BASE_PROCESS_H
#define DROVER_BASE_PROCESS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process_id {
	pid_t pid;
	uint64_t start; /* in the kernel's units: ticks after boot, or microseconds of 1970 */
};

struct process_options {
	const char *const *argv; /* argv[0] is a path; NULL at the end */
	const char *const *env;  /* NULL: this process's */
	const char *dir;         /* working directory, NULL: "/" */
	bool own_session;        /* setsid(): outlives us and our terminal */
	bool set_user; /* change to uid and gid, with no further groups and no capability */
	uid_t uid;
	gid_t gid;
	bool no_new_privs;
	/* Killed when the thread that starts it ends, and so with this process, however it dies. */
	bool dies_with_us;
	int stdin_fd, stdout_fd, stderr_fd; /* -1: /dev/null */
	const int *pass_fds; /* kept open at the same number in the child; all others are closed */
	size_t pass_fds_count;
};

/* Starts a program. When it cannot be executed, the error says so (ERROR_FAILED with errno): it is
 * found out before the call returns. The child is ours to wait for until process_reap(). */
int process_start(const struct process_options *options, struct process_id *id, struct error **err);

/* Identity of a living process; -1 when there is none of that pid (a zombie counts as none). */
int process_identify(pid_t pid, struct process_id *id);
/* Whether that very process lives (a zombie does not). */
bool process_alive(const struct process_id *id);
/* Whether it is stopped by a signal (SIGSTOP), with all its threads. */
bool process_stopped(const struct process_id *id);
/* Sends a signal to that very process; nothing when it is gone. */
void process_signal(const struct process_id *id, int signal);
/* Waits until it has ended, ours or not; false when it has not by deadline_ms (of clock_ms).
 * *status is wait()'s for a child of ours, else -1; NULL is allowed. */
bool process_wait(const struct process_id *id, int64_t deadline_ms, int *status);
/* A short text of a wait() status: "exit status 1", "signal 9 (Killed)". */
const char *process_status_text(int status, char *buf, size_t len);

/* Makes this process one that others of its user cannot look into or trace, and that gains no
 * rights by what it executes. -1 with errno. */
int process_harden(void);
/* Lets everybody else have the disk first, where the kernel has such a class. */
void process_yield_disk(void);
/* Path of the program that this process runs, NULL when it cannot be told; the caller frees it. */
char *process_program(void);

/* Runs a program to its end and captures its standard output and error, up to max_bytes each (the
 * rest is read and dropped). Kills it at the deadline (ERROR_TIMEOUT). *out and *errors are
 * NUL-terminated, the caller frees them; either may be NULL. *status is wait()'s. */
int process_run(const char *const *argv, int64_t deadline_ms, size_t max_bytes, char **out,
	char **errors, int *status, struct error **err);

#endif
