/*
 * What the parsers of stream.h share; nobody else includes this.
 */
#ifndef DROVER_WIRE_STREAM_INTERNAL_H
#define DROVER_WIRE_STREAM_INTERNAL_H

#include "base/buf.h"
#include "hv/bhyve/transfer.h"
#include "wire/stream.h"

/* A piece being looked at, and the table being filled. */
struct stream_cursor {
	const uint8_t *data;
	size_t len, at; /* at: everything before it has been dealt with */
	struct stream_item *items;
	size_t items_len, items_max;
	size_t zero_pages, items_bytes; /* of the items: how many are zeros; their length */
};

/* How a parser's step ends. */
enum stream_step {
	STREAM_ON,   /* it has dealt with something */
	STREAM_WAIT, /* what comes next is not whole yet, or the table is full */
	STREAM_LOST, /* what comes next cannot be understood, nor can anything after it */
	STREAM_ALIEN /* this stream is one for `opaque`, from here on */
};

/* The bytes at the cursor; reading them moves nothing. */
static inline struct reader stream_cursor_read(const struct stream_cursor *c)
{
	struct reader r;
	reader_init(&r, c->data + c->at, c->len - c->at);
	return r;
}

/* Moves the cursor to where the reader is, unless that has failed: then there is not enough. */
static inline enum stream_step stream_cursor_move(struct stream_cursor *c, const struct reader *r)
{
	if (r->failed)
		return STREAM_WAIT;
	c->at = c->len - r->left;
	return STREAM_ON;
}

/*
 * QEMU's stream, as 7.2 to 10.0 write it (migration/savevm.c, migration/ram.c).
 */

/* "QEVM" and version 3, in front of everything. */
static const uint8_t stream_qemu_magic[8] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};

/* Flags of a word in a section of ram: its low 12 bits. */
enum stream_qemu_flag {
	STREAM_QEMU_ZERO = 0x02,
	STREAM_QEMU_MEM_SIZE = 0x04,
	STREAM_QEMU_PAGE = 0x08,
	STREAM_QEMU_EOS = 0x10,
	STREAM_QEMU_CONTINUE = 0x20,
	STREAM_QEMU_XBZRLE = 0x40,
	STREAM_QEMU_HOOK = 0x80,
	STREAM_QEMU_COMPRESS_PAGE = 0x100,
	STREAM_QEMU_MULTIFD_FLUSH = 0x200
};

enum stream_qemu_state {
	STREAM_QEMU_HEADER,        /* before the magic */
	STREAM_QEMU_BEGINNING,     /* behind it, where CONFIGURATION may come */
	STREAM_QEMU_CONFIGURATION, /* in CONFIGURATION, where subsections may come */
	STREAM_QEMU_CAPABILITIES,  /* in its list of capabilities */
	STREAM_QEMU_SECTION,       /* before a section */
	STREAM_QEMU_RAM,           /* in a section of ram, before a word */
	STREAM_QEMU_BLOCKS,        /* in the list of blocks of memory */
	STREAM_QEMU_FOOTER,        /* behind a section of ram, where its footer may come */
	STREAM_QEMU_TAIL           /* behind the end of ram */
};

struct stream_qemu {
	enum stream_qemu_state state;
	uint64_t skip;         /* bytes to pass over before anything else */
	uint32_t capabilities; /* names still to come in the list */
	bool ignore_shared;    /* the capability x-ignore-shared is on */
	bool ram_begun;        /* ram's SECTION_START has been seen */
	bool ram_ending;       /* its SECTION_END too */
	uint32_t ram_id;       /* its section's number */
	uint64_t page_sizes;   /* of the blocks, or-ed, when post-copy may come; else 0 */
	uint64_t blocks_left;  /* bytes of memory for which the list has not named a block yet */
	bool block_known;      /* there has been a page */
	unsigned block;        /* the last page's; STREAM_BLOCKS_MAX: not told apart */
	unsigned blocks;       /* how many are told apart */
	uint8_t names[STREAM_BLOCKS_MAX][256]; /* theirs: length, name */
};

/* Deals with the next thing in the stream, and with as many pages as follow it. */
enum stream_step stream_qemu_step(struct stream_qemu *q, struct stream_cursor *c);

/* stream_qemu_ram.c: words in a section of ram; one entry of the list of blocks. */
enum stream_step stream_qemu_ram(struct stream_qemu *q, struct stream_cursor *c);
enum stream_step stream_qemu_blocks(struct stream_qemu *q, struct stream_cursor *c);

/*
 * bhyve's stream, as usr.sbin/bhyve/migration.c of FreeBSD-UPB's tree writes it (reviews D28270,
 * warm; D30954 and D34717, live). docs/wire-bhyve.md draws it.
 */

/* The length in the header in front of everything: that of the specs, 520, as a size_t. */
static const uint8_t stream_bhyve_magic[8] = {0x08, 0x02, 0, 0, 0, 0, 0, 0};
/* And in front of the files of a suspended guest (hv/bhyve/transfer.h). */
static const uint8_t stream_bhyve_files_magic[8] = BHYVE_TRANSFER_MAGIC;

enum stream_bhyve_state {
	STREAM_BHYVE_HEADER,       /* before the specs' header */
	STREAM_BHYVE_PAGE_SIZE,    /* before the last of the specs */
	STREAM_BHYVE_TYPE,         /* before the type of the migration */
	STREAM_BHYVE_LOWMEM,       /* before the size of memory below 4 GiB */
	STREAM_BHYVE_LOWMEM_UPPER, /* in it: before its upper half */
	STREAM_BHYVE_HIGHMEM,      /* before the size of memory above */
	STREAM_BHYVE_MEMORY,       /* in all of memory, page after page */
	STREAM_BHYVE_ROUNDS,       /* before the number of live rounds */
	STREAM_BHYVE_LIST,         /* in a round's list of pages */
	STREAM_BHYVE_PAGES,        /* in the pages of a list */
	STREAM_BHYVE_STRUCTURE,    /* before a kernel structure, or the number of devices */
	STREAM_BHYVE_DEVICE,       /* before a device */
	STREAM_BHYVE_FILES,        /* before the other two lengths of a suspended guest's files */
	STREAM_BHYVE_END           /* behind all of these files */
};

struct stream_bhyve {
	enum stream_bhyve_state state;
	uint64_t skip;    /* bytes to pass over before anything else */
	uint8_t held[16]; /* of what the state needs whole: bytes that were passed on already */
	size_t held_len;
	uint64_t memory;     /* bytes, lowmem and highmem */
	uint64_t page;       /* in memory or on the list: the next one */
	uint32_t passed;     /* bytes of that page that were passed on as other bytes */
	unsigned lists_left; /* of live rounds */
	uint64_t *list;      /* a bit for each page; NULL: the guest's memory is not known */
	uint64_t list_pages;
	uint32_t devices_left;
	bool files;    /* the stream is a suspended guest's files: behind memory come … */
	uint64_t rest; /* … so many bytes that are no pages */
};

/* Deals with the next thing in the stream, and with as many pages as follow it. Waits for nothing
 * but whole pages. */
enum stream_step stream_bhyve_step(struct stream_bhyve *b, struct stream_cursor *c);
/* As stream_parser_pass and stream_parser_expect. */
bool stream_bhyve_pass(struct stream_bhyve *b, size_t len);
bool stream_bhyve_expect(struct stream_bhyve *b, uint64_t memory);

#endif
