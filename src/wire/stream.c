#include "wire/stream_internal.h"

#include <stdlib.h>
#include <string.h>

enum { PARSER_AUTO, PARSER_QEMU, PARSER_OPAQUE, PARSERS };

static const char *const parser_names[PARSERS] = {
	[PARSER_AUTO] = "auto", [PARSER_QEMU] = "qemu", [PARSER_OPAQUE] = "opaque"};

struct stream_parser {
	unsigned kind;
	bool lost;
	struct stream_counts counts;
	struct stream_qemu qemu;
};

void stream_item_header(const struct stream_item *item, uint8_t out[STREAM_WORD])
{
	put_be64(out, item->address | STREAM_QEMU_CONTINUE |
			      (item->kind == STREAM_ZERO ? STREAM_QEMU_ZERO : STREAM_QEMU_PAGE));
}

struct stream_parser *stream_parser_open(const char *name)
{
	for (unsigned kind = 0; kind < PARSERS; kind++) {
		if (strcmp(name, parser_names[kind]) != 0)
			continue;
		struct stream_parser *p = calloc(1, sizeof(*p));
		if (p)
			p->kind = kind;
		return p;
	}
	return NULL;
}

void stream_parser_close(struct stream_parser *p)
{
	free(p);
}

const char *stream_parser_name(const struct stream_parser *p)
{
	return parser_names[p->kind];
}

const struct stream_counts *stream_parser_counts(const struct stream_parser *p)
{
	return &p->counts;
}

/* Which parser a stream with this beginning is for; PARSER_AUTO: it may still be any. */
static unsigned recognize(const uint8_t *data, size_t len)
{
	size_t known = len < sizeof(stream_qemu_magic) ? len : sizeof(stream_qemu_magic);
	if (memcmp(data, stream_qemu_magic, known) != 0)
		return PARSER_OPAQUE;
	return known == sizeof(stream_qemu_magic) ? PARSER_QEMU : PARSER_AUTO;
}

static void parse_qemu(struct stream_parser *p, struct stream_cursor *c)
{
	enum stream_step step;
	do
		step = stream_qemu_step(&p->qemu, c);
	while (step == STREAM_ON && c->at < c->len);
	if (step == STREAM_LOST)
		p->lost = true;
	if (step == STREAM_ALIEN)
		p->kind = PARSER_OPAQUE;
}

static bool passes_all(const struct stream_parser *p)
{
	return p->lost || p->kind == PARSER_OPAQUE;
}

size_t stream_parse(struct stream_parser *p, const uint8_t *data, size_t len,
	struct stream_item *items, size_t items_max, size_t *items_len)
{
	struct stream_cursor c = {.data = data,
		.len = len < STREAM_PIECE_MAX ? len : STREAM_PIECE_MAX,
		.items = items,
		.items_max = items_max};
	if (p->kind == PARSER_AUTO && len > 0)
		p->kind = recognize(data, len);
	if (p->kind == PARSER_QEMU && !p->lost && len > 0)
		parse_qemu(p, &c);
	if (passes_all(p)) {
		p->counts.unknown_bytes += c.len - c.at;
		c.at = c.len;
	}
	p->counts.pages += c.items_len - c.zero_pages;
	p->counts.zero_pages += c.zero_pages;
	p->counts.other_bytes += c.at - c.items_bytes;
	*items_len = c.items_len;
	return c.at;
}

void stream_parser_end(struct stream_parser *p, size_t left)
{
	p->counts.other_bytes += left;
}
