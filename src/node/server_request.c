#include "node/server_internal.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "node/member.h"

#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT_MAX 255
#define STATUS_METHOD 405
#define STATUS_TOO_LARGE 413

const char *request_param(const struct request *request, const char *name)
{
	const char *at = request->route->path;
	size_t len = strlen(name);

	for (int i = 0; (at = strchr(at, '{')) != NULL; i++, at++)
		if (strncmp(at + 1, name, len) == 0 && at[1 + len] == '}')
			return request->params[i];
	return NULL;
}

const char *request_query(const struct request *request, const char *name)
{
	const char *value = NULL;
	size_t len = 0;

	if (MHD_lookup_connection_value_n(request->mhd, MHD_GET_ARGUMENT_KIND, name, strlen(name),
		    &value, &len) != MHD_YES)
		return NULL;
	return value ? value : "";
}

struct query_walk {
	request_query_fn *each;
	void *arg;
	int result;
};

static enum MHD_Result walk_query(
	void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct query_walk *walk = arg;

	(void)kind;
	walk->result = walk->each(name, value ? value : "", walk->arg);
	return walk->result < 0 ? MHD_NO : MHD_YES;
}

int request_queries(const struct request *request, request_query_fn *each, void *arg)
{
	struct query_walk walk = {each, arg, 0};

	MHD_get_connection_values(request->mhd, MHD_GET_ARGUMENT_KIND, walk_query, &walk);
	return walk.result < 0 ? walk.result : 0;
}

const char *request_target(const struct request *request)
{
	return request->target;
}

const char *request_method(const struct request *request)
{
	return request->route->method;
}

const json_t *request_body(const struct request *request)
{
	return request->json;
}

const char *request_peer(const struct request *request)
{
	return request->peer[0] ? request->peer : NULL;
}

uid_t request_uid(const struct request *request)
{
	return request->connection->uid;
}

void *request_context(const struct request *request)
{
	return request->connection->server->options.context;
}

bool request_abandoned(const struct request *request)
{
	struct server *server = request->connection->server;
	struct pollfd fd = {.fd = request->connection->fd, .events = POLLRDHUP};
	bool stopping;

	pthread_mutex_lock(&server->lock);
	stopping = server->stopping;
	pthread_mutex_unlock(&server->lock);
	return stopping || (poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR)));
}

void response_text(struct response *response, const char *type, char *text, size_t len)
{
	free(response->text);
	response->type = type;
	response->text = text;
	response->len = len;
}

void response_json(struct response *response, json_t *object)
{
	char *text = json_text(object);

	json_decref(object);
	response_text(response, "application/json", text, text ? strlen(text) : 0);
}

void response_status(struct response *response, int status)
{
	response->status = status;
}

static enum MHD_Result send_response(struct request *request, struct response *response)
{
	struct MHD_Response *mhd;
	enum MHD_Result result;

	if (!response->text)
		response_json(response, json_object());
	/* It frees the text, when it fails too. */
	mhd = MHD_create_response_from_buffer(response->len, response->text, MHD_RESPMEM_MUST_FREE);
	if (!mhd)
		return MHD_NO;
	MHD_add_response_header(mhd, MHD_HTTP_HEADER_CONTENT_TYPE, response->type);
	server_set_deadline(request->connection, request->connection->server->options.body_ms);
	result = MHD_queue_response(request->mhd, (unsigned)response->status, mhd);
	MHD_destroy_response(mhd);
	return result;
}

/* Sends *err; `status` 0 is that of its kind. */
static enum MHD_Result send_error(struct request *request, int status, struct error *err)
{
	struct response response = {0};

	response.status = status ? status : error_kind_http(err->kind);
	response_json(&response, json_from_error(err));
	log_debug("%s: HTTP %d: %s", request->target, response.status, err->message);
	return send_response(request, &response);
}

/* Cuts request->path at each '/' and compares it with the route's; fills params. */
static bool path_fits(struct request *request, const struct server_route *route)
{
	const char *want = route->path, *have = request->path;
	int params = 0;

	while (*want == '/' && *have == '/') {
		size_t want_len = strcspn(++want, "/"), have_len = strcspn(++have, "/");

		if (want[0] == '{') {
			if (have_len == 0 || have_len > SEGMENT_MAX || params == SERVER_PARAMS_MAX)
				return false;
			request->params[params++] = have;
		} else if (want_len != have_len || memcmp(want, have, want_len) != 0) {
			return false;
		}
		want += want_len;
		have += have_len;
	}
	return !*want && !*have;
}

static void cut_params(struct request *request)
{
	for (int i = 0; i < SERVER_PARAMS_MAX && request->params[i]; i++)
		((char *)request->params[i])[strcspn(request->params[i], "/")] = '\0';
}

/* Sets request->route; *other_method when the path is known with another method. */
static void find_route(struct request *request, const char *method, bool *other_method)
{
	const struct server_route *route = request->connection->server->options.routes;

	for (; route->method; route++) {
		memset(request->params, 0, sizeof(request->params));
		if (!path_fits(request, route))
			continue;
		if (strcmp(method, route->method) == 0) {
			request->route = route;
			cut_params(request);
			return;
		}
		*other_method = true;
	}
}

/* Who calls over TLS, by its certificate; the pool has not been asked. */
static int verify_caller(struct request *request, struct error **err)
{
	const struct identity *id = request->connection->server->options.identity;
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(request->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	const gnutls_datum_t *certs = NULL;
	unsigned count = 0;

	if (info && info->tls_session)
		certs = gnutls_certificate_get_peers(info->tls_session, &count);
	if (!certs || count == 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"%s answers only nodes of its cluster; no certificate of it was shown",
			id->name);
	return pki_verify(
		&request->connection->peer, certs[0].data, certs[0].size, id->ca_pem, err);
}

/* Whether the caller is a member now: sets request->peer. */
static int find_peer(struct request *request, struct error **err)
{
	const struct server_options *options = &request->connection->server->options;
	const struct pki_verified *peer = &request->connection->peer;
	struct pool_node *node;
	bool same;

	if (verify_caller(request, err) < 0)
		return -1;
	node = member_read(options->pool, peer->name, err);
	if (!node) {
		if (err && *err && (*err)->kind == ERROR_NO_NODE)
			(*err)->kind = ERROR_CERTIFICATE;
		return error_prefix(
			err, "%s does not answer %s", options->identity->name, peer->name);
	}
	same = pki_fingerprint_equal(node->fingerprint, peer->fingerprint);
	pool_node_free(node);
	if (!same)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"%s does not answer %s: the certificate shown is not the one that %s "
			"joined "
			"with",
			options->identity->name, peer->name, peer->name);
	memcpy(request->peer, peer->name, sizeof(peer->name));
	return 0;
}

static int authorize(struct request *request, struct error **err)
{
	struct server *server = request->connection->server;
	unsigned who = request->route ? request->route->who : 0;

	if (server->local) {
		if (!request->route || (who & SERVER_LOCAL))
			return 0;
		return error_set(
			err, ERROR_REFUSED, 0, "only other nodes may ask %s", request->target);
	}
	if (who & SERVER_ANYONE)
		return 0;
	if (find_peer(request, err) < 0) {
		if (err && *err)
			log_info("refused a caller: %s", (*err)->message);
		return -1;
	}
	if (request->route && !(who & SERVER_PEER))
		return error_set(err, ERROR_REFUSED, 0,
			"%s may not be asked by another node; run it on %s", request->target,
			server->options.identity->name);
	return 0;
}

static size_t body_limit(const struct request *request)
{
	const struct server *server = request->connection->server;

	return !server->local && (request->route->who & SERVER_ANYONE) ? SERVER_ANYONE_BODY_MAX
								       : JSON_TEXT_MAX;
}

static int too_large(struct request *request, struct error **err)
{
	return error_set(
		err, ERROR_REQUEST, 0, "a request may have at most %zu bytes", body_limit(request));
}

static const char *header(const struct request *request, const char *name)
{
	return MHD_lookup_connection_value(request->mhd, MHD_HEADER_KIND, name);
}

/* Looks at the headers. 0: go on; else -1, an error and perhaps a status. */
static int begin(struct request *request, const char *url, const char *method, int *status,
	struct error **err)
{
	const char *length = header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
	bool other_method = false;

	request->path = fs_format("%s", url);
	find_route(request, method, &other_method);
	if (authorize(request, err) < 0)
		return -1;
	if (!request->route) {
		*status = other_method ? STATUS_METHOD : 0;
		return error_set(
			err, ERROR_NOT_FOUND, 0, "the API has no %s %s", method, request->target);
	}
	buf_init(&request->body, body_limit(request));
	/* Whoever asks before sending the body is told now, others when they listen. */
	if (length && header(request, MHD_HTTP_HEADER_EXPECT) &&
		strtoull(length, NULL, 10) > body_limit(request)) {
		*status = STATUS_TOO_LARGE;
		return too_large(request, err);
	}
	return 0;
}

/* The whole request is here: answers it. */
static int answer(struct request *request, struct response *response, struct error **err)
{
	if (request->body.len > 0)
		request->json = json_parse(
			"the request", buf_string(&request->body), request->body.len, err);
	else
		request->json = json_object();
	buf_free(&request->body);
	if (!request->json)
		return -1;
	return request->route->handler(request, response, err);
}

static enum MHD_Result run(struct request *request)
{
	cleanup_error struct error *err = NULL;
	struct response response = {.status = MHD_HTTP_OK};

	if (request->body_bytes > request->body.max) {
		too_large(request, &err);
		return send_error(request, STATUS_TOO_LARGE, err);
	}
	/* A handler may take the time that it needs. */
	server_set_deadline(request->connection, 0);
	if (answer(request, &response, &err) == 0)
		return send_response(request, &response);
	free(response.text);
	if (!err)
		error_set(&err, ERROR_FAILED, 0, "%s failed without a reason", request->target);
	return send_error(request, 0, err);
}

static struct connection *connection_of(struct MHD_Connection *mhd)
{
	return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

void *server_on_uri(void *arg, const char *uri, struct MHD_Connection *mhd)
{
	struct request *request = calloc(1, sizeof(*request));

	(void)arg;
	if (!request)
		abort();
	request->mhd = mhd;
	request->connection = connection_of(mhd);
	request->target = fs_format("%s", uri);
	return request;
}

/* A part of the body has come. */
static enum MHD_Result take_body(struct request *request, const char *data, size_t *len)
{
	request->body_bytes += *len;
	if (request->body_bytes > SERVER_DROP_MAX)
		return MHD_NO;
	if (request->body_bytes > request->body.max)
		buf_free(&request->body);
	else if (!buf_add(&request->body, data, *len))
		return MHD_NO;
	*len = 0;
	return MHD_YES;
}

enum MHD_Result server_on_request(void *arg, struct MHD_Connection *mhd, const char *url,
	const char *method, const char *version, const char *data, size_t *len, void **state)
{
	struct server *server = arg;
	struct request *request = *state;
	cleanup_error struct error *err = NULL;
	int status = 0;

	(void)mhd, (void)version;
	if (request->begun && *len > 0)
		return take_body(request, data, len);
	/* An MHD that is being stopped drops an answer, and asks for it again. */
	if (request->answered)
		return MHD_NO;
	if (request->begun) {
		request->answered = true;
		return run(request);
	}
	request->begun = true;
	server_set_deadline(request->connection, server->options.body_ms);
	if (!server_begin_request(server))
		error_set(&err, ERROR_INTERRUPTED, 0, "droverd is stopping");
	else
		begin(request, url, method, &status, &err);
	request->answered = err != NULL;
	return err ? send_error(request, status, err) : MHD_YES;
}

void server_on_completed(
	void *arg, struct MHD_Connection *mhd, void **state, enum MHD_RequestTerminationCode how)
{
	struct server *server = arg;
	struct request *request = *state;

	(void)mhd, (void)how;
	if (!request)
		return;
	server_set_deadline(request->connection, server->local || request->peer[0]
							 ? server->options.idle_ms
							 : server->options.header_ms);
	if (request->begun)
		server_end_request(server);
	buf_free(&request->body);
	json_decref(request->json);
	free(request->target);
	free(request->path);
	free(request);
	*state = NULL;
}
