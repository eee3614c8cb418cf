/*
 * The parts of a running droverd and how they come up.
 *
 * Some of them can be missing while droverd serves: the identity until `drover init` or `drover
 * join`, the pool until it is mounted, the hypervisor until it can be started. One thread tries
 * again until all are there (every DAEMON_RETRY_MS, or at once after init and join); they come up in
 * this order, are then there for the life of the process, and are asked for by the functions below,
 * whose error says what is missing and why.
 */
#ifndef DROVER_DAEMON_DAEMON_H
#define DROVER_DAEMON_DAEMON_H

#include "base/db.h"
#include "base/error.h"
#include "daemon/config.h"
#include "hv/hv.h"
#include "migrate/migrate.h"
#include "node/identity.h"
#include "node/peer.h"
#include "node/server.h"
#include "pool/pool.h"
#include "task/task.h"
#include "vm/vm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define DAEMON_RETRY_MS 5000

/* What a node has that is in a cluster and sees its pool. */
struct cluster {
	struct identity *identity;
	struct pool *pool;
	struct node_ctx *peers;
	struct server *server; /* for the other nodes */
};

/* What a node has that can run VMs as well. */
struct machine {
	struct vms *vms;
	struct migrations *migrations;
};

struct daemon {
	const struct config *config;
	struct db *db;
	struct task_queue *tasks;

	/* Set once, by the thread that brings up. */
	_Atomic(struct hv *) hv;
	_Atomic(struct cluster *) cluster;
	_Atomic(struct machine *) machine;

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Guarded by lock. */
	bool tried;             /* it has been tried once to bring up everything */
	bool try_now, stopping; /* orders to the thread */
	uint64_t tries;         /* ended ones */
	struct error *no_hv;    /* why the hypervisor cannot be used; NULL: it can */
	struct error *no_cluster, *no_machine;
	pthread_mutex_t joining; /* one init or join at a time */
};

/* Starts the thread that brings up what can be; returns when that was tried once, or limit_ms have
 * passed (a file system that hangs). `config` and `db` stay the caller's. */
int daemon_start(struct daemon *daemon, const struct config *config, struct db *db, int limit_ms,
	struct error **err);
/* After init and join: tries at once and waits until that has been done. An error says what of the
 * cluster is missing; it goes on being tried. */
int daemon_try_now(struct daemon *daemon, struct error **err);
/*
 * Stops: other nodes' requests have limit_ms to end. The VMs go on. False when something did not
 * end in time: then nothing is freed and the process must simply end, as after a crash.
 */
bool daemon_stop(struct daemon *daemon, int limit_ms);

/*
 * The parts; NULL and an error while they are missing. ERROR_NO_CLUSTER; ERROR_POOL and others as
 * seen by the last try. daemon_cluster and daemon_machine also fail with ERROR_CERTIFICATE once
 * this node has been removed from the cluster; the _even_removed ones do not look.
 */
struct cluster *daemon_cluster(struct daemon *daemon, struct error **err);
struct cluster *daemon_cluster_even_removed(struct daemon *daemon, struct error **err);
struct machine *daemon_machine(struct daemon *daemon, struct error **err);
struct machine *daemon_machine_even_removed(struct daemon *daemon, struct error **err);
/* Whether the pool's record of this node is still the one of its certificate. */
int daemon_check_member(const struct cluster *cluster, struct error **err);
/* What is missing, one sentence each: a new array, empty when all is there. */
json_t *daemon_problems(struct daemon *daemon);

#endif
