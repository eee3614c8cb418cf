/*
 * A running drover-wire: started as an unprivileged process in a session of its own, and followed
 * by the JSON lines that it writes (drover-wire(1)).
 */
#ifndef DROVER_MIGRATE_MOVER_H
#define DROVER_MIGRATE_MOVER_H

#include "base/error.h"
#include "base/process.h"
#include "pool/image.h"
#include "wire/source.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct mover;

struct mover_options {
	const char *binary;
	const char *id;          /* the migration's */
	const char *peer;        /* name of the node at the other end of the lane */
	const char *fingerprint; /* SHA-256 of that node's certificate, as the pool has it */
	const char *connect;     /* sender: HOST:PORT of the receiver; NULL makes a receiver */
	int listen_fd;           /* receiver: where the lane is listened for */
	/* What is carried instead of a hypervisor's stream ("probe:400", "null"), as it is; then
	 * nothing is passed. NULL: a hypervisor's. */
	const char *carried;
	int timeout_s; /* until the lane is there; 0: its own limit */
	const char *cert_pem, *key_pem, *ca_pem;
	/* Files that both nodes may read, for references; may be NULL. The first SOURCE_MAX
	 * are used, but none with a '=' in its name. */
	const struct image_files *sources;
	uint64_t hold_bytes; /* the guest's memory, for a hypervisor that runs it at once; else 0 */
	int reconnect_s;     /* for how long it makes a broken lane again; 0: its own limit */
	int log_fd;          /* its standard error */
	uid_t uid;           /* its user, which no hypervisor runs as */
	gid_t gid;
};

/* Starts one. The key goes through a file in memory, never an argument. */
struct mover *mover_start(const struct mover_options *options, struct error **err);
/* Gives it its connection to the hypervisor, once; the descriptor stays the caller's. ERROR_FAILED
 * when it has ended. */
int mover_pass(struct mover *m, int fd, struct error **err);
const struct process_id *mover_process(const struct mover *m);
/* Whether it has said so by the deadline: "last_round", "sent", "held", "releasing" (wire/hold.h).
 */
bool mover_said(struct mover *m, const char *event, int64_t deadline_ms);
/* Has a receiver write what it holds back; again does no harm. */
void mover_release(const struct process_id *id);
/* Waits for its event ("listening", "connected", "end"). ERROR_TIMEOUT; when it has failed or ended
 * before, the error that it gave. */
int mover_wait(struct mover *m, const char *event, int64_t deadline_ms, struct error **err);
/* 0 while it runs or when it ended well; -1 and its error when it failed. Does not wait. */
int mover_check(struct mover *m, struct error **err);
/* Whether a lane of its is broken and being made again, by its own word ("reconnecting",
 * "reconnected"). */
bool mover_reconnecting(struct mover *m);
void mover_bytes(struct mover *m, int64_t *stream_bytes, int64_t *wire_bytes);
/* What it says of the pages and how they went, as members for a migration's report (docs/api.md).
 * The caller's. */
json_t *mover_report(struct mover *m);
/* Ends it if it still runs and waits for that; what it reported can still be asked. */
void mover_end(struct mover *m);
/* Frees it and lets it go on, as after the death of who started it. NULL is allowed. */
void mover_leave(struct mover *m);
/* Ends it and frees it. NULL is allowed. */
void mover_close(struct mover *m);

#endif
