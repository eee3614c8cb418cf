#include "wire/lane.h"

#include "base/clock.h"
#include "host/host.h"
#include "wire/channel.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define FINISH_MS 1000

struct lane {
	struct channel channel;
	struct tls_check check;
	char peer[FS_NAME_MAX + 1], address[128], name[256], cipher[64];
	/* The sending threads', under the mutex. */
	pthread_mutex_t send_mutex;
	int64_t sent_ms;
};

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
	gnutls_alert_description_t alert = gnutls_alert_get(lane->channel.session);
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

static int channel_failed(struct lane *lane, int code, struct error **err)
{
	switch (code) {
	case GNUTLS_E_PULL_ERROR:
		return broken(lane, lane->channel.in_errno, err);
	case GNUTLS_E_PUSH_ERROR:
		return broken(lane, lane->channel.out_errno, err);
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return alert_error(lane, err);
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
	struct pollfd pollfd = {.fd = lane->channel.fd, .events = POLLIN};
	char drop[4096];
	ssize_t n = 1;

	shutdown(lane->channel.fd, SHUT_WR);
	while (n > 0 && clock_ms() < deadline_ms &&
		poll(&pollfd, 1, clock_left_ms(deadline_ms)) > 0)
		n = recv(lane->channel.fd, drop, sizeof(drop), MSG_DONTWAIT);
}

static int handshake(struct lane *lane, struct error **err)
{
	int code = channel_handshake(&lane->channel);
	gnutls_session_t session = lane->channel.session;

	if (code < 0) {
		channel_failed(lane, code, err);
		channel_alert(&lane->channel, code);
		linger(lane);
		return -1;
	}
	snprintf(lane->cipher, sizeof(lane->cipher), "%s",
		gnutls_cipher_get_name(gnutls_cipher_get(session)));
	return 0;
}

static void set_timeout(struct lane *lane, int option, int ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	setsockopt(lane->channel.fd, SOL_SOCKET, option, &tv, sizeof(tv));
}

static void set_options(struct lane *lane)
{
	int on = 1;

	setsockopt(lane->channel.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
#ifdef TCP_NOTSENT_LOWAT
	int unsent = LANE_UNSENT_MAX;
	setsockopt(lane->channel.fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
#endif
	set_timeout(lane, SO_RCVTIMEO, LANE_SETUP_MS);
	set_timeout(lane, SO_SNDTIMEO, LANE_SETUP_MS);
}

struct lane *lane_open(int fd, const char *address, enum tls_side side,
	const struct tls_credentials *credentials, const struct tls_peer *peer, struct error **err)
{
	struct lane *lane = calloc(1, sizeof(*lane));
	gnutls_session_t session;

	if (!lane)
		abort();
	if (tls_session_open(credentials, side, &session, err) < 0) {
		close_fd(&fd);
		free(lane);
		return NULL;
	}
	channel_open(&lane->channel, fd, session);
	lane->channel.deadline_ms = clock_ms() + LANE_SETUP_MS;
	lane->sent_ms = clock_ms();
	lane->check = (struct tls_check){.side = side, .peer = peer};
	tls_session_verify_with(session, &lane->check);
	pthread_mutex_init(&lane->send_mutex, NULL);
	snprintf(lane->peer, sizeof(lane->peer), "%s", peer->name);
	snprintf(lane->address, sizeof(lane->address), "%s", address);
	snprintf(lane->name, sizeof(lane->name), "lane %s %s (%s)",
		side == TLS_CONNECTS ? "to" : "from", peer->name, address);
	set_options(lane);
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
	channel_close(&lane->channel);
	error_free(&lane->check.err);
	pthread_mutex_destroy(&lane->send_mutex);
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
	return atomic_load_explicit(&lane->channel.bytes_in, memory_order_relaxed) +
	       atomic_load_explicit(&lane->channel.bytes_out, memory_order_relaxed);
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

/* With the mutex held. */
static int send_locked(struct lane *lane, const struct frame_header *header, const void *payload,
	struct error **err)
{
	uint8_t head[FRAME_HEADER];
	int code;

	frame_header_encode(header, head);
	code = channel_send(&lane->channel, head, sizeof(head), payload, header->length);
	lane->sent_ms = clock_ms();
	return code < 0 ? channel_failed(lane, code, err) : 0;
}

int lane_send_frame(struct lane *lane, enum frame_type type, uint64_t sequence, const void *payload,
	size_t len, struct error **err)
{
	struct frame_header header = {
		.length = (uint32_t)len, .type = (uint8_t)type, .sequence = sequence};
	int result;

	pthread_mutex_lock(&lane->send_mutex);
	result = send_locked(lane, &header, payload, err);
	pthread_mutex_unlock(&lane->send_mutex);
	return result;
}

int lane_send(struct lane *lane, enum frame_type type, const void *payload, size_t len,
	struct error **err)
{
	return lane_send_frame(lane, type, 0, payload, len, err);
}

int lane_update_key(struct lane *lane, struct error **err)
{
	int code;

	pthread_mutex_lock(&lane->send_mutex);
	code = channel_update_key(&lane->channel);
	pthread_mutex_unlock(&lane->send_mutex);
	return code < 0 ? channel_failed(lane, code, err) : 0;
}

static int receive_bytes(struct lane *lane, void *data, size_t len, struct error **err)
{
	int code = channel_receive(&lane->channel, data, len);

	return code < 0 ? channel_failed(lane, code, err) : 0;
}

static int receive_header(
	struct lane *lane, const struct chunk *chunk, struct frame_header *h, struct error **err)
{
	uint8_t head[FRAME_HEADER];

	if (receive_bytes(lane, head, sizeof(head), err) < 0)
		return -1;
	if (frame_header_decode(head, h, err) < 0)
		return error_prefix(err, "%s", lane->name);
	if (h->length > chunk->cap)
		return error_set(err, ERROR_REQUEST, 0,
			"%s: a frame of %u bytes came, %zu were agreed", lane->name, h->length,
			chunk->cap);
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
	if (theirs->lane != mine->lane && mine->role == FRAME_ROLE_SEND)
		return error_set(err, ERROR_REFUSED, 0, "it takes lane %u for lane %u", mine->lane,
			theirs->lane);
	return 0;
}

static int receive_hello(struct lane *lane, const struct frame_hello *mine,
	struct frame_hello *theirs, struct error **err)
{
	uint8_t memory[FRAME_ERROR_MAX];
	struct chunk chunk = {.data = memory, .cap = sizeof(memory)};

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
	int (*fits)(void *arg, const struct frame_hello *theirs, struct error **err), void *arg,
	struct error **err)
{
	bool first = lane->check.side == TLS_CONNECTS;
	struct frame_hello answer = *mine;

	if ((first && send_hello(lane, mine, err) < 0) ||
		receive_hello(lane, mine, theirs, err) < 0)
		return -1;
	if (fits && fits(arg, theirs, err) < 0)
		return error_prefix(err, "%s", lane->name);
	answer.lane = theirs->lane;
	answer.lanes = theirs->lanes;
	if (!first && send_hello(lane, &answer, err) < 0)
		return -1;
	lane->channel.deadline_ms = 0;
	set_timeout(lane, SO_RCVTIMEO, LANE_SILENCE_MS);
	set_timeout(lane, SO_SNDTIMEO, 0);
	return 0;
}

/* In the middle of another frame that nobody takes, there is nothing to say. */
static bool lock_last(struct lane *lane)
{
	struct timespec until;

	set_timeout(lane, SO_SNDTIMEO, FINISH_MS / 2);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FINISH_MS / 1000;
	return pthread_mutex_timedlock(&lane->send_mutex, &until) == 0;
}

void lane_give_up(struct lane *lane, const struct error *why)
{
	uint8_t payload[FRAME_ERROR_MAX];
	struct frame_header header = {
		.length = (uint32_t)frame_error_encode(why, payload), .type = FRAME_ERROR};

	if (lock_last(lane)) {
		send_locked(lane, &header, payload, NULL);
		pthread_mutex_unlock(&lane->send_mutex);
	}
	linger(lane);
}

void lane_bye(struct lane *lane)
{
	if (lock_last(lane)) {
		channel_alert(&lane->channel, 0);
		pthread_mutex_unlock(&lane->send_mutex);
	}
	shutdown(lane->channel.fd, SHUT_WR);
}

void lane_break(struct lane *lane)
{
	shutdown(lane->channel.fd, SHUT_RDWR);
}

int64_t lane_rtt_us(const struct lane *lane)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(lane->channel.fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return 0;
	return info.tcpi_rtt;
}

int64_t lane_busy_us(const struct lane *lane)
{
	return host_tcp_busy_us(lane->channel.fd);
}
