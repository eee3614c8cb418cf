/*
 * The sending side. Threads: carry_stream (hypervisor → lane), read_lane (lane → hypervisor: return
 * path, and what the receiver says), and the main thread, which watches.
 */
#include "base/clock.h"
#include "base/fault.h"
#include "wire/codec.h"
#include "wire/endpoint.h"
#include "wire/hash.h"
#include "wire/pace.h"
#include "wire/sides.h"
#include "wire/tcp.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HALF_BYTES (1u << 20)

struct sender {
	const struct options *options;
	struct run *run;
	struct lane *lane;
	struct endpoint input;
	struct chunk_pool *pool, *back_pool;
	const struct wire_codec *codec;
	void *codec_state;
	struct wire_sink sink;
	struct pace pace;
	uint64_t sent; /* bytes of payload */
	struct run_counts counts;
	struct hash *hash;
	int64_t deadline_ms; /* for the hypervisor to connect */
	struct frame_end end;
	atomic_bool ended;         /* END is on its way, and s->end complete */
	atomic_uint_fast64_t back; /* number of the last RETURN frame that was dealt with */
};

static void wait_us(int64_t us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	if (us)
		nanosleep(&ts, NULL);
}

/* The codec's sink. */
static int send_frame(void *arg, struct chunk *chunk, struct error **err)
{
	struct sender *s = arg;
	bool half = s->sent < HALF_BYTES && s->sent + chunk->len >= HALF_BYTES;
	int result;

	wait_us(pace_take(&s->pace, FRAME_HEADER + chunk->len, clock_us()));
	result = lane_send_chunk(s->lane, chunk, err);
	s->sent += chunk->len;
	chunk_give_back(s->pool, chunk);
	return result < 0 || (half && fault_point("wire.send.half", err) < 0) ? -1 : 0;
}

static int take_piece(struct sender *s, struct chunk *chunk, struct error **err)
{
	bool drained = chunk->len < chunk->cap;

	hash_update(s->hash, chunk->data, chunk->len);
	s->end.bytes += chunk->len;
	s->counts.stream_bytes = s->end.bytes;
	chunk->type = FRAME_DATA;
	if (s->codec->encode(s->codec_state, chunk, &s->sink, err) < 0)
		return -1;
	return drained ? s->codec->flush(s->codec_state, &s->sink, err) : 0;
}

static int send_end(struct sender *s, struct error **err)
{
	uint8_t payload[FRAME_END_SIZE];

	if (s->codec->flush(s->codec_state, &s->sink, err) < 0)
		return -1;
	s->end.hash = hash_digest(s->hash);
	s->ended = true;
	frame_end_encode(&s->end, payload);
	return lane_send(s->lane, FRAME_END, payload, sizeof(payload), err);
}

static int carry(struct sender *s, struct error **err)
{
	if (endpoint_accept(&s->input, s->deadline_ms, err) < 0)
		return -1;
	for (;;) {
		struct chunk *chunk = chunk_take(s->pool);
		ssize_t n = endpoint_read(&s->input, chunk->data, chunk->cap, err);

		if (n < 0)
			return -1;
		chunk->len = (size_t)n;
		if (n > 0 && take_piece(s, chunk, err) == 0)
			continue;
		if (n == 0 && send_end(s, err) == 0)
			return 0;
		return -1;
	}
}

static void *carry_stream(void *arg)
{
	struct sender *s = arg;
	struct error *err = NULL;

	if (carry(s, &err) == 0)
		return NULL;
	if (err->kind == ERROR_UNREACHABLE)
		run_fail_late(s->run, err);
	else
		run_fail(s->run, err);
	return NULL;
}

static int take_ack(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct frame_ack ack;

	if (frame_ack_decode(chunk->data, chunk->len, &ack, err) < 0)
		return -1;
	if (ack.bytes > s->counts.stream_bytes || ack.bytes < s->counts.acked_bytes)
		return error_set(err, ERROR_REQUEST, 0,
			"it says that %llu bytes have arrived, which cannot be",
			(unsigned long long)ack.bytes);
	s->counts.acked_bytes = ack.bytes;
	return 0;
}

static int take_end_ack(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct frame_end theirs;

	if (frame_end_decode(chunk->data, chunk->len, &theirs, err) < 0)
		return -1;
	if (!s->ended)
		return error_set(err, ERROR_REQUEST, 0,
			"it says that the stream has ended, which it has not");
	if (theirs.bytes != s->end.bytes || theirs.hash != s->end.hash)
		return error_set(err, ERROR_FAILED, 0,
			"the stream arrived changed: %llu bytes there, %llu here",
			(unsigned long long)theirs.bytes, (unsigned long long)s->end.bytes);
	s->counts.acked_bytes = theirs.bytes;
	return 0;
}

/* What the destination's hypervisor wrote back. A source that cannot take it drops it. */
static int take_return(struct sender *s, const struct chunk *chunk, struct error **err)
{
	s->back = chunk->sequence;
	if (!s->input.both_ways)
		return 0;
	return endpoint_write(&s->input, chunk->data, chunk->len, err);
}

static int take_frame(struct sender *s, const struct chunk *chunk, struct error **err)
{
	int result;

	switch (chunk->type) {
	case FRAME_RETURN:
		return take_return(s, chunk, err);
	case FRAME_ACK:
		result = take_ack(s, chunk, err);
		break;
	case FRAME_END_ACK:
		result = take_end_ack(s, chunk, err);
		break;
	default:
		result = error_set(err, ERROR_REQUEST, 0, "a frame of type %s came",
			frame_type_name(chunk->type));
	}
	return result < 0 ? error_prefix(err, "%s", lane_name(s->lane)) : 0;
}

static void *read_lane(void *arg)
{
	struct sender *s = arg;
	struct chunk *chunk = chunk_take(s->back_pool);
	struct error *err = NULL;

	do {
		if (lane_receive(s->lane, chunk, &err) < 0 || take_frame(s, chunk, &err) < 0) {
			run_fail(s->run, err);
			return NULL;
		}
	} while (chunk->type != FRAME_END_ACK);
	run_end(s->run);
	return NULL;
}

static int connect_lane(
	struct sender *s, const struct tls_credentials *credentials, struct error **err)
{
	const struct options *o = s->options;
	char address[TCP_ADDRESS_SIZE];
	int fd = tcp_connect(o->address, s->deadline_ms, address, err);

	if (fd < 0)
		return error_prefix(err, "lane to %s", o->peer.name);
	s->lane = lane_open(fd, address, TLS_CONNECTS, credentials, &o->peer, err);
	return s->lane ? 0 : -1;
}

static int say_hello(struct sender *s, struct error **err)
{
	struct frame_hello theirs, mine = {.role = FRAME_ROLE_SEND,
					   .oldest = FRAME_VERSION_OLDEST,
					   .newest = FRAME_VERSION_NEWEST,
					   .features = wire_codec_features(),
					   .payload_max = SIDES_PAYLOAD,
					   .next = 1};
	size_t payload = SIDES_PAYLOAD;

	strcpy(mine.migration, s->options->migration);
	if (lane_hello(s->lane, &mine, &theirs, err) < 0)
		return -1;
	if (theirs.payload_max < payload)
		payload = theirs.payload_max & ~15u;
	s->codec = wire_codec_choose(theirs.features & mine.features);
	s->pool = chunk_pool_open(SIDES_CHUNKS, payload, err);
	s->back_pool = s->pool ? chunk_pool_open(1, SIDES_PAYLOAD, err) : NULL;
	if (!s->back_pool)
		return -1;
	s->sink = (struct wire_sink){send_frame, s};
	s->codec_state = s->codec->open(s->pool, err);
	return s->codec_state ? 0 : -1;
}

static void report_connected(struct sender *s)
{
	run_status(s->run, "connected",
		json_pack("{s:s,s:s,s:s,s:s}", "peer", lane_peer(s->lane), "address",
			lane_address(s->lane), "cipher", lane_cipher(s->lane), "codec",
			s->codec->name));
}

static int watch(struct sender *s, struct error **err)
{
	int result;

	while ((result = run_wait(s->run, -1, RUN_TICK_MS, err)) == 1) {
		struct frame_ack ack = {.sequence = s->back};
		uint8_t payload[FRAME_ACK_SIZE];

		run_status_progress(s->run, &s->counts);
		frame_ack_encode(&ack, payload);
		/* A lane that has broken is reported by the thread that reads it. */
		if (lane_idle_ms(s->lane) >= LANE_ALIVE_MS)
			lane_send(s->lane, FRAME_ACK, payload, sizeof(payload), NULL);
	}
	return result;
}

static int run_threads(struct sender *s, struct error **err)
{
	if (fault_point("wire.send.connected", err) < 0 || run_thread(read_lane, s, err) < 0 ||
		run_thread(carry_stream, s, err) < 0)
		return -1;
	return watch(s, err);
}

int send_run(const struct options *options, struct run *run, struct error **err)
{
	struct sender *s = calloc(1, sizeof(*s));
	struct tls_credentials *credentials;

	if (!s)
		abort();
	s->options = options;
	s->run = run;
	s->pace.rate_bps = options->bandwidth_bps;
	s->deadline_ms = clock_ms() + options->timeout_ms;
	s->hash = hash_open();
	credentials = tls_credentials_load(options->cert, options->key, options->ca, err);
	if (!credentials || endpoint_open_input(&s->input, options->endpoint, err) < 0 ||
		run_harden(err) < 0)
		return -1;
	if (s->input.kind == ENDPOINT_UNIX)
		run_status(run, "listening", json_pack("{s:s}", "path", s->input.path));
	if (connect_lane(s, credentials, err) < 0)
		return -1;
	if (say_hello(s, err) < 0)
		goto give_up;
	report_connected(s);
	run_counts_start(&s->counts, s->lane);
	if (run_threads(s, err) < 0)
		goto give_up;
	lane_finish(s->lane);
	run_status_end(run, &s->counts, s->end.hash);
	return 0;

give_up:
	lane_give_up(s->lane, *err);
	return -1;
}
