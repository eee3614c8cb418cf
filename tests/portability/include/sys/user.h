#pragma once
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
enum { SSTOP = 4, SZOMB = 5, KF_TYPE_SOCKET = 2 };
struct kinfo_proc {
	int ki_structsize;
	pid_t ki_pid;
	char ki_stat;
	struct timeval ki_start;
};
struct kinfo_file {
	int kf_type;
	union {
		struct {
			struct sockaddr_storage kf_sa_local, kf_sa_peer;
		} kf_sock;
	} kf_un;
};
