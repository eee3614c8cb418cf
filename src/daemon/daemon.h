/*
 * The parts of a running droverd and how they come up.
 *
 * Some of them can be missing while droverd serves: the cluster until `drover init` or `drover
 * join`, the pool until it is mounted, the hypervisor until it can be started. One thread tries
 * again until all are there (every DAEMON_RETRY_MS, and at once after init and join). What has come
 * up stays for the life of the process; it is asked for by the functions below, whose errors say
 * what is missing and why.
 *
 * The same thread looks at the pool every DAEMON_RETRY_MS. A file system that hangs holds it, and
 * whoever else looks at the pool, but not `drover status`, which tells.
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

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define DAEMON_RETRY_MS 5000
/* A look at the pool that takes longer says that it hangs. */
#define DAEMON_HANGS_MS 10000
/* Longest that init and join wait for the cluster's part to come up. */
#define DAEMON_TRY_MS 30000

/* What a node has that is in a cluster and sees its pool. */
struct cluster {
	struct identity *identity;
	struct pool *pool;
	struct node_ctx *peers;
	struct server *server; /* for the other nodes */
};

/* What a node of a cluster has that has a hypervisor. */
struct machine {
	struct vms *vms;
	struct migrations *migrations;
};

struct indexer;

struct daemon {
	const struct config *config;
	struct db *db;
	struct hv_settings hv_settings;

	/* NULL until they are there; set by the thread only. */
	_Atomic(struct hv *) hv;
	_Atomic(struct cluster *) cluster;
	_Atomic(struct machine *) machine;
	_Atomic(struct task_queue *) tasks;

	struct server *local;    /* for this node's commands */
	struct indexer *indexer; /* makes content indexes */
	pthread_mutex_t joining; /* one init or join at a time */

	pthread_t thread;
	pthread_mutex_t lock; /* guards all that follows */
	pthread_cond_t changed;
	bool started, stopping, ended;
	uint64_t asked, answered; /* tries */
	/* Why it is missing; NULL: it is there. */
	struct error *no_hv, *no_cluster, *no_machine;
	struct error *no_member; /* the pool cannot be read, or this node was removed */
	int64_t trying_since_ms; /* 0: not trying now */
};

/* Sets up the struct: nothing has come up yet. config and db stay the caller's. */
void daemon_init(struct daemon *daemon, const struct config *config, struct db *db);
/* Starts to serve the Unix socket, and the thread; returns when that has tried once, or after
 * limit_ms (a file system that hangs). ERROR_BUSY when another droverd has the socket. */
int daemon_start(struct daemon *daemon, int limit_ms, struct error **err);
/* After init and join: tries at once and waits for it. An error says why the cluster's part is not
 * up; it is tried further. */
int daemon_try_now(struct daemon *daemon, struct error **err);
/*
 * Stops: tasks are interrupted, migrations are left to the next start as after a crash, requests
 * have limit_ms to end, VMs go on. False when something did not end in time: then nothing of it is
 * freed, and the process has to end.
 */
bool daemon_stop(struct daemon *daemon, int limit_ms);

/*
 * The parts; NULL and an error while they are missing: ERROR_NO_CLUSTER, or what the last try said.
 * daemon_cluster and daemon_machine fail with ERROR_CERTIFICATE once this node has been removed
 * from the cluster; the others do not look.
 */
struct cluster *daemon_cluster(struct daemon *daemon, struct error **err);
struct cluster *daemon_cluster_even_removed(struct daemon *daemon, struct error **err);
struct machine *daemon_machine(struct daemon *daemon, struct error **err);
struct machine *daemon_machine_even_removed(struct daemon *daemon, struct error **err);
struct task_queue *daemon_tasks(struct daemon *daemon, struct error **err);
/* Whether the pool's record of this node is still the one of its certificate. ERROR_CERTIFICATE
 * when it is not; ERROR_POOL and others when that cannot be told. */
int daemon_check_member(const struct cluster *cluster, struct error **err);
/* Whether the pool could be read at the last look at it, and does not hang since. False while there
 * is none. Never waits. */
bool daemon_pool_answers(struct daemon *daemon);
/* What is missing, a sentence each: a new array, empty when all is there. Never waits. */
json_t *daemon_problems(struct daemon *daemon);

#endif
