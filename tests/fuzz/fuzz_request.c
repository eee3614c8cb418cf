/*
 * The API's server as it is, on a Unix socket: an input is what a client writes, one request after
 * another or none that is whole. Whatever comes back is HTTP.
 *
 * It has droverd's routes, of a node that is in no cluster: a request comes as far as its handler,
 * which looks for the cluster. Two routes look for none and would do what the request says, in any
 * directory and to any address: init and join are left out. Routes of this fuzzer's own, below
 * /v1/fuzz, look whether what a handler is given keeps the promises of node/server.h.
 */
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/config.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define INPUT_MAX (64u << 10)
#define ROUTES_MAX 128
/* Nobody waits that long: a client that has said all closes its side. */
#define LIMIT_MS 5000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char directory[] = "/tmp/drover-fuzz-XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static struct server *server;
static const struct config config;
static struct daemon node;

static int look_at_query(const char *name, const char *value, void *arg)
{
	size_t *total = arg;

	*total += strlen(name) + strlen(value);
	return *total > 32 << 10 ? -1 : 0;
}

/* The readers that handlers use, on whatever came. */
static int read_body(const json_t *body, struct error **err)
{
	static const char *const known[] = {"vm", "node", "wait_ms", "pause", NULL};
	const char *text;
	int64_t number;
	bool flag;

	if (!json_is_object(body))
		abort();
	if (json_only_known(body, known, err) < 0 || !json_get_string(body, "vm", err) ||
		json_opt_string(body, "node", "", &text, err) < 0 ||
		json_opt_int(body, "wait_ms", 1, 1000, 7, &number, err) < 0 ||
		json_opt_bool(body, "pause", false, &flag, err) < 0)
		return -1;
	if (!text || number < 1 || number > 1000)
		abort();
	return 0;
}

static int handle(struct request *request, struct response *response, struct error **err)
{
	const char *vm = request_param(request, "vm");
	size_t total = 0;

	if (!vm || !*vm || strlen(vm) > 255 || strchr(vm, '/') || request_target(request)[0] != '/')
		abort();
	if (request_queries(request, look_at_query, &total) < 0)
		abort();
	request_query(request, "wait_ms");
	if (fs_check_name("VM", vm, err) < 0 || read_body(request_body(request), err) < 0)
		return -1;
	response_json(response, json_pack("{s:s}", "vm", vm));
	return 0;
}

static const struct server_route own_routes[] = {
	{"GET", "/v1/fuzz/{vm}", SERVER_LOCAL, handle},
	{"PUT", "/v1/fuzz/{vm}", SERVER_LOCAL, handle},
	{"DELETE", "/v1/fuzz/{vm}", SERVER_LOCAL, handle},
	{"POST", "/v1/fuzz/{vm}/start", SERVER_LOCAL, handle},
	{"POST", "/v1/fuzz/{vm}/peer", SERVER_PEER, handle},
	{NULL, NULL, 0, NULL},
};
static struct server_route routes[ROUTES_MAX + 1];

static void add_routes(const struct server_route *more)
{
	size_t count = 0;

	while (routes[count].method)
		count++;
	for (; more->method; more++) {
		if (!strcmp(more->path, "/v1/init") || !strcmp(more->path, "/v1/join"))
			continue;
		if (count == ROUTES_MAX)
			abort();
		routes[count++] = *more;
	}
}

static void clean(void)
{
	char lock[sizeof(address.sun_path) + 8];

	snprintf(lock, sizeof(lock), "%s.lock", address.sun_path);
	unlink(lock);
	unlink(address.sun_path);
	rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct server_options options = {.socket_path = address.sun_path,
		.routes = routes,
		.context = &node,
		.header_ms = LIMIT_MS,
		.body_ms = LIMIT_MS,
		.idle_ms = LIMIT_MS};

	(void)argc, (void)argv;
	signal(SIGPIPE, SIG_IGN);
	log_init("fuzz", LOG_LEVEL_ERROR);
	daemon_init(&node, &config, NULL);
	add_routes(api_routes());
	add_routes(own_routes);
	if (!mkdtemp(directory))
		abort();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
	atexit(clean);
	server = server_start(&options, NULL);
	if (!server)
		abort();
	return 0;
}

/* The beginning of what comes back; reads it all. */
static size_t read_answer(int fd, char start[8])
{
	char rest[4096];
	size_t used = 0;
	ssize_t n;

	while (used < 8 && (n = recv(fd, start + used, 8 - used, 0)) > 0)
		used += (size_t)n;
	while (recv(fd, rest, sizeof(rest), 0) > 0)
		;
	return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	cleanup_fd int fd = -1;
	char start[8];

	if (len > INPUT_MAX)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		abort();
	/* It may have closed before all is written. */
	if (fs_write_all(fd, data, len) == 0)
		shutdown(fd, SHUT_WR);
	if (read_answer(fd, start) == 8 && memcmp(start, "HTTP/1.", 7) != 0)
		abort();
	return 0;
}
