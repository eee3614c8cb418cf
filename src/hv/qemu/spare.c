#include "hv/qemu/spare.h"

#include "hv/qemu/qemu.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

bool qemu_spare_fits(const struct hv_facts *facts)
{
	return facts->major > 8 || (facts->major == 8 && facts->minor >= 1);
}

void qemu_spare_close(struct qemu_spare *spare)
{
	close_fd(&spare->in);
	close_fd(&spare->in_other);
	close_fd(&spare->out);
	close_fd(&spare->out_other);
}

size_t qemu_spare_pass(const struct qemu_spare *spare, int fds[QEMU_SPARE_FDS])
{
	fds[0] = spare->in;
	fds[1] = spare->in_other;
	fds[2] = spare->out;
	fds[3] = spare->out_other;
	return QEMU_SPARE_FDS;
}

/* Opens `end` of a new FIFO, and another that can both read and write. */
static int make(
	const char *run_dir, const char *file, int end, int *fd, int *other, struct error **err)
{
	cleanup_free char *path = qemu_path(run_dir, file);

	if (mkfifo(path, S_IRUSR | S_IWUSR) < 0 ||
		(*other = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)) < 0 ||
		(*fd = open(path, end | O_CLOEXEC | O_NOFOLLOW)) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make %s", path);
	return 0;
}

int qemu_spare_make(const char *run_dir, struct qemu_spare *spare, struct error **err)
{
	if (make(run_dir, "spare.in", O_RDONLY, &spare->in, &spare->in_other, err) == 0 &&
		make(run_dir, "spare.out", O_WRONLY, &spare->out, &spare->out_other, err) == 0)
		return 0;
	qemu_spare_close(spare);
	return -1;
}

/* Our end. Who else has it open is QEMU alone: ENXIO when it has ended. */
static int open_end(const char *run_dir, const char *file, int end)
{
	cleanup_free char *path = qemu_path(run_dir, file);
	cleanup_fd int fd = open(path, end | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	int opened;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode))
		return -1;
	opened = fd;
	fd = -1;
	return opened;
}

static int open_ends(const char *run_dir, int *in, int *out, struct error **err)
{
	*in = open_end(run_dir, "spare.out", O_RDONLY);
	*out = *in < 0 ? -1 : open_end(run_dir, "spare.in", O_WRONLY);
	if (*out >= 0)
		return 0;
	error_set(err, ERROR_NOT_RUNNING, errno, "no QEMU has %s/spare.in open", run_dir);
	close_fd(in);
	return -1;
}

struct qmp *qemu_spare_connect(
	const char *run_dir, const char *who, int64_t deadline_ms, struct error **err)
{
	int in, out;

	if (open_ends(run_dir, &in, &out, err) < 0)
		return NULL;
	return qmp_open_fifos(in, out, who, deadline_ms, err);
}

struct qmp *qemu_spare_find(const char *run_dir, const char *who)
{
	int in, out;

	if (open_ends(run_dir, &in, &out, NULL) < 0)
		return NULL;
	return qmp_reopen_fifos(in, out, who, NULL);
}
