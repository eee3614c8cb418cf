/*
 * Inside the receiving side: its state, shared by recv.c (the link, the return path, the watch) and
 * recv_stream.c (the stream: decoding, putting in order, writing).
 */
#ifndef DROVER_WIRE_RECEIVER_H
#define DROVER_WIRE_RECEIVER_H

#include "wire/batch.h"
#include "wire/endpoint.h"
#include "wire/hash.h"
#include "wire/hold.h"
#include "wire/inbox.h"
#include "wire/link.h"
#include "wire/setup.h"
#include "wire/sides.h"

#include <pthread.h>

/* A piece of the return path; kept until the sender has acknowledged it. */
struct return_piece {
	struct out_frame frame; /* first: the link gives this back */
	struct return_piece *next;
	uint8_t data[SIDES_RETURN_MAX];
};

struct receiver {
	const struct options *options;
	struct run *run;
	struct link *link;
	struct endpoint output;
	struct chunk_pool *pool;
	int64_t deadline_ms; /* for the sender and the hypervisor to be there */

	/* Set by SETUP, which comes before all else. */
	struct source_set *sources;
	struct page_cache *cache;
	struct pagehash *key;
	struct out_frame setup_frame, end_frame;
	uint8_t setup_payload[SETUP_ACK_SIZE], end_payload[FRAME_END_SIZE];

	/* The writer's. */
	struct frame_end end; /* of what has been written */
	struct hash *hash;
	struct hold *hold; /* NULL: nothing is held back (hold.h) */
	struct buf held;

	pthread_mutex_t mutex; /* all that follows; taken inside the link's lock */
	/* A frame is there for decoders, a batch is free for them; the next piece may be there for
	 * the writer; a return_piece is free for carry_back. */
	pthread_cond_t arrived, freed, decoded, returned;
	struct inbox in;
	struct batch *free;
	struct return_piece *returns;
	struct frame_ack written;
	struct batch_counts counts;
	bool set_up, end_sent, complete;
	bool holds_all; /* nothing is needed from the sender any more (hold.h) */
	bool writer_failed;

	struct run_counts report;
};

/* Starts the decoders. */
int recv_stream_open(struct receiver *r, struct error **err);
/* The writer: gives the stream to the hypervisor, until something fails. */
int recv_stream_write(struct receiver *r, struct error **err);
/* Ends the run; says whose fault it was. */
void recv_stream_fail(struct receiver *r, struct error *err);
/* Whether SETUP has come. */
bool recv_stream_set_up(struct receiver *r);
/* A frame of the stream came; it is kept (1), not needed (0), or wrong. */
int recv_stream_take(struct receiver *r, struct chunk *chunk, struct error **err);
/* Pages came that had been asked for. */
int recv_stream_pages(struct receiver *r, const struct chunk *chunk, struct error **err);
/* Asks again for all pages that are missing. */
void recv_stream_ask_again(struct receiver *r);

#endif
