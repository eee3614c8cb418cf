#include "guest.h"

#include <cpuid.h>
#include <sched.h>
#include <stdio.h>

enum {
	CPUS_MAX = 8,
};

/* What differs from one CPU to the next, and from one moment to the next, in leaf 1: the APIC id,
 * and whether the kernel has turned XSAVE on. */
#define APIC_ID 0xff000000u
#define OSXSAVE (1u << 27)

static int add_leaf(char *out, size_t len, unsigned leaf, unsigned sub)
{
	unsigned a = 0, b = 0, c = 0, d = 0;
	__get_cpuid_count(leaf, sub, &a, &b, &c, &d);
	if (leaf == 1) {
		b &= ~APIC_ID;
		c &= ~OSXSAVE;
	}
	/* In 0xd, 0 the sizes of what is turned on; in 7, 0 whether protection keys are. */
	if (leaf == 0xd || leaf == 7)
		c = sub || leaf == 0xd ? 0 : c & ~(1u << 4);
	return snprintf(out, len, "%s\"%x.%x\":\"%08x %08x %08x %08x\"", leaf ? "," : "", leaf, sub,
		a, leaf == 0xd ? 0 : b, c, d);
}

/* Its number, and how many CPUs share its core and its socket (leaf 0xb). */
static int add_place(char *out, size_t len, int cpu)
{
	unsigned a = 0, core = 0, socket = 0, c = 0, id = 0;
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one) < 0)
		return -1;
	__get_cpuid_count(0xb, 0, &a, &core, &c, &id);
	__get_cpuid_count(0xb, 1, &a, &socket, &c, &id);
	return snprintf(out, len, "%s{\"id\":%u,\"core\":%u,\"socket\":%u}", cpu ? "," : "", id,
		core & 0xffff, socket & 0xffff);
}

/* The CPU itself is asked, at this moment: what the kernel knows is from when it was booted. */
void cpu_show(struct answer *a, char **args)
{
	static const unsigned leaves[][2] = {
		{0, 0}, {1, 0}, {7, 0}, {0xd, 0}, {0xd, 1}, {0x80000001, 0}};
	char features[512] = "", places[400] = "";
	size_t used = 0;
	int n;
	(void)args;
	for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
		used += (size_t)add_leaf(
			features + used, sizeof(features) - used, leaves[i][0], leaves[i][1]);
	used = 0;
	for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
		n = add_place(places + used, sizeof(places) - used, cpu);
		if (n < 0)
			break;
		used += (size_t)n;
	}
	say(a, "{\"features\":{%s},\"cpus\":[%s]}", features, places);
}
