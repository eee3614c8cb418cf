#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){.max = max};
}

void buf_free(struct buf *b)
{
	free(b->data);
	*b = (struct buf){.max = b->max};
}

uint8_t *buf_reserve(struct buf *b, size_t len)
{
	size_t cap = b->cap ? b->cap : 256;
	uint8_t *grown;

	if (len > b->max || b->len > b->max - len)
		return NULL;
	/* One byte more, so that buf_string always has room for its NUL. */
	while (cap < b->len + len + 1)
		cap *= 2;
	if (cap != b->cap) {
		grown = realloc(b->data, cap);
		if (!grown)
			return NULL;
		b->data = grown;
		b->cap = cap;
	}
	return b->data + b->len;
}

bool buf_add(struct buf *b, const void *data, size_t len)
{
	uint8_t *at = buf_reserve(b, len);

	if (!at)
		return false;
	if (len)
		memcpy(at, data, len);
	b->len += len;
	return true;
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	char *text;
	int len;
	bool ok;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		return false;
	ok = buf_add(b, text, (size_t)len);
	free(text);
	return ok;
}

void buf_consume(struct buf *b, size_t len)
{
	memmove(b->data, b->data + len, b->len - len);
	b->len -= len;
}

const char *buf_string(struct buf *b)
{
	if (!buf_reserve(b, 0))
		return "";
	b->data[b->len] = 0;
	return (const char *)b->data;
}

void reader_init(struct reader *r, const void *data, size_t len)
{
	*r = (struct reader){.at = data, .left = len};
}

const uint8_t *reader_bytes(struct reader *r, size_t len)
{
	const uint8_t *at = r->at;

	if (r->failed || len > r->left) {
		r->failed = true;
		return NULL;
	}
	r->at += len;
	r->left -= len;
	return at;
}

static uint64_t read_be(struct reader *r, size_t bytes)
{
	const uint8_t *at = reader_bytes(r, bytes);
	uint64_t v = 0;

	for (size_t i = 0; at && i < bytes; i++)
		v = v << 8 | at[i];
	return v;
}

uint8_t reader_u8(struct reader *r)
{
	return (uint8_t)read_be(r, 1);
}

uint16_t reader_be16(struct reader *r)
{
	return (uint16_t)read_be(r, 2);
}

uint32_t reader_be32(struct reader *r)
{
	return (uint32_t)read_be(r, 4);
}

uint64_t reader_be64(struct reader *r)
{
	return read_be(r, 8);
}

static uint64_t read_le(struct reader *r, size_t bytes)
{
	const uint8_t *at = reader_bytes(r, bytes);
	uint64_t v = 0;

	for (size_t i = bytes; at && i-- > 0;)
		v = v << 8 | at[i];
	return v;
}

uint32_t reader_le32(struct reader *r)
{
	return (uint32_t)read_le(r, 4);
}

uint64_t reader_le64(struct reader *r)
{
	return read_le(r, 8);
}

static void put_be(uint8_t *at, uint64_t v, int bytes)
{
	for (int i = bytes; i-- > 0; v >>= 8)
		at[i] = (uint8_t)v;
}

void put_be16(uint8_t *at, uint16_t v)
{
	put_be(at, v, 2);
}

void put_be32(uint8_t *at, uint32_t v)
{
	put_be(at, v, 4);
}

void put_be64(uint8_t *at, uint64_t v)
{
	put_be(at, v, 8);
}
