/*
 * The sending side. Threads: read_input (hypervisor → queue), write_lane (queue → lane), read_lane
 * (lane → hypervisor: return path, and what the receiver says), and the main thread, which watches.
 */
#include "base/clock.h"
#include "base/fault.h"
#include "wire/codec.h"
#include "wire/endpoint.h"
#include "wire/pace.h"
#include "wire/sides.h"
#include "wire/tcp.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define HALF_BYTES (1u << 20)

struct sender {
	const struct options *options;
	struct run *run;
	struct lane *lane;
	struct endpoint input;
	struct chunk_pool *pool, *back_pool;
	struct chunk_queue *queue;
	const struct wire_codec *codec;
	void *codec_state;
	struct wire_sink sink;
	struct run_counts counts;
	XXH3_state_t *hash;
	int64_t deadline_ms;       /* for the hypervisor to connect */
	struct frame_end end;      /* set by read_input before it queues END */
	atomic_bool ended;         /* END has been sent */
	atomic_uint_fast64_t back; /* number of the last RETURN frame that was dealt with */
};

static void put_in_queue(void *arg, struct chunk *chunk)
{
	chunk_put(arg, chunk);
}

static int read_stream(struct sender *s, struct error **err)
{
	for (;;) {
		struct chunk *chunk = chunk_take(s->pool);
		ssize_t n = endpoint_read(&s->input, chunk->data, chunk->cap, err);
		bool drained = n < (ssize_t)chunk->cap;

		if (n < 0)
			return -1;
		if (n == 0) {
			chunk_give_back(s->pool, chunk);
			s->end.hash = XXH3_64bits_digest(s->hash);
			return s->codec->flush(s->codec_state, &s->sink, err);
		}
		XXH3_64bits_update(s->hash, chunk->data, (size_t)n);
		s->end.bytes += (uint64_t)n;
		chunk->type = FRAME_DATA;
		chunk->len = (size_t)n;
		atomic_fetch_add(&s->counts.stream_bytes, (uint64_t)n);
		if (s->codec->encode(s->codec_state, chunk, &s->sink, err) < 0 ||
			(drained && s->codec->flush(s->codec_state, &s->sink, err) < 0))
			return -1;
	}
}

static void *read_input(void *arg)
{
	struct sender *s = arg;
	struct error *err = NULL;
	struct chunk *chunk;

	if (endpoint_accept(&s->input, s->deadline_ms, &err) < 0 || read_stream(s, &err) < 0) {
		run_fail(s->run, err);
		return NULL;
	}
	chunk = chunk_take(s->pool);
	chunk->type = FRAME_END;
	chunk->len = FRAME_END_SIZE;
	frame_end_encode(&s->end, chunk->data);
	chunk_put(s->queue, chunk);
	return NULL;
}

static void wait_us(int64_t us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	if (us)
		nanosleep(&ts, NULL);
}

static int write_frames(struct sender *s, struct error **err)
{
	struct pace pace = {.rate_bps = s->options->bandwidth_bps};
	uint64_t sent = 0;
	uint8_t type = 0;

	while (type != FRAME_END) {
		struct chunk *chunk = chunk_get(s->queue);

		type = chunk->type;
		if (type != FRAME_END && sent >= HALF_BYTES && sent - HALF_BYTES < chunk->cap &&
			fault_point("wire.send.half", err) < 0)
			return -1;
		wait_us(pace_take(&pace, FRAME_HEADER + chunk->len, clock_us()));
		if (type == FRAME_END)
			s->ended = true;
		if (lane_send_chunk(s->lane, chunk, err) < 0)
			return -1;
		sent += chunk->len;
		chunk_give_back(s->pool, chunk);
	}
	return 0;
}

static void *write_lane(void *arg)
{
	struct sender *s = arg;
	struct error *err = NULL;

	if (write_frames(s, &err) < 0)
		run_fail_late(s->run, err);
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
		payload = theirs.payload_max & ~7u;
	s->codec = wire_codec_choose(theirs.features & mine.features);
	s->pool = chunk_pool_open(SIDES_CHUNKS, payload, err);
	s->back_pool = s->pool ? chunk_pool_open(1, SIDES_PAYLOAD, err) : NULL;
	s->queue = s->back_pool ? chunk_queue_open(SIDES_QUEUE_MAX, err) : NULL;
	if (!s->queue)
		return -1;
	s->sink = (struct wire_sink){put_in_queue, s->queue};
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

static int carry(struct sender *s, struct error **err)
{
	if (fault_point("wire.send.connected", err) < 0 || run_thread(read_lane, s, err) < 0 ||
		run_thread(write_lane, s, err) < 0 || run_thread(read_input, s, err) < 0)
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
	s->deadline_ms = clock_ms() + options->timeout_ms;
	s->hash = XXH3_createState();
	if (!s->hash)
		abort();
	XXH3_64bits_reset(s->hash);
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
	if (carry(s, err) < 0)
		goto give_up;
	lane_finish(s->lane);
	run_status_end(run, &s->counts, s->end.hash);
	return 0;

give_up:
	lane_give_up(s->lane, *err);
	return -1;
}
