/* What bhyve needs of the host: who has the other end of a TCP connection of this machine, by
 * kinfo_getfile(3), which tells the addresses of a process's sockets; and taps that stay.
 * docs/portability.md says how far this was compiled. */
#include "host/host.h"

#include <sys/param.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sockio.h>
#include <sys/sysctl.h>
#include <sys/user.h>

#include <libutil.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool same(const struct sockaddr_storage *a, const struct sockaddr_in *b)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)a;

	return in->sin_family == AF_INET && in->sin_port == b->sin_port &&
	       in->sin_addr.s_addr == b->sin_addr.s_addr;
}

bool host_tcp_peer_is(int fd, pid_t pid)
{
	struct sockaddr_in ours, theirs;
	socklen_t ours_len = sizeof(ours), theirs_len = sizeof(theirs);
	struct kinfo_file *files;
	bool found = false;
	int count = 0;

	if (getsockname(fd, (struct sockaddr *)&ours, &ours_len) < 0 ||
		getpeername(fd, (struct sockaddr *)&theirs, &theirs_len) < 0)
		return false;
	files = kinfo_getfile(pid, &count);
	for (int i = 0; files && i < count && !found; i++)
		found = files[i].kf_type == KF_TYPE_SOCKET &&
			same(&files[i].kf_un.kf_sock.kf_sa_local, &theirs) &&
			same(&files[i].kf_un.kf_sock.kf_sa_peer, &ours);
	free(files);
	return found;
}

/* A tap(4) stays when it is closed; net.link.tap.up_on_open=1 brings it up when bhyve opens it. */
int host_tap_create(const char *bridge, char name[32], struct error **err)
{
	int fd = host_tap_open(bridge, name, err);

	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

void host_tap_remove(const char *name)
{
	struct ifreq request = {0};
	int sock = socket(AF_LOCAL, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
	if (sock >= 0) {
		ioctl(sock, SIOCIFDESTROY, &request);
		close(sock);
	}
}
