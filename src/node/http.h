/*
 * The HTTP client: JSON requests to droverd, over its Unix socket (what `drover` does) or to
 * another node over TLS.
 *
 * To another node: TLS 1.3 only, both sides with certificates, no CA but the cluster's, the other's
 * certificate must bear its node name and (where it is given) have exactly the fingerprint that the
 * pool holds for it; this is checked before a byte of a request is sent. No proxies, no redirects.
 *
 * A client holds one connection and keeps it: a second request pays no handshake. It is for one
 * thread at a time. When a kept connection turns out to be dead, a GET is sent again over a new
 * one; any other request is sent at most once, and fails with ERROR_UNREACHABLE when its answer is
 * lost: the caller does not know then whether it was carried out.
 *
 * A program that uses this ignores SIGPIPE and calls http_init() before it starts threads.
 */
#ifndef DROVER_NODE_HTTP_H
#define DROVER_NODE_HTTP_H

#include "base/error.h"
#include "node/identity.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* Port of a node whose address has none. */
#define HTTP_PORT 7780
#define HTTP_CONNECT_TIMEOUT_MS 5000
/* Longest text (log, metrics) that http_call_text takes. */
#define HTTP_TEXT_MAX (16u << 20)

int http_init(struct error **err);

/* Whom to talk to; a Unix socket, or a node. Strings are copied by http_open. */
struct http_target {
	const char *socket_path; /* of droverd; then nothing else is looked at */
	const char *name;        /* node's name: its certificate must bear it */
	const char *address;     /* HOST, HOST:PORT, [V6]:PORT */
	const char *fingerprint; /* of its certificate; NULL: any of this CA with that name */
	const char *ca_pem;      /* the only CA; NULL: nothing is verified (join) */
	const char *ca_file;     /* the same in a file, for libcurl's own check; may be NULL */
	const char *cert_file, *key_file; /* ours; NULL: we show none (join) */
};

struct http_request {
	const char *method;        /* "GET", "POST", "PUT", "DELETE" */
	const char *path;          /* "/v1/vms?x=y"; what is put into it is escaped (http_escape) */
	const json_t *body;        /* an object, NULL for none; stays the caller's */
	int timeout_ms;            /* for the whole call; 0: none (only sensible with cancel) */
	const atomic_bool *cancel; /* NULL, or: becomes true, and the call ends within a second
				      with ERROR_CANCELLED */
};

struct http_client;

/* Does not connect yet. ERROR_USAGE for an address that is none. */
struct http_client *http_open(const struct http_target *target, struct error **err);
void http_close(struct http_client *client);

/*
 * Sends a request and reads a JSON object. An answer that holds an error becomes that error.
 * *answer may be NULL when it is not wanted; the caller owns it.
 * ERROR_DAEMON: droverd does not answer on its socket. ERROR_UNREACHABLE "node2 (10.78.0.2:7780)
 * does not answer: Connection refused": cannot be reached (errnum says why), or stopped answering.
 * ERROR_CERTIFICATE: it is not who it should be. ERROR_REQUEST: it answered something that is no
 * JSON object, or more than JSON_TEXT_MAX. ERROR_TIMEOUT (Unix socket only). ERROR_CANCELLED.
 */
int http_call(struct http_client *client, const struct http_request *request, json_t **answer,
	struct error **err);

/* The same for an answer that is text; NUL-terminated, the caller frees it. *len may be NULL. */
int http_call_text(struct http_client *client, const struct http_request *request, char **text,
	size_t *len, struct error **err);

/* Number of connections that this client has made so far: 1 after two calls that shared one. */
long http_connections(const struct http_client *client);

/* Percent-encodes a value for a path or a query; the caller frees it. */
char *http_escape(const char *text);

/* Splits "HOST", "HOST:PORT" or "[V6]:PORT"; host is without brackets. HTTP_PORT when there is
 * none. ERROR_USAGE. `host` has room for 256 bytes. */
int http_split_address(const char *address, char *host, int *port, struct error **err);

#endif
