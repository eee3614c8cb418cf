#include "migrate/internal.h"

#include "base/clock.h"
#include "base/fs.h"
#include "host/host.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A hypervisor connects as soon as it has been told to migrate. */
#define TAKE_MS 10000
#define BACKLOG 4
/* How soon a bhyve that listens has taken a connection. */
#define TAKEN_MS 2000
#define LOOK_MS 10

static int make_socket(const char *path, struct sockaddr_un *address, struct error **err)
{
	int fd;

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address->sun_path))
		return error_set(err, ERROR_FAILED, 0, "the path of socket %s is too long", path);
	strcpy(address->sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 ? fd : error_set(err, ERROR_FAILED, errno, "cannot make a socket");
}

/* Its directory is ours and sticky: until it is given away nobody else can put another there. */
static int give_to_hypervisor(const struct migration *m, const char *path)
{
	const struct migrate_settings *set = &m->all->set;

	return geteuid() == 0 ? lchown(path, set->vm_uid, set->vm_gid) : 0;
}

/* A port of this machine's own: whoever else connects is sent away. */
static int listen_loopback(char **where, struct error **err)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		listen(fd, BACKLOG) == 0 &&
		getsockname(fd, (struct sockaddr *)&address, &len) == 0) {
		*where = fs_format("127.0.0.1,%d", ntohs(address.sin_port));
		return fd;
	}
	error_set(err, ERROR_FAILED, errno, "cannot listen on 127.0.0.1");
	close_fd(&fd);
	return -1;
}

int local_listen(const struct migration *m, char **where, struct error **err)
{
	cleanup_free char *path = migration_socket(m);
	struct sockaddr_un address;
	int fd;

	*where = NULL;
	if (migration_runs_at_once(m))
		return listen_loopback(where, err);
	fd = make_socket(path, &address, err);
	if (fd < 0)
		return -1;
	*where = fs_format("%s", path);
	unlink(path);
	/* The mode is the socket's from its first moment on. */
	if (fchmod(fd, 0600) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0 &&
		bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		give_to_hypervisor(m, path) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	error_set(err, ERROR_FAILED, errno, "cannot listen on %s", path);
	close_fd(&fd);
	return -1;
}

static bool is_hypervisor(const struct migration *m, int fd)
{
	pid_t pid;
	uid_t uid;

	if (migration_runs_at_once(m))
		return host_tcp_peer_is(fd, hv_vm_process(vm_hv(m->vm))->pid);
	return host_socket_peer(fd, &pid, &uid) && pid == hv_vm_process(vm_hv(m->vm))->pid;
}

/* The first connection that is the hypervisor's; -1 at the deadline. One that is given up before it
 * is taken is not waited for. */
static int accept_hypervisor(
	const struct migration *m, int listen_fd, int64_t deadline_ms, struct error **err)
{
	struct pollfd p = {.fd = listen_fd, .events = POLLIN};

	while (poll(&p, 1, clock_left_ms(deadline_ms)) != 0) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0 && is_hypervisor(m, fd))
			return fd;
		close_fd(&fd);
	}
	return error_set(err, ERROR_TIMEOUT, 0, "the hypervisor of %s did not connect in %d s",
		m->vm_name, TAKE_MS / 1000);
}

static int pass(struct migration *m, int fd, struct error **err)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		return error_set(err, ERROR_FAILED, errno, "no descriptor is free");
	hv_vm_migrate_connected(vm_hv(m->vm), copy);
	return mover_pass(m->mover, fd, err);
}

int local_take(struct migration *m, int listen_fd, struct error **err)
{
	cleanup_free char *path = migration_socket(m);
	cleanup_fd int fd = accept_hypervisor(m, listen_fd, clock_ms() + TAKE_MS, err);

	unlink(path);
	return fd < 0 ? -1 : pass(m, fd, err);
}

/* The port may be anybody's, and the hypervisor takes one connection: ours must be the one. */
static bool is_taken(const struct migration *m, int fd, int64_t deadline_ms)
{
	do {
		if (is_hypervisor(m, fd))
			return true;
		if (process_wait(hv_vm_process(vm_hv(m->vm)), clock_ms() + LOOK_MS, NULL))
			return false;
	} while (clock_ms() < deadline_ms);
	return false;
}

static int connect_port(const struct migration *m, int port, struct error **err)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int64_t deadline = clock_ms() + TAKE_MS;
	struct hv_migrate_status status = {0};

	/* It listens some time after it has been started, and tells nobody. */
	do {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
			if (is_taken(m, fd, clock_ms() + TAKEN_MS))
				return fd;
			close_fd(&fd);
			return error_set(err, ERROR_HYPERVISOR, 0,
				"somebody else has connected to the bhyve of %s, or listens at its "
				"port %d; shut these ports off from the network (docs/bhyve.md)",
				m->vm_name, port);
		}
		close_fd(&fd);
	} while (clock_ms() < deadline &&
		 !process_wait(hv_vm_process(vm_hv(m->vm)), clock_ms() + LOOK_MS, NULL));
	hv_vm_migrate_status(vm_hv(m->vm), &status, NULL);
	return error_set(err, ERROR_HYPERVISOR, 0,
		"the hypervisor of %s does not listen at port %d of 127.0.0.1%s%s", m->vm_name,
		port, status.failure[0] ? "; it ended, and said: " : "", status.failure);
}

static int connect_loopback(struct migration *m, int port, struct error **err)
{
	cleanup_fd int fd = connect_port(m, port, err);
	int one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return pass(m, fd, err);
}

int local_connect(struct migration *m, struct error **err)
{
	cleanup_free char *path = migration_socket(m);
	int port = hv_vm_migrate_port(vm_hv(m->vm));
	struct sockaddr_un address;
	cleanup_fd int fd = -1;

	if (port)
		return connect_loopback(m, port, err);
	fd = make_socket(path, &address, err);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set(err, ERROR_HYPERVISOR, errno,
			"cannot connect to the hypervisor of %s at %s", m->vm_name, path);
	unlink(path);
	if (!is_hypervisor(m, fd))
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s is not answered by the hypervisor of %s", path, m->vm_name);
	return mover_pass(m->mover, fd, err);
}

/* Each end is of one process: nobody else can come between. */
int local_pair(struct migration *m, struct error **err)
{
	cleanup_fd int movers = -1;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make a socket");
	movers = pair[1];
	hv_vm_migrate_connected(vm_hv(m->vm), pair[0]);
	return mover_pass(m->mover, movers, err);
}
