#include "daemon/address.h"

#include "base/fs.h"
#include "node/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static char *with_port(const char *host, int port)
{
	bool v6 = strchr(host, ':') != NULL;

	if (port != HTTP_PORT)
		return fs_format(v6 ? "[%s]:%d" : "%s:%d", host, port);
	return fs_format(v6 ? "[%s]" : "%s", host);
}

/* Where packets to `to` would leave from: connecting a datagram socket sends nothing. */
static int local_address(const struct addrinfo *to, char out[NI_MAXHOST])
{
	cleanup_fd int fd = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_storage own;
	socklen_t len = sizeof(own);

	if (fd < 0 || connect(fd, to->ai_addr, to->ai_addrlen) < 0 ||
		getsockname(fd, (struct sockaddr *)&own, &len) < 0)
		return -1;
	return getnameinfo((struct sockaddr *)&own, len, out, NI_MAXHOST, NULL, 0, NI_NUMERICHOST)
		       ? -1
		       : 0;
}

static char *towards(const char *peer, int port, struct error **err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found = NULL;
	char host[256], own[NI_MAXHOST], service[16];
	int peer_port, rc;

	if (http_split_address(peer, host, &peer_port, err) < 0)
		return NULL;
	snprintf(service, sizeof(service), "%d", peer_port);
	rc = getaddrinfo(host, service, &hints, &found);
	if (rc != 0) {
		error_set(err, ERROR_UNREACHABLE, 0, "cannot find %s: %s", host, gai_strerror(rc));
		return NULL;
	}
	rc = local_address(found, own);
	freeaddrinfo(found);
	if (rc == 0)
		return with_port(own, port);
	error_set(err, ERROR_UNREACHABLE, errno, "there is no way from here to %s", host);
	return NULL;
}

/* Not loopback and not link-local. */
static bool usable(const struct ifaddrs *a, int family)
{
	if (!a->ifa_addr || a->ifa_addr->sa_family != family || (a->ifa_flags & IFF_LOOPBACK) ||
		!(a->ifa_flags & IFF_UP))
		return false;
	if (family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)a->ifa_addr;

		return (ntohl(v4->sin_addr.s_addr) >> 16) != 0xa9fe;
	}
	return !IN6_IS_ADDR_LINKLOCAL(
		&((const struct sockaddr_in6 *)(const void *)a->ifa_addr)->sin6_addr);
}

struct choice {
	char first[NI_MAXHOST];
	char all[512]; /* for the message */
	int count;
};

static void choose(const struct ifaddrs *list, int family, struct choice *c)
{
	socklen_t len =
		family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);

	for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
		char text[NI_MAXHOST];
		size_t used = strlen(c->all);

		if (!usable(a, family) ||
			getnameinfo(a->ifa_addr, len, text, sizeof(text), NULL, 0, NI_NUMERICHOST))
			continue;
		if (c->count++ == 0)
			snprintf(c->first, sizeof(c->first), "%s", text);
		snprintf(c->all + used, sizeof(c->all) - used, "%s%s (%s)", used ? ", " : "", text,
			a->ifa_name);
	}
}

static char *only_one(int port, struct error **err)
{
	struct choice c = {.count = 0};
	struct ifaddrs *list;

	if (getifaddrs(&list) < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot read this machine's addresses");
		return NULL;
	}
	choose(list, AF_INET, &c);
	if (c.count == 0)
		choose(list, AF_INET6, &c);
	freeifaddrs(list);
	if (c.count == 1)
		return with_port(c.first, port);
	error_set(err, ERROR_USAGE, 0,
		"say with --address at which address other nodes reach this one: %s",
		c.count ? c.all : "it has none but loopback now");
	return NULL;
}

char *address_find(const char *peer, int port, struct error **err)
{
	return peer ? towards(peer, port, err) : only_one(port, err);
}

int address_port(const char *listen, struct error **err)
{
	char host[256];
	int port;

	return http_split_address(listen, host, &port, err) < 0 ? -1 : port;
}
