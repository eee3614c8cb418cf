#include "wire/batch_format.h"

#include "base/buf.h"

#include <string.h>

#define SEQUENCE 8u
#define INDEX 2u
#define ANSWER (INDEX + STREAM_PAGE)

static int bad(struct error **err, const char *what)
{
	return error_set(err, ERROR_REQUEST, 0, "%s", what);
}

int batch_sequence(const uint8_t *in, size_t len, uint64_t *sequence, struct error **err)
{
	struct reader r;

	reader_init(&r, in, len);
	*sequence = reader_be64(&r);
	return r.failed ? bad(err, "missing pages without the number of their batch") : 0;
}

size_t batch_misses_encode(const struct batch *b, size_t *from, uint8_t *out)
{
	uint8_t *at = out + SEQUENCE;

	for (; *from < b->items_len && at < out + BATCH_MISS_PAYLOAD_MAX; (*from)++)
		if (b->pages[*from].missing) {
			put_be16(at, (uint16_t)*from);
			at += INDEX;
		}
	if (at == out + SEQUENCE)
		return 0;
	put_be64(out, b->sequence);
	return (size_t)(at - out);
}

/* Sets *r up behind the sequence number, *count to how many entries of `size` bytes follow. */
static int open_payload(const struct batch *b, const uint8_t *in, size_t len, size_t size,
	struct reader *r, size_t *count, struct error **err)
{
	uint64_t sequence;

	if (batch_sequence(in, len, &sequence, err) < 0)
		return -1;
	if (sequence != b->sequence)
		return bad(err, "missing pages of another batch");
	reader_init(r, in + SEQUENCE, len - SEQUENCE);
	*count = r->left / size;
	if (!*count || *count > BATCH_MISSES_MAX || r->left % size)
		return bad(err, "missing pages of a wrong length");
	return 0;
}

/* The next index, of an item that is a reference; -1 for anything else. */
static int read_index(const struct batch *b, struct reader *r, struct error **err)
{
	uint16_t index = reader_be16(r);

	if (index >= b->items_len || b->pages[index].code != CODE_REFERENCE)
		return bad(err, "a missing page that was no reference");
	return index;
}

size_t batch_answer_encode(
	struct batch *b, const uint8_t *in, size_t len, uint8_t *out, struct error **err)
{
	uint8_t *at = out + SEQUENCE;
	struct reader r;
	size_t count;
	int index, last = -1;

	if (open_payload(b, in, len, INDEX, &r, &count, err) < 0)
		return 0;
	for (; count; count--, last = index) {
		index = read_index(b, &r, err);
		if (index <= last) {
			bad(err, "missing pages that are not in order");
			return 0;
		}
		b->counts.misses[b->pages[index].source] += !b->pages[index].missing;
		b->pages[index].missing = true;
		put_be16(at, (uint16_t)index);
		memcpy(at + INDEX, batch_contents(b, (size_t)index), STREAM_PAGE);
		at += ANSWER;
	}
	put_be64(out, b->sequence);
	return (size_t)(at - out);
}

int batch_answer_take(struct batch *b, const uint8_t *in, size_t len, struct error **err)
{
	struct reader r;
	size_t count;
	int index;

	if (open_payload(b, in, len, ANSWER, &r, &count, err) < 0)
		return -1;
	for (; count; count--) {
		const uint8_t *page;

		index = read_index(b, &r, err);
		if (index < 0)
			return -1;
		page = reader_bytes(&r, STREAM_PAGE);
		if (b->pages[index].missing) {
			memcpy(batch_contents(b, (size_t)index), page, STREAM_PAGE);
			b->pages[index].missing = false;
			b->missing--;
		}
	}
	return 0;
}
