/*
 * How a guest can be moved between two bhyves, and the place for guests that move as files.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Kernel structures and devices: some MiB (bhyve's own buffers for them have 4 to 40 MB). */
#define MORE_BYTES (64ull << 20)
#define MEASURE_CHUNK (1ull << 20)
#define MEASURE_CHUNKS 32
#define MEASURE_MS 150

/* What a node has published of its bhyve: "can" of hv_facts_json. */
static unsigned abilities_of(const json_t *there)
{
	static const struct {
		const char *name;
		unsigned ability;
	} names[] = {{"snapshot", BHYVE_SNAPSHOT}, {"restore", BHYVE_RESTORE},
		{"receive", BHYVE_RECEIVE}, {"migrate", BHYVE_MIGRATE},
		{"migrate_live", BHYVE_MIGRATE_LIVE}};
	const json_t *can = json_object_get(there, "can");
	unsigned abilities = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (json_is_true(json_object_get(can, names[i].name)))
			abilities |= names[i].ability;
	return abilities;
}

enum hv_way bhyve_way(const struct hv *hv, const json_t *there, bool still)
{
	unsigned here = hv->abilities, other = there ? abilities_of(there) : hv->abilities;
	unsigned files = BHYVE_SNAPSHOT | BHYVE_RESTORE;

	if ((here & (still ? BHYVE_MIGRATE : BHYVE_MIGRATE_LIVE)) && (other & BHYVE_RECEIVE))
		return HV_WAY_STREAM;
	return (here & other & files) == files ? HV_WAY_FILES : HV_WAY_NONE;
}

/* What no file system makes smaller, or takes for what it has already. */
static void fill(uint64_t *chunk, size_t count)
{
	static const uint64_t factor = 6364136223846793005u; /* Knuth's MMIX generator */
	uint64_t x = (uint64_t)clock_us() | 1;

	for (size_t i = 0; i < count; i++)
		chunk[i] = x = x * factor + 1442695040888963407u;
}

static int measure(const char *path, struct hv_room *room, struct error **err)
{
	cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	cleanup_free uint64_t *chunk = malloc(MEASURE_CHUNK);
	int64_t begin_us, cached_us;
	double bytes = 0;

	if (!chunk)
		abort();
	if (fd < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make %s", path);
	fill(chunk, MEASURE_CHUNK / sizeof(*chunk));
	begin_us = clock_us();
	for (int i = 0; i < MEASURE_CHUNKS && clock_us() - begin_us < MEASURE_MS * 1000; i++) {
		chunk[0] = (uint64_t)i;
		if (fs_write_all(fd, chunk, MEASURE_CHUNK) < 0)
			return error_set(err, errno == ENOSPC ? ERROR_NO_SPACE : ERROR_FAILED,
				errno, "cannot write to %s", room->dir);
		bytes += MEASURE_CHUNK;
	}
	cached_us = clock_us() - begin_us;
	if (fsync(fd) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot write to %s", room->dir);
	room->cached_bps = bytes * 1e6 / (double)(cached_us + 1);
	room->disk_bps = bytes * 1e6 / (double)(clock_us() - begin_us + 1);
	return 0;
}

int bhyve_room(const struct hv *hv, const struct vm_def *def, struct hv_room *room, bool measured,
	struct error **err)
{
	cleanup_free char *path = NULL;
	struct statvfs fs;
	char hex[17];
	int rc;

	if (!(hv->abilities & BHYVE_RESTORE))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"bhyve has no -r: build world and kernel with BHYVE_SNAPSHOT");
	snprintf(room->dir, sizeof(room->dir), "%s", hv->set.suspend_dir);
	room->needed_bytes = def->memory_bytes + MORE_BYTES;
	if (fs_mkdirs(room->dir, 0700, err) < 0)
		return -1;
	if (statvfs(room->dir, &fs) < 0)
		return error_set(
			err, ERROR_FAILED, errno, "cannot tell what is free in %s", room->dir);
	room->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	/* What is measured with must not make another check find too little. */
	if (!measured || room->free_bytes < room->needed_bytes + MEASURE_CHUNKS * MEASURE_CHUNK)
		return 0;
	fs_random_hex(hex, 8);
	path = fs_format("%s/.measure.%s", room->dir, hex);
	rc = measure(path, room, err);
	unlink(path);
	return rc;
}
