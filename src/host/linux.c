#include "host/host.h"

#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netlink/addr.h>
#include <netlink/route/link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TUN "/dev/net/tun"

/* Facts. */

/* The rest of a line "name<white space>:<white space>VALUE", without its newline; NULL for other
 * lines. */
static char *field(char *line, const char *name)
{
	size_t len = strlen(name);
	char *value;

	if (strncmp(line, name, len) != 0)
		return NULL;
	value = line + len + strspn(line + len, " \t");
	if (*value != ':')
		return NULL;
	value++;
	value += strspn(value, " \t");
	value[strcspn(value, "\n")] = 0;
	return value;
}

static bool has_flag(char *flags, const char *flag)
{
	char *rest = flags, *word;
	bool found = false;

	while (!found && (word = strsep(&rest, " "))) {
		found = !strcmp(word, flag);
		if (rest)
			rest[-1] = ' ';
	}
	return found;
}

/* Of the first CPU: a VM's host has CPUs of one kind. */
static int read_cpuinfo(struct host_facts *facts, bool *virtualization, struct error **err)
{
	cleanup_free char *line = NULL;
	FILE *f = fopen("/proc/cpuinfo", "re");
	size_t size = 0;
	char *value;

	if (!f)
		return error_set(err, ERROR_FAILED, errno, "cannot read /proc/cpuinfo");
	snprintf(facts->cpu_model, sizeof(facts->cpu_model), "unknown");
	while (getline(&line, &size, f) > 0 && line[0] != '\n') {
		if ((value = field(line, "model name")))
			snprintf(facts->cpu_model, sizeof(facts->cpu_model), "%s", value);
		else if ((value = field(line, "flags")))
			*virtualization = has_flag(value, "vmx") || has_flag(value, "svm");
	}
	fclose(f);
	return 0;
}

static int read_meminfo(struct host_facts *facts, struct error **err)
{
	cleanup_free char *line = NULL;
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib;
	size_t size = 0;

	if (!f)
		return error_set(err, ERROR_FAILED, errno, "cannot read /proc/meminfo");
	facts->memory_bytes = facts->memory_free_bytes = 0;
	while (getline(&line, &size, f) > 0) {
		if (sscanf(line, "MemTotal: %llu kB", &kib) == 1)
			facts->memory_bytes = kib << 10;
		else if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			facts->memory_free_bytes = kib << 10;
	}
	fclose(f);
	if (facts->memory_bytes == 0)
		return error_set(err, ERROR_FAILED, 0, "/proc/meminfo does not say MemTotal");
	return 0;
}

static bool opens(const char *device)
{
	cleanup_fd int fd = open(device, O_RDWR | O_CLOEXEC);

	return fd >= 0;
}

int host_facts_read(struct host_facts *facts, struct error **err)
{
	struct utsname name;
	bool virtualization = false;

	*facts = (struct host_facts){0};
	if (uname(&name) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot ask the kernel for its name");
	snprintf(facts->os, sizeof(facts->os), "%.10s %.20s", name.sysname, name.release);
	snprintf(facts->arch, sizeof(facts->arch), "%.15s", name.machine);
	facts->cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	facts->page_size = (uint32_t)sysconf(_SC_PAGESIZE);
	if (read_cpuinfo(facts, &virtualization, err) < 0 || read_meminfo(facts, err) < 0)
		return -1;
	facts->hardware_virtualization = virtualization && opens("/dev/kvm");
	return 0;
}

bool host_socket_peer(int fd, pid_t *pid, uid_t *uid)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return false;
	*uid = who.uid;
	if (pid)
		*pid = who.pid;
	return true;
}

/* File systems. */

/* Whether a line of mountinfo is of the mount whose id is `id` (proc(5)). */
static bool is_mount(const char *line, unsigned long long id)
{
	char *end;

	return strtoull(line, &end, 10) == id && *end == ' ';
}

/*
 * statx gives the id of the very mount that holds the path, whatever is mounted above or below it;
 * comparing mount points with the path would be wrong where one mount hides another. A file behind
 * a mount that this process cannot see (another root) has no line. The line of
 * /proc/self/mountinfo; the caller frees it.
 */
static char *find_mount(const char *path, struct error **err)
{
	cleanup_free char *line = NULL;
	struct statx stx;
	bool found = false;
	size_t size = 0;
	FILE *f;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_MNT_ID, &stx) < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot tell the file system of %s", path);
		return NULL;
	}
	if (!(stx.stx_mask & STATX_MNT_ID)) {
		error_set(err, ERROR_FAILED, 0,
			"cannot tell the file system of %s: the kernel is older than 5.8", path);
		return NULL;
	}
	f = fopen("/proc/self/mountinfo", "re");
	if (!f) {
		error_set(err, ERROR_FAILED, errno, "cannot read /proc/self/mountinfo");
		return NULL;
	}
	while (!found && getline(&line, &size, f) > 0)
		found = is_mount(line, stx.stx_mnt_id);
	fclose(f);
	if (found)
		return fs_format("%s", line);
	error_set(err, ERROR_FAILED, 0,
		"cannot tell the file system of %s: its mount is not in /proc/self/mountinfo",
		path);
	return NULL;
}

static int no_mount(const char *path, struct error **err)
{
	return error_set(err, ERROR_FAILED, 0,
		"cannot tell the file system of %s: /proc/self/mountinfo reads otherwise than "
		"expected",
		path);
}

int host_fs_type(const char *path, char out[32], struct error **err)
{
	cleanup_free char *line = find_mount(path, err);
	const char *dash = line ? strstr(line, " - ") : NULL;

	if (!line)
		return -1;
	return dash && sscanf(dash + 3, "%31s", out) == 1 ? 0 : no_mount(path, err);
}

char *host_mount_options(const char *path, struct error **err)
{
	cleanup_free char *line = find_mount(path, err);
	const char *dash = line ? strstr(line, " - ") : NULL;
	int own = 0, own_end = 0, super = 0;

	if (!line)
		return NULL;
	line[strcspn(line, "\n")] = 0;
	if (dash)
		sscanf(dash + 3, "%*s %*s %n", &super);
	sscanf(line, "%*s %*s %*s %*s %*s %n%*s%n", &own, &own_end);
	if (super && own_end > own)
		return fs_format("%.*s,%s", own_end - own, line + own, dash + 3 + super);
	no_mount(path, err);
	return NULL;
}

int host_fs_free(const char *path, uint64_t *bytes, struct error **err)
{
	struct statvfs vfs;

	if (statvfs(path, &vfs) < 0)
		return error_set(
			err, ERROR_FAILED, errno, "cannot tell the free space of %s", path);
	*bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	return 0;
}

/* Bridges and taps. */

static void free_socket(struct nl_sock **sock)
{
	nl_socket_free(*sock);
}

static void put_link(struct rtnl_link **link)
{
	rtnl_link_put(*link);
}
#define cleanup_socket __attribute__((cleanup(free_socket)))
#define cleanup_link __attribute__((cleanup(put_link)))

static struct nl_sock *connect_route(struct error **err)
{
	struct nl_sock *sock = nl_socket_alloc();
	int rc;

	if (!sock)
		abort();
	rc = nl_connect(sock, NETLINK_ROUTE);
	if (rc == 0)
		return sock;
	nl_socket_free(sock);
	error_set(err, ERROR_NETWORK, 0, "cannot ask the kernel for its network devices: %s",
		nl_geterror(rc));
	return NULL;
}

static bool is_bridge(struct rtnl_link *link)
{
	const char *type = rtnl_link_get_type(link);

	return type && !strcmp(type, "bridge");
}

struct bridge_list {
	char text[256];
	size_t len;
};

static void list_bridge(struct nl_object *object, void *arg)
{
	struct rtnl_link *link = (struct rtnl_link *)object;
	struct bridge_list *list = arg;
	const char *name = rtnl_link_get_name(link);

	if (!is_bridge(link) || !name || list->len + strlen(name) + 3 > sizeof(list->text))
		return;
	list->len += (size_t)sprintf(list->text + list->len, "%s%s", list->len ? ", " : "", name);
}

/* "; bridges here: br0, br1", as far as there is room. */
static void list_bridges(struct nl_sock *sock, struct bridge_list *list)
{
	struct nl_cache *cache;

	*list = (struct bridge_list){0};
	if (rtnl_link_alloc_cache(sock, AF_UNSPEC, &cache) < 0)
		return;
	nl_cache_foreach(cache, list_bridge, list);
	nl_cache_free(cache);
}

/* The bridge, there and up; the caller puts it back. */
static struct rtnl_link *find_bridge(struct nl_sock *sock, const char *bridge, struct error **err)
{
	struct rtnl_link *link = NULL;
	struct bridge_list list;
	bool there;
	/* The kernel would cut a longer name, and then find another bridge. */
	int rc = strlen(bridge) < IFNAMSIZ ? rtnl_link_get_kernel(sock, 0, bridge, &link)
					   : -NLE_OBJ_NOTFOUND;

	if (rc < 0 && rc != -NLE_OBJ_NOTFOUND && rc != -NLE_NODEV) {
		error_set(err, ERROR_NETWORK, 0, "cannot look for bridge %s: %s", bridge,
			nl_geterror(rc));
		return NULL;
	}
	if (rc == 0 && is_bridge(link) && (rtnl_link_get_flags(link) & IFF_UP))
		return link;
	there = rc == 0;
	if (there && is_bridge(link))
		error_set(err, ERROR_NETWORK, 0,
			"bridge %s is down on this node; `ip link set %s up` brings it up", bridge,
			bridge);
	else {
		list_bridges(sock, &list);
		error_set(err, ERROR_NETWORK, 0, "%s %.64s%s on this node; its bridges: %s",
			there ? "network device" : "there is no bridge", bridge,
			there ? " is no bridge" : "", list.len ? list.text : "none");
	}
	if (link)
		rtnl_link_put(link);
	return NULL;
}

int host_bridge_check(const char *bridge, struct error **err)
{
	cleanup_socket struct nl_sock *sock = connect_route(err);
	cleanup_link struct rtnl_link *link = sock ? find_bridge(sock, bridge, err) : NULL;

	return link ? 0 : -1;
}

/* A bridge takes the lowest address of its ports for its own, and changes it with them: an address
 * that starts with fe is never the lowest. */
static struct nl_addr *tap_address(void)
{
	uint8_t mac[6] = {0xfe, 0x54, 0x00};

	if (getrandom(mac + 3, 3, 0) != 3)
		abort();
	return nl_addr_build(AF_LLC, mac, sizeof(mac));
}

/* Makes `name` a port of the bridge, with the bridge's MTU, and up. */
static int add_port(
	struct nl_sock *sock, struct rtnl_link *bridge, const char *name, struct error **err)
{
	cleanup_link struct rtnl_link *change = rtnl_link_alloc();
	cleanup_link struct rtnl_link *tap = NULL;
	struct nl_addr *address = tap_address();
	int rc = rtnl_link_get_kernel(sock, 0, name, &tap);

	if (!change || !address)
		abort();
	rtnl_link_set_addr(change, address);
	nl_addr_put(address);
	rtnl_link_set_mtu(change, rtnl_link_get_mtu(bridge));
	rtnl_link_set_master(change, rtnl_link_get_ifindex(bridge));
	rtnl_link_set_flags(change, IFF_UP);
	if (rc == 0)
		rc = rtnl_link_change(sock, tap, change, 0);
	if (rc < 0)
		return error_set(err, ERROR_NETWORK, 0, "cannot make %s a port of bridge %s: %s",
			name, rtnl_link_get_name(bridge), nl_geterror(rc));
	return 0;
}

int host_tap_open(const char *bridge, char name[32], struct error **err)
{
	cleanup_socket struct nl_sock *sock = connect_route(err);
	cleanup_link struct rtnl_link *link = sock ? find_bridge(sock, bridge, err) : NULL;
	struct ifreq request = {
		.ifr_name = "drv%d", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd;

	if (!link)
		return -1;
	fd = open(TUN, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_set(err, ERROR_NETWORK, errno, "cannot open " TUN);
	if (ioctl(fd, TUNSETIFF, &request) < 0) {
		error_set(err, ERROR_NETWORK, errno, "cannot make a tap device for bridge %s",
			bridge);
		close(fd);
		return -1;
	}
	if (add_port(sock, link, request.ifr_name, err) < 0) {
		close(fd);
		return -1;
	}
	snprintf(name, 32, "%s", request.ifr_name);
	return fd;
}

int host_tap_create(const char *bridge, char name[32], struct error **err)
{
	int fd = host_tap_open(bridge, name, err);
	int rc = fd >= 0 ? ioctl(fd, TUNSETPERSIST, 1) : -1;

	if (fd >= 0 && rc < 0)
		error_set(err, ERROR_NETWORK, errno, "cannot keep tap device %s", name);
	if (fd >= 0)
		close(fd);
	return rc < 0 ? -1 : 0;
}

/* Also one that a process still has open: who ends a hypervisor need not know when its last
 * descriptor is closed. */
void host_tap_remove(const char *name)
{
	cleanup_socket struct nl_sock *sock = connect_route(NULL);
	cleanup_link struct rtnl_link *link = rtnl_link_alloc();

	if (!sock || !link)
		return;
	rtnl_link_set_name(link, name);
	rtnl_link_delete(sock, link);
}
