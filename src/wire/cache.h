/*
 * The cache of pages that were sent before, for differences. Source and destination each keep one;
 * both see the same changes (page_cache_put, _renew, _drop) in the same order, that of the stream,
 * and nothing else decides what is in it: no clock, no chance, no address of a pointer. So the two
 * are always equal.
 *
 * The rule, for sets of 8 pages. A page that is in the cache is replaced by its new version. A page
 * that is sent whole for the first time is not admitted: most pages are sent once, and to keep them
 * would cost both nodes a copy of the guest's memory. One that was sent whole before takes a free
 * place of its set. When there is none, one in four newcomers is admitted, so that more pages than
 * there is room for do not push each other out before they come again; the page it replaces is the
 * next one, in turn, that was not sent since its last turn.
 *
 * Which pages were sent whole before is remembered as one bit for each page of memory; pages 64 GiB
 * apart share theirs.
 */
#ifndef DROVER_WIRE_CACHE_H
#define DROVER_WIRE_CACHE_H

#include "base/error.h"
#include "wire/stream.h"

struct page_cache;

/* Room for `size` bytes of pages, rounded down to a power of two; 1 MiB to 16 GiB, ERROR_USAGE
 * otherwise. Memory is taken as it is used, and 2 MiB and a 256th of the room
 * more. */
#define CACHE_DEFAULT (128u << 20)
#define CACHE_MIN (1u << 20)
#define CACHE_MAX (16ull << 30)
struct page_cache *page_cache_open(uint64_t size, struct error **err);
/* NULL is nothing to close. */
void page_cache_close(struct page_cache *c);

/* The version of the page that is kept; NULL: none. Changes nothing in the cache. */
uint8_t *page_cache_find(struct page_cache *c, uint8_t block, uint64_t address);
/* Says that the new version of a page that page_cache_find has found was sent as a difference, and
 * that the caller has written it over the one kept. */
void page_cache_renew(struct page_cache *c, uint8_t block, uint64_t address);
/* Says that a new version was sent whole: it replaces the one kept, or is kept when the rule admits
 * it. */
void page_cache_put(
	struct page_cache *c, uint8_t block, uint64_t address, const uint8_t page[STREAM_PAGE]);
/* Says that the page was sent otherwise (zero, reference): what is kept of it is dropped. */
void page_cache_drop(struct page_cache *c, uint8_t block, uint64_t address);

#endif
