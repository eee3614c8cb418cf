#include "wire/lane.h"

#include "base/clock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#define RECORD_MAX 16384u
/* What TLS makes of a record: header, type, tag and, by the standard, at most 256 bytes more. */
#define RECORD_ROOM (RECORD_MAX + 512u)
#define OUT_MAX (16u * RECORD_ROOM)
/* The header of the next record is read together with the body of this one: one system call a
 * record, and nothing is copied twice. */
#define AHEAD_MAX 5u
#define FINISH_MS 1000

struct lane {
	int fd;
	gnutls_session_t session;
	struct tls_check check;
	char peer[FS_NAME_MAX + 1], address[128], name[256], cipher[64];
	int64_t deadline_ms; /* until the hello is through, then 0 */
	atomic_uint_fast64_t bytes_in, bytes_out;

	/* The receiving thread's. */
	uint8_t ahead[AHEAD_MAX];
	size_t ahead_at, ahead_len;
	uint64_t due;
	int in_errno;
	bool in_ended; /* the other side has closed, perhaps in the middle of a record */

	/* The sending threads', under the mutex. */
	pthread_mutex_t send_mutex;
	uint64_t last_number;
	bool more;    /* another record of the same frame follows */
	uint8_t *out; /* records that wait for it, OUT_MAX bytes */
	size_t out_len;
	int out_errno;
	int64_t sent_ms;
};

/* Waits for the socket while the lane has a deadline. */
static int wait_for(struct lane *lane, short events)
{
	struct pollfd pollfd = {.fd = lane->fd, .events = events};
	int n;

	if (!lane->deadline_ms)
		return 0;
	do
		n = poll(&pollfd, 1, clock_left_ms(lane->deadline_ms));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		errno = ETIMEDOUT;
	return n > 0 ? 0 : -1;
}

/* Sends all of it; -1 with errno. */
static int send_all(struct lane *lane, const uint8_t *at, size_t left)
{
	while (left) {
		ssize_t n = -1;

		if (wait_for(lane, POLLOUT) == 0)
			n = send(lane->fd, at, left, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			lane->out_errno = errno = errno == EAGAIN ? ETIMEDOUT : errno;
			return -1;
		}
		atomic_fetch_add_explicit(&lane->bytes_out, (uint64_t)n, memory_order_relaxed);
		at += n;
		left -= (size_t)n;
	}
	return 0;
}

/* Collects the records of one frame and sends them at once: copying them costs a fifth of what a
 * system call and a TCP segment for each would. */
static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
	struct lane *lane = ptr;
	size_t collected = lane->out_len;

	if (!lane->more && !collected)
		return send_all(lane, data, len) < 0 ? -1 : (ssize_t)len;
	if (collected + len > OUT_MAX)
		abort();
	memcpy(lane->out + collected, data, len);
	lane->out_len += len;
	if (lane->more && lane->out_len + RECORD_ROOM <= OUT_MAX)
		return (ssize_t)len;
	lane->out_len = 0;
	return send_all(lane, lane->out, collected + len) < 0 ? -1 : (ssize_t)len;
}

static size_t take_ahead(struct lane *lane, void *data, size_t len)
{
	size_t have = lane->ahead_len - lane->ahead_at;
	size_t n = have < len ? have : len;

	memcpy(data, lane->ahead + lane->ahead_at, n);
	lane->ahead_at += n;
	return n;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t len)
{
	struct lane *lane = ptr;
	struct iovec parts[2] = {{data, len}, {lane->ahead, AHEAD_MAX}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
	ssize_t n = -1;

	if (lane->ahead_at < lane->ahead_len)
		return (ssize_t)take_ahead(lane, data, len);
	if (wait_for(lane, POLLIN) == 0)
		n = recvmsg(lane->fd, &message, 0);
	if (n < 0 && errno == EAGAIN)
		errno = ETIMEDOUT;
	if (n < 0 && errno != EINTR)
		lane->in_errno = errno;
	lane->in_ended = n == 0;
	if (n <= 0)
		return n;
	atomic_fetch_add_explicit(&lane->bytes_in, (uint64_t)n, memory_order_relaxed);
	lane->ahead_at = 0;
	lane->ahead_len = (size_t)n > len ? (size_t)n - len : 0;
	return (size_t)n > len ? (ssize_t)len : n;
}

/* Everything that can be waited for is waited for in push and pull, with their own limits. */
static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
	(void)ptr;
	(void)ms;
	return 1;
}

static int broken(struct lane *lane, int errnum, struct error **err)
{
	if (errnum == ETIMEDOUT)
		error_set(err, ERROR_TIMEOUT, 0, "the other side has been silent for too long");
	else
		error_set(err, ERROR_UNREACHABLE, errnum, "the connection broke");
	return error_prefix(err, "%s", lane->name);
}

static int alert_error(struct lane *lane, struct error **err)
{
	gnutls_alert_description_t alert = gnutls_alert_get(lane->session);
	const char *name = gnutls_alert_get_name(alert);

	switch (alert) {
	case GNUTLS_A_BAD_CERTIFICATE:
	case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
	case GNUTLS_A_CERTIFICATE_REVOKED:
	case GNUTLS_A_CERTIFICATE_EXPIRED:
	case GNUTLS_A_CERTIFICATE_UNKNOWN:
	case GNUTLS_A_CERTIFICATE_REQUIRED:
	case GNUTLS_A_UNKNOWN_CA:
	case GNUTLS_A_ACCESS_DENIED:
		error_set(err, ERROR_CERTIFICATE, 0,
			"the other side refused this node's certificate (%s)", name);
		break;
	default:
		error_set(err, ERROR_REFUSED, 0, "the other side ended TLS (%s)",
			name ? name : "unknown alert");
	}
	return error_prefix(err, "%s", lane->name);
}

static int tls_failed(struct lane *lane, int code, int errnum, struct error **err)
{
	switch (code) {
	case GNUTLS_E_PULL_ERROR:
	case GNUTLS_E_PUSH_ERROR:
		return broken(lane, errnum, err);
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return alert_error(lane, err);
	case 0:
	case GNUTLS_E_PREMATURE_TERMINATION:
		error_set(err, ERROR_UNREACHABLE, 0, "the other side closed the connection");
		break;
	case GNUTLS_E_CERTIFICATE_ERROR:
		error_move(err, lane->check.err);
		lane->check.err = NULL;
		break;
	case GNUTLS_E_CERTIFICATE_REQUIRED:
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
		error_set(err, ERROR_CERTIFICATE, 0, "it showed no certificate");
		break;
	default:
		error_set(err, ERROR_REFUSED, 0, "it does not speak TLS 1.3 as lanes do: %s",
			gnutls_strerror(code));
	}
	return error_prefix(err, "%s", lane->name);
}

/* Bytes that are still on their way to us would make close() reset the connection, and the last
 * thing that we said would be lost with it: waits until the other side has closed. */
static void linger(struct lane *lane)
{
	int64_t deadline_ms = clock_ms() + FINISH_MS;
	struct pollfd pollfd = {.fd = lane->fd, .events = POLLIN};
	char drop[4096];
	ssize_t n = 1;

	shutdown(lane->fd, SHUT_WR);
	while (n > 0 && clock_ms() < deadline_ms &&
		poll(&pollfd, 1, clock_left_ms(deadline_ms)) > 0)
		n = recv(lane->fd, drop, sizeof(drop), MSG_DONTWAIT);
}

static int handshake(struct lane *lane, struct error **err)
{
	int code;

	do
		code = gnutls_handshake(lane->session);
	while (code < 0 && !gnutls_error_is_fatal(code));
	if (code < 0 && lane->in_ended)
		return tls_failed(lane, 0, 0, err);
	if (code < 0) {
		tls_failed(lane, code, lane->in_errno ? lane->in_errno : lane->out_errno, err);
		if (code != GNUTLS_E_PULL_ERROR && code != GNUTLS_E_PUSH_ERROR) {
			gnutls_alert_send_appropriate(lane->session, code);
			linger(lane);
		}
		return -1;
	}
	snprintf(lane->cipher, sizeof(lane->cipher), "%s",
		gnutls_cipher_get_name(gnutls_cipher_get(lane->session)));
	return 0;
}

static void set_timeout(struct lane *lane, int option, int ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	setsockopt(lane->fd, SOL_SOCKET, option, &tv, sizeof(tv));
}

static void set_options(struct lane *lane)
{
	int on = 1;

	setsockopt(lane->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
#ifdef TCP_NOTSENT_LOWAT
	int unsent = LANE_UNSENT_MAX;
	setsockopt(lane->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
#endif
	set_timeout(lane, SO_RCVTIMEO, LANE_SETUP_MS);
	set_timeout(lane, SO_SNDTIMEO, LANE_SETUP_MS);
}

struct lane *lane_open(int fd, const char *address, enum tls_side side,
	const struct tls_credentials *credentials, const struct tls_peer *peer, struct error **err)
{
	struct lane *lane = calloc(1, sizeof(*lane));

	if (!lane || !(lane->out = malloc(OUT_MAX)))
		abort();
	lane->fd = fd;
	lane->due = 1;
	lane->deadline_ms = clock_ms() + LANE_SETUP_MS;
	lane->sent_ms = clock_ms();
	lane->check = (struct tls_check){.side = side, .peer = peer};
	pthread_mutex_init(&lane->send_mutex, NULL);
	snprintf(lane->peer, sizeof(lane->peer), "%s", peer->name);
	snprintf(lane->address, sizeof(lane->address), "%s", address);
	snprintf(lane->name, sizeof(lane->name), "lane %s %s (%s)",
		side == TLS_CONNECTS ? "to" : "from", peer->name, address);
	set_options(lane);
	if (tls_session_open(credentials, side, &lane->session, err) < 0) {
		lane_close(lane);
		return NULL;
	}
	gnutls_transport_set_ptr(lane->session, lane);
	gnutls_transport_set_push_function(lane->session, push);
	gnutls_transport_set_pull_function(lane->session, pull);
	gnutls_transport_set_pull_timeout_function(lane->session, pull_timeout);
	tls_session_verify_with(lane->session, &lane->check);
	if (handshake(lane, err) < 0) {
		lane_close(lane);
		return NULL;
	}
	return lane;
}

void lane_close(struct lane *lane)
{
	if (!lane)
		return;
	if (lane->session)
		gnutls_deinit(lane->session);
	error_free(&lane->check.err);
	close_fd(&lane->fd);
	pthread_mutex_destroy(&lane->send_mutex);
	free(lane->out);
	free(lane);
}

const char *lane_name(const struct lane *lane)
{
	return lane->name;
}

const char *lane_peer(const struct lane *lane)
{
	return lane->peer;
}

const char *lane_address(const struct lane *lane)
{
	return lane->address;
}

const char *lane_cipher(const struct lane *lane)
{
	return lane->cipher;
}

uint64_t lane_wire_bytes(const struct lane *lane)
{
	return atomic_load_explicit(&lane->bytes_in, memory_order_relaxed) +
	       atomic_load_explicit(&lane->bytes_out, memory_order_relaxed);
}

int64_t lane_idle_ms(struct lane *lane)
{
	int64_t idle_ms = 0;

	if (pthread_mutex_trylock(&lane->send_mutex) == 0) {
		idle_ms = clock_ms() - lane->sent_ms;
		pthread_mutex_unlock(&lane->send_mutex);
	}
	return idle_ms;
}

/* One record after the other. */
static int send_records(struct lane *lane, const uint8_t *at, size_t left, struct error **err)
{
	while (left) {
		size_t len = left < RECORD_MAX ? left : RECORD_MAX;
		ssize_t n;

		lane->more = len < left;
		n = gnutls_record_send(lane->session, at, len);
		while (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			n = gnutls_record_send(lane->session, NULL, 0);
		if (n <= 0)
			return tls_failed(lane, (int)n, lane->out_errno, err);
		at += n;
		left -= (size_t)n;
	}
	lane->sent_ms = clock_ms();
	return 0;
}

/* `frame` is the header's place with the payload after it. */
static int send_frame(
	struct lane *lane, uint8_t type, uint8_t *frame, size_t len, struct error **err)
{
	struct frame_header header = {.length = (uint32_t)len, .type = type};
	int result;

	pthread_mutex_lock(&lane->send_mutex);
	if (frame_type_numbered(type))
		header.sequence = ++lane->last_number;
	frame_header_encode(&header, frame);
	result = send_records(lane, frame, FRAME_HEADER + len, err);
	pthread_mutex_unlock(&lane->send_mutex);
	return result;
}

int lane_send(struct lane *lane, enum frame_type type, const void *payload, size_t len,
	struct error **err)
{
	uint8_t frame[FRAME_HEADER + FRAME_ERROR_MAX];

	if (len > FRAME_ERROR_MAX)
		abort();
	memcpy(frame + FRAME_HEADER, payload, len);
	return send_frame(lane, (uint8_t)type, frame, len, err);
}

int lane_send_chunk(struct lane *lane, struct chunk *chunk, struct error **err)
{
	return send_frame(lane, chunk->type, chunk->header, chunk->len, err);
}

static int receive_bytes(struct lane *lane, void *data, size_t len, struct error **err)
{
	uint8_t *at = data;

	while (len) {
		ssize_t n = gnutls_record_recv(lane->session, at, len);

		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			continue;
		if (n <= 0)
			return tls_failed(lane, lane->in_ended ? 0 : (int)n, lane->in_errno, err);
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int receive_header(
	struct lane *lane, const struct chunk *chunk, struct frame_header *h, struct error **err)
{
	if (receive_bytes(lane, chunk->header, FRAME_HEADER, err) < 0)
		return -1;
	if (frame_header_decode(chunk->header, h, err) < 0)
		return error_prefix(err, "%s", lane->name);
	if (h->length > chunk->cap)
		return error_set(err, ERROR_REQUEST, 0,
			"%s: a frame of %u bytes came, %zu were agreed", lane->name, h->length,
			chunk->cap);
	if (h->sequence && h->sequence != lane->due)
		return error_set(err, ERROR_REQUEST, 0, "%s: frame %llu came where %llu was due",
			lane->name, (unsigned long long)h->sequence, (unsigned long long)lane->due);
	lane->due += h->sequence != 0;
	return 0;
}

int lane_receive(struct lane *lane, struct chunk *chunk, struct error **err)
{
	struct frame_header h;

	if (receive_header(lane, chunk, &h, err) < 0 ||
		receive_bytes(lane, chunk->data, h.length, err) < 0)
		return -1;
	chunk->type = h.type;
	chunk->sequence = h.sequence;
	chunk->len = h.length;
	if (h.type != FRAME_ERROR)
		return 0;
	frame_error_decode(chunk->data, chunk->len, lane->peer, err);
	return error_prefix(err, "%s", lane->name);
}

static int send_hello(struct lane *lane, const struct frame_hello *hello, struct error **err)
{
	uint8_t payload[FRAME_HELLO_MAX];
	size_t len = frame_hello_encode(hello, payload);

	return lane_send(lane, FRAME_HELLO, payload, len, err);
}

static int hello_fits(
	const struct frame_hello *mine, const struct frame_hello *theirs, struct error **err)
{
	if (theirs->role == mine->role)
		return error_set(err, ERROR_REFUSED, 0, "both sides want to %s",
			mine->role == FRAME_ROLE_SEND ? "send" : "receive");
	if (theirs->newest < mine->oldest || theirs->oldest > mine->newest)
		return error_set(err, ERROR_REFUSED, 0,
			"it speaks versions %u to %u of the wire protocol, this side %u to %u: "
			"bring both nodes to the same version of drover",
			theirs->oldest, theirs->newest, mine->oldest, mine->newest);
	if (strcmp(theirs->migration, mine->migration) != 0)
		return error_set(err, ERROR_REFUSED, 0, "it is there for another migration");
	if (theirs->next != mine->next)
		return error_set(err, ERROR_REFUSED, 0, "it wants to go on where nothing began");
	return 0;
}

static int receive_hello(struct lane *lane, const struct frame_hello *mine,
	struct frame_hello *theirs, struct error **err)
{
	uint8_t memory[FRAME_HEADER + FRAME_ERROR_MAX];
	struct chunk chunk = {
		.header = memory, .data = memory + FRAME_HEADER, .cap = FRAME_ERROR_MAX};

	if (lane_receive(lane, &chunk, err) < 0)
		return -1;
	if (chunk.type != FRAME_HELLO)
		error_set(err, ERROR_REQUEST, 0, "a frame of type %s came before the hello",
			frame_type_name(chunk.type));
	else if (frame_hello_decode(chunk.data, chunk.len, theirs, err) == 0 &&
		 hello_fits(mine, theirs, err) == 0)
		return 0;
	return error_prefix(err, "%s", lane->name);
}

int lane_hello(struct lane *lane, const struct frame_hello *mine, struct frame_hello *theirs,
	struct error **err)
{
	bool first = lane->check.side == TLS_CONNECTS;

	if ((first && send_hello(lane, mine, err) < 0) ||
		receive_hello(lane, mine, theirs, err) < 0 ||
		(!first && send_hello(lane, mine, err) < 0))
		return -1;
	lane->deadline_ms = 0;
	set_timeout(lane, SO_RCVTIMEO, LANE_SILENCE_MS);
	set_timeout(lane, SO_SNDTIMEO, 0);
	return 0;
}

void lane_give_up(struct lane *lane, const struct error *why)
{
	uint8_t frame[FRAME_HEADER + FRAME_ERROR_MAX];
	size_t len = frame_error_encode(why, frame + FRAME_HEADER);
	struct frame_header header = {.length = (uint32_t)len, .type = FRAME_ERROR};
	struct timespec until;

	frame_header_encode(&header, frame);
	set_timeout(lane, SO_SNDTIMEO, FINISH_MS / 2);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	/* In the middle of another frame that nobody takes, there is nothing to say. */
	if (pthread_mutex_timedlock(&lane->send_mutex, &until) == 0) {
		send_records(lane, frame, FRAME_HEADER + len, NULL);
		pthread_mutex_unlock(&lane->send_mutex);
	}
	linger(lane);
}

void lane_finish(struct lane *lane)
{
	gnutls_bye(lane->session, GNUTLS_SHUT_WR);
	linger(lane);
}
