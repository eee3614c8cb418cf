/*
 * The answer that lets a source's guest go on.
 *
 * bhyve reads an answer of 8 bytes (size_t) at the end of its stream, and after the specs; one of 4
 * (int) after the sizes of memory. 0 is yes, 1 is no (usr.sbin/bhyve/migration.c, FreeBSD-UPB). It
 * takes a connection that was closed for an answer that is whatever its stack holds, and what it
 * sends to one dies of SIGPIPE or ends the migration: so it is told, and listened to until it
 * closes.
 */
#include "hv/bhyve/answer.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define DROP_BYTES (256u << 10)

bool bhyve_refuse(int fd, int64_t deadline_ms)
{
	static const unsigned char no[8] = {1};
	static char drop[DROP_BYTES];
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (send(fd, no, sizeof(no), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return true; /* it is closed there */
	while (poll(&p, 1, clock_left_ms(deadline_ms)) != 0) {
		ssize_t n = recv(fd, drop, sizeof(drop), MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return true;
	}
	return false;
}
