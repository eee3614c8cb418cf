/*
 * CPUs, cores and NUMA nodes of FreeBSD. docs/portability.md says how far this was compiled.
 *
 * Cores: kern.sched.topology_spec. NUMA nodes: vm.ndomains, cpuset_getaffinity(2) with
 * CPU_WHICH_DOMAIN, and vm.domain.N.stats.free_count in pages (sys/vm/vm_meter.c). Which socket a
 * CPU is in, and how much memory a node has, the kernel does not say.
 */
#include "host/topology_spec.h"

#include "base/fs.h"

#include <sys/param.h>
#include <sys/cpuset.h>
#include <sys/sysctl.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of a text in sysctl; thousands of CPUs are some 100 KiB. */
#define SPEC_MAX (1u << 20)

static unsigned read_number(const char *name)
{
	unsigned value = 0;
	size_t len = sizeof(value);

	return sysctlbyname(name, &value, &len, NULL, 0) == 0 ? value : 0;
}

/* NULL when there is none, as with the scheduler SCHED_4BSD. */
static char *read_spec(void)
{
	size_t len = SPEC_MAX;
	char *spec = calloc(1, SPEC_MAX + 1);

	if (!spec)
		abort();
	if (sysctlbyname("kern.sched.topology_spec", spec, &len, NULL, 0) == 0)
		return spec;
	free(spec);
	return NULL;
}

static int read_cpus(struct host_topology *t, struct error **err)
{
	cleanup_free char *spec = read_spec();

	if (spec && host_topology_spec(spec, t))
		return 0;
	t->cpus_count = read_number("hw.ncpu");
	if (!t->cpus_count || t->cpus_count > HOST_CPUS_MAX)
		return error_set(err, ERROR_FAILED, 0,
			"this node does not tell its CPUs: sysctl hw.ncpu is %zu", t->cpus_count);
	t->cpus = calloc(t->cpus_count, sizeof(*t->cpus));
	if (!t->cpus)
		abort();
	for (size_t i = 0; i < t->cpus_count; i++)
		t->cpus[i] = (struct host_cpu){.cpu = (int)i, .socket = -1, .core = -1, .numa = -1};
	return 0;
}

static void set_numa(struct host_topology *t, int numa)
{
	cpuset_t cpus;

	if (cpuset_getaffinity(CPU_LEVEL_WHICH, CPU_WHICH_DOMAIN, numa, sizeof(cpus), &cpus) < 0)
		return;
	for (size_t i = 0; i < t->cpus_count; i++)
		if (t->cpus[i].cpu < CPU_SETSIZE && CPU_ISSET(t->cpus[i].cpu, &cpus))
			t->cpus[i].numa = numa;
}

static void read_numas(struct host_topology *t)
{
	size_t count = read_number("vm.ndomains");

	t->numas_count = count < HOST_NUMAS_MAX ? count : HOST_NUMAS_MAX;
	t->numas = calloc(t->numas_count + 1, sizeof(*t->numas));
	if (!t->numas)
		abort();
	for (size_t i = 0; i < t->numas_count; i++) {
		char name[64];

		snprintf(name, sizeof(name), "vm.domain.%zu.stats.free_count", i);
		t->numas[i].numa = (int)i;
		t->numas[i].free_bytes = (uint64_t)read_number(name) * (unsigned)getpagesize();
		set_numa(t, (int)i);
	}
}

int host_topology_read(const char *sysfs, struct host_topology *t, struct error **err)
{
	(void)sysfs;
	*t = (struct host_topology){0};
	if (read_cpus(t, err) < 0)
		return -1;
	read_numas(t);
	snprintf(t->hidden, sizeof(t->hidden),
		"%s and the memory of NUMA nodes cannot be told: FreeBSD does not show them",
		t->cpus[0].core < 0 ? "sockets, cores" : "sockets");
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
	int numbers[CPU_SETSIZE];
	size_t count = 0;
	cpuset_t cpus;

	out[0] = 0;
	if (cpuset_getaffinity(CPU_LEVEL_WHICH, CPU_WHICH_PID, pid, sizeof(cpus), &cpus) < 0)
		return;
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &cpus))
			numbers[count++] = i;
	host_cpu_list(numbers, count, out);
}
