/* What a running guest can be asked for an estimate: how fast it changes its memory, and what is in
 * some of its pages. */
#include "hv/qemu/qemu.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* QEMU (migration/dirtyrate.c): blocks below 128 MiB are not sampled; samples for each GiB, from
 * 128 to 16,384, of which each is read twice. */
#define BLOCK_MIN (128ull << 20)
#define SAMPLES_MIN 128
#define SAMPLES_MAX 4096
/* All in all. They take 2 us each, twice. */
#define SAMPLES_ALL 16384
/* Nothing tells that it has been measured: it is asked so often. */
#define LOOK_MS 10
#define SECOND_MS 1000
/* A piece of memory is given within this, or not at all. */
#define PIECE_MS 2000
/* Shorter, QEMU does not measure. */
#define WINDOW_MIN_MS 50
#define GIB (1ull << 30)
/* Where q35 ends memory below 4 GiB (hw/i386/pc_q35.c): at 2 GiB, for guests of 2.75 GiB and more.
 */
#define LOW_ALL (0xb0000000ull)
#define LOW_SPLIT (2 * GIB)
#define HIGH_BEGIN (4 * GIB)
/* Larger guests may have their upper memory elsewhere (AMD's hole below 1 TiB). */
#define LARGEST (900 * GIB)

static int64_t samples_for(uint64_t memory_bytes)
{
	uint64_t each = (uint64_t)SAMPLES_ALL * GIB / memory_bytes;

	if (each < SAMPLES_MIN)
		return SAMPLES_MIN;
	return each < SAMPLES_MAX ? (int64_t)each : SAMPLES_MAX;
}

/* Milliseconds, which 8.2 is the first to know; else seconds. */
static int start(struct hv_vm *vm, int64_t samples, int64_t *window_ms, int64_t deadline_ms,
	struct error **err)
{
	int64_t ms = *window_ms > WINDOW_MIN_MS ? *window_ms : WINDOW_MIN_MS;
	struct error *unknown = NULL;

	if (qemu_run(vm, "calc-dirty-rate",
		    json_pack("{s:I, s:s, s:I}", "calc-time", (json_int_t)ms, "calc-time-unit",
			    "millisecond", "sample-pages", (json_int_t)samples),
		    NULL, &unknown) == 0) {
		*window_ms = ms;
		return 0;
	}
	if (unknown->kind != ERROR_HYPERVISOR || !strstr(unknown->message, "calc-time-unit"))
		return error_move(err, unknown);
	error_free(&unknown);
	*window_ms = SECOND_MS;
	if (clock_ms() + SECOND_MS > deadline_ms)
		return error_set(err, ERROR_TIMEOUT, 0,
			"%s: this QEMU takes a second to say how fast its memory changes",
			vm->name);
	return qemu_run(vm, "calc-dirty-rate",
		json_pack("{s:i, s:I}", "calc-time", 1, "sample-pages", (json_int_t)samples), NULL,
		err);
}

/* 1 when it has been measured. */
static int look(struct hv_vm *vm, int64_t *bps, struct error **err)
{
	cleanup_json json_t *said = NULL;
	const char *status;
	int64_t mib;

	if (qemu_run(vm, "query-dirty-rate", NULL, &said, err) < 0)
		return -1;
	status = json_get_string(said, "status", err);
	if (!status || strcmp(status, "measured") != 0)
		return status ? 0 : -1;
	if (json_get_int(said, "dirty-rate", 0, INT64_MAX >> 20, &mib, err) < 0)
		return -1;
	*bps = mib << 20;
	return 1;
}

int qemu_vm_dirty_rate(struct hv_vm *vm, uint64_t memory_bytes, int64_t deadline_ms,
	struct hv_dirty_rate *rate, struct error **err)
{
	int64_t samples;
	int rc;

	if (memory_bytes < BLOCK_MIN)
		return error_set(err, ERROR_REFUSED, 0,
			"%s: QEMU does not measure how fast so little memory changes", vm->name);
	samples = samples_for(memory_bytes);
	if (start(vm, samples, &rate->window_ms, deadline_ms, err) < 0)
		return -1;
	while ((rc = look(vm, &rate->bps, err)) == 0) {
		if (clock_ms() >= deadline_ms)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: QEMU did not say in time how fast its memory changes",
				vm->name);
		qmp_wait_event(vm->qmp, qmp_event_seq(vm->qmp), clock_ms() + LOOK_MS, NULL);
	}
	/* One of so many samples a GiB, in that time; and it tells whole MiB. */
	rate->step_bps =
		(int64_t)(GIB / (uint64_t)samples) * SECOND_MS / rate->window_ms + (1 << 20);
	return rc < 0 ? -1 : 0;
}

/* Where a piece of the guest's memory is in its physical address space; what is no memory is never
 * read, for a device may do something when it is. */
static int find_physical(
	uint64_t memory_bytes, uint64_t offset, size_t len, uint64_t *address, struct error **err)
{
	uint64_t low = memory_bytes < LOW_ALL ? memory_bytes : LOW_SPLIT;

	if (memory_bytes > LARGEST)
		return error_set(err, ERROR_REFUSED, 0,
			"it is not known where the memory of a guest of more than %llu GiB is",
			LARGEST / GIB);
	if (offset < HV_SAMPLE_FIRST || len > memory_bytes || offset > memory_bytes - len)
		return error_set(err, ERROR_USAGE, 0, "a piece outside of the guest's memory");
	*address = offset < low ? offset : offset - low + HIGH_BEGIN;
	return offset < low && offset + len > low
		       ? error_set(err, ERROR_USAGE, 0, "a piece across the end of low memory")
		       : 0;
}

/* VMs that are being read now, each for one caller: they would write to one file. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sampled {
	struct hv_vm *vm;
	struct sampled *next;
} * all_sampled;

static int begin(struct sampled *mine, struct error **err)
{
	const struct sampled *other;

	pthread_mutex_lock(&lock);
	for (other = all_sampled; other && other->vm != mine->vm; other = other->next)
		;
	if (!other) {
		mine->next = all_sampled;
		all_sampled = mine;
	}
	pthread_mutex_unlock(&lock);
	return other ? error_set(err, ERROR_BUSY, 0, "%s: its memory is being looked at already",
			       mine->vm->name)
		     : 0;
}

static void end(struct sampled *mine)
{
	struct sampled **at = &all_sampled;

	pthread_mutex_lock(&lock);
	while (*at != mine)
		at = &(*at)->next;
	*at = mine->next;
	pthread_mutex_unlock(&lock);
}

/* The file that QEMU writes to. The directory is root's and sticky, and so is the file: QEMU can
 * write to it, but neither read nor replace it. */
static int make_file(struct hv_vm *vm, const char *path, struct error **err)
{
	int fd;

	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make %s", path);
	if (geteuid() != 0 ||
		(fchown(fd, (uid_t)-1, vm->hv->set.gid) == 0 && fchmod(fd, 0620) == 0))
		return fd;
	error_set(err, ERROR_FAILED, errno, "cannot let the hypervisor write to %s", path);
	unlink(path);
	close_fd(&fd);
	return -1;
}

/* The pages from one offset on. */
static int read_pages(struct hv_vm *vm, const char *path, int fd, uint64_t address,
	const struct hv_sample *where, uint8_t *out, struct error **err)
{
	uint64_t len = (uint64_t)(where->pages - 1) * where->step + HV_PAGE;

	if (qemu_run_for(vm, PIECE_MS, "pmemsave",
		    json_pack("{s:I, s:I, s:s}", "val", (json_int_t)address, "size",
			    (json_int_t)len, "filename", path),
		    NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < where->pages; i++) {
		ssize_t n = pread(fd, out + i * HV_PAGE, HV_PAGE, (off_t)(i * where->step));

		if (n != (ssize_t)HV_PAGE)
			return error_set(err, ERROR_HYPERVISOR, n < 0 ? errno : 0,
				"%s: its hypervisor did not write what was asked for to %s",
				vm->name, path);
	}
	return 0;
}

/* All of them, as hv_vm_sample_memory. */
static int read_all(struct hv_vm *vm, uint64_t memory_bytes, const struct hv_sample *where,
	int64_t deadline_ms, uint8_t *out, size_t *got, struct error **err)
{
	cleanup_free char *path = qemu_path(vm->run_dir, "sample");
	cleanup_fd int fd = make_file(vm, path, err);
	size_t len = (where->pages - 1) * where->step + HV_PAGE;
	struct error *e = NULL;
	uint64_t address = 0;
	int rc = fd < 0 ? -1 : 0;

	while (rc == 0 && *got < where->count && clock_ms() < deadline_ms) {
		rc = find_physical(memory_bytes, where->offsets[*got], len, &address, &e);
		if (rc == 0)
			rc = read_pages(vm, path, fd, address, where,
				out + *got * where->pages * HV_PAGE, &e);
		if (rc == 0)
			++*got;
	}
	/* One that is late still writes to it, and must not make a file of its own of that. */
	if (fd >= 0 && !(e && e->kind == ERROR_TIMEOUT))
		unlink(path);
	return e ? error_move(err, e) : rc;
}

int qemu_vm_sample_memory(struct hv_vm *vm, uint64_t memory_bytes, const struct hv_sample *where,
	int64_t deadline_ms, uint8_t *out, size_t *got, struct error **err)
{
	struct sampled mine = {.vm = vm};
	int rc;

	*got = 0;
	if (begin(&mine, err) < 0)
		return -1;
	rc = read_all(vm, memory_bytes, where, deadline_ms, out, got, err);
	end(&mine);
	return rc;
}
