/*
 * Frames: what travels inside the TLS connection of a lane. docs/wire-protocol.md draws them; the
 * offsets here and there are the same.
 *
 * A frame is a header of FRAME_HEADER bytes and a payload of 0 to FRAME_PAYLOAD_MAX bytes. All
 * integers are big-endian. Each decoder here takes bytes that nobody has looked at yet, and says
 * what is wrong with them (ERROR_REQUEST); each encoder writes exactly what its decoder takes.
 *
 * A numbered frame carries a piece of a stream; each direction numbers its own from 1 upwards
 * without a gap, whatever lane they take, so that what was lost with a connection can be told and
 * sent again. The others speak of the connection itself and carry the number 0.
 */
#ifndef DROVER_WIRE_FRAME_H
#define DROVER_WIRE_FRAME_H

#include "base/error.h"
#include "base/fs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER 16u
/* A frame and its header fill whole TLS records of 16 KiB; no receiver needs to hold more. */
#define FRAME_PAYLOAD_MAX ((1u << 20) - FRAME_HEADER)

/* The range of versions that this program speaks. */
#define FRAME_VERSION_OLDEST 1u
#define FRAME_VERSION_NEWEST 1u

enum frame_type {
	FRAME_HELLO = 1,     /* the first frame each way */
	FRAME_DATA = 2,      /* numbered: bytes of the stream as they are */
	FRAME_RETURN = 3,    /* numbered: bytes of the return path as they are */
	FRAME_END = 4,       /* numbered: the stream is complete */
	FRAME_END_ACK = 5,   /* numbered: the stream is complete and has been written */
	FRAME_ACK = 6,       /* what has been dealt with; also the sign of life */
	FRAME_ERROR = 7,     /* why the sender of this frame gives up */
	FRAME_SETUP = 8,     /* numbered: what batches are made with (setup.h) */
	FRAME_SETUP_ACK = 9, /* numbered: what of it this side can do */
	FRAME_BATCH = 10,    /* numbered: bytes of the stream, encoded (batch.h) */
	FRAME_MISS = 11,     /* pages of a batch that are asked for */
	FRAME_PAGES = 12,    /* these pages */
	FRAME_READING = 13   /* how fast content sources can be read */
};

/* "DATA"; "unknown" for a type without a name. */
const char *frame_type_name(uint8_t type);
/* Whether frames of this type are counted. */
bool frame_type_numbered(uint8_t type);

struct frame_header {
	uint32_t length; /* of the payload */
	uint8_t type;
	uint64_t sequence; /* 0 for a frame that is not numbered */
};

void frame_header_encode(const struct frame_header *h, uint8_t out[FRAME_HEADER]);
/* Checks the length against FRAME_PAYLOAD_MAX, that the type exists, that reserved bytes are 0, and
 * that a number is there where and only where one belongs. */
int frame_header_decode(const uint8_t in[FRAME_HEADER], struct frame_header *h, struct error **err);

enum frame_role { FRAME_ROLE_SEND = 1, FRAME_ROLE_RECV = 2 };

#define FRAME_HELLO_SIZE 42u /* without the migration's id */
#define FRAME_HELLO_MAX (FRAME_HELLO_SIZE + FS_NAME_MAX)

/* Lanes that carry the stream, at most; lane 0 carries what is said about it. */
#define FRAME_LANES_MAX 16u

struct frame_hello {
	enum frame_role role;
	uint16_t oldest, newest; /* versions that are spoken */
	uint64_t features;       /* none is defined */
	uint32_t payload_max;    /* longest payload that is accepted */
	uint64_t next;           /* first numbered frame that has not been dealt with */
	uint8_t lane;            /* which lane this is */
	uint8_t lanes;           /* how many of them carry the stream */
	uint8_t window;          /* numbered frames that are taken ahead of the one before `next` */
	uint64_t session;        /* a random number of this process */
	char migration[FS_NAME_MAX + 1];
};

/* Writes at most FRAME_HELLO_MAX bytes and returns how many. */
size_t frame_hello_encode(const struct frame_hello *hello, uint8_t *out);
int frame_hello_decode(
	const uint8_t *in, size_t len, struct frame_hello *hello, struct error **err);

/* Payload of ACK: the highest number up to which every frame has been dealt with, and how many
 * bytes of the stream that is. */
#define FRAME_ACK_SIZE 16u
struct frame_ack {
	uint64_t sequence, bytes;
};
void frame_ack_encode(const struct frame_ack *ack, uint8_t out[FRAME_ACK_SIZE]);
int frame_ack_decode(const uint8_t *in, size_t len, struct frame_ack *ack, struct error **err);

/* Payload of END and END_ACK: length and XXH3 (64 bits, seed 0) of the whole stream. */
#define FRAME_END_SIZE 16u
struct frame_end {
	uint64_t bytes, hash;
};
void frame_end_encode(const struct frame_end *end, uint8_t out[FRAME_END_SIZE]);
int frame_end_decode(const uint8_t *in, size_t len, struct frame_end *end, struct error **err);

/* Payload of ERROR: the name of the error's kind and its message, cut to fit. */
#define FRAME_ERROR_MAX 1024u
size_t frame_error_encode(const struct error *e, uint8_t out[FRAME_ERROR_MAX]);
/* Makes the error that the payload holds, its message after "`peer` says: ", and returns -1 always;
 * a payload that holds none gives an error that says that. */
int frame_error_decode(const uint8_t *in, size_t len, const char *peer, struct error **err);

#endif
