#include "wire/stream_internal.h"

#include <stdlib.h>
#include <string.h>

enum { PARSER_AUTO, PARSER_QEMU, PARSER_BHYVE, PARSER_OPAQUE, PARSERS };

static const char *const parser_names[PARSERS] = {[PARSER_AUTO] = "auto",
	[PARSER_QEMU] = "qemu",
	[PARSER_BHYVE] = "bhyve",
	[PARSER_OPAQUE] = "opaque"};

struct stream_parser {
	unsigned kind;
	bool lost;
	struct stream_counts counts;
	struct stream_qemu qemu;
	struct stream_bhyve bhyve;
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
	if (p)
		free(p->bhyve.list);
	free(p);
}

bool stream_parser_expect(struct stream_parser *p, uint64_t memory)
{
	return stream_bhyve_expect(&p->bhyve, memory);
}

const char *stream_parser_name(const struct stream_parser *p)
{
	return parser_names[p->kind];
}

const struct stream_counts *stream_parser_counts(const struct stream_parser *p)
{
	return &p->counts;
}

/* What the first bytes of streams are; all are of one length. */
static const struct {
	unsigned kind;
	const uint8_t *magic;
} beginnings[] = {{PARSER_QEMU, stream_qemu_magic}, {PARSER_BHYVE, stream_bhyve_magic},
	{PARSER_BHYVE, stream_bhyve_files_magic}};
#define MAGIC_SIZE 8u
_Static_assert(sizeof(stream_qemu_magic) == MAGIC_SIZE &&
		       sizeof(stream_bhyve_magic) == MAGIC_SIZE &&
		       sizeof(stream_bhyve_files_magic) == MAGIC_SIZE,
	"the first bytes of streams are of one length");

/* Which parser a stream with this beginning is for; PARSER_AUTO: it may still be any. */
static unsigned recognize(const uint8_t *data, size_t len)
{
	size_t known = len < MAGIC_SIZE ? len : MAGIC_SIZE;

	for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++)
		if (memcmp(data, beginnings[i].magic, known) == 0)
			return known == MAGIC_SIZE ? beginnings[i].kind : PARSER_AUTO;
	return PARSER_OPAQUE;
}

static enum stream_step step(struct stream_parser *p, struct stream_cursor *c)
{
	return p->kind == PARSER_QEMU ? stream_qemu_step(&p->qemu, c)
				      : stream_bhyve_step(&p->bhyve, c);
}

static void parse(struct stream_parser *p, struct stream_cursor *c)
{
	enum stream_step result;

	do
		result = step(p, c);
	while (result == STREAM_ON && c->at < c->len);
	if (result == STREAM_LOST)
		p->lost = true;
	if (result == STREAM_ALIEN)
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
	if ((p->kind == PARSER_QEMU || p->kind == PARSER_BHYVE) && !p->lost && len > 0)
		parse(p, &c);
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

bool stream_parser_pass(struct stream_parser *p, size_t left)
{
	if (!left || p->kind != PARSER_BHYVE || p->lost || !stream_bhyve_pass(&p->bhyve, left))
		return false;
	p->counts.other_bytes += left;
	return true;
}
