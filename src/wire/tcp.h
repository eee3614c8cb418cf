/*
 * TCP sockets by ADDRESS:PORT as it is written on a command line: "10.78.0.2:7801",
 * "[fd00::2]:7801", "node2.example:7801".
 */
#ifndef DROVER_WIRE_TCP_H
#define DROVER_WIRE_TCP_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Longest text of an address that the functions here write. */
#define TCP_ADDRESS_SIZE 64

struct tcp_target;

/* Listens; port 0 takes a free one. Returns the descriptor. ERROR_USAGE for a text that is no
 * address, ERROR_FAILED. */
int tcp_listen(const char *text, struct error **err);
/* Port of a listening socket; -1 when it is none. */
int tcp_port(int fd);

/* The addresses of a text, which are looked up once: a name that comes to mean another address
 * later is not followed. ERROR_USAGE, ERROR_UNREACHABLE. `text` must outlive it. */
struct tcp_target *tcp_look_up(const char *text, struct error **err);
void tcp_target_free(struct tcp_target *target);

/* Connects, to each address of the target in turn, until deadline_ms (of clock_ms). Returns the
 * descriptor, and the address as text. ERROR_UNREACHABLE, ERROR_TIMEOUT. */
int tcp_connect(const struct tcp_target *target, int64_t deadline_ms,
	char address[TCP_ADDRESS_SIZE], struct error **err);

/* Takes one connection, if there is one. Returns the descriptor and the other side's address; -1
 * without an error when there was none after all. */
int tcp_accept(int fd, char address[TCP_ADDRESS_SIZE]);

#endif
