#pragma once
#include <sys/types.h>
#include <sys/wait.h>
enum { PROC_TRACE_CTL = 7, PROC_TRACE_CTL_DISABLE = 2 };
enum { PROC_NO_NEW_PRIVS_CTL = 19, PROC_NO_NEW_PRIVS_ENABLE = 1 };
enum { PROC_PDEATHSIG_CTL = 11 };
int procctl(idtype_t type, id_t id, int command, void *data);
