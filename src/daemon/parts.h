/*
 * Inside src/daemon: how each part of a running droverd is opened. Called by the thread of daemon.c
 * only. Each does nothing when the part is there already, and leaves nothing when it fails.
 */
#ifndef DROVER_DAEMON_PARTS_H
#define DROVER_DAEMON_PARTS_H

#include "daemon/daemon.h"

/* Starts the hypervisor once to see what it is. */
int parts_open_hv(struct daemon *daemon, struct error **err);
/* Identity, pool, calls to other nodes, and the server for them. */
int parts_open_cluster(struct daemon *daemon, struct error **err);
/* Finds the VMs again and recovers the migrations; then starts the queue of tasks. Needs the two
 * above. */
int parts_open_machine(struct daemon *daemon, struct error **err);
/* Writes what this machine is and can do into its record in the pool, where the checks of other
 * nodes find it. */
int parts_publish(struct daemon *daemon, struct error **err);

/* Frees all of it. Nobody uses it any more: the servers and the migrations have been stopped. */
void parts_close(struct daemon *daemon);

#endif
