/*
 * File descriptors passed to another process over a Unix socket (SCM_RIGHTS, with one byte, a
 * space).
 */
#ifndef DROVER_BASE_PASS_FD_H
#define DROVER_BASE_PASS_FD_H

/* Sends `fd`, which stays the caller's. 0, or -1 with errno. */
int pass_fd_send(int socket, int fd);
/* The descriptor of the next message, the caller's to close; -1 when it has none, or nobody will
 * send one. Waits for it. */
int pass_fd_receive(int socket);

#endif
