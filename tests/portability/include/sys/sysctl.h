#pragma once
#include <stddef.h>
#include <sys/types.h>
enum { CTL_KERN = 1, KERN_PROC = 14, KERN_PROC_PID = 1, KERN_PROC_PATHNAME = 12 };
int sysctl(const int *name, unsigned len, void *old, size_t *old_len, const void *new_value,
	size_t new_len);
int sysctlbyname(
	const char *name, void *old, size_t *old_len, const void *new_value, size_t new_len);
