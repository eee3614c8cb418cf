#include "daemon/notify.h"

#include "base/fs.h"
#include "base/log.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

void notify_send(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t len = path ? strlen(path) : 0;
	cleanup_fd int fd = -1;

	if (len < 2)
		return;
	if (len >= sizeof(to.sun_path) || (path[0] != '/' && path[0] != '@')) {
		log_warning("NOTIFY_SOCKET is no address of a socket: %s", path);
		return;
	}
	memcpy(to.sun_path, path, len);
	/* A name that starts with '@' is an abstract one (unix(7)). */
	if (to.sun_path[0] == '@')
		to.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		log_warning("cannot tell the service manager %s: %s", state, strerror(errno));
}
