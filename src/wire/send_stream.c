/*
 * The stream at the source: read, parsed and planned by one thread, in order; encoded by several.
 */
#include "base/clock.h"
#include "base/fault.h"
#include "wire/sender.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HALF_BYTES (1u << 20)
/* A piece is a fourth of what may be on its way, so that each stage has one. */
#define PIECE_MIN (64u << 10)
#define PIECE_MAX (512u << 10)
#define PIECES_IN_WINDOW 4
/* A piece that is shorter waits so long for more while the lanes have nothing to do, and longer
 * while they have. */
#define SHORT_PIECE (128u << 10)
#define HUNGRY_US 200
/* How much the newest piece counts in the ratio. */
#define RATIO_WEIGHT 0.1
/* endpoint_read's. */
#define READ_UNIT 16u
#define BUSY_US 1000
/* For so long a source of a dialogue is silent in the middle of a page only when it waits for an
 * answer: then what the parser keeps back must go. */
#define SILENT_US 50000

static void append(struct pieces *list, struct piece *piece)
{
	piece->next = NULL;
	if (list->first)
		list->last->next = piece;
	else
		list->first = piece;
	list->last = piece;
}

/* The piece that was used last is in the processor's cache still, and its memory is there: it is
 * the next one. */
static void set_free(struct sender *s, struct piece *piece)
{
	pthread_mutex_lock(&s->mutex);
	piece->next = s->free.first;
	s->free.first = piece;
	pthread_cond_signal(&s->freed);
	pthread_mutex_unlock(&s->mutex);
}

static struct piece *take(struct sender *s, struct pieces *list, pthread_cond_t *more)
{
	struct piece *piece;

	pthread_mutex_lock(&s->mutex);
	while (!list->first)
		pthread_cond_wait(more, &s->mutex);
	piece = list->first;
	list->first = piece->next;
	pthread_mutex_unlock(&s->mutex);
	return piece;
}

/* Waits until the encoders have less to do: what waits for them is on its way, too. */
static void wait_for_encoders(struct sender *s)
{
	pthread_mutex_lock(&s->mutex);
	while (s->encoding > s->options->threads)
		pthread_cond_wait(&s->freed, &s->mutex);
	pthread_mutex_unlock(&s->mutex);
}

static void give_to_encoders(struct sender *s, struct piece *piece)
{
	pthread_mutex_lock(&s->mutex);
	s->encoding++;
	append(&s->planned, piece);
	pthread_cond_signal(&s->planned_more);
	pthread_mutex_unlock(&s->mutex);
}

static struct piece *new_piece(struct error **err)
{
	struct piece *piece = calloc(1, sizeof(*piece));

	if (!piece)
		abort();
	piece->batch = batch_new(err);
	piece->payload = malloc(BATCH_RAW_MAX + BATCH_EXTRA);
	if (!piece->batch)
		return NULL;
	if (!piece->payload)
		abort();
	return piece;
}

static void encode(struct sender *s, struct batch_coder *coder, struct piece *piece)
{
	struct batch *b = piece->batch;
	size_t len = batch_encode(coder, b, level_list[piece->level], piece->payload);

	piece->frame.type = FRAME_BATCH;
	piece->frame.data = piece->payload;
	piece->frame.len = len;
	pthread_mutex_lock(&s->mutex);
	s->encoding--;
	level_worked(&s->level, &(struct level_work){.sent_bytes = len});
	s->ratio += RATIO_WEIGHT * ((double)len / (double)b->raw_len - s->ratio);
	batch_counts_add(&s->counts, &b->counts);
	pthread_cond_signal(&s->freed);
	pthread_mutex_unlock(&s->mutex);
	link_ready(s->link, &piece->frame);
}

static void *encoder(void *arg)
{
	struct sender *s = arg;
	struct error *err = NULL;
	struct batch_coder *coder = batch_coder_open(s->key, &err);

	if (!coder) {
		run_fail(s->run, err);
		return NULL;
	}
	for (;;)
		encode(s, coder, take(s, &s->planned, &s->planned_more));
}

int send_stream_open(struct sender *s, struct error **err)
{
	unsigned threads = s->options->threads;

	s->left = malloc(BATCH_RAW_MAX);
	if (!s->left)
		abort();
	for (unsigned i = 0; i < SIDES_PIECES; i++) {
		struct piece *piece = new_piece(err);

		if (!piece)
			return -1;
		set_free(s, piece);
	}
	pthread_mutex_lock(&s->mutex);
	level_init(&s->level, clock_us());
	s->ratio = 1;
	pthread_mutex_unlock(&s->mutex);
	for (unsigned i = 0; i < threads; i++)
		if (run_thread(encoder, s, err) < 0)
			return -1;
	return 0;
}

/* Finds the pages in what is there. */
static void parse(struct sender *s, struct batch *b, size_t *parsed)
{
	struct stream_item *items = b->items + b->items_len;
	size_t found, from = *parsed;

	*parsed += stream_parse(s->parser, b->raw + from, b->raw_len - from, items,
		BATCH_ITEMS_MAX - b->items_len, &found);
	for (size_t i = 0; i < found; i++)
		items[i].at += (uint32_t)from;
	b->items_len += found;
}

static double ratio_of_late(struct sender *s)
{
	double ratio;

	pthread_mutex_lock(&s->mutex);
	ratio = s->ratio;
	pthread_mutex_unlock(&s->mutex);
	return ratio;
}

static size_t piece_size(struct sender *s)
{
	uint64_t window = link_window(s->link).bytes / PIECES_IN_WINDOW;
	double ratio = ratio_of_late(s), size = (double)window / (ratio > 0.01 ? ratio : 0.01);

	if (size < PIECE_MIN)
		return PIECE_MIN;
	return size < PIECE_MAX ? (size_t)size & ~4095u : PIECE_MAX;
}

/* Whether to wait for more of the stream before this piece goes. */
static bool wait_for_more(struct sender *s, const struct batch *b)
{
	bool hungry = link_hungry(s->link);

	if (hungry && b->raw_len >= SHORT_PIECE)
		return endpoint_wait(&s->input, 0);
	return endpoint_wait(&s->input, hungry ? HUNGRY_US : BUSY_US);
}

/* Whether the piece is to have more: it must have something, and there must be room. */
static bool goes_on(struct sender *s, const struct batch *b, size_t size, size_t parsed)
{
	if (b->items_len == BATCH_ITEMS_MAX || b->raw_len + READ_UNIT > size)
		return false;
	return !parsed || wait_for_more(s, b);
}

/* Whether what the parser keeps back goes as it is, since nothing follows it. */
static bool passes(struct sender *s, const struct batch *b, size_t *parsed)
{
	size_t left = b->raw_len - *parsed;

	if (*parsed || !left || endpoint_wait(&s->input, SILENT_US) ||
		!stream_parser_pass(s->parser, left))
		return false;
	*parsed = b->raw_len;
	return true;
}

/* Reads the stream along where its end is not that of its connection; 1 at the end. */
static int read_along(struct sender *s, const uint8_t *data, size_t len, struct error **err)
{
	if (!s->hold)
		return 0;
	if (hold_feed(s->hold, data, len, err) < 0)
		return -1;
	if (!s->told_last && hold_last_round(s->hold)) {
		s->told_last = true;
		run_status(s->run, "last_round", NULL);
	}
	return hold_ended(s->hold);
}

static int closed_early(struct sender *s, struct error **err)
{
	if (!s->hold)
		return 0;
	return error_set(err, ERROR_HYPERVISOR, 0,
		"the hypervisor closed its connection after %llu bytes, before its stream was over",
		(unsigned long long)s->end.bytes);
}

/* Reads a piece; what the parser leaves belongs to the next one. 1 at the end of the stream. */
static int fill(struct sender *s, struct batch *b, struct error **err)
{
	size_t size = piece_size(s), parsed = 0;
	int over = 0;

	batch_reset(b);
	memcpy(b->raw, s->left, s->left_len);
	b->raw_len = s->left_len;
	s->left_len = 0;
	if (b->raw_len)
		parse(s, b, &parsed);
	while (goes_on(s, b, size, parsed)) {
		uint8_t *at = b->raw + b->raw_len;
		ssize_t n;

		if (passes(s, b, &parsed))
			break;
		n = endpoint_read(&s->input, at, (size - b->raw_len) / READ_UNIT * READ_UNIT, err);
		if (n < 0)
			return -1;
		if (n == 0 && closed_early(s, err) < 0)
			return -1;
		hash_update(s->hash, at, (size_t)n);
		s->end.bytes += (uint64_t)n;
		b->raw_len += (size_t)n;
		if (n > 0) {
			parse(s, b, &parsed);
			over = read_along(s, at, (size_t)n, err);
		}
		if (over < 0)
			return -1;
		if (over || n == 0) {
			stream_parser_end(s->parser, b->raw_len - parsed);
			return 1;
		}
	}
	s->left_len = b->raw_len - parsed;
	memcpy(s->left, b->raw + parsed, s->left_len);
	b->raw_len = parsed;
	return 0;
}

/* With everything in it as it is, on a link that is faster than the encoders. */
static void send_raw(struct sender *s, struct piece *piece)
{
	struct batch *b = piece->batch;

	if (s->options->plain)
		b->counts.other_bytes = b->raw_len;
	piece->frame.type = FRAME_DATA;
	piece->frame.data = b->raw;
	piece->frame.len = b->raw_len;
	pthread_mutex_lock(&s->mutex);
	level_worked(&s->level, &(struct level_work){.sent_bytes = b->raw_len});
	s->ratio += RATIO_WEIGHT * (1 - s->ratio);
	batch_counts_add(&s->counts, &b->counts);
	pthread_mutex_unlock(&s->mutex);
	link_ready(s->link, &piece->frame);
}

/* Whether nothing but copies would come of encoding it. */
static bool as_it_is(const struct sender *s, const struct piece *piece)
{
	const uint64_t *pages = piece->batch->counts.pages;

	if (s->options->plain)
		return true;
	return level_list[piece->level] == 0 && piece->batch->no_cache && !pages[BATCH_REFERENCE] &&
	       !pages[BATCH_DIFFERENCE];
}

static void plan(struct sender *s, struct piece *piece)
{
	struct batch *b = piece->batch;
	struct level_work work;
	bool resting;

	pthread_mutex_lock(&s->mutex);
	piece->level = level_choose(&s->level, s->ratio, clock_us());
	s->level.batches[piece->level]++;
	resting = clock_us() < s->resting_until_us;
	pthread_mutex_unlock(&s->mutex);
	s->report.level = level_list[piece->level];
	batch_plan(b, s->cache, resting ? NULL : s->sources, level_list[piece->level] != 0);
	work = (struct level_work){.bytes = b->counts.bytes[BATCH_DATA] + b->counts.other_bytes};
	pthread_mutex_lock(&s->mutex);
	level_worked(&s->level, &work);
	pthread_mutex_unlock(&s->mutex);
}

static void submit(struct sender *s, struct piece *piece)
{
	size_t expected = (size_t)((double)piece->batch->raw_len * ratio_of_late(s));

	if (!s->options->plain)
		plan(s, piece);
	link_begin(s->link, &piece->frame, expected);
	piece->batch->sequence = piece->frame.sequence;
	if (as_it_is(s, piece))
		send_raw(s, piece);
	else
		give_to_encoders(s, piece);
}

/* Tells the watch how far it is; half way in there is a fault point. */
static int count(struct sender *s, uint64_t before, struct error **err)
{
	s->report.stream_bytes = s->end.bytes;
	if (before < HALF_BYTES && s->end.bytes >= HALF_BYTES)
		return fault_point("wire.send.half", err);
	return 0;
}

static void send_end(struct sender *s)
{
	s->end.hash = hash_digest(s->hash);
	frame_end_encode(&s->end, s->end_payload);
	pthread_mutex_lock(&s->mutex);
	s->ended_us = clock_us();
	s->ended = true;
	pthread_mutex_unlock(&s->mutex);
	link_send(s->link, &s->end_frame, FRAME_END, s->end_payload, FRAME_END_SIZE);
	if (s->hold)
		run_status(s->run, "sent", NULL);
}

/* For how long the link was in use since the last call; where that cannot be told, all the time. */
static int64_t link_was_busy_us(struct sender *s)
{
	int64_t before_us = s->busy_us, told_us = link_busy_us(s->link);

	s->busy_us = told_us < 0 ? clock_us() : told_us;
	return s->busy_us > before_us ? s->busy_us - before_us : 0;
}

static uint64_t acked_since(struct sender *s)
{
	uint64_t before = s->acked_bytes;

	s->acked_bytes = link_window(s->link).acked;
	return s->acked_bytes - before;
}

/* Until another piece may be on its way. */
static void wait_for_room(struct sender *s)
{
	int64_t start_us = clock_us(), middle_us;
	struct level_work work = {0};

	wait_for_encoders(s);
	middle_us = clock_us();
	link_wait_room(s->link);
	work.encoder_us = middle_us - start_us;
	work.link_us = clock_us() - middle_us;
	work.busy_us = link_was_busy_us(s);
	work.acked_bytes = acked_since(s);
	pthread_mutex_lock(&s->mutex);
	level_worked(&s->level, &work);
	pthread_mutex_unlock(&s->mutex);
}

int send_stream_carry(struct sender *s, struct error **err)
{
	int end = 0;

	if (endpoint_accept(&s->input, s->deadline_ms, err) < 0)
		return -1;
	if (s->hold)
		hold_keep(s->input.fd);
	while (!end) {
		uint64_t before = s->end.bytes;
		struct piece *piece;

		wait_for_room(s);
		piece = take(s, &s->free, &s->freed);
		end = fill(s, piece->batch, err);
		if (end < 0 || count(s, before, err) < 0)
			return -1;
		if (piece->batch->raw_len)
			submit(s, piece);
		else
			set_free(s, piece);
	}
	send_end(s);
	return 0;
}

void send_stream_release(struct sender *s, struct out_frame *frame)
{
	if (frame != &s->setup_frame && frame != &s->end_frame)
		set_free(s, (struct piece *)frame);
}
