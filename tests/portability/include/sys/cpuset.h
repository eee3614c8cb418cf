#pragma once
#include <stddef.h>
#include <sys/types.h>
#define CPU_SETSIZE 1024
typedef struct _cpuset {
	long __bits[CPU_SETSIZE / 64];
} cpuset_t;
#define CPU_ISSET(n, set) (((set)->__bits[(n) / 64] >> (n) % 64 & 1) != 0)
enum { CPU_LEVEL_WHICH = 3, CPU_WHICH_PID = 2, CPU_WHICH_DOMAIN = 6 };
int cpuset_getaffinity(int level, int which, id_t id, size_t size, cpuset_t *mask);
