/*
 * Frames as a hostile peer may send them: one after the other, each header and each payload through
 * its decoder. What a decoder takes, its encoder must write again, byte for byte.
 */
#include "wire/frame.h"

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
	default:
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
