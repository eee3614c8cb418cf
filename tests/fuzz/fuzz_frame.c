/*
 * Frames as a hostile peer may send them: one after the other, each header and each payload through
 * its decoder. What a decoder takes, its encoder must write again, byte for byte.
 */
#include "wire/frame.h"
#include "wire/setup.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_equal(const uint8_t *in, size_t in_len, const uint8_t *out, size_t out_len)
{
	if (in_len != out_len || memcmp(in, out, in_len) != 0)
		abort();
}

static void fuzz_hello(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[FRAME_HELLO_MAX];
	struct frame_hello hello;

	if (frame_hello_decode(in, len, &hello, &err) == 0)
		must_equal(in, len, out, frame_hello_encode(&hello, out));
	else if (!err)
		abort();
}

static void fuzz_ack(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[FRAME_ACK_SIZE];
	struct frame_ack ack;

	if (frame_ack_decode(in, len, &ack, &err) < 0)
		return;
	frame_ack_encode(&ack, out);
	must_equal(in, len, out, sizeof(out));
}

static void fuzz_end(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[FRAME_END_SIZE];
	struct frame_end end;

	if (frame_end_decode(in, len, &end, &err) < 0)
		return;
	frame_end_encode(&end, out);
	must_equal(in, len, out, sizeof(out));
}

/* Always an error; its message is a string, and can be sent on. */
static void fuzz_error(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[FRAME_ERROR_MAX];

	if (frame_error_decode(in, len, "node2", &err) == 0 || !err ||
		strncmp(err->message, "node2 ", 6) != 0 ||
		frame_error_encode(err, out) > FRAME_ERROR_MAX)
		abort();
}

/* The list of content sources is read by the side that has files of its own; here it has none, and
 * so can read none of the other side's. */
static void fuzz_sources(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	struct source_set *set = source_set_open();
	uint32_t usable = 0;

	if (source_set_agree(set, in, len, &usable, &err) == 0 &&
		(len > SOURCE_LIST_MAX || usable != 0 || source_set_count(set) > SOURCE_MAX))
		abort();
	source_set_close(set);
}

static void fuzz_setup(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[SETUP_MAX];
	struct setup setup;

	if (setup_decode(in, len, &setup, &err) < 0)
		return;
	fuzz_sources(setup.sources, setup.sources_len);
	if (len <= SETUP_MAX)
		must_equal(in, len, out, setup_encode(&setup, out));
}

static void fuzz_setup_ack(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[SETUP_ACK_SIZE];
	struct setup_ack ack;

	if (setup_ack_decode(in, len, &ack, &err) < 0)
		return;
	setup_ack_encode(&ack, out);
	must_equal(in, len, out, sizeof(out));
}

static void fuzz_reading(const uint8_t *in, size_t len)
{
	cleanup_error struct error *err = NULL;
	uint8_t out[SETUP_READING_SIZE];
	uint64_t blocks, ns;

	if (setup_reading_decode(in, len, &blocks, &ns, &err) < 0)
		return;
	setup_reading_encode(blocks, ns, out);
	must_equal(in, len, out, sizeof(out));
}

static void fuzz_payload(uint8_t type, const uint8_t *in, size_t len)
{
	switch (type) {
	case FRAME_HELLO:
		fuzz_hello(in, len);
		break;
	case FRAME_ACK:
		fuzz_ack(in, len);
		break;
	case FRAME_END:
	case FRAME_END_ACK:
		fuzz_end(in, len);
		break;
	case FRAME_ERROR:
		fuzz_error(in, len);
		break;
	case FRAME_SETUP:
		fuzz_setup(in, len);
		break;
	case FRAME_SETUP_ACK:
		fuzz_setup_ack(in, len);
		break;
	case FRAME_READING:
		fuzz_reading(in, len);
		break;
	default: /* streams; batches and what belongs to them: fuzz_batch.c */
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame_header header;

	while (size >= FRAME_HEADER) {
		cleanup_error struct error *err = NULL;
		uint8_t out[FRAME_HEADER];

		if (frame_header_decode(data, &header, &err) < 0)
			return 0;
		if (header.length > FRAME_PAYLOAD_MAX)
			abort();
		frame_header_encode(&header, out);
		must_equal(data, FRAME_HEADER, out, FRAME_HEADER);
		data += FRAME_HEADER;
		size -= FRAME_HEADER;
		/* A connection that ends inside a payload: what there is of it is enough to try. */
		if (header.length > size)
			header.length = (uint32_t)size;
		fuzz_payload(header.type, data, header.length);
		data += header.length;
		size -= header.length;
	}
	return 0;
}
