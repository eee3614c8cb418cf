#include "node/server_internal.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Request line and headers, and the buffer that a body is read through. */
#define CONNECTION_MEMORY (32u << 10)
#define THREAD_STACK (2u << 20)

void server_set_deadline(struct connection *connection, int after_ms)
{
	struct server *server = connection->server;

	pthread_mutex_lock(&server->lock);
	connection->deadline_ms = after_ms ? clock_ms() + after_ms : 0;
	if (after_ms && connection->deadline_ms < server->next_deadline_ms)
		pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
}

bool server_begin_request(struct server *server)
{
	bool open;

	pthread_mutex_lock(&server->lock);
	open = !server->stopping;
	server->active++;
	pthread_mutex_unlock(&server->lock);
	return open;
}

void server_end_request(struct server *server)
{
	pthread_mutex_lock(&server->lock);
	server->active--;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
}

/* Cuts off what is over its deadline; when the next one is due. */
static int64_t cut_off(struct server *server)
{
	int64_t now = clock_ms(), next = INT64_MAX;

	for (struct connection *c = server->connections; c; c = c->next) {
		if (c->deadline_ms && c->deadline_ms <= now) {
			c->deadline_ms = 0;
			shutdown(c->fd, SHUT_RDWR);
		} else if (c->deadline_ms && c->deadline_ms < next) {
			next = c->deadline_ms;
		}
	}
	return next;
}

static void *watch(void *arg)
{
	struct server *server = arg;

	pthread_mutex_lock(&server->lock);
	while (!server->closing) {
		server->next_deadline_ms = cut_off(server);
		if (server->next_deadline_ms == INT64_MAX)
			pthread_cond_wait(&server->changed, &server->lock);
		else
			cond_wait_until(&server->changed, &server->lock, server->next_deadline_ms);
	}
	pthread_mutex_unlock(&server->lock);
	return NULL;
}

static struct connection *add_connection(struct server *server, int fd)
{
	struct connection *connection = calloc(1, sizeof(*connection));

	if (!connection)
		abort();
	connection->server = server;
	connection->fd = fd;
	connection->uid = (uid_t)-1;
	if (server->local)
		host_socket_peer(fd, NULL, &connection->uid);
	pthread_mutex_lock(&server->lock);
	connection->next = server->connections;
	if (connection->next)
		connection->next->prev = connection;
	server->connections = connection;
	pthread_mutex_unlock(&server->lock);
	server_set_deadline(connection, server->options.header_ms);
	return connection;
}

/* libmicrohttpd calls this before it closes the descriptor. */
static void remove_connection(struct server *server, struct connection *connection)
{
	pthread_mutex_lock(&server->lock);
	if (connection->prev)
		connection->prev->next = connection->next;
	else
		server->connections = connection->next;
	if (connection->next)
		connection->next->prev = connection->prev;
	pthread_mutex_unlock(&server->lock);
	free(connection);
}

static void on_connection(void *arg, struct MHD_Connection *mhd, void **context,
	enum MHD_ConnectionNotificationCode what)
{
	const union MHD_ConnectionInfo *info;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
		*context = add_connection(arg, info->connect_fd);
	} else if (*context) {
		remove_connection(arg, *context);
		*context = NULL;
	}
}

static void on_log(void *arg, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

static void on_log(void *arg, const char *fmt, va_list ap)
{
	char text[512];

	(void)arg;
	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	log_debug("libmicrohttpd: %s", text);
}

static bool start_daemon(struct server *server)
{
	const struct identity *id = server->options.identity;
	struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_KEY, 0, id ? id->key_pem : NULL},
		{MHD_OPTION_HTTPS_MEM_CERT, 0, id ? id->cert_pem : NULL},
		/* Makes it ask for the caller's certificate; we check it ourselves. */
		{MHD_OPTION_HTTPS_MEM_TRUST, 0, id ? id->ca_pem : NULL},
		{MHD_OPTION_HTTPS_PRIORITIES, 0,
			(void *)"NORMAL:-VERS-ALL:+VERS-TLS1.3:%SERVER_PRECEDENCE"},
		{MHD_OPTION_PER_IP_CONNECTION_LIMIT, SERVER_CONNECTIONS_PER_ADDRESS, NULL},
		{MHD_OPTION_END, 0, NULL}};
	struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};

	server->given_fd = fcntl(server->listen_fd, F_DUPFD_CLOEXEC, 0);
	server->daemon = MHD_start_daemon(
		MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION |
			MHD_USE_ITC | MHD_USE_ERROR_LOG | (server->local ? 0 : MHD_USE_TLS),
		0, NULL, NULL, server_on_request, server,
		/* First, so that it takes what the others have to say. */
		MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET,
		server->given_fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)SERVER_CONNECTIONS,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)THREAD_STACK, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, server, MHD_OPTION_URI_LOG_CALLBACK, server_on_uri, server,
		MHD_OPTION_NOTIFY_COMPLETED, server_on_completed, server, MHD_OPTION_ARRAY,
		server->local ? none : tls, MHD_OPTION_END);
	return server->daemon != NULL;
}

static void free_server(struct server *server)
{
	server_unlisten(server);
	pthread_cond_destroy(&server->changed);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

static void stop_watcher(struct server *server)
{
	pthread_mutex_lock(&server->lock);
	server->closing = true;
	pthread_cond_broadcast(&server->changed);
	pthread_mutex_unlock(&server->lock);
	pthread_join(server->watcher, NULL);
}

static struct server *new_server(const struct server_options *options)
{
	struct server *server = calloc(1, sizeof(*server));

	if (!server)
		abort();
	server->options = *options;
	if (!server->options.header_ms)
		server->options.header_ms = SERVER_HEADER_MS;
	if (!server->options.body_ms)
		server->options.body_ms = SERVER_BODY_MS;
	if (!server->options.idle_ms)
		server->options.idle_ms = SERVER_IDLE_MS;
	server->local = options->socket_path != NULL;
	server->listen_fd = server->lock_fd = -1;
	pthread_mutex_init(&server->lock, NULL);
	cond_init(&server->changed);
	return server;
}

struct server *server_start(const struct server_options *options, struct error **err)
{
	struct server *server = new_server(options);

	if ((server->local ? server_listen_local(server, err) : server_listen_tcp(server, err)) <
		0) {
		/* A socket file that is not ours must stay. */
		close_fd(&server->listen_fd);
		free_server(server);
		return NULL;
	}
	if (pthread_create(&server->watcher, NULL, watch, server) != 0) {
		error_set(err, ERROR_FAILED, 0, "cannot start a thread");
		free_server(server);
		return NULL;
	}
	if (!start_daemon(server)) {
		error_set(err, ERROR_FAILED, 0,
			"cannot start the server on %s; `droverd --debug` tells why",
			server->local ? options->socket_path : options->listen);
		stop_watcher(server);
		free_server(server);
		return NULL;
	}
	return server;
}

int server_port(const struct server *server)
{
	return server->port;
}

int server_stop(struct server *server, int limit_ms)
{
	int64_t until_ms = clock_ms() + limit_ms;
	int active;

	if (!server)
		return 0;
	MHD_quiesce_daemon(server->daemon);
	/* Who connects now is refused, and does not wait for us to end. */
	shutdown(server->listen_fd, SHUT_RDWR);
	pthread_mutex_lock(&server->lock);
	server->stopping = true;
	while (server->active > 0 && cond_wait_until(&server->changed, &server->lock, until_ms))
		;
	active = server->active;
	pthread_mutex_unlock(&server->lock);
	if (active > 0)
		return active;
	MHD_stop_daemon(server->daemon);
	close_fd(&server->given_fd);
	stop_watcher(server);
	free_server(server);
	return 0;
}
