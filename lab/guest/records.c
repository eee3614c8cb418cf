#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	RECORD_SIZE = 512,
};

static struct {
	pthread_mutex_t lock;
	pthread_t thread;
	bool running, stop;
	char path[MAX_LINE];
	unsigned rate;
	uint64_t written, session;
	int error;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* `session` is the writer's own: records of an earlier one may follow on a device. */
struct record {
	uint64_t magic, number, session, sum;
	uint8_t rest[RECORD_SIZE - 32];
};

static uint64_t record_sum(const struct record *r)
{
	return mix(r->magic ^ mix(r->number) ^ mix(~r->session));
}

static void make_record(struct record *r, uint64_t n)
{
	*r = (struct record){CONTENT_MAGIC, n, disk.session, 0, {0}};
	r->sum = record_sum(r);
	memset(r->rest, (int)(r->sum & 0xff), sizeof(r->rest));
}

static bool record_right(const struct record *r, uint64_t n)
{
	bool right = r->magic == CONTENT_MAGIC && r->number == n && r->sum == record_sum(r);
	for (size_t i = 0; right && i < sizeof(r->rest); i++)
		right = r->rest[i] == (uint8_t)r->sum;
	return right;
}

static void *disk_writer(void *arg)
{
	(void)arg;
	int fd = open(disk.path, O_WRONLY | O_CREAT | O_TRUNC | O_DSYNC | O_CLOEXEC, 0644);
	int error = fd < 0 ? errno : 0;
	for (bool stop = false; !error && !stop;) {
		struct record r;
		make_record(&r, disk.written);
		if (write(fd, &r, sizeof(r)) != sizeof(r))
			error = errno ? errno : EIO;
		pthread_mutex_lock(&disk.lock);
		disk.written += !error;
		stop = disk.stop;
		pthread_mutex_unlock(&disk.lock);
		sleep_ms(1000 / (int)disk.rate);
	}
	pthread_mutex_lock(&disk.lock);
	disk.error = error;
	pthread_mutex_unlock(&disk.lock);
	if (fd >= 0)
		close(fd);
	return NULL;
}

static void stop_disk(void)
{
	if (!disk.running)
		return;
	pthread_mutex_lock(&disk.lock);
	disk.stop = true;
	pthread_mutex_unlock(&disk.lock);
	pthread_join(disk.thread, NULL);
	disk.running = false;
}

/* RECORDS_S of 0 stops the writer. */
void records_write(struct answer *a, char **args)
{
	int64_t rate = args[1] ? number(args[2], 1000) : -1;
	if (rate < 0) {
		fail(a, "usage: disk PATH RECORDS_S");
		return;
	}
	stop_disk();
	if (rate > 0) {
		disk.stop = false;
		disk.written = 0;
		disk.error = 0;
		disk.session = random_u64();
		disk.rate = (unsigned)rate;
		snprintf(disk.path, sizeof(disk.path), "%s", args[1]);
		disk.running = pthread_create(&disk.thread, NULL, disk_writer, NULL) == 0;
	}
	say(a, "{\"path\":\"%s\",\"records\":%lu,\"errno\":%d}", disk.path, disk.written,
		disk.error);
}

/* Of one writer, from the first on, as the disk has them. What was never written, or is an earlier
 * writer's, comes after the last. */
void records_check(struct answer *a, char **args)
{
	struct record r;
	uint64_t n = 0, bad = 0, session = 0;
	FILE *f = args[1] ? fopen(args[1], "re") : NULL;
	if (!f) {
		fail(a, args[1] ? strerror(errno) : "usage: diskcheck PATH");
		return;
	}
	posix_fadvise(fileno(f), 0, 0, POSIX_FADV_DONTNEED);
	for (; fread(&r, sizeof(r), 1, f) == 1; n++) {
		bool right = record_right(&r, n);
		if (n == 0)
			session = r.session;
		if (r.magic == 0 || (right && r.session != session))
			break;
		bad += !right;
	}
	fclose(f);
	pthread_mutex_lock(&disk.lock);
	say(a, "{\"ok\":%s,\"records\":%lu,\"bad\":%lu,\"written\":%lu}",
		!bad && n >= disk.written ? "true" : "false", n, bad, disk.written);
	pthread_mutex_unlock(&disk.lock);
}

int records_status(char *out, size_t len)
{
	pthread_mutex_lock(&disk.lock);
	int n = snprintf(
		out, len, "\"disk_records\":%lu,\"disk_errno\":%d", disk.written, disk.error);
	pthread_mutex_unlock(&disk.lock);
	return n;
}
