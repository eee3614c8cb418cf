#include "host/host.h"

#include "base/clock.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the child, which has one thread of a process that had many: only calls that are allowed
 * between fork and exec. */
static int try_one(const struct host_open *file)
{
	int flags = (file->write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY |
		    (file->direct ? O_DIRECT : 0);
	int fd = open(file->path, flags), errnum = errno;

	if (fd < 0)
		return errnum;
	close(fd);
	return 0;
}

static void try_all(unsigned uid, unsigned gid, const struct host_open *files, size_t count, int to)
{
	if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
				      setresuid(uid, uid, uid) < 0))
		_exit(1);
	for (size_t i = 0; i < count; i++) {
		int errnum = try_one(&files[i]);

		if (write(to, &errnum, sizeof(errnum)) != sizeof(errnum))
			_exit(1);
	}
	_exit(0);
}

/* The child's next number; the deadline stands for a file system that does not answer. */
static int read_one(int fd, struct host_open *file, int64_t deadline_ms, struct error **err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n;

	do {
		n = poll(&p, 1, clock_left_ms(deadline_ms));
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s was not opened in time; look at its file system", file->path);
	if (read(fd, &file->errnum, sizeof(file->errnum)) != sizeof(file->errnum))
		return error_set(err, ERROR_FAILED, 0, "cannot try to open %s", file->path);
	return 0;
}

int host_open_as(unsigned uid, unsigned gid, struct host_open *files, size_t count,
	int64_t deadline_ms, struct error **err)
{
	cleanup_fd int from = -1, to = -1;
	int fds[2], rc = 0;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make a pipe");
	from = fds[0];
	to = fds[1];
	pid = fork();
	if (pid == 0)
		try_all(uid, gid, files, count, to);
	close_fd(&to);
	if (pid < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot start a process");
	for (size_t i = 0; i < count && rc == 0; i++)
		rc = read_one(from, &files[i], deadline_ms, err);
	kill(pid, SIGKILL);
	/* One that a dead file system holds is not waited for. */
	waitpid(pid, NULL, rc == 0 ? 0 : WNOHANG);
	return rc;
}
