/*
 * Lanes: one TCP connection with TLS over it (tls.h) that carries frames (frame.h) both ways.
 *
 * One thread at a time may receive; any number may send: a frame is whole on the wire. Every error
 * begins with the lane's name, "lane to node2 (10.78.0.2:7801): ", and a lane that has failed stays
 * failed.
 *
 * What the kernel keeps unsent is bounded (LANE_UNSENT_MAX), because a guest that is being switched
 * over stands still until all of it has gone; small frames leave at once.
 */
#ifndef DROVER_WIRE_LANE_H
#define DROVER_WIRE_LANE_H

#include "wire/chunk.h"
#include "wire/frame.h"
#include "wire/tls.h"

#include <stdatomic.h>
#include <stdint.h>

/* TLS handshake and hello together, by the clock of the side that waits. */
#define LANE_SETUP_MS 10000
/* A side that has sent nothing for the first, says that it lives; a side that has heard nothing for
 * the second, gives up. */
#define LANE_ALIVE_MS 1000
#define LANE_SILENCE_MS 6000
/* At 1 Gbit/s 1 ms. */
#define LANE_UNSENT_MAX (128 << 10)

struct lane;

/*
 * Takes over a connected TCP socket, does the TLS handshake and checks that the other side is
 * `peer`, all within LANE_SETUP_MS. `address` is the other side's, for messages. Credentials and
 * peer stay the caller's and outlive the lane. On error the socket is closed.
 *
 * ERROR_CERTIFICATE for a certificate that is refused, here or there; ERROR_REFUSED when the other
 * side speaks no TLS of ours; ERROR_TIMEOUT; ERROR_UNREACHABLE when the connection breaks.
 */
struct lane *lane_open(int fd, const char *address, enum tls_side side,
	const struct tls_credentials *credentials, const struct tls_peer *peer, struct error **err);
void lane_close(struct lane *lane);

const char *lane_name(const struct lane *lane);
const char *lane_peer(const struct lane *lane);
const char *lane_address(const struct lane *lane);
const char *lane_cipher(const struct lane *lane);

/*
 * The side that connects says hello first; the other one answers, when it has checked it. `theirs`
 * gets what the other side said, checked: its role, a version that both speak, the migration, and
 * what `fits` demands (NULL: nothing), whose errors get the lane's name. Within what is left of
 * LANE_SETUP_MS. From then on the lane has no deadline but LANE_SILENCE_MS.
 */
int lane_hello(struct lane *lane, const struct frame_hello *mine, struct frame_hello *theirs,
	int (*fits)(void *arg, const struct frame_hello *theirs, struct error **err), void *arg,
	struct error **err);

/* Sends one frame; waits while the other side takes nothing. The first is for frames without a
 * number, of up to FRAME_ERROR_MAX bytes of payload. */
int lane_send(struct lane *lane, enum frame_type type, const void *payload, size_t len,
	struct error **err);
int lane_send_frame(struct lane *lane, enum frame_type type, uint64_t sequence, const void *payload,
	size_t len, struct error **err);

/* From the next frame on another key is used. It is done in time by itself: this is for tests. */
int lane_update_key(struct lane *lane, struct error **err);

/* Receives the next frame into `chunk` (type, sequence, data). A frame of type ERROR becomes the
 * error "lane to X: X says: …"; a connection that the other side has closed is ERROR_UNREACHABLE.
 */
int lane_receive(struct lane *lane, struct chunk *chunk, struct error **err);

/* How long nothing has been sent. 0 while a frame is being sent. */
int64_t lane_idle_ms(struct lane *lane);

/* Tells the other side why this one gives up, and waits until it has gone, both together for at
 * most a second. The receiving thread may be in lane_receive. */
void lane_give_up(struct lane *lane, const struct error *why);
/* This side has said everything. The receiving thread finds out when the other one has, too. */
void lane_bye(struct lane *lane);

/* Ends the connection under the threads that use it, which then fail. */
void lane_break(struct lane *lane);

/* TCP's round-trip time, in microseconds; 0: it cannot be told. */
int64_t lane_rtt_us(const struct lane *lane);
/* For how long the link was in use (host_tcp_busy_us). */
int64_t lane_busy_us(const struct lane *lane);
/* Bytes on the TCP connection so far, both directions, with all that TLS adds. */
uint64_t lane_wire_bytes(const struct lane *lane);

#endif
