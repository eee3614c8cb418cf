/*
 * The receiving side. Threads: carry_stream (lane → hypervisor, and what the sender is told about
 * it), carry_back (hypervisor → lane: return path), and the main thread, which watches.
 */
#include "base/clock.h"
#include "base/fault.h"
#include "wire/accept.h"
#include "wire/codec.h"
#include "wire/endpoint.h"
#include "wire/hash.h"
#include "wire/sides.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* The sender is told what has been written after so many bytes, or so long. */
#define ACK_BYTES (1u << 20)
#define ACK_MS 20

struct receiver {
	const struct options *options;
	struct run *run;
	struct lane *lane;
	struct endpoint output;
	struct chunk_pool *pool, *back_pool;
	const struct wire_codec *codec;
	void *codec_state;
	struct wire_sink sink;
	struct run_counts counts;
	struct frame_end end; /* of what has been written */
	struct hash *hash;

	/* The last ACK, and what it could say now. */
	pthread_mutex_t ack_mutex;
	struct frame_ack written, acked;
	int64_t acked_ms;
};

/* Tells the sender what has been written, when there is something to tell and it is time. */
static void send_ack(struct receiver *r, bool now)
{
	uint8_t payload[FRAME_ACK_SIZE];
	int64_t now_ms = clock_ms();
	bool due;

	pthread_mutex_lock(&r->ack_mutex);
	due = now || r->written.bytes - r->acked.bytes >= ACK_BYTES ||
	      (r->written.sequence != r->acked.sequence && now_ms - r->acked_ms >= ACK_MS);
	if (due) {
		r->acked = r->written;
		r->acked_ms = now_ms;
		frame_ack_encode(&r->acked, payload);
	}
	pthread_mutex_unlock(&r->ack_mutex);
	if (due)
		lane_send(r->lane, FRAME_ACK, payload, sizeof(payload), NULL);
}

/* The codec's sink. */
static int write_piece(void *arg, struct chunk *chunk, struct error **err)
{
	struct receiver *r = arg;
	int result = endpoint_write(&r->output, chunk->data, chunk->len, err);

	if (result < 0)
		return error_prefix(
			err, "after %llu bytes of the stream", (unsigned long long)r->end.bytes);
	hash_update(r->hash, chunk->data, chunk->len);
	r->end.bytes += chunk->len;
	r->counts.stream_bytes = r->end.bytes;
	chunk_give_back(r->pool, chunk);
	return 0;
}

static int take_stream(struct receiver *r, struct chunk *chunk, struct error **err)
{
	uint64_t sequence = chunk->sequence;

	if (r->codec->decode(r->codec_state, chunk, &r->sink, err) < 0)
		return -1;
	pthread_mutex_lock(&r->ack_mutex);
	r->written = (struct frame_ack){sequence, r->end.bytes};
	pthread_mutex_unlock(&r->ack_mutex);
	/* A lane that has broken is found by reading: it may still hold the reason. */
	send_ack(r, false);
	return 0;
}

static int check_end(struct receiver *r, const struct chunk *chunk, struct error **err)
{
	uint8_t payload[FRAME_END_SIZE];
	struct frame_end theirs;

	if (frame_end_decode(chunk->data, chunk->len, &theirs, err) < 0)
		return -1;
	r->end.hash = hash_digest(r->hash);
	if (theirs.bytes != r->end.bytes || theirs.hash != r->end.hash)
		return error_set(err, ERROR_FAILED, 0,
			"%s: the stream arrived changed: %llu bytes here, %llu there",
			lane_name(r->lane), (unsigned long long)r->end.bytes,
			(unsigned long long)theirs.bytes);
	if (fault_point("wire.recv.before_ack", err) < 0)
		return -1;
	frame_end_encode(&r->end, payload);
	return lane_send(r->lane, FRAME_END_ACK, payload, sizeof(payload), err);
}

/* Takes the chunk over. 1 after the last one. */
static int take_frame(struct receiver *r, struct chunk *chunk, struct error **err)
{
	struct frame_ack ack;
	uint8_t type = chunk->type;
	int result = 0;

	if (type == FRAME_DATA || type >= FRAME_CODEC)
		return take_stream(r, chunk, err);
	/* Nothing is kept yet that an ACK of the return path would let go: it is a sign of life. */
	if (type == FRAME_END)
		result = check_end(r, chunk, err) < 0 ? -1 : 1;
	else if (type == FRAME_ACK)
		result = frame_ack_decode(chunk->data, chunk->len, &ack, err);
	else
		result = error_set(
			err, ERROR_REQUEST, 0, "a frame of type %s came", frame_type_name(type));
	chunk_give_back(r->pool, chunk);
	return result;
}

static int carry(struct receiver *r, struct error **err)
{
	int result = 0;

	while (result == 0) {
		struct chunk *chunk = chunk_take(r->pool);

		if (lane_receive(r->lane, chunk, err) < 0)
			return -1;
		result = take_frame(r, chunk, err);
	}
	/* What the sender did wrong, and not what the hypervisor did. */
	if (result < 0 && (*err)->kind == ERROR_REQUEST)
		error_prefix(err, "%s", lane_name(r->lane));
	return result < 0 ? -1 : 0;
}

static void *carry_stream(void *arg)
{
	struct receiver *r = arg;
	struct error *err = NULL;

	if (carry(r, &err) == 0)
		run_end(r->run);
	else
		run_fail(r->run, err);
	return NULL;
}

static void *carry_back(void *arg)
{
	struct receiver *r = arg;
	struct chunk *chunk = chunk_take(r->back_pool);
	struct error *err = NULL;
	ssize_t n;

	chunk->type = FRAME_RETURN;
	while ((n = endpoint_read(&r->output, chunk->data, chunk->cap, &err)) > 0) {
		chunk->len = (size_t)n;
		if (lane_send_chunk(r->lane, chunk, &err) < 0)
			break;
	}
	/* A hypervisor that has closed its end, or a lane that broke, is seen by those who move the
	 * stream; a return path may end before it. */
	error_free(&err);
	return NULL;
}

static int choose_codec(
	struct receiver *r, uint64_t mine, const struct frame_hello *theirs, struct error **err)
{
	size_t back =
		theirs->payload_max < SIDES_PAYLOAD ? theirs->payload_max & ~15u : SIDES_PAYLOAD;

	r->codec = wire_codec_choose(mine & theirs->features);
	r->pool = chunk_pool_open(SIDES_CHUNKS, SIDES_PAYLOAD, err);
	r->back_pool = r->pool ? chunk_pool_open(1, back, err) : NULL;
	if (!r->back_pool)
		return -1;
	r->sink = (struct wire_sink){write_piece, r};
	r->codec_state = r->codec->open(r->pool, err);
	return r->codec_state ? 0 : -1;
}

static int accept_one(struct receiver *r, const struct tls_credentials *credentials,
	int64_t deadline_ms, struct error **err)
{
	struct frame_hello *mine = calloc(1, sizeof(*mine));
	struct frame_hello theirs;

	if (!mine)
		abort();
	mine->role = FRAME_ROLE_RECV;
	mine->oldest = FRAME_VERSION_OLDEST;
	mine->newest = FRAME_VERSION_NEWEST;
	mine->features = wire_codec_features();
	mine->payload_max = SIDES_PAYLOAD;
	mine->next = 1;
	strcpy(mine->migration, r->options->migration);
	r->lane = accept_lane(r->options, r->run, credentials, mine, &theirs, deadline_ms, err);
	if (!r->lane)
		return -1;
	return choose_codec(r, mine->features, &theirs, err);
}

static int watch(struct receiver *r, struct error **err)
{
	int result;

	while ((result = run_wait(r->run, -1, RUN_TICK_MS, err)) == 1) {
		run_status_progress(r->run, &r->counts);
		send_ack(r, lane_idle_ms(r->lane) >= LANE_ALIVE_MS);
	}
	return result;
}

static int run_threads(struct receiver *r, int64_t deadline_ms, struct error **err)
{
	if (endpoint_connect(&r->output, deadline_ms, err) < 0 ||
		fault_point("wire.recv.connected", err) < 0 || run_thread(carry_stream, r, err) < 0)
		return -1;
	if (r->output.both_ways && run_thread(carry_back, r, err) < 0)
		return -1;
	return watch(r, err);
}

static void report_connected(struct receiver *r)
{
	run_status(r->run, "connected",
		json_pack("{s:s,s:s,s:s,s:s}", "peer", lane_peer(r->lane), "address",
			lane_address(r->lane), "cipher", lane_cipher(r->lane), "codec",
			r->codec->name));
}

static void prepare(struct receiver *r)
{
	r->hash = hash_open();
	pthread_mutex_init(&r->ack_mutex, NULL);
}

int recv_run(const struct options *options, struct run *run, struct error **err)
{
	int64_t deadline_ms = clock_ms() + options->timeout_ms;
	struct receiver *r = calloc(1, sizeof(*r));
	struct tls_credentials *credentials;

	if (!r)
		abort();
	r->options = options;
	r->run = run;
	prepare(r);
	credentials = tls_credentials_load(options->cert, options->key, options->ca, err);
	if (!credentials || endpoint_open_output(&r->output, options->endpoint, err) < 0 ||
		run_harden(err) < 0 || accept_one(r, credentials, deadline_ms, err) < 0)
		return -1;
	report_connected(r);
	run_counts_start(&r->counts, r->lane);
	if (run_threads(r, deadline_ms, err) < 0) {
		lane_give_up(r->lane, *err);
		return -1;
	}
	lane_finish(r->lane);
	run_status_end(run, &r->counts, r->end.hash);
	return 0;
}
