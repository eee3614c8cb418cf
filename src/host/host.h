/*
 * What this machine is and can do. One file an operating system: linux.c, freebsd.c.
 */
#ifndef DROVER_HOST_HOST_H
#define DROVER_HOST_HOST_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct host_facts {
	char os[32];   /* "Linux 6.1.0" */
	char arch[16]; /* "x86_64" */
	char cpu_model[128];
	int cpus;
	uint64_t memory_bytes;
	uint64_t memory_free_bytes; /* what a new VM could get: MemAvailable on Linux; free,
				     * inactive and laundry pages, and ZFS' cache, on FreeBSD */
	uint32_t page_size;
	bool hardware_virtualization; /* the CPU has vmx or svm and /dev/kvm opens */
};

int host_facts_read(struct host_facts *facts, struct error **err);

/* A CPU that the kernel runs on: its socket, the lowest CPU that shares its core, and its NUMA
 * node; -1 where that is hidden. */
struct host_cpu {
	int cpu, socket, core, numa;
};

struct host_numa {
	int numa;
	uint64_t memory_bytes, free_bytes; /* 0 where it is hidden */
};

struct host_topology {
	struct host_cpu *cpus; /* by number */
	size_t cpus_count;
	struct host_numa *numas; /* by number; none where they are hidden */
	size_t numas_count;
	char hidden[160]; /* what cannot be told, as a sentence; "" when all can */
};

#define HOST_CPUS_MAX 8192  /* more than any kernel is built for */
#define HOST_NUMAS_MAX 1024 /* the same */

/* From the kernel's description below `sysfs` ("/sys" but in tests; Linux:
 * Documentation/ABI/stable/ sysfs-devices-system-cpu and sysfs-devices-node). A container may hide
 * parts of it. ERROR_FAILED when not even the CPUs can be told. To be freed in any case. */
int host_topology_read(const char *sysfs, struct host_topology *topology, struct error **err);
void host_topology_free(struct host_topology *topology);
/* The CPUs that a process may run on ("0-3,8"), "" when that cannot be told. */
void host_process_cpus(int pid, char out[64]);

/* Name of the file system type that holds path ("ext4", "nfs4", "fuse.glusterfs"). */
int host_fs_type(const char *path, char out[32], struct error **err);
/* Options with which the file system that holds path is mounted, with commas between them, as
 * mount(8) shows them; the caller frees it. On FreeBSD those that are flags, and for NFS what
 * nfsstat(1) -m shows, where this process is root. */
char *host_mount_options(const char *path, struct error **err);
/* Bytes that can still be written to the file system that holds path. */
int host_fs_free(const char *path, uint64_t *bytes, struct error **err);

/* What a file system makes of a page cache on one host while another host writes the file. */
enum host_fs_cache {
	HOST_FS_LOCAL,    /* one kernel has it: there is one cache */
	HOST_FS_COHERENT, /* it keeps the caches of all hosts right */
	HOST_FS_APART,    /* a host may read from its cache what is no longer so */
	HOST_FS_UNKNOWN
};
/* Of a type that host_fs_type gives. */
enum host_fs_cache host_fs_cache(const char *type);

/* A file that another user is to open, and how. */
struct host_open {
	const char *path;
	bool write;
	bool direct; /* past the page cache (O_DIRECT) */
	int errnum;  /* gets 0, or why it does not open; EINVAL with `direct`: not in this way */
};
/*
 * Tries whether a user with that group and no other can open the files, in a process of its own,
 * which keeps none open and changes nothing. Where this process is not root it tries as itself.
 * ERROR_TIMEOUT at the deadline (of clock_ms).
 */
int host_open_as(unsigned uid, unsigned gid, struct host_open *files, size_t count,
	int64_t deadline_ms, struct error **err);

/* Whether a bridge of that name is there and up; ERROR_NETWORK says which of both is not so, and
 * names the bridges that are there. */
int host_bridge_check(const char *bridge, struct error **err);

/*
 * Opens a new tap device, up and a port of `bridge`, and returns its file descriptor (close on
 * exec); `name` gets the device's name. The device is gone when the last descriptor is closed:
 * a dead hypervisor leaves none behind. ERROR_NETWORK.
 */
int host_tap_open(const char *bridge, char name[32], struct error **err);

/* The same for a program that opens the device itself, by its name: it stays, up and a port of
 * `bridge`, until host_tap_remove. ERROR_NETWORK. */
int host_tap_create(const char *bridge, char name[32], struct error **err);
void host_tap_remove(const char *name);

/* For how long, in microseconds since it was connected, a TCP socket has had data on its way that
 * the other side's kernel was ready to take: the time for which its link was in use. -1: it cannot
 * be told here. (tcpi_busy_time and tcpi_rwnd_limited of Linux, since 4.10.) */
int64_t host_tcp_busy_us(int fd);

/* Who connected to, or listens at the other end of, a connected Unix socket: as the kernel noted it
 * then. `pid` may be NULL. False when it cannot be told. */
bool host_socket_peer(int fd, pid_t *pid, uid_t *uid);

/* Whether the other end of a TCP connection of this machine (127.0.0.1) is open in that process.
 * One that a listening process has not accepted yet is not. */
bool host_tcp_peer_is(int fd, pid_t pid);

/* User "name", "UID" or "UID:GID" of the settings; ERROR_DEFINITION. */
int host_user(const char *user, unsigned *uid, unsigned *gid, struct error **err);

#endif
