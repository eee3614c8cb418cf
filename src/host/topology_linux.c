#include "host/host.h"

#include "base/fs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file of sysfs is at most a page, of /proc/PID/status a few. */
#define FILE_MAX (16u << 10)

/* Whole text of a file below sysfs, without its newline; NULL when it is not there. */
static char *read_text(const char *sysfs, const char *file, int number, const char *what)
{
	cleanup_free char *path = NULL;
	char *text;

	path = number < 0 ? fs_format("%s/%s%s", sysfs, file, what)
			  : fs_format("%s/%s%d/%s", sysfs, file, number, what);
	text = fs_read(path, FILE_MAX, NULL, NULL);
	if (text)
		text[strcspn(text, "\n")] = '\0';
	return text;
}

static int read_number(const char *sysfs, const char *file, int number, const char *what)
{
	cleanup_free char *text = read_text(sysfs, file, number, what);
	int64_t value;

	if (!text || fs_parse_number("", text, 0, INT32_MAX, &value, NULL) < 0)
		return -1;
	return (int)value;
}

/* One "3" or "3-5" of a list; false when it is none of these, or over `max`. */
static bool read_range(const char *item, int max, int64_t *first, int64_t *last)
{
	cleanup_free char *copy = fs_format("%s", item);
	char *dash = strchr(copy, '-');

	if (dash)
		*dash++ = '\0';
	return fs_parse_number("", copy, 0, max - 1, first, NULL) == 0 &&
	       fs_parse_number("", dash ? dash : copy, *first, max - 1, last, NULL) == 0;
}

/* The numbers of a list like "0-3,8", sorted as the kernel writes them; how many, 0 when it is no
 * such list. The caller frees *numbers. */
static size_t read_list(const char *text, int max, int **numbers)
{
	cleanup_free char *copy = text ? fs_format("%s", text) : NULL;
	char *rest = copy, *item;
	size_t count = 0;
	int64_t first, last;

	*numbers = NULL;
	while (rest && (item = strsep(&rest, ","))) {
		/* In order and each once, or it could be a longer list than there are numbers. */
		if (!read_range(item, max, &first, &last) ||
			(count && first <= (*numbers)[count - 1]))
			return 0;
		*numbers = reallocarray(
			*numbers, count + (size_t)(last - first) + 1, sizeof(**numbers));
		if (!*numbers)
			abort();
		while (first <= last)
			(*numbers)[count++] = (int)first++;
	}
	return count;
}

static int first_of(const char *text)
{
	cleanup_free int *numbers = NULL;

	return read_list(text, HOST_CPUS_MAX, &numbers) ? numbers[0] : -1;
}

static int read_cpus(const char *sysfs, struct host_topology *t, struct error **err)
{
	static const char cpu[] = "devices/system/cpu/cpu";
	cleanup_free char *online = read_text(sysfs, "devices/system/cpu/online", -1, "");
	cleanup_free int *numbers = NULL;

	t->cpus_count = read_list(online, HOST_CPUS_MAX, &numbers);
	if (t->cpus_count == 0)
		return error_set(err, ERROR_FAILED, 0,
			"this node does not tell its CPUs: %s/devices/system/cpu/online %s", sysfs,
			online ? "is no list of them" : "cannot be read");
	t->cpus = calloc(t->cpus_count, sizeof(*t->cpus));
	if (!t->cpus)
		abort();
	for (size_t i = 0; i < t->cpus_count; i++) {
		cleanup_free char *siblings =
			read_text(sysfs, cpu, numbers[i], "topology/thread_siblings_list");

		t->cpus[i] = (struct host_cpu){.cpu = numbers[i],
			.socket =
				read_number(sysfs, cpu, numbers[i], "topology/physical_package_id"),
			.core = first_of(siblings),
			.numa = -1};
	}
	return 0;
}

static int compare_cpus(const void *a, const void *b)
{
	const struct host_cpu *left = a, *right = b;

	return (left->cpu > right->cpu) - (left->cpu < right->cpu);
}

static void set_numa(struct host_topology *t, const char *list, int numa)
{
	cleanup_free int *numbers = NULL;
	size_t count = read_list(list, HOST_CPUS_MAX, &numbers);

	for (size_t i = 0; i < count; i++) {
		struct host_cpu wanted = {.cpu = numbers[i]};
		struct host_cpu *cpu =
			bsearch(&wanted, t->cpus, t->cpus_count, sizeof(*t->cpus), compare_cpus);

		if (cpu)
			cpu->numa = numa;
	}
}

/* "Node 0 MemTotal:  9922764 kB" */
static void read_memory(const char *sysfs, struct host_numa *numa)
{
	cleanup_free char *path =
		fs_format("%s/devices/system/node/node%d/meminfo", sysfs, numa->numa);
	cleanup_free char *text = fs_read(path, FILE_MAX, NULL, NULL);
	unsigned long long kib;
	char *rest = text, *line;

	while (rest && (line = strsep(&rest, "\n"))) {
		if (sscanf(line, "Node %*d MemTotal: %15llu kB", &kib) == 1)
			numa->memory_bytes = kib << 10;
		else if (sscanf(line, "Node %*d MemFree: %15llu kB", &kib) == 1)
			numa->free_bytes = kib << 10;
	}
}

static void read_numas(const char *sysfs, struct host_topology *t)
{
	static const char node[] = "devices/system/node/node";
	cleanup_free char *online = read_text(sysfs, "devices/system/node/online", -1, "");
	cleanup_free int *numbers = NULL;

	t->numas_count = read_list(online, HOST_NUMAS_MAX, &numbers);
	t->numas = calloc(t->numas_count + 1, sizeof(*t->numas));
	if (!t->numas)
		abort();
	for (size_t i = 0; i < t->numas_count; i++) {
		cleanup_free char *list = read_text(sysfs, node, numbers[i], "cpulist");

		t->numas[i].numa = numbers[i];
		read_memory(sysfs, &t->numas[i]);
		set_numa(t, list, numbers[i]);
	}
}

/* A kernel without NUMA, and many a container, has no nodes to show. */
static void find_hidden(const char *sysfs, struct host_topology *t)
{
	bool places = true;

	for (size_t i = 0; i < t->cpus_count; i++)
		places = places && t->cpus[i].socket >= 0 && t->cpus[i].core >= 0;
	if (places && t->numas_count)
		return;
	snprintf(t->hidden, sizeof(t->hidden), "%s cannot be told: %s does not show them",
		places           ? "NUMA nodes"
		: t->numas_count ? "sockets and cores"
				 : "sockets, cores and NUMA nodes",
		sysfs);
}

int host_topology_read(const char *sysfs, struct host_topology *t, struct error **err)
{
	*t = (struct host_topology){0};
	if (read_cpus(sysfs, t, err) < 0)
		return -1;
	read_numas(sysfs, t);
	find_hidden(sysfs, t);
	return 0;
}

void host_topology_free(struct host_topology *t)
{
	free(t->cpus);
	free(t->numas);
	*t = (struct host_topology){0};
}

void host_process_cpus(int pid, char out[64])
{
	cleanup_free char *path = fs_format("/proc/%d/status", pid);
	cleanup_free char *text = fs_read(path, FILE_MAX, NULL, NULL);
	const char *line = text ? strstr(text, "\nCpus_allowed_list:\t") : NULL;

	out[0] = '\0';
	if (line)
		snprintf(out, 64, "%.*s", (int)strcspn(line + 20, "\n"), line + 20);
}
