/*
 * FreeBSD's kern.sched.topology_spec: the scheduler's groups of CPUs as XML, a group within a group
 * (sys/kern/sched_ule.c). Nothing here is FreeBSD's own, so that it is tested anywhere.
 */
#ifndef DROVER_HOST_TOPOLOGY_SPEC_H
#define DROVER_HOST_TOPOLOGY_SPEC_H

#include "host/host.h"

/*
 * Takes the CPUs of the outermost group into the topology (t->cpus, which must be empty), each with
 * its core: the lowest CPU of the group whose CPUs share one (flag THREAD, or SMT of older
 * kernels), or itself. Sockets and NUMA nodes are -1. False, and nothing taken, for what is no such
 * text.
 */
bool host_topology_spec(const char *spec, struct host_topology *t);

/* "0-3,8" of `count` numbers in ascending order, as far as there is room; "" for none. */
void host_cpu_list(const int *numbers, size_t count, char out[64]);

#endif
