/*
 * Checkpoints: bhyvectl --checkpoint=FILE and --suspend=FILE.
 *
 * bhyvectl leaves before anything has been written. bhyve writes memory into FILE, the state of
 * kernel and devices into FILE.kern, and what is where in that into FILE.meta, JSON (snapshot.c):
 * "basic metadata" with "memsize", "structs" and "devices" with "size" and "file_offset". They are
 * complete when FILE.meta can be parsed and the others are as long as it says.
 */
#include "hv/bhyve/bhyve.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define META_MAX (1u << 20)
#define LOOK_MS 50
#define WATCH_MS 1000
#define WATCH_TIMES 5

static int64_t size_of(const char *file, const char *suffix)
{
	cleanup_free char *path = fs_format("%s%s", file, suffix);
	struct stat st;

	return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

/* How long FILE.kern is by a list of FILE.meta; -1 when that is nonsense. */
static int64_t end_of(const json_t *list)
{
	int64_t end = 0, size, offset;
	json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		if (json_get_int(item, "size", 0, INT32_MAX, &size, NULL) < 0 ||
			json_get_int(item, "file_offset", 0, INT64_MAX / 2, &offset, NULL) < 0)
			return -1;
		end = offset + size > end ? offset + size : end;
	}
	return json_is_array(list) ? end : -1;
}

bool bhyve_checkpoint_complete(const char *file)
{
	cleanup_free char *path = fs_format("%s.meta", file);
	size_t len = 0;
	cleanup_free char *text = fs_read(path, META_MAX, &len, NULL);
	cleanup_json json_t *meta = text ? json_parse(path, text, len, NULL) : NULL;
	const json_t *basic = json_object_get(meta, "basic metadata");
	int64_t memory, structs = end_of(json_object_get(meta, "structs"));
	int64_t devices = end_of(json_object_get(meta, "devices"));

	return basic && json_get_int(basic, "memsize", 1, INT64_MAX, &memory, NULL) == 0 &&
	       structs >= 0 && devices >= 0 && size_of(file, "") >= memory &&
	       size_of(file, ".kern") >= (structs > devices ? structs : devices);
}

/* A checkpoint of that name from earlier would be taken for this one. */
void bhyve_checkpoint_remove(const char *file)
{
	static const char *const suffixes[] = {".meta", ".kern", ""};

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		cleanup_free char *path = fs_format("%s%s", file, suffixes[i]);

		unlink(path);
	}
}

/*
 * A bhyve that cannot write its state says so in its log, and lets its guest go on; nobody is told.
 * While it writes, the vCPUs stand still. They may have moved before it began: it is believed only
 * where they have in several looks in a row, and nothing was written.
 */
bool bhyve_has_given_up(struct hv_vm *vm, const char *file, struct bhyve_watch *w)
{
	int64_t bytes = size_of(file, "") + size_of(file, ".kern") + size_of(file, ".meta");
	int64_t exits;
	bool goes_on;

	if (clock_ms() - w->at_ms < WATCH_MS)
		return false;
	exits = bhyve_exits(vm);
	goes_on = w->at_ms && bytes == w->bytes && w->exits >= 0 && exits > w->exits;
	*w = (struct bhyve_watch){clock_ms(), exits, bytes, goes_on ? w->times + 1 : 0};
	return w->times >= WATCH_TIMES;
}

static int gave_up(struct hv_vm *vm, struct error **err)
{
	char said[512];

	vm->bhyve->suspending = false;
	bhyve_log_tail(vm->run_dir, said);
	return error_set(err, ERROR_HYPERVISOR, 0,
		"%s: its bhyve could not write its state, and the guest goes on; see hv.log in "
		"%s%s%s",
		vm->name, vm->run_dir, said[0] ? ", which ends with: " : "", said);
}

int bhyve_vm_checkpoint_wait(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err)
{
	/* Also of one that an earlier droverd has ordered. */
	vm->bhyve->suspending = suspend;
	for (;;) {
		bool ended = process_wait(&vm->id, clock_ms() + LOOK_MS, NULL);

		if ((ended || !suspend) && bhyve_checkpoint_complete(file))
			return 0;
		if (ended)
			return error_set(err, ERROR_NOT_RUNNING, 0,
				"%s: its bhyve has ended before its checkpoint was complete",
				vm->name);
		if (bhyve_has_given_up(vm, file, &vm->bhyve->saving))
			return gave_up(vm, err);
		if (clock_ms() > deadline_ms)
			return error_set(err, ERROR_TIMEOUT, 0,
				"%s: its checkpoint %s was not complete in time", vm->name, file);
	}
}

int bhyve_check_suspend(const struct hv *hv, struct error **err)
{
	if ((hv->abilities & BHYVE_SNAPSHOT) && (hv->abilities & BHYVE_RESTORE))
		return 0;
	return error_set(err, ERROR_HYPERVISOR, 0,
		"this bhyve cannot suspend a guest: build world and kernel with BHYVE_SNAPSHOT "
		"(bhyvectl has then --suspend, and bhyve -r)");
}

int bhyve_vm_checkpoint(
	struct hv_vm *vm, const char *file, bool suspend, int64_t deadline_ms, struct error **err)
{
	cleanup_free char *order = fs_format(suspend ? "--suspend=%s" : "--checkpoint=%s", file);
	struct bhyve_vm *b = vm->bhyve;
	struct error *why = NULL;

	bhyve_checkpoint_remove(file);
	memset(&b->saving, 0, sizeof(b->saving));
	b->suspending = suspend;
	if (bhyve_ctl(vm, order, NULL, &why) < 0) {
		/* One that does not answer may have given the order. */
		b->suspending = suspend && why->kind == ERROR_TIMEOUT;
		return error_move(err, why);
	}
	return bhyve_vm_checkpoint_wait(vm, file, suspend, deadline_ms, err);
}
