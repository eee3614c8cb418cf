#pragma once
#include <sys/types.h>
#define XUCRED_VERSION 0
struct xucred {
	unsigned cr_version;
	uid_t cr_uid;
	short cr_ngroups;
	gid_t cr_groups[16];
	pid_t cr_pid;
};
