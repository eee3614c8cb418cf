#include "host/topology_spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "<cpu count="4" mask="f,0,0,0">0, 1, 2, 3</cpu>": the numbers, ascending; how many, 0 when it
 * reads otherwise. */
static size_t read_cpus(const char *element, int numbers[HOST_CPUS_MAX])
{
	const char *at = strchr(element, '>');
	size_t count = 0;
	char *end;

	do {
		long number = at ? strtol(at + 1, &end, 10) : -1;

		if (number < 0 || number >= HOST_CPUS_MAX || end == at + 1 ||
			count == HOST_CPUS_MAX || (count && number <= numbers[count - 1]))
			return 0;
		numbers[count++] = (int)number;
		at = end;
	} while (*at == ',');
	return *at == '<' ? count : 0;
}

static void take_cpus(struct host_topology *t, const int *numbers, size_t count)
{
	t->cpus = calloc(count, sizeof(*t->cpus));
	if (!t->cpus)
		abort();
	t->cpus_count = count;
	for (size_t i = 0; i < count; i++)
		t->cpus[i] = (struct host_cpu){
			.cpu = numbers[i], .socket = -1, .core = numbers[i], .numa = -1};
}

static void set_core(struct host_topology *t, const int *numbers, size_t count)
{
	for (size_t i = 0, j = 0; i < t->cpus_count && j < count; i++) {
		while (j < count && numbers[j] < t->cpus[i].cpu)
			j++;
		if (j < count && numbers[j] == t->cpus[i].cpu)
			t->cpus[i].core = numbers[0];
	}
}

bool host_topology_spec(const char *spec, struct host_topology *t)
{
	static const char cpu[] = "<cpu ", thread[] = "<flag name=\"THREAD\"",
			  smt[] = "<flag name=\"SMT\"";
	int *numbers = calloc(HOST_CPUS_MAX, sizeof(*numbers));
	size_t count = 0;

	if (!numbers)
		abort();
	for (const char *at = strchr(spec, '<'); at; at = strchr(at + 1, '<')) {
		if (!strncmp(at, cpu, sizeof(cpu) - 1)) {
			count = read_cpus(at, numbers);
			if (!t->cpus_count && count)
				take_cpus(t, numbers, count);
		} else if (!strncmp(at, thread, sizeof(thread) - 1) ||
			   !strncmp(at, smt, sizeof(smt) - 1)) {
			set_core(t, numbers, count);
		}
	}
	free(numbers);
	return t->cpus_count > 0;
}

void host_cpu_list(const int *numbers, size_t count, char out[64])
{
	size_t len = 0;

	out[0] = 0;
	for (size_t i = 0, last; i < count && len < 64; i = last + 1) {
		for (last = i; last + 1 < count && numbers[last + 1] == numbers[last] + 1;)
			last++;
		len += (size_t)snprintf(out + len, 64 - len, last > i ? "%s%d-%d" : "%s%d",
			i ? "," : "", numbers[i], numbers[last]);
	}
}
