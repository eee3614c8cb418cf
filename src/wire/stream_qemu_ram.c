#include "wire/stream_internal.h"

#include <string.h>

/* The only encoding of XBZRLE that there is. */
#define XBZRLE_ENCODING 1u
/* QEMU takes what zlib's compressBound() gives for a page; its variants give a little more or less.
 */
#define COMPRESSED_MAX (2u * STREAM_PAGE)

/* A page as it comes, in whatever form. */
struct record {
	uint64_t address;
	unsigned form;       /* STREAM_QEMU_ZERO, PAGE, XBZRLE, COMPRESS_PAGE */
	bool same_block;     /* as the page before; else: */
	const uint8_t *name; /* the block's: length, name */
	size_t head;         /* length of the word and the name */
	bool is_item;        /* a page of the table */
	uint32_t rest;       /* bytes of contents that need not be looked at */
};

/* The number of a block; STREAM_BLOCKS_MAX for any that is one too many. `name` begins with its
 * length. */
static unsigned block_number(struct stream_qemu *q, const uint8_t *name)
{
	size_t size = 1u + name[0];
	for (unsigned i = 0; i < q->blocks; i++)
		if (memcmp(q->names[i], name, size) == 0)
			return i;
	if (q->blocks == STREAM_BLOCKS_MAX)
		return STREAM_BLOCKS_MAX;
	memcpy(q->names[q->blocks], name, size);
	return q->blocks++;
}

/* Length, name; NULL: not all there. */
static const uint8_t *read_name(struct reader *r)
{
	const uint8_t *name = r->at;
	return reader_bytes(r, reader_u8(r)) ? name : NULL;
}

/* What comes behind the word and the name. */
static enum stream_step read_contents(struct reader *r, struct record *page)
{
	bool known = true;
	switch (page->form) {
	case STREAM_QEMU_ZERO:
		page->is_item = reader_u8(r) == 0;
		break;
	case STREAM_QEMU_PAGE:
		page->is_item = true;
		reader_bytes(r, STREAM_PAGE);
		break;
	case STREAM_QEMU_XBZRLE:
		known = reader_u8(r) == XBZRLE_ENCODING;
		page->rest = reader_be16(r);
		known = known && page->rest <= STREAM_PAGE;
		break;
	default:
		page->rest = reader_be32(r);
		known = page->rest <= COMPRESSED_MAX;
	}
	if (r->failed)
		return STREAM_WAIT;
	return known ? STREAM_ON : STREAM_LOST;
}

static void add_item(struct stream_cursor *c, const struct record *page, unsigned block)
{
	struct stream_item *item = &c->items[c->items_len++];
	*item = (struct stream_item){.address = page->address,
		.at = (uint32_t)(c->at + (page->same_block ? 0 : page->head)),
		.kind = page->form == STREAM_QEMU_ZERO ? STREAM_ZERO : STREAM_FULL,
		.block = (uint8_t)block,
		.word = page->same_block};
	c->items_bytes += stream_item_len(item);
	c->zero_pages += item->kind == STREAM_ZERO;
}

static enum stream_step page(
	struct stream_qemu *q, struct stream_cursor *c, struct reader *r, uint64_t word)
{
	struct record page = {.address = word & ~(uint64_t)(STREAM_PAGE - 1),
		.form = word & (STREAM_PAGE - 1) & ~(unsigned)STREAM_QEMU_CONTINUE,
		.same_block = word & STREAM_QEMU_CONTINUE};
	if (page.same_block && !q->block_known)
		return STREAM_LOST;
	if (!page.same_block) {
		page.name = read_name(r);
		if (!page.name)
			return STREAM_WAIT;
		if (page.name[0] == 0)
			return STREAM_LOST;
	}
	page.head = c->len - c->at - r->left;
	enum stream_step step = read_contents(r, &page);
	if (step != STREAM_ON)
		return step;
	if (page.is_item && c->items_len == c->items_max)
		return STREAM_WAIT;
	if (!page.same_block) {
		q->block = block_number(q, page.name);
		q->block_known = true;
	}
	if (page.is_item && q->block < STREAM_BLOCKS_MAX)
		add_item(c, &page, q->block);
	q->skip = page.rest;
	return stream_cursor_move(c, r);
}

/* A word that has no page. */
static enum stream_step mark(
	struct stream_qemu *q, struct stream_cursor *c, struct reader *r, uint64_t word)
{
	if ((word & (STREAM_PAGE - 1)) == STREAM_QEMU_MEM_SIZE) {
		/* With both, a word more may mean either. */
		if (q->ignore_shared && q->page_sizes & ~(uint64_t)STREAM_PAGE)
			return STREAM_LOST;
		q->blocks_left = word & ~(uint64_t)(STREAM_PAGE - 1);
		q->state = STREAM_QEMU_BLOCKS;
		return stream_cursor_move(c, r);
	}
	switch (word) {
	case STREAM_QEMU_EOS:
		q->state = q->ram_ending ? STREAM_QEMU_TAIL : STREAM_QEMU_FOOTER;
		return stream_cursor_move(c, r);
	case STREAM_QEMU_HOOK:
	case STREAM_QEMU_MULTIFD_FLUSH:
		return stream_cursor_move(c, r);
	default:
		return STREAM_LOST;
	}
}

enum stream_step stream_qemu_ram(struct stream_qemu *q, struct stream_cursor *c)
{
	enum stream_step step;
	do {
		struct reader r = stream_cursor_read(c);
		uint64_t word = reader_be64(&r);
		if (r.failed)
			return STREAM_WAIT;
		switch (word & (STREAM_PAGE - 1) & ~(uint64_t)STREAM_QEMU_CONTINUE) {
		case STREAM_QEMU_ZERO:
		case STREAM_QEMU_PAGE:
		case STREAM_QEMU_XBZRLE:
		case STREAM_QEMU_COMPRESS_PAGE:
			step = page(q, c, &r, word);
			break;
		default:
			step = mark(q, c, &r, word);
		}
	} while (step == STREAM_ON && q->state == STREAM_QEMU_RAM && q->skip == 0);
	return step;
}

/* Whether a word behind a block's length is the size of its pages. Nothing else that may stand
 * there can look like it: a name begins with its length, which is not 0, and a word has flags. */
static bool is_page_size(const struct stream_qemu *q, uint64_t word)
{
	return word > STREAM_PAGE && (word & (word - 1)) == 0 && word & q->page_sizes;
}

enum stream_step stream_qemu_blocks(struct stream_qemu *q, struct stream_cursor *c)
{
	if (q->blocks_left == 0) {
		q->state = STREAM_QEMU_RAM;
		return STREAM_ON;
	}
	struct reader r = stream_cursor_read(c);
	const uint8_t *name = read_name(&r);
	uint64_t used = reader_be64(&r);
	if (q->ignore_shared)
		reader_be64(&r); /* where the guest sees it */
	if (r.failed)
		return STREAM_WAIT;
	if (name[0] == 0 || used > q->blocks_left)
		return STREAM_LOST;
	if (q->page_sizes & ~(uint64_t)STREAM_PAGE) {
		struct reader more = r;
		uint64_t word = reader_be64(&more);
		if (more.failed)
			return STREAM_WAIT;
		if (is_page_size(q, word))
			r = more;
	}
	block_number(q, name);
	q->blocks_left -= used;
	return stream_cursor_move(c, &r);
}
