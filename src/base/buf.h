/*
 * Bytes: a buffer that grows up to a limit, and a reader that never goes past its end. All integers
 * off the wire or from a file are read here.
 */
#ifndef DROVER_BASE_BUF_H
#define DROVER_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t len, cap, max;
};

/* An empty buffer that never holds more than max bytes. */
void buf_init(struct buf *b, size_t max);
void buf_free(struct buf *b);
#define cleanup_buf __attribute__((cleanup(buf_free)))
/* Appends; false (and nothing appended) when it would pass max. */
bool buf_add(struct buf *b, const void *data, size_t len);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Room for len more bytes at data + len, to be filled by the caller, who then adds to b->len;
 * NULL when it would pass max. */
uint8_t *buf_reserve(struct buf *b, size_t len);
/* Removes len bytes from the front. */
void buf_consume(struct buf *b, size_t len);
/* The contents with a NUL after them (not counted). */
const char *buf_string(struct buf *b);

struct reader {
	const uint8_t *at;
	size_t left;
	bool failed; /* a read went past the end: all reads after it give 0 */
};

void reader_init(struct reader *r, const void *data, size_t len);
uint8_t reader_u8(struct reader *r);
uint16_t reader_be16(struct reader *r);
uint32_t reader_be32(struct reader *r);
uint64_t reader_be64(struct reader *r);
uint32_t reader_le32(struct reader *r);
uint64_t reader_le64(struct reader *r);
/* Pointer to the next len bytes, NULL (and failed) when there are fewer. */
const uint8_t *reader_bytes(struct reader *r, size_t len);

void put_be16(uint8_t *at, uint16_t v);
void put_be32(uint8_t *at, uint32_t v);
void put_be64(uint8_t *at, uint64_t v);

#endif
