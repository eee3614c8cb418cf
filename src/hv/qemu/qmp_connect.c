#include "hv/qemu/qmp_connect.h"

#include "base/clock.h"
#include "base/fs.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct qmp *begin(int in, int out, const char *who, bool agreed, struct error **err)
{
	struct qmp *q = qmp_new(in, out, who, err);

	if (q && qmp_start(q, agreed, err) < 0) {
		qmp_close(q);
		return NULL;
	}
	return q;
}

static struct qmp *open_both(
	int in, int out, const char *who, int64_t deadline_ms, struct error **err)
{
	struct qmp *q = begin(in, out, who, false, err);

	if (q && qmp_wait_agreed(q, deadline_ms, err) < 0) {
		qmp_close(q);
		return NULL;
	}
	return q;
}

struct qmp *qmp_open(int fd, const char *who, int64_t deadline_ms, struct error **err)
{
	return open_both(fd, fd, who, deadline_ms, err);
}

struct qmp *qmp_open_fifos(
	int in, int out, const char *who, int64_t deadline_ms, struct error **err)
{
	return open_both(in, out, who, deadline_ms, err);
}

struct qmp *qmp_reopen_fifos(int in, int out, const char *who, struct error **err)
{
	return begin(in, out, who, true, err);
}

static int connect_to(const char *path, const char *who, int64_t deadline_ms, struct error **err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int left = clock_left_ms(deadline_ms) + 1, taken;
	struct timeval limit = {left / 1000, left % 1000 * 1000};

	if (fd < 0 || strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, ERROR_FAILED, fd < 0 ? errno : ENAMETOOLONG,
			"%s: cannot connect to %s", who, path);
	strcpy(addr.sun_path, path);
	/* A full backlog would make connect() wait for ever. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return error_set(
			err, ERROR_NOT_RUNNING, errno, "%s: no QEMU answers at %s", who, path);
	taken = fd;
	fd = -1;
	return taken;
}

struct qmp *qmp_connect(const char *path, const char *who, int64_t deadline_ms, struct error **err)
{
	int fd = connect_to(path, who, deadline_ms, err);

	return fd < 0 ? NULL : qmp_open(fd, who, deadline_ms, err);
}

struct qmp *qmp_connect_silent(
	const char *path, const char *who, int64_t deadline_ms, struct error **err)
{
	int fd = connect_to(path, who, deadline_ms, err);
	struct qmp *q = fd < 0 ? NULL : begin(fd, fd, who, false, err);
	struct error *why = NULL;

	if (!q || qmp_wait_agreed(q, deadline_ms, &why) == 0)
		return q;
	if (why->kind == ERROR_TIMEOUT) {
		error_free(&why);
		return q;
	}
	error_move(err, why);
	qmp_close(q);
	return NULL;
}
