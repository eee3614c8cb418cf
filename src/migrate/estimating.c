#include "migrate/estimating.h"

#include "base/clock.h"
#include "base/cond.h"
#include "migrate/internal.h"
#include "migrate/measure.h"
#include "migrate/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct care {
	const char *probe; /* how long, and how much at most */
	struct measure_times guest;
	int64_t limit_ms; /* for all of it */
} cares[] = {[ESTIMATING_WELL] = {"400", {300, 400}, 2000},
	[ESTIMATING_QUICKLY] = {"160,4M", {200, 100}, 900}};

/* A guest that was looked at longer ago may do something else by now. */
#define REMEMBERED_MS 600000
#define REMEMBERED_MAX 256

struct estimating {
	struct migrations *all;
	char vm[FS_NAME_MAX + 1];
	char node[FS_NAME_MAX + 1];
	struct migrate_options options;
	uint64_t memory_bytes;
	struct care care;
	int64_t begin_ms;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	int refs;
	bool have_link, have_guest; /* these members of `link` and `guest` are there */
	struct estimate_input link, guest;
};

static void unref(struct estimating *s)
{
	int left;

	pthread_mutex_lock(&s->lock);
	left = --s->refs;
	pthread_mutex_unlock(&s->lock);
	if (left > 0)
		return;
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void keep(struct estimating *s, struct estimate_input *place, bool *have,
	const struct estimate_input *in)
{
	pthread_mutex_lock(&s->lock);
	*place = *in;
	*have = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

/* A thread's end: migrations_close waits for it. */
static void leave(struct estimating *s)
{
	struct migrations *all = s->all;

	unref(s);
	pthread_mutex_lock(&all->lock);
	all->threads--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
}

static void *measure_link(void *arg)
{
	struct estimating *s = arg;
	cleanup_error struct error *e = NULL;
	struct estimate_input in = {0};

	if (probe_link(s->all, s->node, s->care.probe, s->begin_ms + s->care.limit_ms, &in.link_bps,
		    &e) < 0)
		snprintf(in.no_link, sizeof(in.no_link), "%.191s", e->message);
	keep(s, &s->link, &s->have_link, &in);
	leave(s);
	return NULL;
}

static void measure_room(struct migrations *all, const char *name, struct estimate_input *in)
{
	struct vm *vm = vms_find(all->set.vms, name);
	cleanup_error struct error *e = NULL;
	struct hv_room room = {0};

	if (!vm)
		return;
	if (hv_room(all->set.hv, vm_definition(vm), &room, true, &e) < 0)
		snprintf(in->no_room, sizeof(in->no_room), "%.191s", e->message);
	else if (!(room.cached_bps > 0))
		snprintf(in->no_room, sizeof(in->no_room), "there is little room in %.100s",
			room.dir);
	in->files_bps = (struct estimate_range){room.disk_bps, room.cached_bps};
	vm_unref(vm);
}

static void *measure_its_guest(void *arg)
{
	struct estimating *s = arg;
	struct estimate_input in = {0};

	measure_guest(s->all, s->vm, &s->care.guest, s->begin_ms + s->care.limit_ms, &in);
	if (s->options.files)
		measure_room(s->all, s->vm, &in);
	keep(s, &s->guest, &s->have_guest, &in);
	leave(s);
	return NULL;
}

static void spawn(struct estimating *s, void *(*body)(void *))
{
	pthread_t thread;

	pthread_mutex_lock(&s->all->lock);
	s->all->threads++;
	pthread_mutex_unlock(&s->all->lock);
	pthread_mutex_lock(&s->lock);
	s->refs++;
	pthread_mutex_unlock(&s->lock);
	if (pthread_create(&thread, NULL, body, s) != 0)
		abort();
	pthread_detach(thread);
}

struct estimating *estimating_start(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, enum estimating_care care)
{
	struct vm *found = vms_find(all->set.vms, vm);
	struct estimating *s;

	if (!found)
		return NULL;
	s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	s->memory_bytes = vm_definition(found)->memory_bytes;
	vm_unref(found);
	s->all = all;
	snprintf(s->vm, sizeof(s->vm), "%s", vm);
	snprintf(s->node, sizeof(s->node), "%s", node);
	s->options = *options;
	s->care = cares[care];
	s->begin_ms = clock_ms();
	s->refs = 1;
	pthread_mutex_init(&s->lock, NULL);
	cond_init(&s->changed);
	spawn(s, measure_link);
	spawn(s, measure_its_guest);
	return s;
}

static void say_late(char out[192])
{
	snprintf(out, 192, "it was not measured in time");
}

/* What is there at the end of the time. */
static struct estimate_input take(struct estimating *s)
{
	int64_t deadline = s->begin_ms + s->care.limit_ms;
	struct estimate_input in;

	pthread_mutex_lock(&s->lock);
	while (!(s->have_link && s->have_guest) && cond_wait_until(&s->changed, &s->lock, deadline))
		;
	in = s->guest;
	in.link_bps = s->link.link_bps;
	memcpy(in.no_link, s->link.no_link, sizeof(in.no_link));
	if (!s->have_link)
		say_late(in.no_link);
	if (!s->have_guest) {
		say_late(in.no_room);
		say_late(in.no_sample);
		say_late(in.no_dirty);
	}
	pthread_mutex_unlock(&s->lock);
	return in;
}

json_t *estimating_finish(struct estimating *s, int64_t elapsed_ms, bool ready)
{
	int64_t begin_ms = clock_ms();
	struct estimate_input in = take(s);
	const struct migrate_options *o = &s->options;
	struct estimate e;
	json_t *result;

	in.memory_bytes = s->memory_bytes;
	in.processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
	if (getloadavg(&in.load, 1) != 1)
		in.load = 0;
	in.elapsed_ms = elapsed_ms + (ready ? clock_ms() - begin_ms : 0);
	in.ready = ready;
	in.downtime_limit_ms = o->downtime_limit_ms;
	in.bandwidth_bps = o->bandwidth_bps;
	in.timeout_ms = o->timeout_ms;
	in.files = o->files;
	in.pause = o->pause || o->files;
	in.postcopy = o->postcopy;
	in.postcopy_rounds = o->postcopy_rounds;
	estimate_make(&in, &e);
	result = estimate_json(&e);
	json_object_set_new(result, "measured", estimate_measured_json(&in));
	json_object_set_new(result, "took_ms", json_integer(clock_ms() - s->begin_ms));
	return result;
}

/* What distinguishes one move from another, as far as an estimate goes. */
static char *move_key(const char *vm, const char *node, const struct migrate_options *o)
{
	return fs_format("%s/%s/%lld/%lld/%lld/%d/%d/%d/%d", vm, node,
		(long long)o->downtime_limit_ms, (long long)o->bandwidth_bps,
		(long long)o->timeout_ms, o->pause, o->files, o->postcopy, o->postcopy_rounds);
}

/* With the lock held: those that nobody will ask for. */
static void forget_old(struct migrations *all)
{
	const char *key;
	json_t *made;
	void *next;

	if (json_object_size(all->estimates) >= REMEMBERED_MAX)
		json_object_clear(all->estimates);
	json_object_foreach_safe(all->estimates, next, key, made)
	{
		if (clock_ms() - json_integer_value(json_object_get(made, "ms")) > REMEMBERED_MS)
			json_object_del(all->estimates, key);
	}
}

static void forget_vm(struct migrations *all, const char *vm)
{
	size_t len = strlen(vm);
	const char *key;
	json_t *made;
	void *next;

	json_object_foreach_safe(all->estimates, next, key, made)
	{
		if (!strncmp(key, vm, len) && key[len] == '/')
			json_object_del(all->estimates, key);
	}
}

void estimating_remember(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options, const json_t *estimate)
{
	cleanup_free char *key = move_key(vm, node, options);

	pthread_mutex_lock(&all->lock);
	forget_old(all);
	json_object_set_new(all->estimates, key,
		json_pack("{s:I, s:o}", "ms", (json_int_t)clock_ms(), "estimate",
			json_deep_copy(estimate)));
	pthread_mutex_unlock(&all->lock);
}

json_t *estimating_recall(struct migrations *all, const char *vm, const char *node,
	const struct migrate_options *options)
{
	cleanup_free char *key = move_key(vm, node, options);
	json_t *found;

	pthread_mutex_lock(&all->lock);
	forget_old(all);
	found = json_deep_copy(json_object_get(json_object_get(all->estimates, key), "estimate"));
	forget_vm(all, vm);
	pthread_mutex_unlock(&all->lock);
	return found;
}

void estimating_free(struct estimating *s)
{
	if (s)
		unref(s);
}
