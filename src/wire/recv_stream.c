/*
 * The stream at the destination: decoded by several threads, in any order; put into order,
 * completed and written by one.
 */
#include "base/fault.h"
#include "wire/receiver.h"

/* Messages that ask for pages, made under the lock at once. */
#define ASK_AT_ONCE 4u

int recv_stream_take(struct receiver *r, struct chunk *chunk, struct error **err)
{
	enum inbox_put put;

	if ((chunk->sequence == 1) != (chunk->type == FRAME_SETUP))
		return error_set(err, ERROR_REQUEST, 0, "frame %llu is of type %s",
			(unsigned long long)chunk->sequence, frame_type_name(chunk->type));
	pthread_mutex_lock(&r->mutex);
	put = inbox_put(&r->in, chunk);
	if (put == INBOX_KEPT)
		pthread_cond_signal(&r->arrived);
	pthread_mutex_unlock(&r->mutex);
	if (put == INBOX_TOO_FAR)
		return error_set(err, ERROR_REQUEST, 0, "frame %llu came before its time",
			(unsigned long long)chunk->sequence);
	return put == INBOX_KEPT;
}

static struct batch *take_batch(struct receiver *r)
{
	struct batch *b;

	pthread_mutex_lock(&r->mutex);
	while (!r->free)
		pthread_cond_wait(&r->freed, &r->mutex);
	b = r->free;
	r->free = b->next;
	pthread_mutex_unlock(&r->mutex);
	batch_reset(b);
	return b;
}

/* Asks for the pages of a batch that are missing, a few messages at a time: link_say waits, and
 * answers come meanwhile. */
static void ask(struct receiver *r, uint64_t sequence)
{
	uint8_t payloads[ASK_AT_ONCE][BATCH_MISS_PAYLOAD_MAX];
	size_t from = 0, len[ASK_AT_ONCE];
	unsigned n;

	do {
		struct in_slot *slot;

		n = 0;
		pthread_mutex_lock(&r->mutex);
		slot = inbox_find_waiting(&r->in, sequence);
		while (slot && n < ASK_AT_ONCE &&
			(len[n] = batch_misses_encode(slot->result, &from, payloads[n])))
			n++;
		pthread_mutex_unlock(&r->mutex);
		for (unsigned i = 0; i < n; i++)
			link_say(r->link, FRAME_MISS, payloads[i], len[i]);
	} while (n == ASK_AT_ONCE);
}

void recv_stream_ask_again(struct receiver *r)
{
	uint64_t first;

	pthread_mutex_lock(&r->mutex);
	first = r->in.next;
	pthread_mutex_unlock(&r->mutex);
	for (uint64_t n = first; n < first + SIDES_PIECES; n++)
		ask(r, n);
}

int recv_stream_pages(struct receiver *r, const struct chunk *chunk, struct error **err)
{
	struct in_slot *slot;
	uint64_t sequence;
	int result = 0;

	if (batch_sequence(chunk->data, chunk->len, &sequence, err) < 0)
		return -1;
	pthread_mutex_lock(&r->mutex);
	slot = inbox_find_waiting(&r->in, sequence);
	/* It may come twice when it was asked for twice. */
	if (slot) {
		struct batch *b = slot->result;

		result = batch_answer_take(b, chunk->data, chunk->len, err);
		if (result == 0 && !b->missing) {
			inbox_done(&r->in, sequence, b);
			pthread_cond_signal(&r->decoded);
		}
	}
	pthread_mutex_unlock(&r->mutex);
	return result;
}

static void done(struct receiver *r, uint64_t sequence, struct batch *b)
{
	pthread_mutex_lock(&r->mutex);
	if (b && b->missing)
		inbox_waiting(&r->in, sequence, b);
	else
		inbox_done(&r->in, sequence, b);
	pthread_cond_signal(&r->decoded);
	pthread_mutex_unlock(&r->mutex);
}

static int decode_batch(struct receiver *r, struct batch_coder *coder, const struct chunk *chunk,
	struct error **err)
{
	struct batch *b = take_batch(r);
	bool missing;

	if (batch_decode(coder, chunk->data, chunk->len, r->sources, b, err) < 0)
		return -1;
	b->sequence = chunk->sequence;
	missing = b->missing;
	done(r, chunk->sequence, b);
	if (missing)
		ask(r, chunk->sequence);
	return 0;
}

/* The cache and the sources that both sides can have. */
static int set_up(struct receiver *r, const struct chunk *chunk, struct error **err)
{
	struct setup_ack ack = {0};
	struct setup setup;

	if (setup_decode(chunk->data, chunk->len, &setup, err) < 0 ||
		source_set_agree(r->sources, setup.sources, setup.sources_len, &ack.sources, err) <
			0)
		return -1;
	r->key = pagehash_open(setup.key, err);
	if (!r->key)
		return -1;
	ack.cache_bytes = setup.cache_bytes < r->options->cache_bytes ? setup.cache_bytes
								      : r->options->cache_bytes;
	if (ack.cache_bytes) {
		r->cache = page_cache_open(ack.cache_bytes, err);
		if (!r->cache)
			return -1;
	}
	setup_ack_encode(&ack, r->setup_payload);
	pthread_mutex_lock(&r->mutex);
	r->set_up = true;
	pthread_mutex_unlock(&r->mutex);
	link_send(r->link, &r->setup_frame, FRAME_SETUP_ACK, r->setup_payload, SETUP_ACK_SIZE);
	run_wake(r->run);
	return 0;
}

bool recv_stream_set_up(struct receiver *r)
{
	bool done;

	pthread_mutex_lock(&r->mutex);
	done = r->set_up;
	pthread_mutex_unlock(&r->mutex);
	return done;
}

static int decode(struct receiver *r, struct batch_coder **coder, const struct chunk *chunk,
	struct error **err)
{
	if (chunk->type == FRAME_BATCH && !*coder) {
		if (!recv_stream_set_up(r))
			return error_set(err, ERROR_REQUEST, 0, "a batch came before the setup");
		*coder = batch_coder_open(r->key, err);
		if (!*coder)
			return -1;
	}
	if (chunk->type == FRAME_BATCH)
		return decode_batch(r, *coder, chunk, err);
	if (chunk->type == FRAME_SETUP && set_up(r, chunk, err) < 0)
		return -1;
	done(r, chunk->sequence, NULL);
	return 0;
}

static const struct chunk *next_arrived(struct receiver *r)
{
	const struct chunk *chunk;

	pthread_mutex_lock(&r->mutex);
	while (!(chunk = inbox_take(&r->in)))
		pthread_cond_wait(&r->arrived, &r->mutex);
	pthread_mutex_unlock(&r->mutex);
	return chunk;
}

void recv_stream_fail(struct receiver *r, struct error *err)
{
	/* What the sender did wrong, and not what the hypervisor did. */
	if (err->kind == ERROR_REQUEST)
		error_prefix(&err, "link from %s", r->options->peer.name);
	run_fail(r->run, err);
}

static void *decoder(void *arg)
{
	struct receiver *r = arg;
	struct batch_coder *coder = NULL;
	struct error *err = NULL;

	while (decode(r, &coder, next_arrived(r), &err) == 0)
		;
	recv_stream_fail(r, err);
	return NULL;
}

/* Keeps what is not to be written yet; how much of it is. */
static ssize_t hold_back(struct receiver *r, const uint8_t *data, size_t len, struct error **err)
{
	ssize_t now = r->hold ? hold_feed(r->hold, data, len, err) : (ssize_t)len;

	if (now >= 0 && !buf_add(&r->held, data + now, len - (size_t)now))
		return error_set(err, ERROR_REQUEST, 0,
			"more than %u bytes come after the guest's memory", HOLD_MAX);
	return now;
}

static int write_bytes(struct receiver *r, const uint8_t *data, size_t len, struct error **err)
{
	ssize_t now = hold_back(r, data, len, err);

	if (now < 0 || endpoint_write(&r->output, data, (size_t)now, err) < 0)
		return error_prefix(
			err, "after %llu bytes of the stream", (unsigned long long)r->end.bytes);
	hash_update(r->hash, data, len);
	r->end.bytes += len;
	r->report.stream_bytes = r->end.bytes;
	return 0;
}

/* All that was held back goes at once: a hypervisor that gets only a part of it, and then the end
 * of its connection, may take that for all. */
static int give_held(struct receiver *r, struct error **err)
{
	if (!hold_ended(r->hold))
		return error_set(err, ERROR_REQUEST, 0, "the stream is over before its end");
	pthread_mutex_lock(&r->mutex);
	r->holds_all = true;
	pthread_mutex_unlock(&r->mutex);
	run_status(r->run, "held", NULL);
	if (fault_point("wire.recv.held", err) < 0)
		return -1;
	hold_wait_release();
	run_status(r->run, "releasing", NULL);
	if (fault_point("wire.recv.before_release", err) < 0 ||
		endpoint_write(&r->output, r->held.data, r->held.len, err) < 0)
		return -1;
	return fault_point("wire.recv.after_release", err);
}

static int check_end(struct receiver *r, const struct chunk *chunk, struct error **err)
{
	struct frame_end theirs;

	if (frame_end_decode(chunk->data, chunk->len, &theirs, err) < 0)
		return -1;
	r->end.hash = hash_digest(r->hash);
	if (theirs.bytes != r->end.bytes || theirs.hash != r->end.hash)
		return error_set(err, ERROR_FAILED, 0,
			"link from %s: the stream arrived changed: %llu bytes here, %llu there",
			r->options->peer.name, (unsigned long long)r->end.bytes,
			(unsigned long long)theirs.bytes);
	if (r->hold && give_held(r, err) < 0)
		return -1;
	if (fault_point("wire.recv.before_ack", err) < 0)
		return -1;
	frame_end_encode(&r->end, r->end_payload);
	pthread_mutex_lock(&r->mutex);
	r->end_sent = true;
	pthread_mutex_unlock(&r->mutex);
	link_send(r->link, &r->end_frame, FRAME_END_ACK, r->end_payload, FRAME_END_SIZE);
	return 0;
}

static int write_next(struct receiver *r, const struct in_slot *slot, struct error **err)
{
	const struct chunk *chunk = slot->chunk;
	struct batch *b = slot->result;

	if (r->end_sent)
		return error_set(err, ERROR_REQUEST, 0, "a frame came after the end");
	switch (chunk->type) {
	case FRAME_SETUP:
		return 0;
	case FRAME_DATA:
		return write_bytes(r, chunk->data, chunk->len, err);
	case FRAME_END:
		return check_end(r, chunk, err);
	default:
		return batch_complete(b, r->cache, err) < 0 ||
				       write_bytes(r, b->raw, b->raw_len, err) < 0
			       ? -1
			       : 0;
	}
}

/* This frame has been dealt with. */
static void written(struct receiver *r, struct in_slot *slot)
{
	struct batch *b = slot->result;

	pthread_mutex_lock(&r->mutex);
	r->written = (struct frame_ack){slot->chunk->sequence, r->end.bytes};
	if (b) {
		batch_counts_add(&r->counts, &b->counts);
		b->next = r->free;
		r->free = b;
		pthread_cond_signal(&r->freed);
	}
	pthread_mutex_unlock(&r->mutex);
	chunk_give_back(r->pool, slot->chunk);
	link_ack(r->link);
}

int recv_stream_write(struct receiver *r, struct error **err)
{
	struct in_slot slot;

	for (;;) {
		pthread_mutex_lock(&r->mutex);
		while (!inbox_next(&r->in, &slot))
			pthread_cond_wait(&r->decoded, &r->mutex);
		pthread_mutex_unlock(&r->mutex);
		if (write_next(r, &slot, err) < 0)
			return -1;
		written(r, &slot);
	}
}

int recv_stream_open(struct receiver *r, struct error **err)
{
	for (unsigned i = 0; i < SIDES_PIECES; i++) {
		struct batch *b = batch_new(err);

		if (!b)
			return -1;
		b->next = r->free;
		r->free = b;
	}
	for (unsigned i = 0; i < r->options->threads; i++)
		if (run_thread(decoder, r, err) < 0)
			return -1;
	return 0;
}
