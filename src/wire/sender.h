/*
 * Inside the sending side: its state, shared by send.c (the link, the return path, the watch) and
 * send_stream.c (the stream: reading, planning, encoding).
 */
#ifndef DROVER_WIRE_SENDER_H
#define DROVER_WIRE_SENDER_H

#include "wire/batch.h"
#include "wire/endpoint.h"
#include "wire/hash.h"
#include "wire/hold.h"
#include "wire/inbox.h"
#include "wire/level.h"
#include "wire/link.h"
#include "wire/rate.h"
#include "wire/setup.h"
#include "wire/sides.h"

#include <pthread.h>

/* A piece of the stream on its way: read, planned, encoded, sent, acknowledged, free again. */
struct piece {
	struct out_frame frame; /* first: the link gives this back */
	struct piece *next;
	struct batch *batch;
	uint8_t *payload; /* BATCH_RAW_MAX + BATCH_EXTRA bytes of room */
	unsigned level;   /* index into level_list */
};

struct pieces {
	struct piece *first, *last;
};

struct sender {
	const struct options *options;
	struct run *run;
	struct link *link;
	struct endpoint input;
	struct chunk_pool *pool;
	int64_t deadline_ms; /* for the hypervisor to connect */

	/* The reader's. */
	int64_t busy_us;      /* of link_busy_us, when it last looked */
	uint64_t acked_bytes; /* of link_window, then */
	struct stream_parser *parser;
	struct hold *hold; /* NULL: the stream ends when its connection does (hold.h) */
	bool told_last;    /* "last_round" has been said */
	struct page_cache *cache;
	struct source_set *sources;
	struct pagehash *key;
	struct hash *hash;
	uint8_t *left; /* what the parser left of the last piece */
	size_t left_len;
	struct frame_end end;
	struct out_frame setup_frame, end_frame;
	uint8_t setup_payload[SETUP_MAX], end_payload[FRAME_END_SIZE];

	pthread_mutex_t mutex; /* all that follows; taken inside the link's lock */
	/* A piece is there for encoders; the reader has one back, or encoders less to do; a frame
	 * for carry_back. */
	pthread_cond_t planned_more, freed, came_back;
	struct pieces free, planned;
	unsigned encoding; /* pieces that wait for an encoder, or are with one */
	struct level level;
	struct batch_counts counts;
	double ratio; /* bytes sent for each byte of the stream, of late */
	struct inbox back;
	bool setup_done;
	bool ended;                          /* all of the stream was read: `end` is complete */
	int64_t ended_us, complete_us;       /* of clock_us */
	bool complete;                       /* END_ACK has come */
	uint64_t reading_blocks, reading_ns; /* what the destination said */
	int64_t resting_until_us;            /* references are too slow until then */

	struct rate rate; /* at which the stream has arrived there */

	struct run_counts report;
};

/* Makes the pieces and starts the encoders. */
int send_stream_open(struct sender *s, struct error **err);
/* The reader: carries the hypervisor's stream until its end. */
int send_stream_carry(struct sender *s, struct error **err);
/* A frame has been acknowledged: its piece is free again. */
void send_stream_release(struct sender *s, struct out_frame *frame);

#endif
