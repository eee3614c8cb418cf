#include "migrate/measure.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "migrate/internal.h"
#include "pool/image.h"
#include "wire/source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

/* What is kept of a place, and what it takes in the guest's memory. */
#define PIECE (MEASURE_PAGES * HV_PAGE)
#define PLACE (MEASURE_PAGES * MEASURE_STEP)
#define ANSWER_MAX (16u << 10)
#define END_MS 1000

struct look {
	struct vm *vm;
	uint64_t memory_bytes;
	size_t count; /* pieces that are there */
	uint64_t offsets[MEASURE_PLACES];
	uint8_t *pages;             /* the pieces, and behind them the same ones a moment later */
	size_t size;                /* of it, bytes */
	int fd;                     /* of that memory */
	bool again;                 /* they are there a second time */
	int64_t first_ms, later_ms; /* in the middle of each look */
};

static void say(char out[192], const struct error *e)
{
	snprintf(out, 192, "%.191s", e->message);
}

/* One place in each of `count` equal parts. */
static void choose_places(struct look *l)
{
	uint64_t places = (l->memory_bytes - HV_SAMPLE_FIRST) / PLACE, random[2 * MEASURE_PLACES];

	l->count = places < MEASURE_PLACES ? (size_t)places : MEASURE_PLACES;
	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		memset(random, 0, sizeof(random));
	for (size_t i = 0; i < l->count; i++) {
		uint64_t from = places * i / l->count, to = places * (i + 1) / l->count;

		l->offsets[i] = HV_SAMPLE_FIRST + (from + random[2 * i] % (to - from)) * PLACE;
	}
	/* In no order, so that the first of them tell of all. */
	for (size_t i = l->count; i > 1; i--) {
		size_t other = (size_t)(random[2 * i - 1] % i);
		uint64_t offset = l->offsets[i - 1];

		l->offsets[i - 1] = l->offsets[other];
		l->offsets[other] = offset;
	}
}

/* Memory that the process that looks at the pages can be given. */
static int open_memory(struct look *l, struct error **err)
{
	void *p;

	l->size = 2 * l->count * PIECE;
	l->fd = memfd_create("drover-sample", MFD_CLOEXEC);
	if (l->fd < 0 || ftruncate(l->fd, (off_t)l->size) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make a file in memory");
	p = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
	if (p == MAP_FAILED)
		return error_set(err, ERROR_FAILED, errno, "cannot map a file in memory");
	l->pages = p;
	return 0;
}

static void close_memory(struct look *l)
{
	if (l->pages)
		munmap(l->pages, l->size);
	close_fd(&l->fd);
}

/* Reads the pieces into `out`; how many, and when that was. */
static int look(struct look *l, int64_t limit_ms, int64_t deadline_ms, uint8_t *out, size_t *got,
	int64_t *when_ms, struct error **err)
{
	int64_t begin_ms = clock_ms(), until_ms = begin_ms + limit_ms;
	struct hv_sample where = {l->offsets, l->count, MEASURE_PAGES, MEASURE_STEP};
	int rc = hv_vm_sample_memory(vm_hv(l->vm), l->memory_bytes, &where,
		until_ms < deadline_ms ? until_ms : deadline_ms, out, got, err);

	*when_ms = (begin_ms + clock_ms()) / 2;
	return rc;
}

static int look_first(struct look *l, int64_t limit_ms, int64_t deadline_ms, struct error **err)
{
	if (look(l, limit_ms, deadline_ms, l->pages, &l->count, &l->first_ms, err) < 0)
		return -1;
	return l->count >= MEASURE_PLACES_MIN ? 0
					      : error_set(err, ERROR_TIMEOUT, 0,
							"its hypervisor gave %zu pieces of its "
							"memory in time, which tells "
							"nothing",
							l->count);
}

/* What is not there a second time is left out of the first look, too. */
static void look_later(struct look *l, int64_t limit_ms, int64_t deadline_ms)
{
	uint8_t *later = l->pages + l->count * PIECE;
	size_t got;

	if (look(l, limit_ms, deadline_ms, later, &got, &l->later_ms, NULL) < 0 ||
		got < MEASURE_PLACES_MIN)
		return;
	memmove(l->pages + got * PIECE, later, got * PIECE);
	l->count = got;
	l->again = true;
}

static double number(const json_t *object, const char *key)
{
	int64_t value;

	json_opt_int(object, key, 0, (int64_t)1 << 50, 0, &value, NULL);
	return (double)value;
}

static struct estimate_pages read_pages(const json_t *o)
{
	return (struct estimate_pages){.pages = number(o, "pages"),
		.bytes = number(o, "bytes"),
		.ns = number(o, "ns"),
		.zero = number(o, "zero"),
		.reference = number(o, "reference"),
		.difference = number(o, "difference"),
		.data = number(o, "data")};
}

static int read_answer(const struct look *l, const char *text, size_t len,
	struct estimate_input *in, struct error **err)
{
	cleanup_json json_t *said = json_parse("what drover-wire says of a sample", text, len, err);
	const json_t *changed = json_object_get(said, "changed"), *level;
	size_t i;

	if (!said)
		return -1;
	json_array_foreach(json_object_get(said, "levels"), i, level)
	{
		if (i < ESTIMATE_LEVELS)
			in->levels[in->levels_count++] = read_pages(level);
	}
	if (!in->levels_count || in->levels[0].pages < 1)
		return error_set(err, ERROR_FAILED, 0, "the data mover said nothing of the sample");
	in->places = (double)l->count;
	in->sample_cpu_ns = number(said, "cpu_ns");
	in->sample_wall_ns = number(said, "wall_ns");
	if (!changed)
		return 0;
	in->seen_again = (double)l->count * MEASURE_PAGES;
	in->window_ms = l->later_ms > l->first_ms ? l->later_ms - l->first_ms : 1;
	in->whole = read_pages(json_object_get(changed, "whole"));
	in->difference = read_pages(json_object_get(changed, "difference"));
	return 0;
}

/* The last line that a process writes, within the deadline. */
static size_t read_line(int fd, char *out, size_t size, int64_t deadline_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t used = 0;
	size_t begin;

	while (used < size && poll(&p, 1, clock_left_ms(deadline_ms)) > 0) {
		ssize_t n = read(fd, out + used, size - used);

		if (n <= 0)
			break;
		used += (size_t)n;
	}
	while (used > 0 && out[used - 1] == '\n')
		used--;
	begin = used;
	while (begin > 0 && out[begin - 1] != '\n')
		begin--;
	memmove(out, out + begin, used - begin);
	return used - begin;
}

/* As the data mover is: without privileges, and not as a hypervisor's user. */
static int start_wire(struct migrations *all, const struct look *l, const char **argv, int out_fd,
	struct process_id *id, struct error **err)
{
	const struct migrate_settings *set = &all->set;
	struct process_options options = {.argv = argv,
		.own_session = true,
		.set_user = true,
		.uid = set->wire_uid,
		.gid = set->wire_gid,
		.no_new_privs = true,
		.stdin_fd = l->fd,
		.stdout_fd = out_fd,
		.stderr_fd = -1};

	return process_start(&options, id, err);
}

static void end_process(const struct process_id *id)
{
	if (process_wait(id, clock_ms(), NULL))
		return;
	process_signal(id, SIGKILL);
	process_wait(id, clock_ms() + END_MS, NULL);
}

static int run_wire(struct migrations *all, const struct look *l, const char **argv,
	int64_t deadline_ms, struct estimate_input *in, struct error **err)
{
	char *text = malloc(ANSWER_MAX);
	struct process_id id;
	int fds[2], rc = -1;
	size_t len;

	if (!text)
		abort();
	if (pipe2(fds, O_CLOEXEC) < 0) {
		free(text);
		return error_set(err, ERROR_FAILED, errno, "cannot make a pipe");
	}
	if (start_wire(all, l, argv, fds[1], &id, err) == 0) {
		close_fd(&fds[1]);
		len = read_line(fds[0], text, ANSWER_MAX, deadline_ms);
		end_process(&id);
		rc = len ? read_answer(l, text, len, in, err)
			 : error_set(err, ERROR_TIMEOUT, 0,
				   "the data mover did not look at the sample in time");
	}
	close_fd(&fds[0]);
	close_fd(&fds[1]);
	free(text);
	return rc;
}

/* With the base images that a migration would refer to. */
static int classify(struct migrations *all, const struct look *l, int64_t deadline_ms,
	struct estimate_input *in, struct error **err)
{
	cleanup_free char *pages = fs_format("%zu", l->count * MEASURE_PAGES);
	const char *argv[4 + 2 * SOURCE_MAX + 1] = {
		all->set.wire_binary, "sample", "--pages", pages, NULL};
	struct image_files files = {0};
	char *texts[SOURCE_MAX];
	size_t count = 0;
	int rc;

	if (ftruncate(l->fd, (off_t)((l->again ? 2 : 1) * l->count * PIECE)) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot shorten a file in memory");
	image_backing_files(all->set.pool, vm_definition(l->vm), &files, NULL);
	for (size_t i = 0; i < files.count && count < SOURCE_MAX; i++) {
		if (strchr(files.list[i].name, '='))
			continue;
		texts[count] = fs_format("%s=%s", files.list[i].name, files.list[i].path);
		argv[4 + 2 * count] = "--source";
		argv[5 + 2 * count] = texts[count];
		count++;
	}
	image_files_free(&files);
	rc = run_wire(all, l, argv, deadline_ms, in, err);
	while (count > 0)
		free(texts[--count]);
	return rc;
}

static void watch_dirty(
	struct look *l, int64_t window_ms, int64_t deadline_ms, struct estimate_input *in)
{
	struct hv_dirty_rate rate = {.window_ms = window_ms};
	cleanup_error struct error *e = NULL;

	if (hv_vm_dirty_rate(vm_hv(l->vm), l->memory_bytes, deadline_ms, &rate, &e) < 0)
		say(in->no_dirty, e);
	in->dirty_bps = (double)rate.bps;
	in->dirty_step_bps = (double)rate.step_bps;
}

/* Lets the rest of the window pass where nobody else has watched that long. */
static void wait_window(struct migrations *all, const struct look *l, int64_t window_ms)
{
	int64_t left = l->first_ms + window_ms - clock_ms();

	if (left > 0)
		migrations_pause(all, left);
}

static int measure(struct migrations *all, struct look *l, const struct measure_times *times,
	int64_t deadline_ms, struct estimate_input *in, struct error **err)
{
	int rc;

	choose_places(l);
	rc = open_memory(l, err);
	if (rc == 0)
		rc = look_first(l, times->look_ms, deadline_ms, err);
	if (!in->paused)
		watch_dirty(l, times->window_ms, deadline_ms, in);
	if (rc == 0 && !in->paused) {
		wait_window(all, l, times->window_ms);
		look_later(l, times->look_ms, deadline_ms);
	}
	return rc == 0 ? classify(all, l, deadline_ms, in, err) : -1;
}

void measure_guest(struct migrations *all, const char *vm, const struct measure_times *times,
	int64_t deadline_ms, struct estimate_input *in)
{
	struct look l = {.vm = vms_find(all->set.vms, vm), .fd = -1};
	cleanup_error struct error *e = NULL;
	enum hv_state state;

	if (!l.vm) {
		snprintf(in->no_sample, sizeof(in->no_sample), "it does not run here");
		strcpy(in->no_dirty, in->no_sample);
		return;
	}
	l.memory_bytes = vm_definition(l.vm)->memory_bytes;
	state = hv_vm_state(vm_hv(l.vm));
	in->paused = state == HV_PAUSED || state == HV_STARTING;
	if (state != HV_RUNNING && !in->paused)
		snprintf(in->no_sample, sizeof(in->no_sample), "its hypervisor is \"%s\"",
			hv_state_name(state));
	else if (measure(all, &l, times, deadline_ms, in, &e) < 0)
		say(in->no_sample, e);
	if (state != HV_RUNNING && !in->paused)
		strcpy(in->no_dirty, in->no_sample);
	close_memory(&l);
	vm_unref(l.vm);
}
