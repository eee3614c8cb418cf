#pragma once
#include <sys/types.h>
struct kinfo_file *kinfo_getfile(pid_t pid, int *count);
