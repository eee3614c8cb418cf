/*
 * Errors: made once, where they are seen, as one sentence for a person, and passed up unchanged.
 *
 * A function that can fail takes `struct error **err` last and returns a negative number, or NULL,
 * when it has failed; it has then stored exactly one error there. `err` may be NULL where the
 * caller does not care. The caller owns the error and frees it with error_free() or
 * `cleanup_error`.
 *
 * The kind is what a program acts on: it is the exit status of `drover` (error_kind_exit), the HTTP
 * status of the API (error_kind_http) and the "kind" of its JSON (error_kind_name).
 */
#ifndef DROVER_BASE_ERROR_H
#define DROVER_BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

enum error_kind {
	ERROR_FAILED,        /* none of the kinds below */
	ERROR_USAGE,         /* the arguments or the request make no sense */
	ERROR_DAEMON,        /* droverd on this node does not answer */
	ERROR_NO_CLUSTER,    /* this node is in no cluster yet */
	ERROR_NO_VM,         /* no VM of that name */
	ERROR_NO_NODE,       /* no node of that name */
	ERROR_NOT_FOUND,     /* no migration, task or file of that name */
	ERROR_EXISTS,        /* something of that name is there already */
	ERROR_NOT_RUNNING,   /* the VM does not run */
	ERROR_RUNNING,       /* the VM runs, and must not */
	ERROR_ALREADY_THERE, /* the VM runs on the destination already */
	ERROR_BUSY,          /* being moved, started, stopped or removed by somebody else */
	ERROR_NOT_OWNER,     /* another node may run the VM, this one may not */
	ERROR_UNREACHABLE,   /* the other node does not answer, or stopped answering */
	ERROR_REFUSED,       /* the other side, or a rule, does not allow it */
	ERROR_TOKEN,         /* a join token is wrong, used or too old */
	ERROR_CERTIFICATE,   /* a certificate is not of this cluster, or its node was removed */
	ERROR_DISK,          /* a disk does not open, is locked or is broken */
	ERROR_NETWORK,       /* a bridge or a network card is missing */
	ERROR_NO_SPACE,      /* a file system is full */
	ERROR_DEFINITION,    /* vm.conf or another file of settings is wrong */
	ERROR_NAME,          /* a name that is not allowed */
	ERROR_REQUEST,       /* JSON or HTTP that cannot be read */
	ERROR_POOL,          /* the pool is not mounted, not the same, or not writable */
	ERROR_HYPERVISOR,    /* the hypervisor failed, is missing or is not fit for it */
	ERROR_TIMEOUT,       /* it took longer than it may */
	ERROR_CANCELLED,     /* the user cancelled it */
	ERROR_UNDECIDED,     /* who owns the VM cannot be found out now */
	ERROR_INTERRUPTED,   /* a part of it was stopped, or droverd restarted, in the middle */
	ERROR_KINDS
};

struct error {
	enum error_kind kind;
	int errnum;         /* errno where one was seen, else 0 */
	char message[1024]; /* one sentence, no newline */
};

/* Frees *err and sets it to NULL. */
void error_free(struct error **err);
#define cleanup_error __attribute__((cleanup(error_free)))

/*
 * Makes an error and returns -1. `errnum` is an errno or 0; when it is not 0, ": " and its text are
 * appended. A message that does not fit is cut; control characters become '?'.
 * If *err holds an error already, the first one stays: it is nearer to the cause.
 */
int error_set(struct error **err, enum error_kind kind, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int error_vset(struct error **err, enum error_kind kind, int errnum, const char *fmt, va_list ap);

/* Puts "text: " in front of the message, for a caller who knows what was being done. Returns -1. */
int error_prefix(struct error **err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Moves `from` to *err (or frees it when err is NULL) and returns -1. */
int error_move(struct error **err, struct error *from);

/* Exit status of `drover`: 1 for ERROR_FAILED, 2 for ERROR_USAGE, and one of its own for each. */
int error_kind_exit(enum error_kind kind);
/* HTTP status of the API. */
int error_kind_http(enum error_kind kind);
/* "no-vm" for ERROR_NO_VM; and back, ERROR_FAILED for a name that is unknown. */
const char *error_kind_name(enum error_kind kind);
enum error_kind error_kind_from_name(const char *name);

#endif
