/*
 * What the files of the server share. server.c: connections and their deadlines, start and stop;
 * server_listen.c: sockets; server_request.c: who calls, which route, body, answer.
 */
#ifndef DROVER_NODE_SERVER_INTERNAL_H
#define DROVER_NODE_SERVER_INTERNAL_H

#include "base/buf.h"
#include "node/server.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdint.h>

#define SERVER_PARAMS_MAX 4
/* A body that is too long is read and dropped up to this many bytes, so that a sender that reads no
 * answer before it has sent all gets one. Then the connection is closed. */
#define SERVER_DROP_MAX (256ull << 20)

struct connection {
	struct server *server;
	struct pki_verified peer;
	struct connection *prev, *next; /* in server->connections */
	int fd;
	uid_t uid;           /* of a local process */
	int64_t deadline_ms; /* when it is cut off; 0: never; server->lock */
};

struct server {
	struct server_options options;
	bool local;
	int listen_fd, lock_fd, port;
	int given_fd; /* libmicrohttpd's copy of listen_fd, which it closes when it cannot start */
	struct MHD_Daemon *daemon;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* an earlier deadline, a request ended, or closing */
	struct connection *connections;
	int64_t next_deadline_ms; /* what the watcher waits for */
	int active;               /* requests that have begun and not ended */
	bool stopping, closing;
	pthread_t watcher;
};

struct request {
	struct connection *connection;
	struct MHD_Connection *mhd;
	const struct server_route *route; /* NULL: none fits */
	char *target;                     /* as it came */
	char *path;                       /* cut into segments by NUL */
	const char *params[SERVER_PARAMS_MAX];
	char peer[FS_NAME_MAX + 1];
	struct buf body;
	uint64_t body_bytes; /* received, kept or not */
	json_t *json;
	bool begun;    /* its headers have been looked at */
	bool answered; /* or should have been: nothing is done twice */
};

struct response {
	int status;
	const char *type;
	char *text;
	size_t len;
};

/* server.c */
void server_set_deadline(struct connection *connection, int after_ms);
bool server_begin_request(struct server *server);
void server_end_request(struct server *server);

/* server_listen.c */
int server_listen_tcp(struct server *server, struct error **err);
int server_listen_local(struct server *server, struct error **err);
void server_unlisten(struct server *server);

/* server_request.c: callbacks of libmicrohttpd */
void *server_on_uri(void *arg, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result server_on_request(void *arg, struct MHD_Connection *mhd, const char *url,
	const char *method, const char *version, const char *data, size_t *len, void **state);
void server_on_completed(
	void *arg, struct MHD_Connection *mhd, void **state, enum MHD_RequestTerminationCode how);

#endif
