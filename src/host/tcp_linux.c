/* Apart from linux.c: the kernel's struct tcp_info is longer than that of the C library, and the
 * two headers exclude each other. */
#include "host/host.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

int64_t host_tcp_busy_us(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
		len < offsetof(struct tcp_info, tcpi_sndbuf_limited))
		return -1;
	return (int64_t)(info.tcpi_busy_time - info.tcpi_rwnd_limited);
}
