/*
 * Channels: a GnuTLS session on a TCP socket, for one thread that sends and one that receives at
 * the same time.
 *
 * GnuTLS allows that, until a key is updated: then the side that sends replaces state which the
 * side that receives is using, and the next record cannot be decrypted any more (seen with 3.7.9
 * after 2^24 records, 275 GB, when it updates by itself). So a channel lets only one thread at a
 * time into the session, and none that waits for the network: the session writes into a buffer and
 * reads from a buffer, and the socket is used outside it.
 *
 * The buffer for sending also makes one system call and one TCP segment of many records: with one
 * for each record of 16 KiB, loopback costs twice as much.
 */
#ifndef DROVER_WIRE_CHANNEL_H
#define DROVER_WIRE_CHANNEL_H

#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Plain bytes of one TLS record, at most. */
#define CHANNEL_RECORD 16384u
/* A sending key is used for so many bytes: a fourth of what RFC 8446 allows AES-GCM (2^24.5
 * records, section 5.5). */
#define CHANNEL_KEY_BYTES (4ull << 22 << 14)

struct channel {
	int fd;
	gnutls_session_t session;
	pthread_mutex_t session_mutex;            /* whoever is inside the session */
	int64_t deadline_ms;                      /* of clock_ms, for both directions; 0: none */
	atomic_uint_fast64_t bytes_in, bytes_out; /* of the socket */

	/* The receiving thread's. */
	uint8_t *in;
	size_t in_at, in_len;
	bool in_ended; /* the other side has closed, perhaps in the middle of a record */
	int in_errno;

	/* The sending thread's. */
	uint8_t *out, *first; /* what goes to the socket; plain bytes of a frame's first record */
	size_t out_len;
	int out_errno;
	uint64_t key_bytes; /* sent with this key */
};

/* Both become the channel's, which closes them. */
void channel_open(struct channel *c, int fd, gnutls_session_t session);
void channel_close(struct channel *c);

/* All return 0 or a GnuTLS error: GNUTLS_E_PUSH_ERROR with out_errno, GNUTLS_E_PULL_ERROR with
 * in_errno (ETIMEDOUT for a deadline or the socket's own limits), GNUTLS_E_PREMATURE_TERMINATION
 * when the other side has closed, however it did that. */

/* Both directions; nothing else may be under way. */
int channel_handshake(struct channel *c);
/* Exactly `len` bytes; before them `head_len` bytes of `head`, at most CHANNEL_HEAD_MAX. */
#define CHANNEL_HEAD_MAX 64u
int channel_send(
	struct channel *c, const void *head, size_t head_len, const void *data, size_t len);
int channel_receive(struct channel *c, void *data, size_t len);
/* Changes the key that this side sends with. channel_send does it after CHANNEL_KEY_BYTES; the
 * other side takes at most 8 a second. */
int channel_update_key(struct channel *c);
/* Sends what a handshake that failed with `code` calls for, or says goodbye (0). */
int channel_alert(struct channel *c, int code);

#endif
