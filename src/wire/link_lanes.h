/*
 * Inside the link (link.h): its state, and its lanes. Only link*.c include this.
 *
 * A slot is a place for a lane; a connection is what is in it now. A connection has two threads;
 * the first that fails takes it out of its slot, the last one frees it.
 */
#ifndef DROVER_WIRE_LINK_LANES_H
#define DROVER_WIRE_LINK_LANES_H

#include "wire/lane.h"
#include "wire/link.h"
#include "wire/pace.h"
#include "wire/window.h"

#include <pthread.h>

struct connection {
	struct link *link;
	struct lane *lane;
	unsigned number;
	bool dead;           /* taken out of its slot */
	unsigned threads;    /* that still use it */
	pthread_cond_t work; /* something to send */
	bool waits;          /* the thread that sends waits for that */
	uint64_t counted;    /* bytes of it in the link's count of those that are gone */
};

struct slot {
	struct link *link;
	unsigned number;
	struct connection *now; /* NULL: down */
	bool was_up;
	int64_t down_ms; /* of clock_ms, since when */
};

/* Something without a number that lane 0 is to say. */
struct said {
	struct said *next;
	enum frame_type type;
	size_t len;
	uint8_t data[];
};

struct link {
	struct link_options options;
	uint64_t session;
	bool numbers_on_zero; /* lane 0 carries this side's numbered frames */

	pthread_mutex_t mutex;       /* all that follows */
	pthread_cond_t lanes_change; /* a lane came or went */
	pthread_cond_t room;         /* something was sent or acknowledged */
	struct outbox out;
	struct window window;
	uint64_t begun_bytes; /* of all frames that were begun, expected or known */
	struct said *said, *said_last;
	unsigned said_len;
	bool ack_due, ending;
	bool hello_seen;
	struct frame_hello theirs;
	unsigned lanes; /* without lane 0; 0: not known yet */
	struct slot slots[FRAME_LANES_MAX + 1];
	char cipher[64], address[128];
	struct pace pace;
	int64_t paced_us;      /* waited for that, by all lanes */
	uint64_t closed_bytes; /* of lanes that are gone */
	unsigned reconnections;
};

/* With the lock held: there is something to send, on lane 0, or that takes numbers. One thread is
 * woken, since waking one that finds nothing costs about as much as sending a frame. */
void link_wake_zero(struct link *link);
void link_wake_numbered(struct link *link);
/* With the lock held: lanes came or went. */
void link_wake_all(struct link *link);
/* With the lock held: gives back what was acknowledged up to this frame. */
int link_take_acked(struct link *link, uint64_t sequence, struct error **err);
/* A lane is ready for use: it becomes the link's. */
void link_install_lane(struct link *link, unsigned number, struct lane *lane);
/* The keeper of each slot, of the side that connects: connects it whenever it is down. */
int link_keep(struct link *link, unsigned number, struct error **err);

#endif
