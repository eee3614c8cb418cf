#include "wire/tcp.h"

#include "base/clock.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BACKLOG 32

static int split(const char *text, char host[256], char port[8], struct error **err)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	int64_t number;

	if (!len || len >= 256 || strlen(colon + 1) >= 8 ||
		fs_parse_number("a port", colon + 1, 0, 65535, &number, NULL) < 0)
		return error_set(err, ERROR_USAGE, 0, "\"%s\" is not ADDRESS:PORT", text);
	if (text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	memcpy(host, text, len);
	host[len] = 0;
	strcpy(port, colon + 1);
	return 0;
}

static int look_up(const char *text, int flags, struct addrinfo **found, struct error **err)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | flags};
	char host[256], port[8];
	int code;

	if (split(text, host, port, err) < 0)
		return -1;
	code = getaddrinfo(host, port, &hints, found);
	if (code)
		return error_set(err, ERROR_UNREACHABLE, 0, "cannot find the address of %s: %s",
			host, gai_strerror(code));
	return 0;
}

static void format(const struct sockaddr *address, socklen_t len, char text[TCP_ADDRESS_SIZE])
{
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (getnameinfo(address, len, host, sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(text, TCP_ADDRESS_SIZE, "unknown address");
	else if (snprintf(text, TCP_ADDRESS_SIZE, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host,
			 port) >= TCP_ADDRESS_SIZE)
		snprintf(text, TCP_ADDRESS_SIZE, "port %s", port);
}

int tcp_listen(const char *text, struct error **err)
{
	struct addrinfo *found;
	int fd, on = 1;

	if (look_up(text, AI_PASSIVE, &found, err) < 0)
		return -1;
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot listen at %s", text);
		close_fd(&fd);
	}
	freeaddrinfo(found);
	return fd;
}

int tcp_port(int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		return -1;
	if (address.ss_family == AF_INET)
		return ntohs(((struct sockaddr_in *)&address)->sin_port);
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
	return -1;
}

/* connect() with a deadline; -1 with errno. */
static int connect_until(int fd, const struct addrinfo *to, int64_t deadline_ms)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLOUT};
	int flags = fcntl(fd, F_GETFL), n = 0, result = 0;
	socklen_t len = sizeof(result);

	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
		goto done;
	if (errno != EINPROGRESS)
		return -1;
	do
		n = poll(&pollfd, 1, clock_left_ms(deadline_ms));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		errno = ETIMEDOUT;
	if (n <= 0)
		return -1;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &result, &len);
	if (result) {
		errno = result;
		return -1;
	}
done:
	fcntl(fd, F_SETFL, flags);
	return 0;
}

struct tcp_target {
	const char *text;
	struct addrinfo *found;
};

struct tcp_target *tcp_look_up(const char *text, struct error **err)
{
	struct tcp_target *target = calloc(1, sizeof(*target));

	if (!target)
		abort();
	target->text = text;
	if (look_up(text, 0, &target->found, err) == 0)
		return target;
	free(target);
	return NULL;
}

void tcp_target_free(struct tcp_target *target)
{
	if (target)
		freeaddrinfo(target->found);
	free(target);
}

int tcp_connect(const struct tcp_target *target, int64_t deadline_ms,
	char address[TCP_ADDRESS_SIZE], struct error **err)
{
	const struct addrinfo *to;
	int fd = -1, errnum = 0;

	for (to = target->found; to && fd < 0; to = to->ai_next) {
		fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect_until(fd, to, deadline_ms) == 0) {
			format(to->ai_addr, to->ai_addrlen, address);
			break;
		}
		errnum = errno;
		close_fd(&fd);
	}
	if (fd < 0)
		error_set(err, errnum == ETIMEDOUT ? ERROR_TIMEOUT : ERROR_UNREACHABLE, errnum,
			"cannot connect to %s", target->text);
	return fd;
}

int tcp_accept(int fd, char address[TCP_ADDRESS_SIZE])
{
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	int accepted = accept4(fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);

	if (accepted >= 0)
		format((struct sockaddr *)&from, len, address);
	return accepted;
}
