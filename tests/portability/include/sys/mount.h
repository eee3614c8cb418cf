#pragma once
#include <stdint.h>
#define MNAMELEN 1024
struct statfs {
	uint64_t f_flags, f_bsize;
	int64_t f_bavail;
	char f_fstypename[16], f_mntfromname[MNAMELEN], f_mntonname[MNAMELEN];
};
#define MNT_RDONLY 0x1ull
#define MNT_SYNCHRONOUS 0x2ull
#define MNT_NOEXEC 0x4ull
#define MNT_NOSUID 0x8ull
#define MNT_NFS4ACLS 0x10ull
#define MNT_ASYNC 0x40ull
#define MNT_LOCAL 0x1000ull
#define MNT_NOATIME 0x10000000ull
#define MNT_AUTOMOUNTED 0x200000000ull
int statfs(const char *path, struct statfs *out);
