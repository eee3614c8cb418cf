#include "wire/channel.h"

#include "base/clock.h"
#include "base/fs.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What TLS makes of a record: header, type, tag and, by the standard, at most 256 bytes more. */
#define RECORD_ROOM (CHANNEL_RECORD + 512u)
/* So many records are sent at once, and there is room for a key update besides. */
#define OUT_RECORDS 8u
#define OUT_MAX ((OUT_RECORDS + 1) * RECORD_ROOM)
/* Read at once when it is there: with a fourth of it loopback costs a third more at this end. */
#define IN_MAX (256u << 10)

/* Waits for the socket while there is a deadline. */
static int wait_for(const struct channel *c, short events)
{
	struct pollfd pollfd = {.fd = c->fd, .events = events};
	int n;

	if (!c->deadline_ms)
		return 0;
	do
		n = poll(&pollfd, 1, clock_left_ms(c->deadline_ms));
	while (n < 0 && errno == EINTR);
	if (n == 0)
		errno = ETIMEDOUT;
	return n > 0 ? 0 : -1;
}

/* Sends what the session has put into the buffer. */
static int flush(struct channel *c)
{
	size_t at = 0;

	while (at < c->out_len) {
		ssize_t n = -1;

		if (wait_for(c, POLLOUT) == 0)
			n = send(c->fd, c->out + at, c->out_len - at, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			c->out_errno = errno == EAGAIN ? ETIMEDOUT : errno;
			return GNUTLS_E_PUSH_ERROR;
		}
		atomic_fetch_add_explicit(&c->bytes_out, (uint64_t)n, memory_order_relaxed);
		at += (size_t)n;
	}
	c->out_len = 0;
	return 0;
}

/* Receives into the buffer, which is empty. */
static int fill(struct channel *c)
{
	ssize_t n;

	do {
		n = wait_for(c, POLLIN) == 0 ? recv(c->fd, c->in, IN_MAX, 0) : -1;
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		c->in_errno = errno == EAGAIN ? ETIMEDOUT : errno;
		return GNUTLS_E_PULL_ERROR;
	}
	c->in_ended = n == 0;
	c->in_at = 0;
	c->in_len = (size_t)n;
	atomic_fetch_add_explicit(&c->bytes_in, (uint64_t)n, memory_order_relaxed);
	return c->in_ended ? GNUTLS_E_PREMATURE_TERMINATION : 0;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
	struct channel *c = ptr;

	if (len > OUT_MAX - c->out_len) {
		errno = ENOBUFS;
		return -1;
	}
	memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
	return (ssize_t)len;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t len)
{
	struct channel *c = ptr;
	size_t n = c->in_len - c->in_at < len ? c->in_len - c->in_at : len;

	if (!n) {
		errno = EAGAIN;
		return -1;
	}
	memcpy(data, c->in + c->in_at, n);
	c->in_at += n;
	return (ssize_t)n;
}

/* Nothing is waited for inside the session. */
static int pull_timeout(gnutls_transport_ptr_t ptr, unsigned ms)
{
	(void)ptr;
	(void)ms;
	return 1;
}

void channel_open(struct channel *c, int fd, gnutls_session_t session)
{
	*c = (struct channel){.fd = fd, .session = session};
	pthread_mutex_init(&c->session_mutex, NULL);
	c->in = malloc(IN_MAX);
	c->out = malloc(OUT_MAX);
	c->first = malloc(CHANNEL_RECORD);
	if (!c->in || !c->out || !c->first)
		abort();
	gnutls_transport_set_ptr(session, c);
	gnutls_transport_set_push_function(session, push);
	gnutls_transport_set_pull_function(session, pull);
	gnutls_transport_set_pull_timeout_function(session, pull_timeout);
}

void channel_close(struct channel *c)
{
	gnutls_deinit(c->session);
	close_fd(&c->fd);
	pthread_mutex_destroy(&c->session_mutex);
	free(c->in);
	free(c->out);
	free(c->first);
}

static bool wants_more(int code)
{
	return code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED;
}

int channel_handshake(struct channel *c)
{
	int code, io = 0;

	do {
		code = gnutls_handshake(c->session);
		if (code < 0 && gnutls_error_is_fatal(code))
			return code;
		io = flush(c);
		if (!io && wants_more(code) && c->in_at == c->in_len)
			io = fill(c);
	} while (code < 0 && !io);
	return io;
}

/* Inside the session. */
static int encrypt_record(struct channel *c, const uint8_t *data, size_t len)
{
	ssize_t n = gnutls_record_send(c->session, data, len);

	if (n < 0)
		return (int)n;
	if ((size_t)n != len)
		return GNUTLS_E_INTERNAL_ERROR;
	c->key_bytes += len;
	return 0;
}

/* Inside the session: puts up to OUT_RECORDS records into the buffer, the first of them `first_len`
 * bytes of c->first if there are any. */
static int encrypt(struct channel *c, size_t *first_len, const uint8_t **at, size_t *left)
{
	unsigned records = 0;
	int code = 0;

	if (*first_len) {
		code = encrypt_record(c, c->first, *first_len);
		*first_len = 0;
		records++;
	}
	for (; !code && records < OUT_RECORDS && *left; records++) {
		size_t len = *left < CHANNEL_RECORD ? *left : CHANNEL_RECORD;

		code = encrypt_record(c, *at, len);
		*at += len;
		*left -= len;
	}
	return code;
}

int channel_send(struct channel *c, const void *head, size_t head_len, const void *data, size_t len)
{
	const uint8_t *at = data;
	size_t with_head = CHANNEL_RECORD - head_len, first_len;
	int code = 0;

	if (with_head > len)
		with_head = len;
	memcpy(c->first, head, head_len);
	if (with_head)
		memcpy(c->first + head_len, at, with_head);
	first_len = head_len + with_head;
	at += with_head;
	len -= with_head;
	while ((first_len || len) && !code) {
		pthread_mutex_lock(&c->session_mutex);
		code = encrypt(c, &first_len, &at, &len);
		pthread_mutex_unlock(&c->session_mutex);
		if (!code)
			code = flush(c);
	}
	if (!code && c->key_bytes >= CHANNEL_KEY_BYTES)
		code = channel_update_key(c);
	return code;
}

int channel_update_key(struct channel *c)
{
	int code;

	pthread_mutex_lock(&c->session_mutex);
	code = gnutls_session_key_update(c->session, 0);
	pthread_mutex_unlock(&c->session_mutex);
	c->key_bytes = 0;
	return code < 0 ? code : flush(c);
}

int channel_receive(struct channel *c, void *data, size_t len)
{
	uint8_t *at = data;

	while (len) {
		ssize_t n;
		int code = 0;

		pthread_mutex_lock(&c->session_mutex);
		n = gnutls_record_recv(c->session, at, len);
		pthread_mutex_unlock(&c->session_mutex);
		if (n == 0)
			return GNUTLS_E_PREMATURE_TERMINATION;
		if (n < 0 && !wants_more((int)n))
			return (int)n;
		if (n < 0 && c->in_at == c->in_len)
			code = fill(c);
		if (code)
			return code;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

int channel_alert(struct channel *c, int code)
{
	pthread_mutex_lock(&c->session_mutex);
	if (code)
		gnutls_alert_send_appropriate(c->session, code);
	else
		gnutls_bye(c->session, GNUTLS_SHUT_WR);
	pthread_mutex_unlock(&c->session_mutex);
	return flush(c);
}
