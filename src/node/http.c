#include "node/http.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/json.h"

#include <curl/curl.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_BYTES 8192
/* A kept connection older than this is not used again. Below SERVER_IDLE_MS, so that it is never
 * the server that closes first. */
#define IDLE_MAX_S 300l
#define KEEPALIVE_S 15l

struct http_client {
	CURL *easy;
	struct curl_slist *connect_to, *headers;
	char *base; /* "https://node2:7780" */
	char *what; /* "node2 (10.78.0.2:7780)", for messages */
	bool local;
	char *name, *fingerprint, *ca_pem; /* of the peer and its CA; each may be NULL */
	struct pki_verified peer;
	long connections;

	/* Of the call that is under way. */
	const struct http_request *request;
	struct buf answer;
	bool too_long;
	int sent;              /* times that the request was about to be sent */
	struct error *refused; /* why we did not send it */
	char why[CURL_ERROR_SIZE];
};

int http_init(struct error **err)
{
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return error_set(err, ERROR_FAILED, 0, "cannot set up libcurl");
	return 0;
}

static size_t take_answer(char *data, size_t size, size_t count, void *arg)
{
	struct http_client *client = arg;

	if (buf_add(&client->answer, data, size * count))
		return size * count;
	client->too_long = true;
	return 0;
}

static int is_cancelled(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	struct http_client *client = arg;

	(void)a, (void)b, (void)c, (void)d;
	return client->request->cancel && atomic_load(client->request->cancel);
}

/* Whether who answers is the node that we want. */
static int check_peer(struct http_client *client, struct error **err)
{
	struct curl_tlssessioninfo *tls = NULL;
	const gnutls_datum_t *certs = NULL;
	struct pki_verified *peer = &client->peer;
	unsigned count = 0;

	if (curl_easy_getinfo(client->easy, CURLINFO_TLS_SSL_PTR, &tls) == CURLE_OK && tls &&
		tls->backend == CURLSSLBACKEND_GNUTLS && tls->internals)
		certs = gnutls_certificate_get_peers(tls->internals, &count);
	if (!certs || count == 0)
		return error_set(err, ERROR_CERTIFICATE, 0,
			"its certificate cannot be seen; drover needs a libcurl built with GnuTLS");
	if (pki_verify(peer, certs[0].data, certs[0].size, client->ca_pem, err) < 0)
		return -1;
	if (strcmp(peer->name, client->name) != 0)
		return error_set(
			err, ERROR_CERTIFICATE, 0, "it is %s, not %s", peer->name, client->name);
	if (client->fingerprint && !pki_fingerprint_equal(peer->fingerprint, client->fingerprint))
		return error_set(err, ERROR_CERTIFICATE, 0,
			"it shows another certificate than the one that %s joined with",
			client->name);
	return 0;
}

/* libcurl calls this with the connection made and verified, before the request is sent. */
static int before_sending(void *arg, char *ip, char *local_ip, int port, int local_port)
{
	struct http_client *client = arg;

	(void)ip, (void)local_ip, (void)port, (void)local_port;
	if (client->sent++ && strcmp(client->request->method, "GET") != 0) {
		error_set(&client->refused, ERROR_UNREACHABLE, 0,
			"the connection was lost before the answer came");
		return CURL_PREREQFUNC_ABORT;
	}
	if (client->ca_pem && check_peer(client, &client->refused) < 0)
		return CURL_PREREQFUNC_ABORT;
	return CURL_PREREQFUNC_OK;
}

int http_split_address(const char *address, char *host, int *port, struct error **err)
{
	const char *start = address, *end, *colon;
	int64_t number = HTTP_PORT;
	size_t len;

	if (*start == '[') {
		start++;
		end = strchr(start, ']');
		colon = end && end[1] == ':' ? end + 1 : NULL;
		if (end && end[1] && !colon)
			end = NULL;
	} else {
		colon = strchr(address, ':');
		end = colon ? colon : address + strlen(address);
	}
	len = end ? (size_t)(end - start) : 0;
	if (len == 0 || len > 255 ||
		strspn(start, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:"
			      "%") < len)
		return error_set(err, ERROR_USAGE, 0,
			"\"%.300s\" is not an address: give HOST, HOST:PORT or [IPV6]:PORT",
			address);
	if (colon && fs_parse_number("the port", colon + 1, 0, 65535, &number, err) < 0)
		return -1;
	memcpy(host, start, len);
	host[len] = '\0';
	*port = (int)number;
	return 0;
}

static int set_target(
	struct http_client *client, const struct http_target *target, struct error **err)
{
	char host[256];
	cleanup_free char *to = NULL;
	int port;

	if (target->socket_path) {
		client->local = true;
		client->base = fs_format("http://localhost");
		client->what = fs_format("droverd on %s", target->socket_path);
		return 0;
	}
	if (pki_check_name(target->name, err) < 0 ||
		http_split_address(target->address, host, &port, err) < 0)
		return -1;
	client->base = fs_format("https://%s:%d", target->name, port);
	client->what = fs_format(
		strchr(host, ':') ? "%s ([%s]:%d)" : "%s (%s:%d)", target->name, host, port);
	to = fs_format(strchr(host, ':') ? "::[%s]:%d" : "::%s:%d", host, port);
	client->connect_to = curl_slist_append(NULL, to);
	client->name = fs_format("%s", target->name);
	if (target->fingerprint)
		client->fingerprint = fs_format("%s", target->fingerprint);
	if (target->ca_pem)
		client->ca_pem = fs_format("%s", target->ca_pem);
	return client->connect_to ? 0 : error_set(err, ERROR_FAILED, 0, "no memory");
}

/* Options that only TLS has. An option that this libcurl does not know must not be ignored. */
static CURLcode set_tls(CURL *easy, const struct http_target *target)
{
	CURLcode code = curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_3);

	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0l);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_CAINFO, target->ca_file);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, target->ca_file ? 1l : 0l);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, target->ca_file ? 2l : 0l);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_SSLCERT, target->cert_file);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_SSLKEY, target->key_file);
	return code;
}

static CURLcode set_options(struct http_client *client, const struct http_target *target)
{
	CURL *easy = client->easy;
	CURLcode code =
		curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, client->local ? "http" : "https");

	if (code == CURLE_OK && client->local)
		code = curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, target->socket_path);
	if (code == CURLE_OK && !client->local)
		code = set_tls(easy, target);
	if (code == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_sending);
	if (code != CURLE_OK)
		return code;
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, client);
	curl_easy_setopt(easy, CURLOPT_CONNECT_TO, client->connect_to);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, client->headers);
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0l);
	curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1l);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1l);
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1l);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1l);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, KEEPALIVE_S);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, KEEPALIVE_S);
	curl_easy_setopt(easy, CURLOPT_MAXCONNECTS, 1l);
	curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, IDLE_MAX_S);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, client->why);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_answer);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, client);
	curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, is_cancelled);
	curl_easy_setopt(easy, CURLOPT_XFERINFODATA, client);
	return curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0l);
}

struct http_client *http_open(const struct http_target *target, struct error **err)
{
	struct http_client *client = calloc(1, sizeof(*client));
	CURLcode code;

	if (!client)
		abort();
	if (set_target(client, target, err) < 0) {
		http_close(client);
		return NULL;
	}
	client->easy = curl_easy_init();
	client->headers = curl_slist_append(NULL, "Content-Type: application/json");
	/* Without this line libcurl waits for a "100 Continue" before a body of over 1 MiB. */
	if (client->headers && !curl_slist_append(client->headers, "Expect:"))
		abort();
	code = client->easy && client->headers ? set_options(client, target) : CURLE_OUT_OF_MEMORY;
	if (code != CURLE_OK) {
		error_set(err, ERROR_FAILED, 0, "cannot set up libcurl: %s",
			curl_easy_strerror(code));
		http_close(client);
		return NULL;
	}
	return client;
}

void http_close(struct http_client *client)
{
	if (!client)
		return;
	curl_easy_cleanup(client->easy);
	curl_slist_free_all(client->connect_to);
	curl_slist_free_all(client->headers);
	free(client->base);
	free(client->what);
	free(client->name);
	free(client->fingerprint);
	free(client->ca_pem);
	free(client);
}

static int check_path(const char *path, struct error **err)
{
	size_t len = strnlen(path, PATH_MAX_BYTES + 1);

	if (path[0] == '/' && len <= PATH_MAX_BYTES) {
		while (*path > ' ' && *path < 0x7f && *path != '#')
			path++;
		if (!*path)
			return 0;
	}
	return error_set(err, ERROR_USAGE, 0, "a request's path cannot be sent: %.200s", path);
}

/* Method, path, body and time limits of one call; *body is to be freed after it. */
static int set_request(struct http_client *client, const struct http_request *request, char **body,
	struct error **err)
{
	CURL *easy = client->easy;
	bool get = strcmp(request->method, "GET") == 0, post = strcmp(request->method, "POST") == 0;
	cleanup_free char *url = fs_format("%s%s", client->base, request->path);
	long connect_ms = HTTP_CONNECT_TIMEOUT_MS;

	if (check_path(request->path, err) < 0)
		return -1;
	if (request->body)
		*body = json_text(request->body);
	if (*body && strlen(*body) > JSON_TEXT_MAX)
		return error_set(err, ERROR_REQUEST, 0, "a request of more than %u bytes to %s",
			JSON_TEXT_MAX, client->what);
	if (request->timeout_ms > 0 && request->timeout_ms < connect_ms)
		connect_ms = request->timeout_ms;
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, NULL);
	curl_easy_setopt(easy, CURLOPT_HTTPGET, 1l);
	if (*body || post) {
		curl_easy_setopt(easy, CURLOPT_POST, 1l);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, *body ? *body : "");
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, *body ? (long)strlen(*body) : 0l);
	}
	if (!get && !post)
		curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)request->timeout_ms);
	return 0;
}

/* The text after "does not answer: ". */
static const char *why_text(struct http_client *client, CURLcode code)
{
	return client->why[0] ? client->why : curl_easy_strerror(code);
}

static int not_connected(struct http_client *client, CURLcode code, struct error **err)
{
	long number = 0;
	const char *text = why_text(client, code);

	curl_easy_getinfo(client->easy, CURLINFO_OS_ERRNO, &number);
	if (code == CURLE_OPERATION_TIMEDOUT)
		text = "no connection in time";
	else if (code == CURLE_COULDNT_CONNECT && number)
		text = strerror((int)number);
	if (client->local)
		return error_set(err, ERROR_DAEMON, 0,
			"%s does not answer: %s; is it running? `systemctl status droverd` tells",
			client->what, text);
	error_set(err, ERROR_UNREACHABLE, 0,
		"%s does not answer: %s; is droverd running there, and does its address in `drover "
		"node ls` lead to it?",
		client->what, text);
	if (err)
		(*err)->errnum = (int)number;
	return -1;
}

/* Turns what libcurl says into an error of ours. */
static int call_error(struct http_client *client, CURLcode code, struct error **err)
{
	const struct http_request *request = client->request;

	if (client->refused) {
		error_prefix(&client->refused, "%s", client->what);
		error_move(err, client->refused);
		client->refused = NULL;
		return -1;
	}
	switch (code) {
	case CURLE_ABORTED_BY_CALLBACK:
		return error_set(
			err, ERROR_CANCELLED, 0, "cancelled while waiting for %s", client->what);
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
		return error_set(err, ERROR_CERTIFICATE, 0,
			"%s has no certificate of this cluster for that name: %s", client->what,
			why_text(client, code));
	case CURLE_WRITE_ERROR:
		if (client->too_long)
			return error_set(err, ERROR_REQUEST, 0,
				"%s sent an answer of more than %zu bytes", client->what,
				client->answer.max);
		break;
	default:
		break;
	}
	if (!client->sent)
		return not_connected(client, code, err);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return error_set(err, client->local ? ERROR_TIMEOUT : ERROR_UNREACHABLE, 0,
			"%s did not answer %s %s within %d ms", client->what, request->method,
			request->path, request->timeout_ms);
	return error_set(err, client->local ? ERROR_DAEMON : ERROR_UNREACHABLE, 0,
		"%s stopped answering %s %s: %s", client->what, request->method, request->path,
		why_text(client, code));
}

/* Whether the kept connection can be written to. libcurl notices only when it writes that the other
 * side has closed one, and by then a request that may be sent once has been sent. Nothing is to be
 * read from a connection between two requests but its end. */
static bool kept_connection_is_good(struct http_client *client)
{
	curl_socket_t fd = CURL_SOCKET_BAD;
	struct pollfd p = {.events = POLLIN | POLLRDHUP};

	if (curl_easy_getinfo(client->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
		fd == CURL_SOCKET_BAD)
		return false;
	p.fd = fd;
	return poll(&p, 1, 0) == 0;
}

/* Sends the request; its answer is in client->answer, to be freed in any case. */
static int run(struct http_client *client, const struct http_request *request, size_t max_bytes,
	long *status, struct error **err)
{
	cleanup_free char *body = NULL;
	long connections = 0;
	CURLcode code;

	buf_init(&client->answer, max_bytes);
	client->request = request;
	client->too_long = false;
	client->sent = 0;
	client->why[0] = '\0';
	if (set_request(client, request, &body, err) < 0)
		return -1;
	curl_easy_setopt(
		client->easy, CURLOPT_FRESH_CONNECT, (long)!kept_connection_is_good(client));
	code = curl_easy_perform(client->easy);
	curl_easy_setopt(client->easy, CURLOPT_POSTFIELDS, NULL);
	if (curl_easy_getinfo(client->easy, CURLINFO_NUM_CONNECTS, &connections) == CURLE_OK)
		client->connections += connections;
	if (code != CURLE_OK)
		return call_error(client, code, err);
	curl_easy_getinfo(client->easy, CURLINFO_RESPONSE_CODE, status);
	return 0;
}

/* The object in client->answer; with a status of an error, the error that it holds is ours. (A
 * record of something that failed holds one too, with a status of 200.) */
static json_t *parse_answer(struct http_client *client, long status, struct error **err)
{
	cleanup_free char *what = fs_format("the answer of %s", client->what);
	json_t *json = json_parse(what, buf_string(&client->answer), client->answer.len, err);

	if (!json) {
		error_prefix(err, "HTTP status %ld", status);
		return NULL;
	}
	if (status < 400)
		return json;
	json_to_error(json, err);
	error_set(err, ERROR_REQUEST, 0, "%s answered HTTP status %ld without a reason",
		client->what, status);
	json_decref(json);
	return NULL;
}

int http_call(struct http_client *client, const struct http_request *request, json_t **answer,
	struct error **err)
{
	json_t *json = NULL;
	long status = 0;

	if (run(client, request, JSON_TEXT_MAX, &status, err) == 0)
		json = parse_answer(client, status, err);
	buf_free(&client->answer);
	if (!json)
		return -1;
	if (answer)
		*answer = json;
	else
		json_decref(json);
	return 0;
}

int http_call_text(struct http_client *client, const struct http_request *request, char **text,
	size_t *len, struct error **err)
{
	long status = 0;
	int result = run(client, request, HTTP_TEXT_MAX, &status, err);

	if (result == 0 && status >= 400) {
		json_decref(parse_answer(client, status, err));
		result = -1;
	} else if (result == 0) {
		buf_string(&client->answer);
		*text = (char *)client->answer.data;
		if (len)
			*len = client->answer.len;
		client->answer.data = NULL;
	}
	buf_free(&client->answer);
	return result;
}

long http_connections(const struct http_client *client)
{
	return client->connections;
}

char *http_escape(const char *text)
{
	char *escaped = curl_easy_escape(NULL, text, (int)strlen(text));
	char *copy;

	if (!escaped)
		abort();
	copy = fs_format("%s", escaped);
	curl_free(escaped);
	return copy;
}
