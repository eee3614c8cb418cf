/*
 * The link: all lanes to one peer, for one migration. It outlives each of its lanes: what was on
 * one that broke is sent again, the connecting side connects again, and who uses the link sees
 * nothing of it but the time that it takes.
 *
 * Lane 0 carries what is said about the stream (acknowledgements, pages that are missing), and the
 * return path, both ways and ahead of all else; lanes 1 and up carry the stream. Each lane has a
 * thread that sends and one that receives.
 */
#ifndef DROVER_WIRE_LINK_H
#define DROVER_WIRE_LINK_H

#include "wire/chunk.h"
#include "wire/frame.h"
#include "wire/lane.h"
#include "wire/outbox.h"
#include "wire/run.h"
#include "wire/tcp.h"
#include "wire/tls.h"
#include "wire/window.h"

/* Attempts to connect again: the first at once, then after pauses that double up to the second. TCP
 * takes at most the third for one, TLS and hello LANE_SETUP_MS. */
#define LINK_PAUSE_MS 50
#define LINK_PAUSE_MAX_MS 1000
#define LINK_ATTEMPT_MS 3000

/* What the link tells its user. Called by the link's threads; any may be called at any time until
 * the process ends. */
struct link_handler {
	/* Memory for the next frame; waits for it. There must always be as much as the window that
	 * this side's hello names, one more for what is being dealt with, and one for each lane. */
	struct chunk_pool *pool;
	/* A frame came (any but HELLO, ACK, ERROR). 1: the chunk is kept, 0: it is the link's
	 * again. -1 ends the run. */
	int (*take)(void *arg, struct chunk *chunk, struct error **err);
	/* The other side has dealt with this frame: it is the user's again. With the link's lock
	 * held: it calls nothing of the link. */
	void (*release)(void *arg, struct out_frame *frame);
	/* The other side's count of bytes of the stream; false for one that cannot be. */
	bool (*acked)(void *arg, uint64_t bytes);
	/* What this side has dealt with. */
	struct frame_ack (*dealt)(void *arg);
	/* Lane 0 is there again: what was said on it and not answered is to be said again. */
	void (*again)(void *arg);
	/* The other side has closed a lane: whether that is fine (all is done). */
	bool (*complete)(void *arg);
};

struct link_options {
	const struct tls_credentials *credentials;
	const struct tls_peer *peer;
	struct frame_hello
		hello;  /* this side's; lane, next and session are the link's to fill in */
	uint32_t needs; /* payload that the other side must accept */
	const struct tcp_target *target; /* the receiver, for the side that connects */
	uint64_t bandwidth_bps;          /* bytes per second over all lanes; 0: no limit */
	int64_t reconnect_ms;            /* a lane may be down for so long */
	const struct link_handler *handler;
	void *arg;
	struct run *run;
};

struct link;

/* A link without lanes. The options' pointers outlive it. Aborts without memory. */
struct link *link_new(const struct link_options *options);

/* The side that connects: connects lane 0, once, until deadline_ms (of clock_ms); the other lanes
 * then come by themselves. */
int link_connect(struct link *link, int64_t deadline_ms, struct error **err);
/* The side that listens: a lane whose hello has been answered. It is the link's. */
void link_install(struct link *link, struct lane *lane, const struct frame_hello *theirs);
/* Whether a hello fits what the link (a struct link) knows of the other side already; what it says
 * of numbers and limits is taken. */
int link_hello_fits(void *link, const struct frame_hello *theirs, struct error **err);
/* This side's hello for that lane now. */
void link_hello(struct link *link, unsigned lane, struct frame_hello *hello);
/* The other side's hello, when there was one. */
bool link_theirs(struct link *link, struct frame_hello *theirs);

/* Waits until a frame may be begun: until the other side's window has room for another, and
 * what is on its way is less than the link carries in a few milliseconds (window.h). */
void link_wait_room(struct link *link);
/* Numbers the frame, which will have about `expected` bytes; then says that its type, data and
 * length are there. */
void link_begin(struct link *link, struct out_frame *frame, size_t expected);
void link_ready(struct link *link, struct out_frame *frame);
/* All of it in one, for a side that sends little. */
void link_send(struct link *link, struct out_frame *frame, enum frame_type type, const void *data,
	size_t len);
/* Whether all that was begun has been given to the lanes: something more should come. */
bool link_hungry(struct link *link);
/* Calls `use` with a frame that was sent and is still kept, with the link's lock held; false when
 * there is none of that number. */
bool link_with_frame(struct link *link, uint64_t sequence,
	void (*use)(void *arg, struct out_frame *frame), void *arg);

/* Says something on lane 0, without a number: it is lost when that lane breaks. Waits while much
 * has not been said yet. */
void link_say(struct link *link, enum frame_type type, const void *payload, size_t len);
/* The same for what is soon out of date: it waits for nothing, and says nothing while lane 0 has
 * something else to say, or is down. */
void link_say_idly(struct link *link, enum frame_type type, const void *payload, size_t len);
/* What link_handler.dealt returns has changed: it is told as soon as lane 0 can. */
void link_ack(struct link *link);

/* For the main thread, now and then: -1 when a lane has been down for too long. */
int link_check(struct link *link, struct error **err);
/* All is done: says goodbye on all lanes, and waits at most a second for the other side's. */
void link_finish(struct link *link);
/* Tells the other side why this one gives up. */
void link_give_up(struct link *link, const struct error *why);

/* Of the first lane 0. */
const char *link_cipher(struct link *link);
const char *link_address(struct link *link);
/* Bytes on all TCP connections so far, both directions, with all that TLS adds. */
uint64_t link_wire_bytes(struct link *link);
unsigned link_reconnections(struct link *link);
/* What may be on its way, what has arrived (payload of numbered frames) and how fast, now. */
struct window link_window(struct link *link);
/* For how long, in microseconds, the stream's lanes have been in use or were held back by the
 * bandwidth limit, on average. It can become less when lanes break. -1: it cannot be told. */
int64_t link_busy_us(struct link *link);

#endif
