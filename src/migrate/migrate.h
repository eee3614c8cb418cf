/*
 * Migrations: the source side and the destination side of a move, each one thread with
 * straight-line code (source.c, dest.c), their journal, and what is told about them.
 *
 * docs/handover.md describes the protocol; the comments in source.c and dest.c name its steps.
 */
#ifndef DROVER_MIGRATE_MIGRATE_H
#define DROVER_MIGRATE_MIGRATE_H

#include "base/db.h"
#include "base/error.h"
#include "node/identity.h"
#include "node/peer.h"
#include "vm/vm.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct migrations;

/* The journal's tables, for db_open. */
extern const char migrate_schema[];

struct migrate_settings {
	struct vms *vms;
	const struct pool *pool;
	struct node_ctx *peers; /* how other nodes are called */
	struct hv *hv;
	struct db *db;
	const char *node;                /* this node's name */
	const struct identity *identity; /* its key and certificate, for the lane */
	const char *wire_binary;         /* drover-wire */
	const char *run_dir;
	const char *listen_address; /* where lanes are listened for, "10.78.0.1" */
	int port_min, port_max;
	uid_t vm_uid; /* the user that hypervisors run as */
	gid_t vm_gid;
	uid_t wire_uid; /* the user that drover-wire runs as */
	gid_t wire_gid;
};

struct migrations *migrations_open(const struct migrate_settings *settings, struct error **err);
/* Continues or undoes what an earlier droverd left unfinished. Call once, after vms_find_again. */
int migrations_recover(struct migrations *m, struct error **err);
/* Stops what runs, which the journal keeps for the next start; guests that were not handed over yet
 * go on. False when a thread is still at it after some seconds: then nothing that it uses may be
 * freed. */
bool migrations_close(struct migrations *m);
/* After migrations_close() has returned true. */
void migrations_free(struct migrations *m);

struct migrate_options {
	int64_t downtime_limit_ms; /* most that the guest may stand still; 0: 300 */
	int64_t bandwidth_bps; /* bytes per second, at least MIGRATE_BANDWIDTH_MIN; 0: no limit */
	int64_t timeout_ms;    /* until the switchover; 0: no limit */
	bool pause;            /* the guest is paused first: no rounds, a long downtime */
	bool postcopy;         /* the guest may run on the other side before all is there … */
	int postcopy_rounds;   /* … after so many rounds; 0: when it does not converge */
	bool warm;       /* where there is no better way the guest may be suspended to files … */
	bool files;      /* … and it is: found out, not asked for (hv.h, HV_WAY_FILES) */
	int reconnect_s; /* for how long a broken lane is made again; 0: drover-wire's own limit */
	uint32_t forced; /* checks of preflight.h that may fail */
	/* As said: a check measures and estimates unless it is not to, a move only if it is to. */
	bool estimate, no_estimate;
};
/* A lane is made again for so long where nothing else is said: what drover-wire does. */
#define MIGRATE_RECONNECT_S 60
int migrate_options_parse(
	const json_t *object, struct migrate_options *options, struct error **err);

/* Source: makes the checks of preflight.h, and starts to move a VM that runs here to `node`. `id`
 * gets the migration's id, *warnings (the caller's) the checks that are not ok, as in its report.
 * Everything that can be said before is an error here. */
int migrations_start(struct migrations *m, const char *vm, const char *node,
	const struct migrate_options *options, char id[33], json_t **warnings, struct error **err);
/* Cancels on the side that is asked (the source passes it on). Once the destination has been asked
 * to take over it is too late: ERROR_REFUSED. */
int migrations_cancel(struct migrations *m, const char *id, struct error **err);

/* {"id","vm","from","to","side","state","phase",…,"report":{…}}; state is "running", "done",
 * "failed", "cancelled", "undecided" or "interrupted"; "error" as json_from_error when it failed.
 */
json_t *migrations_show(struct migrations *m, const char *id, struct error **err);
/* Whether a migration of that VM has not ended here, on either side. `id` (may be NULL) gets it. */
bool migrations_have(struct migrations *m, const char *vm, char id[33]);
/* For who wants something else of that VM: *err becomes ERROR_BUSY with from where and to where it
 * is being moved, and what cancels that while it can be. False, and nothing, when it is not. */
bool migrations_say_busy(struct migrations *m, const char *vm, struct error **err);
/* {"migrations":[…]}, newest first. */
json_t *migrations_list(struct migrations *m, struct error **err);
/* Waits for events with a number above `after`, at most wait_ms: {"events":[{"seq",…}],"ended"}. */
json_t *migrations_events(
	struct migrations *m, const char *id, int64_t after, int64_t wait_ms, struct error **err);
/* Counts and sums since the start of droverd, for /metrics, in Prometheus' text format. */
char *migrations_metrics(struct migrations *m);

/* Destination, called by the source's droverd (docs/api.md): */
/* Announces a migration ({"id","vm","definition","epoch","pause","postcopy","warm","reconnect_s",
 * "force"}) and checks what can be checked; a task is queued after it. */
int migrations_expect(
	struct migrations *m, const char *from, const json_t *request, struct error **err);
/* Ends what was announced two minutes ago or longer and was never begun to be received: its source
 * has died, or the announcement came after its own calling off. To be called again and again. */
void migrations_end_expected(struct migrations *m);
/* The task's verb `drover receive ID`: runs the destination's side to its end in this thread. */
int migrations_receive(struct migrations *m, const char *id, struct error **err);
/* Waits until the destination listens (or failed), or until its hypervisor waits for the stream:
 * {"port":N,"ready":BOOL}. */
json_t *migrations_wait_ready(struct migrations *m, const char *from, const char *id,
	bool hypervisor, int64_t wait_ms, struct error **err);
/*
 * The source's hypervisor is paused for good: answers when the guest runs here, or will not.
 * {"state","whole","reason"}: "running": here, for good (`whole`: nothing of it is missing);
 * "ended": our copy has ended, and this side will not claim any more (`reason` as in
 * json_from_error, if there is one); "unknown": neither can be said now.
 */
json_t *migrations_handover(struct migrations *m, const char *from, const char *id);
/* An interrupted post-copy: listens for another lane, {"port"}. */
json_t *migrations_renew_lane(
	struct migrations *m, const char *from, const char *id, struct error **err);
/* The source gives up: ends this side's copy unless it runs, and answers in the same way. */
json_t *migrations_abort(struct migrations *m, const char *from, const char *id);

#endif
