/* Who has the other end of a TCP connection of this machine: /proc/net/tcp (proc(5)) tells the
 * inode of its socket, and /proc/PID/fd whose that is. */
#include "host/host.h"

#include "base/fs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512

static bool is_line(const char *line, const struct sockaddr_in *local,
	const struct sockaddr_in *remote, unsigned long *inode)
{
	unsigned local_address, local_port, remote_address, remote_port;

	return sscanf(line, " %*d: %8x:%4x %8x:%4x %*x %*x:%*x %*x:%*x %*x %*u %*u %lu",
		       &local_address, &local_port, &remote_address, &remote_port, inode) == 5 &&
	       local_address == local->sin_addr.s_addr && local_port == ntohs(local->sin_port) &&
	       remote_address == remote->sin_addr.s_addr &&
	       remote_port == ntohs(remote->sin_port) && *inode != 0;
}

/* Of the socket with these addresses; 0: there is none that belongs to anybody. */
static unsigned long find_inode(const struct sockaddr_in *local, const struct sockaddr_in *remote)
{
	FILE *f = fopen("/proc/self/net/tcp", "re");
	char line[LINE_MAX_BYTES];
	unsigned long inode = 0;
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = is_line(line, local, remote, &inode);
	if (f)
		fclose(f);
	return found ? inode : 0;
}

static bool has_socket(pid_t pid, unsigned long inode)
{
	cleanup_free char *path = fs_format("/proc/%d/fd", (int)pid);
	cleanup_free char *wanted = fs_format("socket:[%lu]", inode);
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir))) {
		cleanup_free char *link = fs_format("%s/%s", path, entry->d_name);
		char target[64] = "";
		ssize_t n = readlink(link, target, sizeof(target) - 1);

		found = n > 0 && !strcmp(target, wanted);
	}
	if (dir)
		closedir(dir);
	return found;
}

bool host_tcp_peer_is(int fd, pid_t pid)
{
	struct sockaddr_in ours, theirs;
	socklen_t ours_len = sizeof(ours), theirs_len = sizeof(theirs);
	unsigned long inode;

	if (getsockname(fd, (struct sockaddr *)&ours, &ours_len) < 0 ||
		getpeername(fd, (struct sockaddr *)&theirs, &theirs_len) < 0 ||
		ours.sin_family != AF_INET || theirs.sin_family != AF_INET)
		return false;
	inode = find_inode(&theirs, &ours);
	return inode && has_socket(pid, inode);
}
