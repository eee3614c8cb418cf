/*
 * FreeBSD. docs/portability.md says how far this was compiled.
 */
#include "host/host.h"

#include "base/fs.h"

/* These first: FreeBSD's other headers want them. */
#include <sys/types.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <net/ethernet.h>

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_bridgevar.h>
#include <net/if_dl.h>
#include <net/if_types.h>
#include <nfs/nfssvc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sockio.h>
#include <sys/stat.h>
#include <sys/sysctl.h>
#include <sys/ucred.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

static unsigned sysctl_number(const char *name)
{
	unsigned value = 0;
	size_t len = sizeof(value);

	return sysctlbyname(name, &value, &len, NULL, 0) == 0 ? value : 0;
}

static uint64_t sysctl_u64(const char *name)
{
	uint64_t value = 0;
	size_t len = sizeof(value);

	return sysctlbyname(name, &value, &len, NULL, 0) == 0 ? value : 0;
}

/* What ZFS has cached above the least that it keeps, and gives when memory is asked for. */
static uint64_t zfs_cache_bytes(void)
{
	uint64_t size = sysctl_u64("kstat.zfs.misc.arcstats.size");
	uint64_t least = sysctl_u64("kstat.zfs.misc.arcstats.c_min");

	return size > least ? size - least : 0;
}

/* vmm(4) counts what it found of VT-x and SVM when it was loaded. */
static bool has_vmm(void)
{
	return sysctl_number("hw.vmm.vmx.initialized") || sysctl_number("hw.vmm.svm.num_asids");
}

/* What the page daemon and ZFS can give at once. */
static uint64_t free_bytes(uint64_t page_size)
{
	return page_size * ((uint64_t)sysctl_number("vm.stats.vm.v_free_count") +
				   sysctl_number("vm.stats.vm.v_inactive_count") +
				   sysctl_number("vm.stats.vm.v_laundry_count")) +
	       zfs_cache_bytes();
}

int host_facts_read(struct host_facts *facts, struct error **err)
{
	struct utsname name;
	size_t len;

	*facts = (struct host_facts){0};
	if (uname(&name) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot ask the kernel for its name");
	snprintf(facts->os, sizeof(facts->os), "%.10s %.20s", name.sysname, name.release);
	snprintf(facts->arch, sizeof(facts->arch), "%s",
		strcmp(name.machine, "amd64") ? name.machine : "x86_64");
	facts->memory_bytes = sysctl_u64("hw.physmem");
	if (!facts->memory_bytes)
		return error_set(err, ERROR_FAILED, 0, "sysctl hw.physmem cannot be read");
	/* What bhyve compares before it moves a guest is this text. */
	len = sizeof(facts->cpu_model) - 1;
	if (sysctlbyname("hw.model", facts->cpu_model, &len, NULL, 0) < 0)
		snprintf(facts->cpu_model, sizeof(facts->cpu_model), "unknown");
	facts->cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	facts->page_size = (uint32_t)getpagesize();
	facts->memory_free_bytes = free_bytes(facts->page_size);
	facts->hardware_virtualization = has_vmm();
	return 0;
}

bool host_socket_peer(int fd, pid_t *pid, uid_t *uid)
{
	struct xucred who;
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_LOCAL, LOCAL_PEERCRED, &who, &len) < 0 ||
		who.cr_version != XUCRED_VERSION)
		return false;
	*uid = who.cr_uid;
	if (pid)
		*pid = who.cr_pid;
	return true;
}

int host_fs_type(const char *path, char out[32], struct error **err)
{
	struct statfs fs;

	if (statfs(path, &fs) < 0)
		return error_set(
			err, ERROR_FAILED, errno, "cannot tell the file system of %s", path);
	snprintf(out, 32, "%.31s", fs.f_fstypename);
	return 0;
}

/* Flags that mount(8) shows; there is no list of words to ask the kernel for. */
static const struct {
	uint64_t flag;
	const char *word;
} mount_flags[] = {
	{MNT_NOEXEC, "noexec"},
	{MNT_NOSUID, "nosuid"},
	{MNT_NOATIME, "noatime"},
	{MNT_SYNCHRONOUS, "sync"},
	{MNT_ASYNC, "async"},
	{MNT_LOCAL, "local"},
	{MNT_NFS4ACLS, "nfsv4acls"},
	{MNT_AUTOMOUNTED, "automounted"},
};

/* What nfsstat(1) -m shows, "nfsv4,tcp,hard,cto,…", with a comma in front; "" when the kernel does
 * not say it: only root may ask. */
static void nfs_options(const char *mounted_on, char *out, size_t size)
{
	char name[MNAMELEN];
	struct nfscl_dumpmntopts ask = {
		.ndmnt_fname = name, .ndmnt_blen = size - 1, .ndmnt_buf = out + 1};

	snprintf(name, sizeof(name), "%s", mounted_on);
	out[1] = 0;
	out[0] = nfssvc(NFSSVC_DUMPMNTOPTS, &ask) >= 0 && out[1] ? ',' : 0;
	out[size - 1] = 0;
}

char *host_mount_options(const char *path, struct error **err)
{
	struct statfs fs;
	char words[128] = "", nfs[1024] = "";
	size_t len = 0;

	if (statfs(path, &fs) == 0) {
		for (size_t i = 0; i < sizeof(mount_flags) / sizeof(mount_flags[0]); i++)
			if (fs.f_flags & mount_flags[i].flag)
				len += (size_t)snprintf(words + len, sizeof(words) - len, ",%s",
					mount_flags[i].word);
		if (!strcmp(fs.f_fstypename, "nfs"))
			nfs_options(fs.f_mntonname, nfs, sizeof(nfs));
		return fs_format("%s%s%s", fs.f_flags & MNT_RDONLY ? "ro" : "rw", words, nfs);
	}
	error_set(err, ERROR_FAILED, errno, "cannot tell the mount of %s", path);
	return NULL;
}

int host_fs_free(const char *path, uint64_t *bytes, struct error **err)
{
	struct statfs fs;

	if (statfs(path, &fs) < 0)
		return error_set(
			err, ERROR_FAILED, errno, "cannot tell the free space of %s", path);
	*bytes = fs.f_bavail > 0 ? (uint64_t)fs.f_bavail * fs.f_bsize : 0;
	return 0;
}

static bool is_bridge(const struct ifaddrs *ifa)
{
	return ifa->ifa_addr && ifa->ifa_addr->sa_family == AF_LINK &&
	       ((const struct sockaddr_dl *)(const void *)ifa->ifa_addr)->sdl_type == IFT_BRIDGE;
}

int host_bridge_check(const char *bridge, struct error **err)
{
	struct ifaddrs *all, *ifa;
	bool there = false, up = false;
	char list[256] = "";
	size_t len = 0;

	if (getifaddrs(&all) < 0)
		return error_set(err, ERROR_NETWORK, errno, "cannot list the network devices");
	for (ifa = all; ifa; ifa = ifa->ifa_next) {
		if (!is_bridge(ifa))
			continue;
		if (!strcmp(ifa->ifa_name, bridge)) {
			there = true;
			up = (ifa->ifa_flags & IFF_UP) != 0;
		}
		if (len + strlen(ifa->ifa_name) + 3 <= sizeof(list))
			len += (size_t)sprintf(list + len, "%s%s", len ? ", " : "", ifa->ifa_name);
	}
	freeifaddrs(all);
	if (!there)
		return error_set(err, ERROR_NETWORK, 0,
			"there is no bridge %.64s on this node; its bridges: %s", bridge,
			len ? list : "none");
	if (!up)
		return error_set(err, ERROR_NETWORK, 0,
			"bridge %s is down on this node; `ifconfig %s up` brings it up", bridge,
			bridge);
	return 0;
}

static int bridge_mtu(int sock, const char *bridge, int *mtu)
{
	struct ifreq request = {0};

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
	if (ioctl(sock, SIOCGIFMTU, &request) < 0)
		return -1;
	*mtu = request.ifr_mtu;
	return 0;
}

/* The bridge's MTU, up, and a port of it. -1 with errno. */
static int add_port(int sock, const char *bridge, const char *tap)
{
	struct ifreq request = {0};
	struct ifbreq port = {0};
	struct ifdrv add = {.ifd_cmd = BRDGADD, .ifd_len = sizeof(port), .ifd_data = &port};
	int mtu;

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", tap);
	if (bridge_mtu(sock, bridge, &mtu) < 0)
		return -1;
	request.ifr_mtu = mtu;
	if (ioctl(sock, SIOCSIFMTU, &request) < 0 || ioctl(sock, SIOCGIFFLAGS, &request) < 0)
		return -1;
	request.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &request) < 0)
		return -1;
	snprintf(add.ifd_name, sizeof(add.ifd_name), "%s", bridge);
	snprintf(port.ifbr_ifsname, sizeof(port.ifbr_ifsname), "%s", tap);
	return ioctl(sock, SIOCSDRVSPEC, &add);
}

/* A tap(4) made by opening /dev/tap stays, down, when it is closed: unlike on Linux, who ends a
 * VM's hypervisor also destroys its tap. */
int host_tap_open(const char *bridge, char name[32], struct error **err)
{
	cleanup_fd int sock = -1;
	struct stat st;
	int fd;

	if (host_bridge_check(bridge, err) < 0)
		return -1;
	sock = socket(AF_LOCAL, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return error_set(err, ERROR_NETWORK, errno, "cannot make a socket");
	fd = open("/dev/tap", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0) {
		error_set(err, ERROR_NETWORK, errno,
			"cannot open /dev/tap (net.link.tap.devfs_cloning must be 1)");
		close_fd(&fd);
		return -1;
	}
	devname_r(st.st_rdev, S_IFCHR, name, 32);
	if (add_port(sock, bridge, name) < 0) {
		error_set(err, ERROR_NETWORK, errno, "cannot make %s a port of bridge %s", name,
			bridge);
		close(fd);
		return -1;
	}
	return fd;
}
