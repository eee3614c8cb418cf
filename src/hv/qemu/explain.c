#include "hv/qemu/qemu.h"

#include "base/fs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TAIL_BYTES 8192
#define TAIL_LINES 4

/* Reads at most the last TAIL_BYTES of the log. */
static size_t read_tail(const char *run_dir, char *out)
{
	cleanup_free char *path = qemu_path(run_dir, "hv.log");
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t n = 0;

	if (size > 0)
		n = pread(fd, out, TAIL_BYTES, size > TAIL_BYTES ? size - TAIL_BYTES : 0);
	n = n < 0 ? 0 : n;
	out[n] = 0;
	return (size_t)n;
}

/* Without "2026-01-31T02:03:04.005Z " and "qemu-system-x86_64: ". */
static const char *without_prefix(const char *line)
{
	const char *after = strstr(line, "Z qemu-system-");
	const char *colon;

	if (!after && strncmp(line, "qemu-system-", 12) == 0)
		after = line - 2;
	colon = after ? strstr(after, ": ") : NULL;
	return colon ? colon + 2 : line;
}

void qemu_log_tail(const char *run_dir, char out[512])
{
	char text[TAIL_BYTES + 1], *save = NULL;
	const char *lines[TAIL_LINES];
	size_t count = 0, used = 0;

	out[0] = 0;
	read_tail(run_dir, text);
	for (char *line = strtok_r(text, "\r\n", &save); line;
		line = strtok_r(NULL, "\r\n", &save)) {
		line = (char *)without_prefix(line);
		if (strncmp(line, "warning:", 8) == 0 || strncmp(line, "terminating on", 14) == 0)
			continue;
		if (count == TAIL_LINES)
			memmove(lines, lines + 1, --count * sizeof(*lines));
		lines[count++] = line;
	}
	for (size_t i = 0; i < count && used < 511; i++)
		used += (size_t)snprintf(out + used, 512 - used, "%s%s", i ? "; " : "", lines[i]);
}

/* What stands between `before` and `after` in QEMU's words; "" when it does not stand there. */
static const char *between(const char *said, const char *before, char after, char out[256])
{
	const char *from = strstr(said, before);
	const char *to = from ? strchr(from + strlen(before), after) : NULL;

	out[0] = 0;
	if (to)
		snprintf(
			out, 256, "%.*s", (int)(to - from - strlen(before)), from + strlen(before));
	return out;
}

/* "disk0" and the words of `-blockdev {…"node-name":"disk0-file"…}: words`; what else it is, as it
 * is, about "a disk". */
static const char *disk_words(const char *said, char disk[256])
{
	const char *words = strstr(said, "}: ");
	char *suffix;

	if (!between(said, "\"node-name\":\"", '"', disk)[0] || !words) {
		snprintf(disk, 256, "a disk");
		return said;
	}
	suffix = strstr(disk, "-file");
	if (suffix)
		*suffix = 0;
	return words + strlen("}: ");
}

static int explain_disk(const char *name, const char *doing, const char *said,
	const struct hv_settings *set, struct error **err)
{
	char path[256], disk[256];
	const char *words = disk_words(said, disk);

	if (strstr(said, "\" lock")) {
		between(said, "using the image [", ']', path);
		return error_set(err, ERROR_DISK, 0,
			"%s: cannot %s: %s%s%s is in use by another process, here or on another "
			"node, which holds its lock; end that one first",
			name, doing, disk, path[0] ? " " : "", path);
	}
	if (strstr(words, "Permission denied"))
		return error_set(err, ERROR_DISK, 0,
			"%s: cannot %s: %s does not open: %s; give user %u (group %u) read and "
			"write access to it, and search access to its directories",
			name, doing, disk, words, (unsigned)set->uid, (unsigned)set->gid);
	if (strstr(words, "O_DIRECT"))
		return error_set(err, ERROR_DISK, 0,
			"%s: cannot %s: %s is on a file system that cannot do direct I/O; set "
			"its cache to writeback (%s)",
			name, doing, disk, words);
	return error_set(err, ERROR_DISK, 0, "%s: cannot %s: %s does not open: %s", name, doing,
		disk, words);
}

static bool about_disk(const char *said)
{
	return strstr(said, "\" lock") || strstr(said, "-blockdev") ||
	       strstr(said, "Could not open '") || strstr(said, "O_DIRECT");
}

int qemu_explain(const char *name, const char *doing, const char *said,
	const struct hv_settings *set, struct error **err)
{
	if (about_disk(said))
		return explain_disk(name, doing, said, set, err);
	if (strstr(said, "-netdev") || strstr(said, "TUNSETIFF"))
		return error_set(err, ERROR_NETWORK, 0,
			"%s: cannot %s: its network does not open: %s", name, doing, said);
	if (strstr(said, "set up guest memory") || strstr(said, "Cannot allocate memory"))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s: cannot %s: this node has not enough free memory for it: %s", name,
			doing, said);
	if (strstr(said, "Permission denied"))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s: cannot %s: QEMU says: %s; give user %u (group %u) read access to it",
			name, doing, said, (unsigned)set->uid, (unsigned)set->gid);
	return error_set(err, ERROR_HYPERVISOR, 0, "%s: cannot %s: QEMU says: %s", name, doing,
		said[0] ? said : "nothing");
}
