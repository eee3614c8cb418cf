/*
 * Finds out at which address other nodes reach this one, where nobody says so.
 */
#ifndef DROVER_DAEMON_ADDRESS_H
#define DROVER_DAEMON_ADDRESS_H

#include "base/error.h"

/*
 * The address of this machine that packets to `peer` (HOST or HOST:PORT) leave from; without `peer`
 * its only address that is neither loopback nor link-local (IPv4 before IPv6). `port` is put behind
 * it where it is not HTTP_PORT. ERROR_USAGE names the addresses there are to choose from. The
 * caller frees it.
 */
char *address_find(const char *peer, int port, struct error **err);

/* The port of "HOST:PORT"; HTTP_PORT where none is given. ERROR_USAGE. */
int address_port(const char *listen, struct error **err);

#endif
