#include "task/internal.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 65536

char *task_log_path(const struct task_queue *q, int64_t id)
{
	return fs_format("%s/%lld.log", q->log_dir, (long long)id);
}

/*
 * Length of the UTF-8 sequence at s (RFC 3629): 0 when it is none, -1 when it is the beginning of
 * one that is cut at the end.
 */
static int sequence(const unsigned char *s, size_t left)
{
	int len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (len == 0 || s[0] > 0xf4 || s[0] == 0)
		return 0;
	for (int i = 1; i < len; i++) {
		if ((size_t)i == left)
			return -1;
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	/* Overlong forms, surrogates, beyond U+10FFFF. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
		(s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

/* Makes the text valid; returns its length without a sequence at its end whose rest may come. When
 * that is all there is, it is no longer waited for: the caller would ask again at once. */
static size_t make_text(unsigned char *text, size_t len, bool more_may_come)
{
	size_t at = 0;

	while (at < len) {
		int n = sequence(text + at, len - at);

		if (n == -1 && more_may_come && at > 0)
			break;
		if (n <= 0)
			text[at] = '?';
		at += n > 0 ? (size_t)n : 1;
	}
	return at;
}

static ssize_t read_log(const struct task_queue *q, int64_t id, int64_t offset, unsigned char *text)
{
	cleanup_free char *path = task_log_path(q, id);
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

	/* No log yet, or none could be written: nothing to show. */
	return fd < 0 ? 0 : pread(fd, text, CHUNK, offset);
}

/* Waits until the log is longer than `offset`, the task does not run (then *ended), or the time is
 * over. */
static int wait_for_output(struct task_queue *q, int64_t id, int64_t offset, int64_t deadline_ms,
	bool *ended, struct error **err)
{
	cleanup_free char *path = task_log_path(q, id);
	struct stat st;

	pthread_mutex_lock(&q->lock);
	for (;;) {
		cleanup_json json_t *task = task_show(q, id, err);
		const char *state = json_string_value(json_object_get(task, "state"));

		*ended = state && strcmp(state, "queued") != 0 && strcmp(state, "waiting") != 0 &&
			 strcmp(state, "running") != 0;
		if (!task || *ended || q->closing || clock_left_ms(deadline_ms) == 0 ||
			(stat(path, &st) == 0 && st.st_size > offset)) {
			pthread_mutex_unlock(&q->lock);
			return task ? 0 : -1;
		}
		cond_wait_until(&q->changed, &q->lock, deadline_ms);
	}
}

json_t *task_log(
	struct task_queue *q, int64_t id, int64_t offset, int64_t wait_ms, struct error **err)
{
	cleanup_free unsigned char *text = NULL;
	ssize_t read_len;
	size_t len;
	bool ended;

	if (wait_for_output(q, id, offset, clock_ms() + wait_ms, &ended, err) < 0)
		return NULL;
	text = malloc(CHUNK);
	if (!text)
		abort();
	read_len = read_log(q, id, offset, text);
	if (read_len < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot read the output of task %lld",
			(long long)id);
		return NULL;
	}
	len = make_text(text, (size_t)read_len, !ended || read_len == CHUNK);
	return json_pack("{s:s#,s:I,s:b}", "text", text, (int)len, "offset",
		(json_int_t)offset + (json_int_t)len, "ended", ended && read_len < CHUNK);
}
