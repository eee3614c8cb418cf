/*
 * The sending side. Threads: the reader and the encoders (send_stream.c), those of the lanes
 * (link.h), carry_back (return path → hypervisor), and the main thread, which watches.
 */
#include "base/clock.h"
#include "base/fault.h"
#include "wire/report.h"
#include "wire/sandbox.h"
#include "wire/sender.h"
#include "wire/tcp.h"

#include <stdlib.h>
#include <string.h>

/* A source of references is dropped when more than one in so many misses, after so many. */
#define MISSES_LIMIT 8
#define MISSES_SEEN 512
/* References rest for so long when blocks take longer to read than pages to send; this is looked at
 * after so many blocks. */
#define REST_US 1000000
#define READING_SEEN 256
/* What a page of an ordinary guest takes instead: zstd leaves a fourth of it, in 2.5 ns a byte
 * (bench/codec). Reading may take a few times as long, since it is done by another node. */
#define PAGE_SENT (STREAM_PAGE / 4)
#define ENCODE_NS 10000.0
#define SLOW_READING 4

static int wrong(struct error **err, const struct chunk *chunk)
{
	return error_set(
		err, ERROR_REQUEST, 0, "a frame of type %s came", frame_type_name(chunk->type));
}

/* What the destination could not read, or read differently, goes as it is. */
struct question {
	struct sender *s;
	const struct chunk *chunk;
	uint8_t *answer;
	size_t len;
	struct error *err;
};

static void answer_misses(void *arg, struct out_frame *frame)
{
	struct question *q = arg;
	struct batch_counts before;
	struct batch *b;

	if (frame->type != FRAME_BATCH) {
		error_set(&q->err, ERROR_REQUEST, 0, "pages of frame %llu are asked for",
			(unsigned long long)frame->sequence);
		return;
	}
	b = ((struct piece *)frame)->batch;
	before = b->counts;
	q->len = batch_answer_encode(b, q->chunk->data, q->chunk->len, q->answer, &q->err);
	pthread_mutex_lock(&q->s->mutex);
	for (unsigned i = 0; i < SOURCE_MAX; i++)
		q->s->counts.misses[i] += b->counts.misses[i] - before.misses[i];
	pthread_mutex_unlock(&q->s->mutex);
}

static void drop_bad_sources(struct sender *s)
{
	pthread_mutex_lock(&s->mutex);
	for (size_t i = 0; i < source_set_count(s->sources); i++) {
		uint64_t hits = s->counts.hits[i], misses = s->counts.misses[i];

		if (hits >= MISSES_SEEN && misses > hits / MISSES_LIMIT)
			source_set_enable(s->sources, i, false);
	}
	pthread_mutex_unlock(&s->mutex);
}

static int take_miss(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct question q = {.s = s, .chunk = chunk};
	uint64_t sequence;

	if (batch_sequence(chunk->data, chunk->len, &sequence, err) < 0)
		return -1;
	q.answer = malloc(BATCH_ANSWER_PAYLOAD_MAX);
	if (!q.answer)
		abort();
	/* One that was answered already is asked for again when lane 0 was connected again. */
	link_with_frame(s->link, sequence, answer_misses, &q);
	if (q.len)
		link_say(s->link, FRAME_PAGES, q.answer, q.len);
	free(q.answer);
	return q.err ? error_move(err, q.err) : 0;
}

/* Whether a block is read about as soon as its page would have been compressed and sent. */
static bool reading_pays(unsigned threads, uint64_t rate_bps, uint64_t blocks, uint64_t ns)
{
	double read_ns = (double)ns / (double)blocks / threads;
	double send_ns = ENCODE_NS + (rate_bps ? PAGE_SENT * 1e9 / (double)rate_bps : 0);

	return read_ns < SLOW_READING * send_ns;
}

static int take_reading(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct window window = link_window(s->link);
	uint64_t blocks, ns, rate_bps = window_rate(&window);
	bool rest;

	if (setup_reading_decode(chunk->data, chunk->len, &blocks, &ns, err) < 0)
		return -1;
	pthread_mutex_lock(&s->mutex);
	if (blocks >= s->reading_blocks + READING_SEEN && ns >= s->reading_ns) {
		rest = !reading_pays(s->options->threads, rate_bps, blocks - s->reading_blocks,
			ns - s->reading_ns);
		s->resting_until_us = rest ? clock_us() + REST_US : 0;
		s->reading_blocks = blocks;
		s->reading_ns = ns;
	}
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

/* RETURN, SETUP_ACK and END_ACK are dealt with in their order, by carry_back. */
static int take_numbered(struct sender *s, struct chunk *chunk, struct error **err)
{
	enum inbox_put put;

	pthread_mutex_lock(&s->mutex);
	put = inbox_put(&s->back, chunk);
	if (put == INBOX_KEPT) {
		inbox_take(&s->back);
		inbox_done(&s->back, chunk->sequence, NULL);
		pthread_cond_signal(&s->came_back);
	}
	pthread_mutex_unlock(&s->mutex);
	if (put == INBOX_TOO_FAR)
		return error_set(err, ERROR_REQUEST, 0, "frame %llu came before its time",
			(unsigned long long)chunk->sequence);
	return put == INBOX_KEPT;
}

static int take(void *arg, struct chunk *chunk, struct error **err)
{
	struct sender *s = arg;

	switch (chunk->type) {
	case FRAME_RETURN:
	case FRAME_SETUP_ACK:
	case FRAME_END_ACK:
		return take_numbered(s, chunk, err);
	case FRAME_MISS:
		return take_miss(s, chunk, err);
	case FRAME_READING:
		return take_reading(s, chunk, err);
	default:
		return wrong(err, chunk);
	}
}

static void release(void *arg, struct out_frame *frame)
{
	struct sender *s = arg;

	send_stream_release(s, frame);
}

static bool acked(void *arg, uint64_t bytes)
{
	struct sender *s = arg;
	uint64_t before = s->report.acked_bytes;

	/* With several lanes an older one may come later. */
	while (bytes > before &&
		!atomic_compare_exchange_weak(&s->report.acked_bytes, &before, bytes))
		;
	if (s->input.kind == ENDPOINT_PROBE) {
		pthread_mutex_lock(&s->mutex);
		rate_arrived(&s->rate, bytes, clock_us());
		pthread_mutex_unlock(&s->mutex);
	}
	return bytes <= s->report.stream_bytes;
}

static struct frame_ack dealt(void *arg)
{
	struct sender *s = arg;
	struct frame_ack ack;

	pthread_mutex_lock(&s->mutex);
	ack = (struct frame_ack){.sequence = s->back.next - 1};
	pthread_mutex_unlock(&s->mutex);
	return ack;
}

static void again(void *arg)
{
	(void)arg;
}

static bool complete(void *arg)
{
	struct sender *s = arg;
	bool done;

	pthread_mutex_lock(&s->mutex);
	done = s->complete;
	pthread_mutex_unlock(&s->mutex);
	return done;
}

static int take_setup_ack(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct setup_ack ack;

	if (s->setup_done)
		return error_set(err, ERROR_REQUEST, 0, "a second answer to the setup came");
	if (setup_ack_decode(chunk->data, chunk->len, &ack, err) < 0)
		return -1;
	if (ack.cache_bytes > s->options->cache_bytes)
		return error_set(err, ERROR_REQUEST, 0, "it wants a larger cache than was offered");
	source_set_keep(s->sources, ack.sources);
	s->cache = ack.cache_bytes ? page_cache_open(ack.cache_bytes, err) : NULL;
	if (ack.cache_bytes && !s->cache)
		return -1;
	pthread_mutex_lock(&s->mutex);
	s->setup_done = true;
	pthread_mutex_unlock(&s->mutex);
	run_wake(s->run);
	return 0;
}

static bool has_ended(struct sender *s)
{
	bool ended;

	pthread_mutex_lock(&s->mutex);
	ended = s->ended;
	pthread_mutex_unlock(&s->mutex);
	return ended;
}

static int take_end_ack(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct frame_end theirs;

	if (frame_end_decode(chunk->data, chunk->len, &theirs, err) < 0)
		return -1;
	if (!has_ended(s))
		return error_set(err, ERROR_REQUEST, 0,
			"it says that the stream has ended, which it has not");
	if (theirs.bytes != s->end.bytes || theirs.hash != s->end.hash)
		return error_set(err, ERROR_FAILED, 0,
			"the stream arrived changed: %llu bytes there, %llu here",
			(unsigned long long)theirs.bytes, (unsigned long long)s->end.bytes);
	s->report.acked_bytes = theirs.bytes;
	pthread_mutex_lock(&s->mutex);
	s->complete_us = clock_us();
	s->complete = true;
	pthread_mutex_unlock(&s->mutex);
	return 0;
}

/* A source that cannot take the return path drops it, and so does one that has said all and is
 * gone.
 */
static int take_return(struct sender *s, const struct chunk *chunk, struct error **err)
{
	struct error *why = NULL;

	if (s->hold && has_ended(s))
		return 0;
	if (!s->input.both_ways || endpoint_write(&s->input, chunk->data, chunk->len, &why) == 0)
		return 0;
	if (!has_ended(s))
		return error_move(err, why);
	error_free(&why);
	return 0;
}

static int take_back(struct sender *s, const struct chunk *chunk, struct error **err)
{
	int result;

	if (chunk->type == FRAME_RETURN)
		return take_return(s, chunk, err);
	result = chunk->type == FRAME_SETUP_ACK ? take_setup_ack(s, chunk, err)
						: take_end_ack(s, chunk, err);
	return result < 0 ? error_prefix(err, "link to %s", s->options->peer.name) : 0;
}

static struct chunk *next_back(struct sender *s)
{
	struct in_slot slot;

	pthread_mutex_lock(&s->mutex);
	while (!inbox_next(&s->back, &slot))
		pthread_cond_wait(&s->came_back, &s->mutex);
	pthread_mutex_unlock(&s->mutex);
	return slot.chunk;
}

static void *carry_back(void *arg)
{
	struct sender *s = arg;
	struct error *err = NULL;

	while (!complete(s)) {
		struct chunk *chunk = next_back(s);
		int result = take_back(s, chunk, &err);

		chunk_give_back(s->pool, chunk);
		link_ack(s->link);
		if (result < 0) {
			run_fail(s->run, err);
			return NULL;
		}
	}
	run_end(s->run);
	return NULL;
}

static void *carry_stream(void *arg)
{
	struct sender *s = arg;
	struct error *err = NULL;

	if (send_stream_carry(s, &err) < 0)
		run_fail(s->run, err);
	return NULL;
}

/* A source that cannot be used is none: the migration goes on without it. */
static void add_sources(struct sender *s)
{
	const struct options *o = s->options;

	s->sources = source_set_open();
	for (size_t i = 0; i < o->sources_len && !o->plain; i++) {
		struct error *err = NULL;

		if (source_set_add(s->sources, o->sources[i].name, o->sources[i].path, true, &err) <
			0)
			report_source_unused(s->run, o->sources[i].name, err);
		error_free(&err);
	}
}

static int prepare(struct sender *s, struct error **err)
{
	uint8_t key[PAGEHASH_KEY], sources[SOURCE_LIST_MAX];
	struct setup setup = {
		.cache_bytes = s->options->plain ? 0 : s->options->cache_bytes, .sources = sources};

	s->hash = hash_open();
	s->parser = stream_parser_open(s->options->plain ? "opaque" : s->options->parser);
	if (pagehash_new_key(key, err) < 0)
		return -1;
	s->key = pagehash_open(key, err);
	if (!s->key || !s->parser)
		return -1;
	if (s->options->hold_bytes && !(s->hold = hold_open(s->options->hold_bytes, err)))
		return -1;
	if (s->options->hold_bytes)
		stream_parser_expect(s->parser, s->options->hold_bytes);
	if (s->options->memory_bytes && !stream_parser_expect(s->parser, s->options->memory_bytes))
		abort();
	add_sources(s);
	memcpy(setup.key, key, sizeof(key));
	setup.sources_len = source_set_encode(s->sources, sources);
	s->setup_frame.len = setup_encode(&setup, s->setup_payload);
	return 0;
}

static const struct link_handler handler = {
	.take = take,
	.release = release,
	.acked = acked,
	.dealt = dealt,
	.again = again,
	.complete = complete,
};

static int open_link(struct sender *s, const struct tls_credentials *credentials,
	const struct tcp_target *target, struct error **err)
{
	const struct options *o = s->options;
	static struct link_handler h;
	struct link_options options = {.credentials = credentials,
		.peer = &o->peer,
		.target = target,
		.bandwidth_bps = o->bandwidth_bps,
		.reconnect_ms = o->reconnect_ms,
		.needs = BATCH_RAW_MAX + BATCH_EXTRA,
		.handler = &h,
		.arg = s,
		.run = s->run,
		.hello = {.role = FRAME_ROLE_SEND,
			.oldest = FRAME_VERSION_OLDEST,
			.newest = FRAME_VERSION_NEWEST,
			.payload_max = SIDES_RETURN_MAX,
			.lanes = (uint8_t)o->lanes,
			.window = SIDES_RETURN_WINDOW}};

	s->pool = chunk_pool_open(SIDES_RETURN_WINDOW + SIDES_SPARE, SIDES_RETURN_MAX, err);
	if (!s->pool)
		return -1;
	h = handler;
	h.pool = s->pool;
	strcpy(options.hello.migration, o->migration);
	s->link = link_new(&options);
	return link_connect(s->link, s->deadline_ms, err);
}

static bool is_set_up(struct sender *s)
{
	bool done;

	pthread_mutex_lock(&s->mutex);
	done = s->setup_done;
	pthread_mutex_unlock(&s->mutex);
	return done;
}

static int set_up(struct sender *s, struct error **err)
{
	if (run_thread(carry_back, s, err) < 0)
		return -1;
	link_send(s->link, &s->setup_frame, FRAME_SETUP, s->setup_payload, s->setup_frame.len);
	while (!is_set_up(s)) {
		if (clock_ms() >= s->deadline_ms)
			return error_set(err, ERROR_TIMEOUT, 0, "link to %s: it does not answer",
				s->options->peer.name);
		if (run_wait(s->run, -1, RUN_TICK_MS, err) <= 0)
			return -1;
	}
	return 0;
}

static int watch(struct sender *s, struct error **err)
{
	int result;

	while ((result = run_wait(s->run, -1, RUN_TICK_MS, err)) == 1) {
		run_status_progress(s->run, &s->report);
		drop_bad_sources(s);
		if (link_check(s->link, err) < 0)
			return -1;
	}
	return result;
}

static int run_threads(struct sender *s, struct error **err)
{
	if (set_up(s, err) < 0)
		return -1;
	report_connected(s->run, s->link, &s->options->peer, s->options->plain);
	run_counts_start(&s->report, s->link);
	if (fault_point("wire.send.connected", err) < 0 || send_stream_open(s, err) < 0 ||
		run_thread(carry_stream, s, err) < 0)
		return -1;
	return watch(s, err);
}

static void report(struct sender *s)
{
	struct report what = {.link = s->link,
		.counts = &s->counts,
		.sources = s->sources,
		.stream = stream_parser_counts(s->parser),
		.parser = stream_parser_name(s->parser),
		.level = &s->level,
		.drain_us = s->complete_us - s->ended_us,
		.steady = rate_find(&s->rate)};

	report_sources(s->run, &what);
	run_status_end(s->run, &s->report, s->end.hash, report_end(&what));
}

static void tell_listening(const struct sender *s)
{
	if (s->input.kind == ENDPOINT_UNIX)
		run_status(s->run, "listening", json_pack("{s:s}", "path", s->input.path));
	if (s->input.kind == ENDPOINT_TCP)
		run_status(s->run, "listening",
			json_pack("{s:s, s:i}", "address", s->input.path, "port",
				tcp_port(s->input.listen_fd)));
}

int send_run(const struct options *options, struct run *run, struct error **err)
{
	struct sender *s = calloc(1, sizeof(*s));
	struct tls_credentials *credentials;
	struct tcp_target *target;

	if (!s)
		abort();
	s->options = options;
	s->run = run;
	s->report.level = RUN_NO_LEVEL;
	s->deadline_ms = clock_ms() + options->timeout_ms;
	pthread_mutex_init(&s->mutex, NULL);
	pthread_cond_init(&s->planned_more, NULL);
	pthread_cond_init(&s->freed, NULL);
	pthread_cond_init(&s->came_back, NULL);
	inbox_init(&s->back, SIDES_RETURN_WINDOW);
	credentials = tls_credentials_load(options->cert, options->key, options->ca, err);
	target = credentials ? tcp_look_up(options->address, err) : NULL;
	if (!target || endpoint_open_input(&s->input, options->endpoint, err) < 0 ||
		prepare(s, err) < 0 || run_harden(err) < 0 ||
		sandbox_enter(s->input.kind == ENDPOINT_UNIX, err) < 0)
		return -1;
	tell_listening(s);
	if (open_link(s, credentials, target, err) < 0)
		return -1;
	if (run_threads(s, err) < 0) {
		link_give_up(s->link, *err);
		return -1;
	}
	link_finish(s->link);
	report(s);
	return 0;
}
