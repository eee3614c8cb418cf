#include "wire/frame.h"

#include "base/buf.h"

#include <stdio.h>
#include <string.h>

#define HELLO_MAGIC 0x44525657u /* "DRVW" */

static const struct {
	const char *name;
	bool numbered;
} types[] = {
	[FRAME_HELLO] = {"HELLO", false},
	[FRAME_DATA] = {"DATA", true},
	[FRAME_RETURN] = {"RETURN", true},
	[FRAME_END] = {"END", true},
	[FRAME_END_ACK] = {"END_ACK", true},
	[FRAME_ACK] = {"ACK", false},
	[FRAME_ERROR] = {"ERROR", false},
	[FRAME_SETUP] = {"SETUP", true},
	[FRAME_SETUP_ACK] = {"SETUP_ACK", true},
	[FRAME_BATCH] = {"BATCH", true},
	[FRAME_MISS] = {"MISS", false},
	[FRAME_PAGES] = {"PAGES", false},
	[FRAME_READING] = {"READING", false},
};

#define TYPES (sizeof(types) / sizeof(types[0]))

static bool type_known(uint8_t type)
{
	return type < TYPES && types[type].name;
}

const char *frame_type_name(uint8_t type)
{
	return type_known(type) ? types[type].name : "unknown";
}

bool frame_type_numbered(uint8_t type)
{
	return type < TYPES && types[type].numbered;
}

void frame_header_encode(const struct frame_header *h, uint8_t out[FRAME_HEADER])
{
	put_be32(out, h->length);
	out[4] = h->type;
	memset(out + 5, 0, 3);
	put_be64(out + 8, h->sequence);
}

int frame_header_decode(const uint8_t in[FRAME_HEADER], struct frame_header *h, struct error **err)
{
	uint32_t reserved;
	struct reader r;

	reader_init(&r, in, FRAME_HEADER);
	h->length = reader_be32(&r);
	h->type = reader_u8(&r);
	reserved = (uint32_t)reader_u8(&r) << 16 | reader_be16(&r);
	h->sequence = reader_be64(&r);
	if (!type_known(h->type))
		return error_set(
			err, ERROR_REQUEST, 0, "a frame of the unknown type %u came", h->type);
	if (h->length > FRAME_PAYLOAD_MAX)
		return error_set(err, ERROR_REQUEST, 0,
			"a frame says that it is %u bytes long, %u are allowed", h->length,
			FRAME_PAYLOAD_MAX);
	if (reserved)
		return error_set(
			err, ERROR_REQUEST, 0, "reserved bytes of a frame's header are not 0");
	if (frame_type_numbered(h->type) != (h->sequence != 0))
		return error_set(err, ERROR_REQUEST, 0, "a frame of type %s came with number %llu",
			frame_type_name(h->type), (unsigned long long)h->sequence);
	return 0;
}

size_t frame_hello_encode(const struct frame_hello *hello, uint8_t *out)
{
	size_t len = strlen(hello->migration);

	put_be32(out, HELLO_MAGIC);
	put_be16(out + 4, hello->oldest);
	put_be16(out + 6, hello->newest);
	out[8] = (uint8_t)hello->role;
	out[9] = hello->lane;
	put_be64(out + 10, hello->features);
	put_be32(out + 18, hello->payload_max);
	put_be64(out + 22, hello->next);
	out[30] = hello->lanes;
	out[31] = hello->window;
	put_be16(out + 32, (uint16_t)len);
	put_be64(out + 34, hello->session);
	memcpy(out + FRAME_HELLO_SIZE, hello->migration, len);
	return FRAME_HELLO_SIZE + len;
}

static int hello_check(const struct frame_hello *hello, struct error **err)
{
	if (hello->role != FRAME_ROLE_SEND && hello->role != FRAME_ROLE_RECV)
		return error_set(err, ERROR_REQUEST, 0, "a hello with role %d came", hello->role);
	if (hello->oldest == 0 || hello->oldest > hello->newest)
		return error_set(err, ERROR_REQUEST, 0, "a hello with versions %u to %u came",
			hello->oldest, hello->newest);
	if (hello->payload_max < FRAME_HELLO_MAX || hello->next == 0 || !hello->window)
		return error_set(err, ERROR_REQUEST, 0, "a hello with impossible limits came");
	if (!hello->lanes || hello->lanes > FRAME_LANES_MAX || hello->lane > hello->lanes)
		return error_set(err, ERROR_REQUEST, 0, "a hello for lane %u of %u came",
			hello->lane, hello->lanes);
	return fs_check_name("migration", hello->migration, err);
}

int frame_hello_decode(const uint8_t *in, size_t len, struct frame_hello *hello, struct error **err)
{
	const uint8_t *id;
	uint16_t id_len;
	struct reader r;

	memset(hello, 0, sizeof(*hello));
	reader_init(&r, in, len);
	if (reader_be32(&r) != HELLO_MAGIC)
		return error_set(err, ERROR_REQUEST, 0, "what came first is not drover-wire's");
	hello->oldest = reader_be16(&r);
	hello->newest = reader_be16(&r);
	hello->role = (enum frame_role)reader_u8(&r);
	hello->lane = reader_u8(&r);
	hello->features = reader_be64(&r);
	hello->payload_max = reader_be32(&r);
	hello->next = reader_be64(&r);
	hello->lanes = reader_u8(&r);
	hello->window = reader_u8(&r);
	id_len = reader_be16(&r);
	hello->session = reader_be64(&r);
	if (id_len > FS_NAME_MAX)
		return error_set(err, ERROR_REQUEST, 0,
			"a hello with a migration id of %u bytes came", id_len);
	id = reader_bytes(&r, id_len);
	if (!id || r.left || memchr(id, 0, id_len))
		return error_set(err, ERROR_REQUEST, 0, "a hello of a wrong form came");
	memcpy(hello->migration, id, id_len);
	return hello_check(hello, err);
}

static void pair_encode(uint64_t a, uint64_t b, uint8_t out[16])
{
	put_be64(out, a);
	put_be64(out + 8, b);
}

static int pair_decode(const char *what, const uint8_t *in, size_t len, uint64_t *a, uint64_t *b,
	struct error **err)
{
	struct reader r;

	reader_init(&r, in, len);
	*a = reader_be64(&r);
	*b = reader_be64(&r);
	if (r.failed || r.left)
		return error_set(
			err, ERROR_REQUEST, 0, "a frame of type %s came with %zu bytes", what, len);
	return 0;
}

void frame_ack_encode(const struct frame_ack *ack, uint8_t out[FRAME_ACK_SIZE])
{
	pair_encode(ack->sequence, ack->bytes, out);
}

int frame_ack_decode(const uint8_t *in, size_t len, struct frame_ack *ack, struct error **err)
{
	return pair_decode("ACK", in, len, &ack->sequence, &ack->bytes, err);
}

void frame_end_encode(const struct frame_end *end, uint8_t out[FRAME_END_SIZE])
{
	pair_encode(end->bytes, end->hash, out);
}

int frame_end_decode(const uint8_t *in, size_t len, struct frame_end *end, struct error **err)
{
	return pair_decode("END or END_ACK", in, len, &end->bytes, &end->hash, err);
}

size_t frame_error_encode(const struct error *e, uint8_t out[FRAME_ERROR_MAX])
{
	const char *kind = error_kind_name(e->kind);
	size_t kind_len = strlen(kind);
	size_t len = strnlen(e->message, FRAME_ERROR_MAX - 1 - kind_len);

	out[0] = (uint8_t)kind_len;
	memcpy(out + 1, kind, kind_len);
	memcpy(out + 1 + kind_len, e->message, len);
	return 1 + kind_len + len;
}

int frame_error_decode(const uint8_t *in, size_t len, const char *peer, struct error **err)
{
	const uint8_t *name;
	struct reader r;
	char kind[32];
	uint8_t kind_len;

	reader_init(&r, in, len);
	kind_len = reader_u8(&r);
	name = reader_bytes(&r, kind_len);
	if (!name || kind_len >= sizeof(kind) || len > FRAME_ERROR_MAX)
		return error_set(
			err, ERROR_FAILED, 0, "%s gave up and its reason cannot be read", peer);
	memcpy(kind, name, kind_len);
	kind[kind_len] = 0;
	return error_set(err, error_kind_from_name(kind), 0, "%s says: %.*s", peer, (int)r.left,
		(const char *)r.at);
}
