/*
 * Tells the service manager how droverd stands (sd_notify(3)): a datagram to the socket that it
 * names in NOTIFY_SOCKET. Without that variable nothing happens.
 */
#ifndef DROVER_DAEMON_NOTIFY_H
#define DROVER_DAEMON_NOTIFY_H

/* "READY=1\nSTATUS=…", "STOPPING=1". One that cannot be sent is logged and no error. */
void notify_send(const char *state);

#endif
