#include "wire/endpoint.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/pass_fd.h"
#include "wire/tcp.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Between two looks at whether the hypervisor has made its socket. */
#define RETRY_MS 10
/* What may wait in the socket for the hypervisor there, as far as the kernel allows: with its
 * ordinary 208 KiB it and the writer wake each other twice as often. */
#define SOCKET_BYTES (1 << 20)
#define GENERATE_MAX (1ull << 50)

static const struct {
	const char *prefix;
	enum endpoint_kind kind;
	bool input, output;
} kinds[] = {
	{"unix:", ENDPOINT_UNIX, true, true},
	{"tcp:", ENDPOINT_TCP, true, true},
	{"passed:", ENDPOINT_PASSED, true, true},
	{"file:", ENDPOINT_FILE, true, true},
	{"fd:", ENDPOINT_FD, true, true},
	{"generate:", ENDPOINT_GENERATE, true, false},
	{"probe:", ENDPOINT_PROBE, true, false},
	{"null", ENDPOINT_NULL, false, true},
};

static int parse(struct endpoint *e, const char *text, bool input, struct error **err)
{
	*e = (struct endpoint){.listen_fd = -1, .fd = -1};
	e->text = strdup(text);
	if (!e->text)
		abort();
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t len = strlen(kinds[i].prefix);
		bool value = kinds[i].prefix[len - 1] == ':';

		if (strncmp(text, kinds[i].prefix, len) != 0 || (text[len] != 0) != value ||
			!(input ? kinds[i].input : kinds[i].output))
			continue;
		e->kind = kinds[i].kind;
		e->path = e->text + len;
		return 0;
	}
	return error_set(err, ERROR_USAGE, 0,
		input ? "the input is unix:PATH, tcp:ADDRESS:PORT, passed:N, file:PATH, fd:N, "
			"generate:SIZE or probe:MS, not \"%s\""
		      : "the output is unix:PATH, tcp:ADDRESS:PORT, passed:N, file:PATH, fd:N or "
			"null, not \"%s\"",
		text);
}

static int socket_address(const struct endpoint *e, struct sockaddr_un *address, struct error **err)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(e->path) >= sizeof(address->sun_path))
		return error_set(err, ERROR_USAGE, 0,
			"the path of a socket has at most %zu bytes: %s",
			sizeof(address->sun_path) - 1, e->path);
	strcpy(address->sun_path, e->path);
	return 0;
}

static int new_socket(const struct endpoint *e, struct error **err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		error_set(err, ERROR_FAILED, errno, "cannot make a socket for %s", e->path);
	return fd;
}

static int listen_unix(struct endpoint *e, struct error **err)
{
	struct sockaddr_un address;
	struct stat st;

	if (socket_address(e, &address, err) < 0)
		return -1;
	e->listen_fd = new_socket(e, err);
	if (e->listen_fd < 0)
		return -1;
	if (lstat(e->path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(e->path);
	/* Nobody can connect before listen(). */
	if (bind(e->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		chmod(e->path, 0660) < 0 || listen(e->listen_fd, 1) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot listen at %s", e->path);
	return 0;
}

static int open_file(struct endpoint *e, int flags, struct error **err)
{
	e->fd = open(e->path, flags | O_CLOEXEC, 0600);
	if (e->fd < 0)
		return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_FAILED, errno,
			"cannot open %s", e->path);
	return 0;
}

static int parse_fd(const struct endpoint *e, struct stat *st, int *fd, struct error **err)
{
	int64_t number;

	if (fs_parse_number("a descriptor", e->path, 0, 1 << 20, &number, err) < 0)
		return -1;
	if (fstat((int)number, st) < 0)
		return error_set(err, ERROR_USAGE, errno, "descriptor %d", (int)number);
	*fd = (int)number;
	return 0;
}

static int open_passed(struct endpoint *e, struct error **err)
{
	struct stat st;

	if (parse_fd(e, &st, &e->listen_fd, err) < 0)
		return -1;
	if (S_ISSOCK(st.st_mode))
		return 0;
	e->listen_fd = -1;
	return error_set(err, ERROR_USAGE, 0, "%s is no socket", e->text);
}

/* A socket goes both ways, and what is written to it must not wait for an acknowledgement of what
 * was written before: bhyve's two ends wait for each other's answers. */
static void take_socket(struct endpoint *e)
{
	int on = 1;

	e->both_ways = true;
	setsockopt(e->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int open_fd(struct endpoint *e, struct error **err)
{
	struct stat st;

	if (parse_fd(e, &st, &e->fd, err) < 0)
		return -1;
	fcntl(e->fd, F_SETFL, fcntl(e->fd, F_GETFL) & ~O_NONBLOCK);
	if (S_ISSOCK(st.st_mode))
		take_socket(e);
	return 0;
}

/* MS or MS,BYTES */
static int parse_probe(struct endpoint *e, struct error **err)
{
	char ms[16];
	size_t len = strcspn(e->path, ",");

	snprintf(ms, sizeof(ms), "%.*s", (int)(len < sizeof(ms) ? len : sizeof(ms) - 1), e->path);
	e->size = ENDPOINT_PROBE_MAX;
	if (fs_parse_number("a probe", ms, 1, ENDPOINT_PROBE_MS_MAX, &e->probe_ms, err) < 0)
		return -1;
	return e->path[len] ? fs_parse_size("a probe", e->path + len + 1, ENDPOINT_PROBE_MAX,
				      &e->size, err)
			    : 0;
}

int endpoint_open_input(struct endpoint *e, const char *text, struct error **err)
{
	if (parse(e, text, true, err) < 0)
		return -1;
	switch (e->kind) {
	case ENDPOINT_UNIX:
		return listen_unix(e, err);
	case ENDPOINT_TCP:
		e->listen_fd = tcp_listen(e->path, err);
		return e->listen_fd < 0 ? -1 : 0;
	case ENDPOINT_PASSED:
		return open_passed(e, err);
	case ENDPOINT_FILE:
		return open_file(e, O_RDONLY, err);
	case ENDPOINT_FD:
		return open_fd(e, err);
	case ENDPOINT_PROBE:
		return parse_probe(e, err);
	default:
		return fs_parse_size("a generated stream", e->path, GENERATE_MAX, &e->size, err);
	}
}

int endpoint_open_output(struct endpoint *e, const char *text, struct error **err)
{
	struct sockaddr_un address;

	if (parse(e, text, false, err) < 0)
		return -1;
	switch (e->kind) {
	case ENDPOINT_UNIX:
		return socket_address(e, &address, err);
	case ENDPOINT_TCP:
		e->target = tcp_look_up(e->path, err);
		return e->target ? 0 : -1;
	case ENDPOINT_PASSED:
		return open_passed(e, err);
	case ENDPOINT_FILE:
		return open_file(e, O_WRONLY | O_CREAT | O_TRUNC, err);
	case ENDPOINT_FD:
		return open_fd(e, err);
	default:
		return 0;
	}
}

void endpoint_close(struct endpoint *e)
{
	if (e->listen_fd >= 0 && e->kind == ENDPOINT_UNIX)
		unlink(e->path);
	close_fd(&e->listen_fd);
	close_fd(&e->fd);
	tcp_target_free(e->target);
	e->target = NULL;
	free(e->text);
	e->text = NULL;
}

/* Until listen_fd has something. */
static int await(const struct endpoint *e, int64_t deadline_ms, struct error **err)
{
	struct pollfd pollfd = {.fd = e->listen_fd, .events = POLLIN};
	int n;

	do
		n = poll(&pollfd, 1, clock_left_ms(deadline_ms));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return error_set(
			err, ERROR_TIMEOUT, 0, "the hypervisor has not connected to %s", e->text);
	return 0;
}

static int take_passed(struct endpoint *e, int64_t deadline_ms, struct error **err)
{
	if (await(e, deadline_ms, err) < 0)
		return -1;
	e->fd = pass_fd_receive(e->listen_fd);
	close_fd(&e->listen_fd);
	if (e->fd < 0)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"no connection to the hypervisor was passed: who started this has given "
			"up");
	take_socket(e);
	return 0;
}

int endpoint_accept(struct endpoint *e, int64_t deadline_ms, struct error **err)
{
	if (e->kind == ENDPOINT_PASSED)
		return take_passed(e, deadline_ms, err);
	if (e->kind != ENDPOINT_UNIX && e->kind != ENDPOINT_TCP)
		return 0;
	if (await(e, deadline_ms, err) < 0)
		return -1;
	e->fd = accept4(e->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (e->fd < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot accept at %s", e->path);
	take_socket(e);
	if (e->kind == ENDPOINT_UNIX)
		unlink(e->path);
	close_fd(&e->listen_fd);
	return 0;
}

static int connect_unix(struct endpoint *e, int64_t deadline_ms, struct error **err)
{
	struct sockaddr_un address;

	if (socket_address(e, &address, err) < 0)
		return -1;
	e->fd = new_socket(e, err);
	if (e->fd < 0)
		return -1;
	/* A socket that is not there yet gives nothing to wait for. */
	while (connect(e->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno != ENOENT && errno != ECONNREFUSED && errno != EAGAIN && errno != EINTR)
			return error_set(err, ERROR_HYPERVISOR, errno,
				"cannot connect to the hypervisor at %s", e->path);
		if (!clock_left_ms(deadline_ms))
			return error_set(err, ERROR_TIMEOUT, errno,
				"the hypervisor does not listen at %s", e->path);
		poll(NULL, 0, RETRY_MS);
	}
	take_socket(e);
	return 0;
}

static int connect_tcp(struct endpoint *e, int64_t deadline_ms, struct error **err)
{
	char address[TCP_ADDRESS_SIZE];

	while ((e->fd = tcp_connect(e->target, deadline_ms, address, NULL)) < 0) {
		if (!clock_left_ms(deadline_ms))
			return error_set(err, ERROR_TIMEOUT, 0,
				"the hypervisor does not listen at %s", e->path);
		poll(NULL, 0, RETRY_MS);
	}
	take_socket(e);
	return 0;
}

int endpoint_connect(struct endpoint *e, int64_t deadline_ms, struct error **err)
{
	int bytes = SOCKET_BYTES, result = 0;

	if (e->kind == ENDPOINT_PASSED)
		result = take_passed(e, deadline_ms, err);
	else if (e->kind == ENDPOINT_UNIX)
		result = connect_unix(e, deadline_ms, err);
	else if (e->kind == ENDPOINT_TCP)
		result = connect_tcp(e, deadline_ms, err);
	if (result == 0 && e->both_ways)
		setsockopt(e->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return result;
}

static ssize_t generate(struct endpoint *e, uint8_t *data, size_t len)
{
	uint64_t word = e->at / 8 * ENDPOINT_STEP;
	/* Two words at a time: a processor adds them as one. */
	uint64_t __attribute__((vector_size(16))) words = {word, word + ENDPOINT_STEP};

	if (len > e->size - e->at)
		len = (size_t)(e->size - e->at);
	for (size_t i = 0; i < len; i += sizeof(words), words += 2 * ENDPOINT_STEP) {
		uint64_t __attribute__((vector_size(16)))
		le = {htole64(words[0]), htole64(words[1])};

		memcpy(data + i, &le, sizeof(le));
	}
	e->at += len;
	return (ssize_t)len;
}

/* Its time counts from the first byte on. */
static ssize_t probe(struct endpoint *e, uint8_t *data, size_t len)
{
	if (!e->until_ms)
		e->until_ms = clock_ms() + e->probe_ms;
	return clock_ms() < e->until_ms ? generate(e, data, len) : 0;
}

static bool made_up(const struct endpoint *e)
{
	return e->kind == ENDPOINT_GENERATE || e->kind == ENDPOINT_PROBE;
}

ssize_t endpoint_read(struct endpoint *e, void *data, size_t len, struct error **err)
{
	ssize_t n;

	if (e->kind == ENDPOINT_PROBE)
		return probe(e, data, len);
	if (e->kind == ENDPOINT_GENERATE)
		return generate(e, data, len);
	do
		n = read(e->fd, data, len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		error_set(err, e->both_ways ? ERROR_HYPERVISOR : ERROR_FAILED, errno,
			"cannot read from %s", e->text);
	return n;
}

bool endpoint_wait(const struct endpoint *e, int64_t us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
	struct pollfd pollfd = {.fd = e->fd, .events = POLLIN};

	return made_up(e) || ppoll(&pollfd, 1, us < 0 ? NULL : &ts, NULL) > 0;
}

int endpoint_write(struct endpoint *e, const void *data, size_t len, struct error **err)
{
	if (e->kind == ENDPOINT_NULL || fs_write_all(e->fd, data, len) == 0)
		return 0;
	if (errno == ENOSPC || errno == EDQUOT)
		return error_set(err, ERROR_NO_SPACE, errno, "cannot write to %s", e->text);
	return error_set(err, e->both_ways ? ERROR_HYPERVISOR : ERROR_FAILED, errno,
		"cannot write to %s", e->text);
}
