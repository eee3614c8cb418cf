#include "pool/cpu_set.h"

#include "base/fs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room is made for so many names at a time. */
#define STEP 32

bool cpu_name_ok(const char *name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	static const char all[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strnlen(name, CPU_NAME_MAX);

	return len > 0 && len < CPU_NAME_MAX && strchr(letters, name[0]) &&
	       strspn(name, all) == len;
}

void cpu_set_free(struct cpu_set *set)
{
	free(set->names);
	*set = (struct cpu_set){0};
}

/* Where a name is, or where it belongs. */
static size_t place_of(const struct cpu_set *set, const char *name, bool *there)
{
	size_t low = 0, high = set->count;

	*there = false;
	while (low < high && !*there) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(set->names[middle], name);

		if (order < 0)
			low = middle + 1;
		else
			high = middle;
		*there = order == 0;
	}
	return high;
}

bool cpu_set_has(const struct cpu_set *set, const char *name)
{
	bool there;

	place_of(set, name, &there);
	return there;
}

static void make_room(struct cpu_set *set)
{
	if (set->count % STEP)
		return;
	set->names = reallocarray(set->names, set->count + STEP, sizeof(*set->names));
	if (!set->names)
		abort();
}

bool cpu_set_add(struct cpu_set *set, const char *name)
{
	bool there;
	size_t at;

	if (!cpu_name_ok(name))
		return false;
	at = place_of(set, name, &there);
	if (there)
		return true;
	if (set->count == CPU_SET_MAX)
		return false;
	make_room(set);
	memmove(set->names + at + 1, set->names + at, (set->count - at) * sizeof(*set->names));
	memcpy(set->names[at], name, strlen(name) + 1);
	set->count++;
	return true;
}

void cpu_set_remove(struct cpu_set *set, const char *name)
{
	bool there;
	size_t at = place_of(set, name, &there);

	if (!there)
		return;
	set->count--;
	memmove(set->names + at, set->names + at + 1, (set->count - at) * sizeof(*set->names));
}

void cpu_set_copy(struct cpu_set *set, const struct cpu_set *from)
{
	struct cpu_set copy = {0};

	cpu_set_unite(&copy, from);
	cpu_set_free(set);
	*set = copy;
}

bool cpu_set_unite(struct cpu_set *set, const struct cpu_set *other)
{
	bool all = true;

	for (size_t i = 0; i < other->count; i++)
		all = cpu_set_add(set, other->names[i]) && all;
	return all;
}

/* Leaves those names of `set` of which `other` has (or has not, by `having`) the same. */
static void sift(struct cpu_set *set, const struct cpu_set *other, bool having)
{
	size_t kept = 0;

	for (size_t i = 0; i < set->count; i++) {
		if (cpu_set_has(other, set->names[i]) != having)
			continue;
		if (kept != i)
			memcpy(set->names[kept], set->names[i], sizeof(*set->names));
		kept++;
	}
	set->count = kept;
}

void cpu_set_intersect(struct cpu_set *set, const struct cpu_set *other)
{
	sift(set, other, true);
}

void cpu_set_subtract(struct cpu_set *set, const struct cpu_set *other)
{
	sift(set, other, false);
}

bool cpu_set_within(const struct cpu_set *set, const struct cpu_set *other)
{
	for (size_t i = 0; i < set->count; i++)
		if (!cpu_set_has(other, set->names[i]))
			return false;
	return true;
}

char *cpu_set_text(const struct cpu_set *set)
{
	char *text = malloc(set->count * CPU_NAME_MAX + 1), *at = text;

	if (!text)
		abort();
	*at = '\0';
	for (size_t i = 0; i < set->count; i++)
		at += sprintf(at, "%s%s", i ? " " : "", set->names[i]);
	return text;
}

bool cpu_set_parse(struct cpu_set *set, const char *text)
{
	cleanup_free char *copy = NULL;
	char *rest, *name;
	bool good = true;

	cpu_set_free(set);
	if (strnlen(text, CPU_SET_TEXT + 1) > CPU_SET_TEXT)
		return false;
	if (!*text)
		return true;
	rest = copy = fs_format("%s", text);
	while (good && (name = strsep(&rest, " ")))
		good = cpu_set_add(set, name);
	if (!good)
		cpu_set_free(set);
	return good;
}

void cpu_set_list(const struct cpu_set *set, char *out, size_t size)
{
	/* " and 1024 more" and a NUL. */
	const size_t tail = 16;
	size_t used = 0, i;

	out[0] = '\0';
	for (i = 0; i < set->count; i++) {
		size_t needed = strlen(set->names[i]) + (i ? 2 : 0);

		if (used + needed + tail > size)
			break;
		used += (size_t)sprintf(out + used, "%s%s", i ? ", " : "", set->names[i]);
	}
	if (i < set->count)
		snprintf(out + used, size - used, "%s%zu more", i ? " and " : "", set->count - i);
}
