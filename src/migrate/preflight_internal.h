/*
 * Inside src/migrate/preflight*.c: one struct preflight a side, the table of checks, and what a
 * check finds.
 */
#ifndef DROVER_MIGRATE_PREFLIGHT_INTERNAL_H
#define DROVER_MIGRATE_PREFLIGHT_INTERNAL_H

#include "migrate/internal.h"
#include "migrate/preflight.h"

#define PREFLIGHT_CHECKS_MAX 32
#define PREFLIGHT_VALUE_SIZE 192
/* What a destination takes at most for its checks, and a source waits for its answer. Less than
 * PREFLIGHT_WAIT_MS, so that what is late is said by who knows more. */
#define PREFLIGHT_THERE_MS 4000
#define PREFLIGHT_CALL_MS 5000

enum preflight_result {
	PREFLIGHT_OK,
	PREFLIGHT_WARNING, /* said; stops nothing */
	PREFLIGHT_UNKNOWN, /* it could not be found out; the same */
	PREFLIGHT_FAILED
};
const char *preflight_result_name(enum preflight_result result);

struct finding {
	bool known; /* the check was made */
	enum preflight_result result;
	enum error_kind kind;                                         /* of a failed one */
	char here[PREFLIGHT_VALUE_SIZE], there[PREFLIGHT_VALUE_SIZE]; /* "": nothing to compare */
	char message[1024];                                           /* "" when it is ok */
};

/* What a node says of itself. */
struct preflight_node {
	char version[64]; /* of drover */
	char arch[16];
	int64_t page_size;
	char cpu_model[128]; /* as its kernel calls it; "unknown" */
	char driver[16], hv_version[64], accel[8];
	char pool[PREFLIGHT_VALUE_SIZE];  /* "nfs4 at /pool" */
	int64_t received_ms, answered_ms; /* destination: its clock around its checks */
};

/* What came of asking the destination. */
struct preflight_asked {
	json_t *answer;
	struct error *error;             /* why there is no answer */
	int64_t sent_ms, came_ms;        /* our clock around the question */
	struct error *begin, *unmatched; /* the pool's probe: cannot be begun; is not answered */
};

struct preflight {
	struct migrations *all;
	char vm[FS_NAME_MAX + 1];
	char peer[FS_NAME_MAX + 1]; /* the other node */
	struct migrate_options options;
	struct vm_def *def; /* what the guest was started with */
	uint64_t epoch;     /* of the source's ownership */
	char nonce[33];     /* of the pool's probe: the source's … */
	char seen[33];      /* … and the destination's answer */
	int64_t deadline_ms;

	/* The source, when both parts have ended or are waited for no longer. */
	struct preflight_node here, there;
	struct preflight_asked asked;

	/* Guarded by the lock; a part that is late finds `closed` and leaves all as it is. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int refs, parts;
	bool closed;
	struct finding findings[PREFLIGHT_CHECKS_MAX];
};

/* preflight_table.c */

typedef void preflight_fn(struct preflight *p, struct finding *f);

struct preflight_check {
	const char *id;
	const char *compares;
	const char *no_force; /* why it cannot be overridden; NULL: it can */
	const char *driver;   /* made only where this one runs the VM; NULL: with any */
	bool expected;        /* the destination looks again when a VM is announced */
	preflight_fn *source, *destination;
	preflight_fn *compare; /* source: what both have said; the finding may be known already */
};
/* Ends with an id of NULL. */
extern const struct preflight_check preflight_checks[];
/* Row of an id, -1 for none. */
int preflight_find(const char *id);

/* What a finding holds; `result` is PREFLIGHT_OK at first. */
void finding_here(struct finding *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void finding_there(struct finding *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void finding_set(struct finding *f, enum preflight_result result, enum error_kind kind,
	const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* It failed by `e`, which is taken over and set to NULL. */
void finding_fail(struct finding *f, struct error **e);

/* The checks: preflight_here.c, preflight_there.c, preflight_disk.c */
preflight_fn preflight_check_vm, preflight_check_operation, preflight_check_member,
	preflight_check_devices, preflight_check_defect;
preflight_fn preflight_compare_member, preflight_compare_reachable, preflight_compare_version,
	preflight_compare_pool, preflight_compare_hypervisor, preflight_compare_architecture,
	preflight_compare_model, preflight_compare_clock;
preflight_fn preflight_check_pool_there, preflight_check_owner, preflight_check_vacant,
	preflight_check_postcopy, preflight_check_machine, preflight_check_cpu,
	preflight_check_bridges, preflight_check_memory;
preflight_fn preflight_check_files, preflight_check_disks, preflight_check_cache;
/* way.c */
preflight_fn preflight_check_warm, preflight_check_room, preflight_compare_room;
/* Its name, or "nobody". */
const char *preflight_owner_name(const struct pool_owner *owner);

/* preflight.c */

/* Takes `def` over. One reference is the caller's. */
struct preflight *preflight_new(struct migrations *all, const char *vm, const char *peer,
	const struct migrate_options *options, struct vm_def *def);
void preflight_unref(struct preflight *p);
/* Runs a part in a thread of its own, with a reference. */
void preflight_spawn(struct preflight *p, void (*part)(struct preflight *));
/* Waits until all parts have ended, at most until the deadline; from then on the findings are the
 * caller's alone. */
void preflight_wait(struct preflight *p);
/* Parts: the checks of one side, one after the other. */
void preflight_run_source(struct preflight *p);
void preflight_run_destination(struct preflight *p);
/* Keeps a finding, and what was asked, of a part that is not late. Takes what *asked holds. */
void preflight_keep(struct preflight *p, int row, const struct finding *f);
void preflight_keep_asked(struct preflight *p, struct preflight_asked *asked);
/* What this node says of itself. */
void preflight_describe(const struct migrations *all, struct preflight_node *node);
/* {"id","result","here","there","message","kind"} */
json_t *preflight_finding_json(const char *id, const struct finding *f);

/* preflight_ask.c */

/* Part of the source: probes the pool, and asks the destination meanwhile. */
void preflight_ask(struct preflight *p);
/* Reads the destination's answer into `there` and the findings; what is not as it should be is left
 * out. */
void preflight_read_answer(struct preflight *p);

#endif
