/* Taking a VM over from a node that has died. */
#include "daemon/api.h"

#include "node/member.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUTES(X) X(recover, "POST", "/v1/vms/{vm}/recover", SERVER_LOCAL, "", "fenced check")

/* How long the owner has to answer: it must not be held for dead because it is busy. */
#define OWNER_MS 5000
#define CONNECT_MS 5000

/* Whether anything answers a connection to this address, be it by refusing it. */
static bool address_answers(const struct addrinfo *to)
{
	cleanup_fd int fd =
		socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, to->ai_protocol);
	struct pollfd wait = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int errnum = 0;

	if (fd < 0)
		return false;
	if (connect(fd, to->ai_addr, to->ai_addrlen) < 0)
		errnum = errno;
	if (errnum == EINPROGRESS &&
		(poll(&wait, 1, CONNECT_MS) != 1 ||
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &len) < 0))
		return false;
	return errnum == 0 || errnum == ECONNREFUSED || errnum == ECONNRESET;
}

/* The machine of a node, whether or not its droverd answers. */
static bool machine_answers(const struct pool_node *node)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	char host[256], port_text[16];
	bool answers = false;
	int port;

	if (http_split_address(node->address, host, &port, NULL) < 0)
		return false;
	snprintf(port_text, sizeof(port_text), "%d", port);
	if (getaddrinfo(host, port_text, &hints, &found) != 0)
		return false;
	for (const struct addrinfo *a = found; a && !answers; a = a->ai_next)
		answers = address_answers(a);
	freeaddrinfo(found);
	return answers;
}

/* The owner answers: what it says of the VM decides what the user is told, not whether. */
static int owner_lives(const char *vm, const char *owner, const json_t *answer, struct error **err)
{
	const char *state = json_string_value(json_object_get(answer, "state"));

	if (state && !strcmp(state, "down"))
		return error_set(err, ERROR_REFUSED, 0,
			"%s is not taken over: %s answers, owns it and does not run it; `drover "
			"start %s --node %s` starts it there",
			vm, owner, vm, owner);
	return error_set(err, ERROR_REFUSED, 0,
		"%s is not taken over: %s answers and has it (%s); `drover migrate` moves it, "
		"`drover stop %s` stops it",
		vm, owner, state ? state : "unknown", vm);
}

/* A machine that is there: its droverd decides, and where that does not answer the user. */
static int ask_owner(
	struct cluster *c, const char *vm, const char *owner, bool fenced, struct error **err)
{
	cleanup_error struct error *e = NULL;
	cleanup_json json_t *answer = NULL;
	cleanup_free char *escaped = http_escape(vm), *path = fs_format("/v1/vms/%s", escaped);

	if (node_call(c->peers, owner, "GET", path, NULL, OWNER_MS, &answer, &e) == 0)
		return owner_lives(vm, owner, answer, err);
	if (e->kind != ERROR_UNREACHABLE)
		return error_set(err, ERROR_REFUSED, 0,
			"%s is not taken over: its owner %s is not dead: %s", vm, owner,
			e->message);
	if (fenced)
		return 0;
	return error_set(err, ERROR_REFUSED, 0,
		"%s is not taken over: droverd on %s does not answer, but its machine does, and "
		"the hypervisor may run there: restart droverd on it, or make sure that the "
		"machine is off or its hypervisors have ended, then give --fenced",
		vm, owner);
}

static int check_owner(
	void *arg, const char *vm, const char *owner, bool fenced, struct error **err)
{
	struct daemon *daemon = arg;
	struct cluster *c = atomic_load(&daemon->cluster);
	struct machine *m = atomic_load(&daemon->machine);
	cleanup_error struct error *e = NULL;
	struct pool_node *record;
	bool answers;
	char id[33];

	if (migrations_have(m->migrations, vm, id))
		return error_set(err, ERROR_BUSY, 0,
			"%s is not taken over: migration %s of it has not ended here; `drover "
			"migration show %s` tells how it stands",
			vm, id, id);
	record = member_read(c->pool, owner, &e);
	if (!record && e->kind != ERROR_NO_NODE) {
		error_move(err, e);
		e = NULL;
		return -1;
	}
	answers = record && machine_answers(record);
	pool_node_free(record);
	if (answers)
		return ask_owner(c, vm, owner, fenced, err);
	if (!e || fenced)
		return 0;
	return error_set(err, ERROR_REFUSED, 0,
		"%s is not taken over: %s was removed from the cluster and cannot be asked; make "
		"sure that it is off, then give --fenced",
		vm, owner);
}

static int recover(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct machine *m = daemon_machine(daemon, err);
	struct vms_recover how = {.check = check_owner, .arg = daemon};
	const json_t *body = request_body(request);
	struct pool_owner owner;

	if (!m || json_opt_bool(body, "fenced", false, &how.fenced, err) < 0 ||
		json_opt_bool(body, "check", false, &how.only_check, err) < 0 ||
		vms_recover(m->vms, request_param(request, "vm"), &how, &owner, err) < 0)
		return -1;
	return api_answer(response, json_pack("{s:s, s:s, s:I}", "from", owner.node, "node",
					    atomic_load(&daemon->cluster)->identity->name, "epoch",
					    (json_int_t)owner.epoch + (how.only_check ? 0 : 1)));
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_recover_routes[] = {ROUTES(API_ROUTE_ROW){0}};
