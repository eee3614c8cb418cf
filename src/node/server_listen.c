#include "node/server_internal.h"

#include "base/log.h"
#include "node/http.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

static int bind_tcp(const struct addrinfo *at, const char *listen_at, struct error **err)
{
	cleanup_fd int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
	int on = 1, result;

	if (fd < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make a socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	/* Accepted sockets inherit it. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return error_set(err, errno == EADDRINUSE ? ERROR_BUSY : ERROR_FAILED, errno,
			"cannot listen on %s (\"listen\" in drover.conf)", listen_at);
	result = fd;
	fd = -1;
	return result;
}

static int bound_port(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} at;
	socklen_t len = sizeof(at);

	if (getsockname(fd, &at.any, &len) < 0)
		return 0;
	return ntohs(at.any.sa_family == AF_INET6 ? at.v6.sin6_port : at.v4.sin_port);
}

int server_listen_tcp(struct server *server, struct error **err)
{
	const char *listen_at = server->options.listen;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
	char host[256], service[8];
	int port, code;

	if (http_split_address(listen_at, host, &port, err) < 0)
		return -1;
	snprintf(service, sizeof(service), "%d", port);
	code = getaddrinfo(host, service, &hints, &found);
	if (code != 0)
		return error_set(err, ERROR_USAGE, 0,
			"cannot listen on %s (\"listen\" in drover.conf): %s", listen_at,
			gai_strerror(code));
	server->listen_fd = bind_tcp(found, listen_at, err);
	freeaddrinfo(found);
	if (server->listen_fd < 0)
		return -1;
	server->port = bound_port(server->listen_fd);
	return 0;
}

static int socket_address(const char *path, struct sockaddr_un *at, struct error **err)
{
	*at = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(at->sun_path))
		return error_set(err, ERROR_USAGE, 0,
			"the path of a socket has at most %zu bytes: %s", sizeof(at->sun_path) - 1,
			path);
	memcpy(at->sun_path, path, strlen(path));
	return 0;
}

/* Whether something accepts connections there. */
static bool answers(const struct sockaddr_un *at)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* EAGAIN: somebody listens, and is busy. */
	return fd >= 0 &&
	       (connect(fd, (const struct sockaddr *)at, sizeof(*at)) == 0 || errno == EAGAIN);
}

/*
 * The lock lasts as long as the process that holds it, however it ends: who has it knows that the
 * socket file there is nobody's. Without it two starting at once could both remove the other's. Its
 * file stays: removing it would let two hold a lock on files of that name.
 */
static int take_lock(struct server *server, struct error **err)
{
	const char *path = server->options.socket_path;
	cleanup_free char *lock = fs_format("%s.lock", path);

	server->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (server->lock_fd < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot open %s", lock);
	if (flock(server->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return error_set(err, ERROR_BUSY, 0,
			"droverd runs already: it holds %s; stop that one first", lock);
	return error_set(err, ERROR_FAILED, errno, "cannot lock %s", lock);
}

/* Who may connect: set between bind and listen, while nobody can. */
static int set_access(const char *path, const char *group, struct error **err)
{
	struct group entry, *found = NULL;
	char buf[16384];

	if (chmod(path, 0660) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot set the mode of %s", path);
	if (!group || getgrnam_r(group, &entry, buf, sizeof(buf), &found) != 0 || !found)
		return 0;
	if (chown(path, (uid_t)-1, found->gr_gid) < 0)
		log_warning("%s cannot be given to group %s: %s; its members cannot use drover",
			path, group, strerror(errno));
	return 0;
}

int server_listen_local(struct server *server, struct error **err)
{
	const char *path = server->options.socket_path;
	struct sockaddr_un at;

	if (socket_address(path, &at, err) < 0 || take_lock(server, err) < 0)
		return -1;
	if (answers(&at))
		return error_set(err, ERROR_BUSY, 0,
			"another program answers on %s; stop it, or set \"run\" in drover.conf to "
			"another directory",
			path);
	if (unlink(path) < 0 && errno != ENOENT)
		return error_set(err, ERROR_FAILED, errno, "cannot remove the old %s", path);
	server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server->listen_fd < 0 ||
		bind(server->listen_fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot listen on %s", path);
	if (set_access(path, server->options.group, err) < 0)
		return -1;
	if (listen(server->listen_fd, BACKLOG) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot listen on %s", path);
	return 0;
}

void server_unlisten(struct server *server)
{
	/* Before the lock goes: after that the path may be another's. */
	if (server->local && server->listen_fd >= 0)
		unlink(server->options.socket_path);
	close_fd(&server->listen_fd);
	close_fd(&server->lock_fd);
}
