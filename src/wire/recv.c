/*
 * The receiving side. Threads: the decoders (recv_stream.c), carry_stream (pieces in order →
 * hypervisor), carry_back (hypervisor → link: return path), those of the lanes (link.h, accept.h),
 * and the main thread, which watches.
 */
#include "base/clock.h"
#include "base/fault.h"
#include "wire/accept.h"
#include "wire/receiver.h"
#include "wire/report.h"
#include "wire/sandbox.h"

#include <stdlib.h>
#include <string.h>

static int take(void *arg, struct chunk *chunk, struct error **err)
{
	struct receiver *r = arg;

	switch (chunk->type) {
	case FRAME_SETUP:
	case FRAME_DATA:
	case FRAME_BATCH:
	case FRAME_END:
		return recv_stream_take(r, chunk, err);
	case FRAME_PAGES:
		return recv_stream_pages(r, chunk, err);
	default:
		return error_set(err, ERROR_REQUEST, 0, "a frame of type %s came",
			frame_type_name(chunk->type));
	}
}

static void release(void *arg, struct out_frame *frame)
{
	struct receiver *r = arg;

	pthread_mutex_lock(&r->mutex);
	if (frame == &r->end_frame) {
		r->complete = true;
		run_end(r->run);
	} else if (frame != &r->setup_frame) {
		struct return_piece *piece = (struct return_piece *)frame;

		piece->next = r->returns;
		r->returns = piece;
		pthread_cond_signal(&r->returned);
	}
	pthread_mutex_unlock(&r->mutex);
}

/* Of the return path: nobody counts its bytes. */
static bool acked(void *arg, uint64_t bytes)
{
	(void)arg;
	return bytes == 0;
}

static struct frame_ack dealt(void *arg)
{
	struct receiver *r = arg;
	struct frame_ack ack;

	pthread_mutex_lock(&r->mutex);
	ack = r->written;
	pthread_mutex_unlock(&r->mutex);
	return ack;
}

static void again(void *arg)
{
	recv_stream_ask_again(arg);
}

static bool complete(void *arg)
{
	struct receiver *r = arg;
	bool done;

	pthread_mutex_lock(&r->mutex);
	done = r->complete;
	pthread_mutex_unlock(&r->mutex);
	return done;
}

static struct return_piece *take_return(struct receiver *r)
{
	struct return_piece *piece;

	pthread_mutex_lock(&r->mutex);
	while (!r->returns)
		pthread_cond_wait(&r->returned, &r->mutex);
	piece = r->returns;
	r->returns = piece->next;
	pthread_mutex_unlock(&r->mutex);
	return piece;
}

/* A hypervisor that has closed its end is seen by those who move the stream; a return path may end
 * before it. */
static void *carry_back(void *arg)
{
	struct receiver *r = arg;
	struct frame_hello theirs;
	size_t max = SIDES_RETURN_MAX;

	link_theirs(r->link, &theirs);
	if (theirs.payload_max < max)
		max = theirs.payload_max & ~15u;
	for (;;) {
		struct return_piece *piece = take_return(r);
		ssize_t n;

		/* Inside read() this thread would be woken whenever the hypervisor takes something
		 * out of the same socket. */
		endpoint_wait(&r->output, -1);
		n = endpoint_read(&r->output, piece->data, max, NULL);
		if (n <= 0)
			return NULL;
		link_send(r->link, &piece->frame, FRAME_RETURN, piece->data, (size_t)n);
	}
}

static int open_link(struct receiver *r, const struct tls_credentials *credentials, int listen_fd,
	struct error **err)
{
	static struct link_handler handler = {.take = take,
		.release = release,
		.acked = acked,
		.dealt = dealt,
		.again = again,
		.complete = complete};
	struct link_options options = {.credentials = credentials,
		.peer = &r->options->peer,
		.reconnect_ms = r->options->reconnect_ms,
		.handler = &handler,
		.arg = r,
		.run = r->run,
		.hello = {.role = FRAME_ROLE_RECV,
			.oldest = FRAME_VERSION_OLDEST,
			.newest = FRAME_VERSION_NEWEST,
			.payload_max = FRAME_PAYLOAD_MAX,
			.lanes = 1,
			.window = SIDES_PIECES}};

	r->pool = chunk_pool_open(SIDES_PIECES + SIDES_SPARE, FRAME_PAYLOAD_MAX, err);
	if (!r->pool)
		return -1;
	handler.pool = r->pool;
	strcpy(options.hello.migration, r->options->migration);
	r->link = link_new(&options);
	return accept_start(r->options, listen_fd, r->run, credentials, r->link, err);
}

static int carry(struct receiver *r, struct error **err)
{
	if (endpoint_connect(&r->output, r->deadline_ms, err) < 0 ||
		fault_point("wire.recv.connected", err) < 0)
		return -1;
	if (r->output.both_ways && run_thread(carry_back, r, err) < 0)
		return -1;
	return recv_stream_write(r, err);
}

static void *carry_stream(void *arg)
{
	struct receiver *r = arg;
	struct error *err = NULL;

	if (carry(r, &err) < 0) {
		pthread_mutex_lock(&r->mutex);
		r->writer_failed = true;
		pthread_mutex_unlock(&r->mutex);
		recv_stream_fail(r, err);
	}
	return NULL;
}

static int wait_for_setup(struct receiver *r, struct error **err)
{
	if (accept_wait(r->run, r->link, r->deadline_ms, err) < 0)
		return -1;
	while (!recv_stream_set_up(r)) {
		if (clock_ms() >= r->deadline_ms)
			return error_set(err, ERROR_TIMEOUT, 0,
				"link from %s: it says nothing of what it will send",
				r->options->peer.name);
		if (run_wait(r->run, -1, RUN_TICK_MS, err) <= 0 || link_check(r->link, err) < 0)
			return -1;
	}
	return 0;
}

static void tell_reading(struct receiver *r)
{
	uint8_t payload[SETUP_READING_SIZE];
	uint64_t blocks, ns;

	source_set_reading(r->sources, &blocks, &ns);
	setup_reading_encode(blocks, ns, payload);
	if (blocks)
		link_say_idly(r->link, FRAME_READING, payload, sizeof(payload));
}

/* Whether the sender has all that it waits for, as far as can be known: it was told that all has
 * been written, and then went away. */
static bool told_all(struct receiver *r)
{
	bool told;

	pthread_mutex_lock(&r->mutex);
	told = r->end_sent;
	pthread_mutex_unlock(&r->mutex);
	return told;
}

/* Whether the sender, and what has become of it, does not matter: all that it had to send is here.
 */
static bool does_without_sender(struct receiver *r)
{
	bool all;

	pthread_mutex_lock(&r->mutex);
	all = r->holds_all && !r->writer_failed;
	pthread_mutex_unlock(&r->mutex);
	return all && !run_cancelled();
}

/* 1 while it goes on. */
static int look(struct receiver *r, struct error **err)
{
	int result = run_wait(r->run, -1, RUN_TICK_MS, err);

	if (result != 1)
		return result;
	run_status_progress(r->run, &r->report);
	if (!told_all(r))
		tell_reading(r);
	if (link_check(r->link, err) == 0)
		return 1;
	if (!told_all(r))
		return -1;
	error_free(err);
	return 0;
}

static int watch(struct receiver *r, struct error **err)
{
	int result;

	while ((result = look(r, err)) != 0) {
		if (result > 0)
			continue;
		if (!does_without_sender(r))
			return -1;
		error_free(err);
		if (told_all(r))
			return 0;
	}
	return 0;
}

static int run_threads(struct receiver *r, struct error **err)
{
	if (wait_for_setup(r, err) < 0)
		return -1;
	report_connected(r->run, r->link, &r->options->peer, false);
	run_counts_start(&r->report, r->link);
	return run_thread(carry_stream, r, err) < 0 ? -1 : watch(r, err);
}

/* What its own droverd has allowed it; which of them are used is agreed on in the setup. */
static void add_sources(struct receiver *r)
{
	const struct options *o = r->options;

	r->sources = source_set_open();
	for (size_t i = 0; i < o->sources_len; i++) {
		struct error *err = NULL;

		if (source_set_add(
			    r->sources, o->sources[i].name, o->sources[i].path, false, &err) < 0)
			report_source_unused(r->run, o->sources[i].name, err);
		error_free(&err);
	}
}

static void prepare(struct receiver *r)
{
	r->hash = hash_open();
	pthread_mutex_init(&r->mutex, NULL);
	pthread_cond_init(&r->arrived, NULL);
	pthread_cond_init(&r->freed, NULL);
	pthread_cond_init(&r->decoded, NULL);
	pthread_cond_init(&r->returned, NULL);
	inbox_init(&r->in, SIDES_PIECES);
	for (unsigned i = 0; i < SIDES_RETURNS; i++) {
		struct return_piece *piece = calloc(1, sizeof(*piece));

		if (!piece)
			abort();
		piece->next = r->returns;
		r->returns = piece;
	}
	add_sources(r);
}

static void report(struct receiver *r)
{
	struct report what = {.link = r->link, .counts = &r->counts, .sources = r->sources};

	run_status_end(r->run, &r->report, r->end.hash, report_end(&what));
}

int recv_run(const struct options *options, struct run *run, struct error **err)
{
	struct receiver *r = calloc(1, sizeof(*r));
	struct tls_credentials *credentials;
	int listen_fd;

	if (!r)
		abort();
	r->options = options;
	r->run = run;
	r->report.level = RUN_NO_LEVEL;
	r->deadline_ms = clock_ms() + options->timeout_ms;
	prepare(r);
	buf_init(&r->held, HOLD_MAX);
	if (options->hold_bytes &&
		(!(r->hold = hold_open(options->hold_bytes, err)) || hold_catch_release(err) < 0))
		return -1;
	credentials = tls_credentials_load(options->cert, options->key, options->ca, err);
	if (!credentials || endpoint_open_output(&r->output, options->endpoint, err) < 0)
		return -1;
	listen_fd = accept_listen(options, err);
	if (listen_fd < 0 || run_harden(err) < 0 ||
		sandbox_enter(r->output.kind == ENDPOINT_UNIX, err) < 0 ||
		recv_stream_open(r, err) < 0 || open_link(r, credentials, listen_fd, err) < 0)
		return -1;
	if (run_threads(r, err) < 0) {
		link_give_up(r->link, *err);
		return -1;
	}
	link_finish(r->link);
	report(r);
	return 0;
}
