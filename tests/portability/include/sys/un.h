#pragma once
#include_next <sys/un.h>
enum { SOL_LOCAL = 0, LOCAL_PEERCRED = 1 };
