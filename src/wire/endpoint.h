/*
 * Endpoints: where the stream comes from on one side and goes to on the other.
 *
 * Both are written on the command line as KIND:VALUE:
 *
 *     unix:PATH        the hypervisor. The input listens there and takes one connection; the output
 *                      connects there, and tries again until somebody listens.
 *     tcp:ADDRESS:PORT the same over TCP, for a hypervisor that knows nothing else (bhyve). Nobody
 *                      proves anything there: an address of this machine alone is meant
 *     passed:N         the hypervisor, as a connection that is still to come: descriptor N is a
 *                      Unix socket on which it is passed (base/pass_fd.h)
 *     file:PATH        a recorded stream
 *     fd:N             an open descriptor: a socket, a pipe or a file; it is made blocking
 *     generate:SIZE    input only: a made-up stream of that many bytes ("8G"), for measurements.
 *                      Its 64-bit little-endian word number i is i times ENDPOINT_STEP.
 *     probe:MS         input only: the same for that long, from 1 to ENDPOINT_PROBE_MS_MAX
 *                      milliseconds, but at most ENDPOINT_PROBE_MAX bytes: what measures a link;
 *                      probe:MS,BYTES is at most so many bytes
 *     null             output only: read by nobody
 *
 * A socket goes both ways: what the hypervisor writes back at the output is the return path, and is
 * written to the input. Elsewhere there is no return path. One thread may move the stream and
 * another the return path.
 */
#ifndef DROVER_WIRE_ENDPOINT_H
#define DROVER_WIRE_ENDPOINT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The golden ratio: no two words of a generated stream are equal for 2^64 words. */
#define ENDPOINT_STEP 0x9E3779B97F4A7C15ull

/* A second is long enough for any link, and so many bytes take 100 ms at 10 Gbit/s. */
#define ENDPOINT_PROBE_MS_MAX 1000
#define ENDPOINT_PROBE_MAX (128u << 20)

enum endpoint_kind {
	ENDPOINT_UNIX,
	ENDPOINT_TCP,
	ENDPOINT_PASSED,
	ENDPOINT_FILE,
	ENDPOINT_FD,
	ENDPOINT_GENERATE,
	ENDPOINT_PROBE,
	ENDPOINT_NULL
};

struct endpoint {
	enum endpoint_kind kind;
	char *text;                /* as on the command line, for messages */
	const char *path;          /* in text; "" where there is none */
	int listen_fd, fd;         /* -1: none yet, or none any more; listen_fd of passed:N is N */
	bool both_ways;            /* a socket */
	uint64_t size, at;         /* of a generated stream, in bytes */
	struct tcp_target *target; /* of a tcp: output */
	/* Of a probe: how long, and when it is over (of clock_ms; 0: it has not begun). */
	int64_t probe_ms, until_ms;
};

/* Opens what can be opened at once: listens at an input's socket (mode 0660; a socket that was left
 * there is replaced), opens files, looks addresses up. ERROR_USAGE for a text that is no endpoint,
 * ERROR_NOT_FOUND, ERROR_UNREACHABLE, ERROR_FAILED. A file that is written is made with mode 0600,
 * or emptied. */
int endpoint_open_input(struct endpoint *e, const char *text, struct error **err);
int endpoint_open_output(struct endpoint *e, const char *text, struct error **err);
void endpoint_close(struct endpoint *e);
#define cleanup_endpoint __attribute__((cleanup(endpoint_close)))

/* Waits until the hypervisor has connected to the input; or until the output could be connected to
 * it; for either, until the connection has been passed. Nothing for other kinds. ERROR_TIMEOUT at
 * deadline_ms (of clock_ms), ERROR_HYPERVISOR when there will be none. */
int endpoint_accept(struct endpoint *e, int64_t deadline_ms, struct error **err);
int endpoint_connect(struct endpoint *e, int64_t deadline_ms, struct error **err);

/* Up to `len` bytes, at least one; 0 at the end. `len` is a multiple of 16. */
ssize_t endpoint_read(struct endpoint *e, void *data, size_t len, struct error **err);
/* Whether something can be read, at once or within `us` microseconds; less than 0: without a limit,
 * but for signals. */
bool endpoint_wait(const struct endpoint *e, int64_t us);
/* All of it. ERROR_HYPERVISOR when the hypervisor has closed its end, ERROR_NO_SPACE. */
int endpoint_write(struct endpoint *e, const void *data, size_t len, struct error **err);

#endif
