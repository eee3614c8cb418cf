/*
 * Inside src/migrate: one struct migration a side, and what source.c and dest.c share.
 *
 * A migration belongs to the thread that runs it. What other threads look at or set (the fields
 * below "shared") is guarded by the lock of struct migrations; `changed` is signalled whenever it
 * changes.
 */
#ifndef DROVER_MIGRATE_INTERNAL_H
#define DROVER_MIGRATE_INTERNAL_H

#include "migrate/migrate.h"
#include "migrate/estimating.h"
#include "migrate/mover.h"

#include <pthread.h>

#define EVENTS_MAX 512
#define ID_SIZE 33

/* How far a side has come, as the journal keeps it: written before the step is done. */
enum migrate_step {
	STEP_PREPARE,  /* both sides are being made ready; nothing has moved */
	STEP_STREAM,   /* the hypervisor's stream goes */
	STEP_SWITCH,   /* source: the switch to post-copy has been, or may have been, ordered */
	STEP_HANDOVER, /* source: the destination has been, or may have been, told to take over */
	STEP_CLAIM,    /* destination: it may have claimed */
	STEP_POSTCOPY, /* the destination runs the guest, and pages of it are still on their way */
	STEP_END,      /* source: the other side runs the guest; our copy is ended */
	STEP_UNDO,     /* the migration has failed and is being undone */
	STEP_DONE
};
const char *migrate_step_name(enum migrate_step step);
enum migrate_step migrate_step_from_name(const char *name);

enum migrate_state {
	MIGRATE_RUNNING,
	MIGRATE_DONE,
	MIGRATE_FAILED,
	MIGRATE_CANCELLED,
	MIGRATE_UNDECIDED,
};
const char *migrate_state_name(enum migrate_state state);

struct migration {
	struct migrations *all;
	char id[ID_SIZE];
	char vm_name[FS_NAME_MAX + 1];
	char peer[FS_NAME_MAX + 1]; /* the other node */
	bool source;                /* which side this is */
	uint64_t epoch;             /* of the source's ownership; the destination claims the next */
	struct migrate_options options;
	struct vm *vm;      /* taken; NULL when it has been given back or ended */
	bool claimed;       /* destination: it has claimed, and not given back */
	bool uncertain;     /* destination: the guest may have run here, and does no more */
	bool may_have_run;  /* destination: it has been told to, and it is not known that it has not
			     */
	struct vm_def *def; /* destination: what to start */
	struct mover *mover;
	struct estimating *estimating; /* source: until the stream begins */
	json_t *estimate;              /* source: NULL: none was made */
	struct process_id mover_left;  /* one that an earlier droverd started, and that goes on */
	bool told;              /* source: the destination has said that its copy has ended */
	struct node_link *link; /* source: to the destination's droverd */
	int64_t task;           /* source: number of the destination's part in the queue there */
	int64_t started_ms;     /* wall clock */
	/* clock_ms of the report; 0: not yet */
	int64_t begin_ms, stream_ms, switchover_ms, paused_ms, resumed_ms, complete_ms;
	/* destination: when the source was asked how it stands, and when it last said, clock_ms */
	int64_t asked_ms, heard_ms;
	int64_t stall_ms; /* source: since when the rest has stood still, clock_ms */
	struct hv_migrate_status last;
	bool abandoned;        /* source: the hypervisor was made to go on, amid its migration */
	bool was_paused_by_us; /* options.pause: the guest goes on if it comes to nothing */

	/* shared */
	enum migrate_step step;
	enum migrate_state state;
	bool ended;
	int users;     /* threads that look at it: it is not freed under them */
	bool cancel;   /* asked for by the user */
	bool abort;    /* destination: the source gives up */
	bool handover; /* destination: the source's copy is paused for good */
	bool recover;  /* destination: the source wants a new lane for an interrupted post-copy */
	bool stuck;    /* an interrupted post-copy has not been mended yet: it can be given up */
	bool received; /* destination: its thread runs */
	int port;      /* destination: where the lane is listened for */
	bool ready;    /* destination: and its hypervisor waits for the stream */
	struct error *error;
	json_t *report;
	json_t *events[EVENTS_MAX];
	int64_t events_count; /* since the start; the last EVENTS_MAX are kept */
	struct migration *next;
};

struct migrations {
	struct migrate_settings set;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* CLOCK_MONOTONIC */
	struct migration *list;
	int threads;
	bool closing;
	int probes;        /* of other nodes, being received (probe.h) */
	int probes_held;   /* by how many that want none (probes_hold) */
	json_t *estimates; /* of `drover migrate --check`, for the moves that follow (estimating.h)
			    */
	int64_t moved, failed, wire_bytes, downtime_sum_ms; /* for the metrics */
};

/* registry.c */
struct migration *migration_new(
	struct migrations *all, const char *id, bool source, const char *vm, const char *peer);
/* Lets others find it. Until then it is the caller's, who may free it with migration_free. */
void migration_list(struct migration *m);
void migration_free(struct migration *m);
/* Runs `body` in a thread of its own. */
void migration_spawn(struct migration *m, void (*body)(struct migration *));
struct migration *migration_find(struct migrations *all, const char *id);
/* With the lock held: the one of that VM that has not ended here. */
struct migration *migration_find_of_vm(struct migrations *all, const char *vm);
/* Adds an event for those who follow; `message` may be NULL. */
void migration_event(struct migration *m, const char *phase, const char *message);
/* Records the end: journal, event, log line. Takes `e` over (NULL when done). */
void migration_ended(struct migration *m, enum migrate_state state, struct error *e);
/* Waits for `changed` until the deadline; with the lock held. */
void migrations_wait(struct migrations *all, int64_t deadline_ms);
/* Whether droverd stops: a thread then leaves everything as it is, for the next start. */
bool migrations_closing(struct migrations *all);
/* Lets `ms` pass before something is tried again; false when droverd stops meanwhile. */
bool migrations_pause(struct migrations *all, int64_t ms);

/* journal.c */
int journal_begin(struct migration *m, struct error **err);
/* Writes the step before it is taken. */
int journal_step(struct migration *m, enum migrate_step step, struct error **err);
int journal_mover(struct migration *m, const struct process_id *id, struct error **err);
void journal_end(struct migration *m);
json_t *journal_show(struct migrations *all, const char *id, struct error **err);
json_t *journal_list(struct migrations *all, struct error **err);
/* Calls `each` for every migration that has not ended, the newest first; they are listed. */
int journal_unfinished(struct migrations *all,
	void (*each)(struct migration *m, const struct process_id *mover), struct error **err);

/* recover.c: takes the VM whose migration an earlier droverd left unfinished. Waits while something
 * else is done to it (its hypervisor has ended and is being cleaned up). NULL: ERROR_NOT_RUNNING,
 * or ERROR_UNDECIDED when droverd stops. */
struct vm *migration_take_again(struct migration *m, struct error **err);

/* source.c, settle.c and dest.c */
void source_run(struct migration *m);
void source_recover(struct migration *m);
void dest_recover(struct migration *m);

/* Starts this side's data mover: as its own user, with the node's certificate, for this peer. It
 * waits for its connection to the hypervisor (below). */
struct mover *migration_start_mover(
	struct migration *m, int listen_fd, const char *connect, struct error **err);

/*
 * local.c: the connection between hypervisor and data mover, who run as different users. Only
 * droverd can make it: the socket belongs to the hypervisor's user with no access for others, is
 * there for a moment only, and who is at its other end is looked at. The mover gets a connection
 * that is made.
 */
/* Source: listens where the hypervisor will be told to connect: *where (the caller frees it) is the
 * path of a Unix socket, or "127.0.0.1,PORT". Returns the descriptor. */
int local_listen(const struct migration *m, char **where, struct error **err);
/* Source: takes the hypervisor's connection and passes it to the mover; a copy goes to the driver
 * (hv_vm_migrate_connected). ERROR_TIMEOUT. */
int local_take(struct migration *m, int listen_fd, struct error **err);
/* Destination, whose hypervisor listens: the same. ERROR_HYPERVISOR. */
int local_connect(struct migration *m, struct error **err);
/* Either side of a guest that moves as files: between the driver and the mover. */
int local_pair(struct migration *m, struct error **err);

/* Path of the socket between hypervisor and data mover. The caller frees it. */
char *migration_socket(const struct migration *m);
/* Ends this side's data mover, whoever started it; one of an earlier droverd, which cannot be
 * asked, is first waited for until the deadline. */
void migration_release_mover(struct migration *m, int64_t deadline_ms);
/* Whether the guest goes as its hypervisor's stream, and that is one that runs a guest at once
 * (hv.h): the data mover then tells how far its stream is, and holds the guest back. */
bool migration_runs_at_once(const struct migration *m);
/* Whether the hypervisor's stream has been switched to post-copy. */
bool migration_in_postcopy(const struct migration *m);

#endif
