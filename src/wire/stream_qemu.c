#include "wire/stream_internal.h"

#include <string.h>

/* Types of sections (migration/savevm.h). */
enum {
	SECTION_EOF = 0x00,
	SECTION_START = 0x01,
	SECTION_PART = 0x02,
	SECTION_END = 0x03,
	SUBSECTION = 0x05,
	SECTION_CONFIGURATION = 0x07,
	SECTION_COMMAND = 0x08,
	SECTION_FOOTER = 0x7e
};

/* Commands (enum qemu_vm_cmd in migration/savevm.c). ENABLE_COLO (8) is missing on purpose: with
 * it, memory is sent again behind the devices. */
enum {
	COMMAND_OPEN_RETURN_PATH = 1,
	COMMAND_PING = 2,
	COMMAND_ADVISE = 3,
	COMMAND_LISTEN = 4,
	COMMAND_RUN = 5,
	COMMAND_DISCARD = 6,
	COMMAND_PACKAGED = 7,
	COMMAND_RESUME = 9,
	COMMAND_RECEIVED_BITMAP = 10,
	COMMAND_SWITCHOVER_START = 11
};

/* The version of ram's section; nothing older than QEMU 0.15 writes another. */
#define RAM_VERSION 4u
/* Pages of 4096 bytes. */
#define PAGE_BITS 12u

static bool name_is(const uint8_t *name, size_t len, const char *text)
{
	return len == strlen(text) && memcmp(name, text, len) == 0;
}

static enum stream_step header(struct stream_qemu *q, struct stream_cursor *c)
{
	struct reader r = stream_cursor_read(c);
	const uint8_t *magic = reader_bytes(&r, sizeof(stream_qemu_magic));
	if (!magic)
		return STREAM_WAIT;
	if (memcmp(magic, stream_qemu_magic, sizeof(stream_qemu_magic)) != 0)
		return STREAM_LOST;
	q->state = STREAM_QEMU_BEGINNING;
	return stream_cursor_move(c, &r);
}

static enum stream_step beginning(struct stream_qemu *q, struct stream_cursor *c)
{
	struct reader r = stream_cursor_read(c);
	if (reader_u8(&r) != SECTION_CONFIGURATION) {
		q->state = STREAM_QEMU_SECTION;
		return STREAM_ON;
	}
	uint32_t machine_len = reader_be32(&r);
	if (r.failed)
		return STREAM_WAIT;
	q->skip = machine_len;
	q->state = STREAM_QEMU_CONFIGURATION;
	return stream_cursor_move(c, &r);
}

/* What comes behind the machine's name in CONFIGURATION. */
static enum stream_step configuration(struct stream_qemu *q, struct stream_cursor *c)
{
	struct reader r = stream_cursor_read(c);
	if (reader_u8(&r) != SUBSECTION) {
		q->state = STREAM_QEMU_SECTION;
		return STREAM_ON;
	}
	uint8_t len = reader_u8(&r);
	const uint8_t *name = reader_bytes(&r, len);
	uint32_t version = reader_be32(&r);
	if (r.failed)
		return STREAM_WAIT;
	if (version != 1)
		return STREAM_LOST;
	if (name_is(name, len, "configuration/uuid")) {
		q->skip = 16;
	} else if (name_is(name, len, "configuration/target-page-bits")) {
		if (reader_be32(&r) != PAGE_BITS && !r.failed)
			return STREAM_LOST;
	} else if (name_is(name, len, "configuration/capabilities")) {
		q->capabilities = reader_be32(&r);
		q->state = r.failed ? STREAM_QEMU_CONFIGURATION : STREAM_QEMU_CAPABILITIES;
	} else {
		return STREAM_LOST;
	}
	return stream_cursor_move(c, &r);
}

/* Listed are those that change the stream for its reader. What one of them that is not known here
 * changes cannot be known; mapped-ram is one. */
static enum stream_step capability(struct stream_qemu *q, struct stream_cursor *c)
{
	if (q->capabilities == 0) {
		q->state = STREAM_QEMU_CONFIGURATION;
		return STREAM_ON;
	}
	struct reader r = stream_cursor_read(c);
	uint8_t len = reader_u8(&r);
	const uint8_t *name = reader_bytes(&r, len);
	if (r.failed)
		return STREAM_WAIT;
	if (!name_is(name, len, "x-ignore-shared"))
		return STREAM_ALIEN;
	q->ignore_shared = true;
	q->capabilities--;
	return stream_cursor_move(c, &r);
}

static enum stream_step section_start(
	struct stream_qemu *q, struct stream_cursor *c, struct reader *r)
{
	uint32_t id = reader_be32(r);
	uint8_t len = reader_u8(r);
	const uint8_t *name = reader_bytes(r, len);
	uint32_t instance = reader_be32(r), version = reader_be32(r);
	if (r->failed)
		return STREAM_WAIT;
	if (!name_is(name, len, "ram") || instance != 0 || version != RAM_VERSION || q->ram_begun)
		return STREAM_LOST;
	q->ram_begun = true;
	q->ram_id = id;
	q->state = STREAM_QEMU_RAM;
	return stream_cursor_move(c, r);
}

/* SECTION_PART and SECTION_END. */
static enum stream_step section_more(
	struct stream_qemu *q, struct stream_cursor *c, struct reader *r, bool ending)
{
	uint32_t id = reader_be32(r);
	if (r->failed)
		return STREAM_WAIT;
	if (!q->ram_begun || id != q->ram_id)
		return STREAM_LOST;
	q->ram_ending = ending;
	q->state = STREAM_QEMU_RAM;
	return stream_cursor_move(c, r);
}

/* Post-copy may come: the sizes of pages of the blocks of memory, and that of the guest. Nothing,
 * when only disks take part. */
static enum stream_step command_advise(
	struct stream_qemu *q, struct stream_cursor *c, struct reader *r, uint16_t len)
{
	if (len == 0)
		return stream_cursor_move(c, r);
	uint64_t sizes = reader_be64(r), guest = reader_be64(r);
	if (r->failed)
		return STREAM_WAIT;
	if (len != 16 || guest != STREAM_PAGE)
		return STREAM_LOST;
	q->page_sizes = sizes;
	return stream_cursor_move(c, r);
}

static enum stream_step command_packaged(
	struct stream_qemu *q, struct stream_cursor *c, struct reader *r, uint16_t len)
{
	uint32_t package_len = reader_be32(r);
	if (r->failed)
		return STREAM_WAIT;
	if (len != 4)
		return STREAM_LOST;
	q->skip = package_len;
	return stream_cursor_move(c, r);
}

static enum stream_step command(struct stream_qemu *q, struct stream_cursor *c, struct reader *r)
{
	uint16_t number = reader_be16(r), len = reader_be16(r);
	if (r->failed)
		return STREAM_WAIT;
	switch (number) {
	case COMMAND_ADVISE:
		return command_advise(q, c, r, len);
	case COMMAND_PACKAGED:
		return command_packaged(q, c, r, len);
	case COMMAND_OPEN_RETURN_PATH:
	case COMMAND_PING:
	case COMMAND_LISTEN:
	case COMMAND_RUN:
	case COMMAND_DISCARD:
	case COMMAND_RESUME:
	case COMMAND_RECEIVED_BITMAP:
	case COMMAND_SWITCHOVER_START:
		q->skip = len;
		return stream_cursor_move(c, r);
	default:
		return STREAM_LOST;
	}
}

static enum stream_step section(struct stream_qemu *q, struct stream_cursor *c)
{
	struct reader r = stream_cursor_read(c);
	switch (reader_u8(&r)) {
	case SECTION_START:
		return section_start(q, c, &r);
	case SECTION_PART:
		return section_more(q, c, &r, false);
	case SECTION_END:
		return section_more(q, c, &r, true);
	case SECTION_COMMAND:
		return command(q, c, &r);
	case SECTION_EOF:
		q->state = STREAM_QEMU_TAIL;
		return STREAM_ON;
	default:
		return STREAM_LOST;
	}
}

static enum stream_step footer(struct stream_qemu *q, struct stream_cursor *c)
{
	struct reader r = stream_cursor_read(c);
	if (reader_u8(&r) != SECTION_FOOTER) {
		q->state = STREAM_QEMU_SECTION;
		return STREAM_ON;
	}
	uint32_t id = reader_be32(&r);
	if (r.failed)
		return STREAM_WAIT;
	if (id != q->ram_id)
		return STREAM_LOST;
	q->state = STREAM_QEMU_SECTION;
	return stream_cursor_move(c, &r);
}

static enum stream_step skip(struct stream_qemu *q, struct stream_cursor *c)
{
	uint64_t here = c->len - c->at;
	if (here > q->skip)
		here = q->skip;
	c->at += here;
	q->skip -= here;
	return STREAM_ON;
}

enum stream_step stream_qemu_step(struct stream_qemu *q, struct stream_cursor *c)
{
	if (q->skip > 0)
		return skip(q, c);
	switch (q->state) {
	case STREAM_QEMU_HEADER:
		return header(q, c);
	case STREAM_QEMU_BEGINNING:
		return beginning(q, c);
	case STREAM_QEMU_CONFIGURATION:
		return configuration(q, c);
	case STREAM_QEMU_CAPABILITIES:
		return capability(q, c);
	case STREAM_QEMU_SECTION:
		return section(q, c);
	case STREAM_QEMU_RAM:
		return stream_qemu_ram(q, c);
	case STREAM_QEMU_BLOCKS:
		return stream_qemu_blocks(q, c);
	case STREAM_QEMU_FOOTER:
		return footer(q, c);
	case STREAM_QEMU_TAIL:
		c->at = c->len;
		return STREAM_ON;
	}
	return STREAM_LOST;
}
