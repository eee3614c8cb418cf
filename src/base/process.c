#include "base/process_internal.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Without a descriptor that tells of the end, it is asked for again and again. */
#define ASK_AGAIN_MS 50

int process_identify(pid_t pid, struct process_id *id)
{
	struct process_id found;
	bool ended;

	if (process_look(pid, &found, &ended) < 0 || ended)
		return -1;
	*id = found;
	return 0;
}

/* What cannot be looked at (no descriptor left, say) is taken to live: only a process that is known
 * to be gone is. */
bool process_alive(const struct process_id *id)
{
	struct process_id now;
	bool ended;

	if (id->pid <= 0)
		return false;
	if (process_look(id->pid, &now, &ended) == 0)
		return now.start == id->start && !ended;
	return kill(id->pid, 0) == 0 || errno != ESRCH;
}

bool process_wait(const struct process_id *id, int64_t deadline_ms, int *status)
{
	cleanup_fd int fd = -1;
	enum process_found found = process_open(id, &fd);
	int ignored, *to = status ? status : &ignored;

	*to = -1;
	while (found != PROCESS_GONE) {
		struct pollfd p = {.fd = found == PROCESS_FOUND ? fd : -1, .events = POLLIN};
		int left = clock_left_ms(deadline_ms);
		int n = poll(
			&p, 1, found == PROCESS_FOUND || left < ASK_AGAIN_MS ? left : ASK_AGAIN_MS);

		if (n > 0)
			break;
		if (n == 0 && clock_left_ms(deadline_ms) == 0)
			return false;
		if (found == PROCESS_NOT_KNOWN) {
			close_fd(&fd);
			found = process_open(id, &fd);
		}
	}
	if (waitpid(id->pid, to, WNOHANG) != id->pid)
		*to = -1;
	return true;
}

const char *process_status_text(int status, char *buf, size_t len)
{
	if (WIFEXITED(status))
		snprintf(buf, len, "exit status %d", WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		snprintf(buf, len, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(buf, len, "status %d", status);
	return buf;
}

static bool passed(const struct process_options *o, int fd)
{
	for (size_t i = 0; i < o->pass_fds_count; i++)
		if (o->pass_fds[i] == fd)
			return true;
	return false;
}

/* From here on only calls that are allowed between fork and exec of a program with threads. */
static int move_stdio(int from, int to)
{
	int fd = from >= 0 ? from : open("/dev/null", to == 0 ? O_RDONLY : O_WRONLY);

	if (fd == to)
		return fcntl(fd, F_SETFD, 0);
	return fd < 0 || dup2(fd, to) < 0 ? -1 : 0;
}

static void close_others(const struct process_options *o, int keep)
{
	int low = 3;

	/* Ranges between the kept descriptors, whose number is small. */
	for (;;) {
		int next = -1;

		for (size_t i = 0; i < o->pass_fds_count; i++)
			if (o->pass_fds[i] >= low && (next < 0 || o->pass_fds[i] < next))
				next = o->pass_fds[i];
		if (keep >= low && (next < 0 || keep < next))
			next = keep;
		if (next < 0)
			break;
		if (next > low)
			close_range((unsigned)low, (unsigned)next - 1, 0);
		low = next + 1;
	}
	close_range((unsigned)low, ~0u, 0);
}

static void reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP)
			signal(s, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A parent that has ended before says nothing any more. */
static int die_with(pid_t parent)
{
	if (process_die_with_parent() < 0)
		return -1;
	errno = ESRCH;
	return getppid() == parent ? 0 : -1;
}

static int become(const struct process_options *o, pid_t parent)
{
	if (o->own_session && setsid() < 0)
		return -1;
	if (chdir(o->dir ? o->dir : "/") < 0)
		return -1;
	if (o->set_user)
		process_drop_bounds();
	if (o->set_user && (setgroups(0, NULL) < 0 || setresgid(o->gid, o->gid, o->gid) < 0 ||
				   setresuid(o->uid, o->uid, o->uid) < 0))
		return -1;
	if (o->dies_with_us && die_with(parent) < 0)
		return -1;
	return o->no_new_privs ? process_no_new_privs() : 0;
}

static void child(const struct process_options *o, pid_t parent, int failed_fd)
{
	/* Out of the way of 0 to 2, which are written over next. */
	int report = fcntl(failed_fd, F_DUPFD_CLOEXEC, 64), errnum;

	reset_signals();
	if (move_stdio(o->stdin_fd, 0) == 0 && move_stdio(o->stdout_fd, 1) == 0 &&
		move_stdio(o->stderr_fd, 2) == 0) {
		for (size_t i = 0; i < o->pass_fds_count; i++)
			fcntl(o->pass_fds[i], F_SETFD, 0);
		close_others(o, report);
		if (become(o, parent) == 0)
			execve(o->argv[0], (char *const *)o->argv,
				o->env ? (char *const *)o->env : environ);
	}
	errnum = errno;
	if (write(report, &errnum, sizeof(errnum)) < 0)
		_exit(126);
	_exit(127);
}

int process_start(const struct process_options *o, struct process_id *id, struct error **err)
{
	int pipe_fds[2], errnum = 0;
	cleanup_fd int in = -1, out = -1;
	sigset_t all, before;
	ssize_t n;
	pid_t parent = getpid(), pid;
	bool ended;

	/* A stdio descriptor below 3 that is meant for another number would be written over. */
	for (int i = 0; i < 3; i++) {
		int fd = i == 0 ? o->stdin_fd : i == 1 ? o->stdout_fd : o->stderr_fd;

		if (passed(o, i) || (fd >= 0 && fd < i))
			return error_set(err, ERROR_FAILED, EINVAL, "cannot start %s", o->argv[0]);
	}
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot start %s", o->argv[0]);
	in = pipe_fds[0];
	out = pipe_fds[1];
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		child(o, parent, out);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close_fd(&out);
	if (pid < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot start %s", o->argv[0]);
	do {
		n = read(in, &errnum, sizeof(errnum));
	} while (n < 0 && errno == EINTR);
	if (n == sizeof(errnum)) {
		waitpid(pid, NULL, 0);
		return error_set(err, ERROR_FAILED, errnum, "cannot start %s", o->argv[0]);
	}
	/* It is ours to wait for: even when it has ended already it is still there to be looked at.
	 */
	if (process_look(pid, id, &ended) < 0)
		return error_set(
			err, ERROR_FAILED, 0, "the kernel does not tell of process %d", (int)pid);
	return 0;
}

struct capture {
	int fd;
	struct buf text;
};

static void capture_read(struct capture *c)
{
	char block[4096];
	ssize_t n = read(c->fd, block, sizeof(block));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		close_fd(&c->fd);
		return;
	}
	if ((size_t)n > c->text.max - c->text.len)
		n = (ssize_t)(c->text.max - c->text.len);
	buf_add(&c->text, block, (size_t)n);
}

/* Reads both until they end; false at the deadline. */
static bool capture_both(struct capture c[2], int64_t deadline_ms)
{
	while (c[0].fd >= 0 || c[1].fd >= 0) {
		struct pollfd p[2] = {
			{.fd = c[0].fd, .events = POLLIN}, {.fd = c[1].fd, .events = POLLIN}};
		int n = poll(p, 2, clock_left_ms(deadline_ms));

		if (n == 0)
			return false;
		for (int i = 0; i < 2; i++)
			if (n > 0 && p[i].revents)
				capture_read(&c[i]);
	}
	return true;
}

static void give(struct capture *c, char **out)
{
	if (out)
		*out = strdup(buf_string(&c->text));
	close_fd(&c->fd);
	buf_free(&c->text);
}

int process_run(const char *const *argv, int64_t deadline_ms, size_t max_bytes, char **out,
	char **errors, int *status, struct error **err)
{
	struct process_options o = {.argv = argv, .stdin_fd = -1};
	struct capture c[2];
	struct process_id id;
	int out_fds[2], err_fds[2];
	bool in_time;

	if (out)
		*out = NULL;
	if (errors)
		*errors = NULL;
	if (pipe2(out_fds, O_CLOEXEC) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot start %s", argv[0]);
	if (pipe2(err_fds, O_CLOEXEC) < 0) {
		close(out_fds[0]);
		close(out_fds[1]);
		return error_set(err, ERROR_FAILED, errno, "cannot start %s", argv[0]);
	}
	o.stdout_fd = out_fds[1];
	o.stderr_fd = err_fds[1];
	c[0].fd = out_fds[0];
	c[1].fd = err_fds[0];
	buf_init(&c[0].text, max_bytes);
	buf_init(&c[1].text, max_bytes);
	if (process_start(&o, &id, err) < 0)
		id.pid = -1;
	close(out_fds[1]);
	close(err_fds[1]);
	in_time = id.pid < 0 ||
		  (capture_both(c, deadline_ms) && process_wait(&id, deadline_ms, status));
	give(&c[0], out);
	give(&c[1], errors);
	if (id.pid < 0)
		return -1;
	if (in_time)
		return 0;
	kill(id.pid, SIGKILL);
	waitpid(id.pid, status, 0);
	return error_set(err, ERROR_TIMEOUT, 0, "%s took too long and was ended", argv[0]);
}
