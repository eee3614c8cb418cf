#include "daemon/lock.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int taken_by(int fd, const char *state_dir, struct error **err)
{
	char text[24];
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);

	text[len < 0 ? 0 : len] = 0;
	return error_set(err, ERROR_BUSY, 0,
		"droverd runs already with the state directory %s: process %d", state_dir,
		atoi(text));
}

int lock_take(const char *state_dir, struct error **err)
{
	cleanup_free char *path = fs_format("%s/lock", state_dir);
	cleanup_fd int fd =
		open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
	int taken = -1;

	if (fd < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return taken_by(fd, state_dir, err);
		return error_set(err, ERROR_FAILED, errno, "cannot lock %s", path);
	}
	if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0)
		return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_FAILED, errno,
			"cannot write %s", path);
	taken = fd;
	fd = -1;
	return taken;
}
