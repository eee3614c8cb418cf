#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define IMAGE_MS 60000
/* RAW_LOCK_PERM_BASE + the bit of BLK_PERM_WRITE, in QEMU's words. */
#define LOCK_WRITE_BYTE (100 + 1)
#define IMAGE_OUTPUT (256u << 10)

/* Runs qemu-img; *out (may be NULL) gets its output. Its first line of complaint is the error. */
static int run(const char *const *argv, const char *doing, const char *path, char **out,
	struct error **err)
{
	cleanup_free char *errors = NULL;
	const char *said;
	int status = 0;

	if (process_run(argv, clock_ms() + IMAGE_MS, IMAGE_OUTPUT, out, &errors, &status, err) < 0)
		return error_prefix(err, "cannot %s %s", doing, path);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	errors[strcspn(errors, "\n")] = 0;
	said = strncmp(errors, "qemu-img: ", 10) ? errors : errors + 10;
	return error_set(err, strstr(said, "No space left") ? ERROR_NO_SPACE : ERROR_DISK, 0,
		"cannot %s %s: %s", doing, path, said[0] ? said : "qemu-img gave no reason");
}

/* The new file, empty, the VMs' user's: qemu-img writes into what is there, and would write over an
 * image too. */
static int make_file(const struct hv *hv, const char *path, struct error **err)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0660);

	if (fd < 0 && errno == EEXIST)
		return error_set(err, ERROR_EXISTS, 0, "a file %s exists already", path);
	if (fd < 0)
		return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_DISK, errno,
			"cannot make disk image %s", path);
	if (geteuid() == 0 && fchown(fd, hv->set.uid, hv->set.gid) < 0) {
		error_set(err, ERROR_DISK, errno,
			"cannot give disk image %s to user %u (an NFS export needs no_root_squash)",
			path, (unsigned)hv->set.uid);
		unlink(path);
		return -1;
	}
	return 0;
}

int qemu_image_create(const struct hv *hv, const char *path, const char *format,
	uint64_t size_bytes, const char *backing, const char *backing_format, struct error **err)
{
	cleanup_free char *size = fs_format("%llu", (unsigned long long)size_bytes);
	const char *argv[12] = {hv->set.img_binary, "create", "-q", "-f", format};
	size_t n = 5;

	if (path[0] != '/' || (strcmp(format, "qcow2") && strcmp(format, "raw")))
		return error_set(err, ERROR_USAGE, 0,
			"cannot make disk image %s: it needs an absolute path and format qcow2 or "
			"raw",
			path);
	if (!backing && size_bytes == 0)
		return error_set(err, ERROR_USAGE, 0, "disk image %s needs a size", path);
	if (backing) {
		argv[n++] = "-b";
		argv[n++] = backing;
		argv[n++] = "-F";
		argv[n++] = backing_format ? backing_format : "qcow2";
	}
	argv[n++] = path;
	if (size_bytes)
		argv[n++] = size;
	if (make_file(hv, path, err) < 0)
		return -1;
	if (run(argv, "make disk image", path, NULL, err) < 0) {
		unlink(path);
		return -1;
	}
	return 0;
}

json_t *qemu_image_info(const struct hv *hv, const char *path, struct error **err)
{
	const char *const argv[] = {hv->set.img_binary, "info", "-U", "--output=json", path, NULL};
	cleanup_free char *out = NULL;
	cleanup_json json_t *info = NULL;
	const char *format, *backing, *backing_format;
	int64_t size;

	if (path[0] != '/') {
		error_set(err, ERROR_USAGE, 0, "disk image %s needs an absolute path", path);
		return NULL;
	}
	if (run(argv, "read disk image", path, &out, err) < 0)
		return NULL;
	info = json_parse("the answer of qemu-img", out, strlen(out), err);
	format = info ? json_get_string(info, "format", err) : NULL;
	if (!format || json_get_int(info, "virtual-size", 0, INT64_MAX, &size, err) < 0 ||
		json_opt_string(info, "full-backing-filename", NULL, &backing, err) < 0 ||
		json_opt_string(info, "backing-filename-format", NULL, &backing_format, err) < 0) {
		error_prefix(err, "disk image %s", path);
		return NULL;
	}
	return json_pack("{s:s, s:I, s:s*, s:s*}", "format", format, "virtual_size",
		(json_int_t)size, "backing", backing, "backing_format", backing_format);
}

int hv_image_locked(const char *path, bool *locked, struct error **err)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_WRITE_BYTE, .l_len = 1};
	cleanup_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	*locked = false;
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fcntl(fd, F_GETLK, &lock) < 0)
		return error_set(err, ERROR_DISK, errno,
			"cannot tell whether disk image %s is in use", path);
	*locked = lock.l_type != F_UNLCK;
	return 0;
}
