#include "migrate/internal.h"

#include "base/clock.h"
#include "base/fs.h"
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A hypervisor connects as soon as it has been told to migrate. */
#define TAKE_MS 10000
#define BACKLOG 4

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

int local_listen(const struct migration *m, struct error **err)
{
	cleanup_free char *path = migration_socket(m);
	struct sockaddr_un address;
	int fd = make_socket(path, &address, err);

	if (fd < 0)
		return -1;
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

int local_take(struct migration *m, int listen_fd, struct error **err)
{
	cleanup_free char *path = migration_socket(m);
	cleanup_fd int fd = accept_hypervisor(m, listen_fd, clock_ms() + TAKE_MS, err);

	unlink(path);
	return fd < 0 ? -1 : mover_pass(m->mover, fd, err);
}

int local_connect(struct migration *m, struct error **err)
{
	cleanup_free char *path = migration_socket(m);
	struct sockaddr_un address;
	cleanup_fd int fd = make_socket(path, &address, err);

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
