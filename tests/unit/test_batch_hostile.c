/*
 * Payloads that no sender makes: cut, flipped, of impossible lengths, and at random.
 */
#include "test_batch_hostile.h"

#include <zstd.h>

static void test_a_payload_cut_anywhere_is_refused(void **state)
{
	struct ends *e = *state;

	for (int level = 0; level <= 5; level += 5) {
		make_payload(e, level);
		for (size_t len = 0; len < e->len; len++)
			assert_int_equal(decode(e, e->payload, len), -1);
		assert_int_equal(decode(e, e->payload, e->len), 0);
		e->payload[e->len] = 0;
		assert_int_equal(decode(e, e->payload, e->len + 1), -1);
	}
}

/* Whether every reference that is not missing is one of the two pages that were referred to. */
static bool references_hold(const struct ends *e)
{
	const struct batch *b = e->received;

	for (size_t i = 0; i < b->items_len; i++) {
		const uint8_t *page = b->raw + b->items[i].at + (b->items[i].word ? 8 : 0);

		if (b->pages[i].number >= 1000 && !b->pages[i].missing &&
			memcmp(page, e->set->indexed[1], STREAM_PAGE) &&
			memcmp(page, e->set->indexed[2], STREAM_PAGE))
			return false;
	}
	return true;
}

static void test_no_flipped_bit_makes_a_wrong_page_of_a_reference(void **state)
{
	struct ends *e = *state;
	struct page_cache *scratch = page_cache_open(CACHE_MIN, NULL);
	unsigned taken = 0;

	for (int level = 0; level <= 5; level += 5) {
		make_payload(e, level);
		/* Of the two pages that are stored plainly every 50th bit will do. */
		for (size_t bit = 0; bit < e->len * 8; bit += bit < 8000 ? 1 : 50) {
			e->payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
			if (decode(e, e->payload, e->len) == 0) {
				taken++;
				assert_true(references_hold(e));
				batch_complete(e->received, scratch, NULL);
			}
			e->payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	assert_true(taken > 100);
	page_cache_close(scratch);
}

static void test_lengths_beyond_the_bounds_are_refused(void **state)
{
	static const struct {
		unsigned at;
		uint32_t value;
	} faults[] = {
		{AT_RAW, BATCH_RAW_MAX + 1},
		{AT_RAW, UINT32_MAX},
		{AT_RAW, 0},
		{AT_PLAIN, UINT32_MAX},
		{AT_PLAIN, PAYLOAD_ROOM},
		{AT_PLAIN, 0},
		{AT_COLUMNS, UINT32_MAX},
		{AT_COLUMNS, PAYLOAD_ROOM + 1},
		{AT_COLUMNS, 0},
		{0, 2u << 24},
		{0, 0x01ffffff},
		{0, 1u << 24 | 2u << 16},
		{0, 1u << 24 | 4u << 16 | 8},
	};
	struct ends *e = *state;
	uint8_t kept[4];

	make_payload(e, 1);
	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++) {
		memcpy(kept, e->payload + faults[i].at, 4);
		set_be32(e->payload + faults[i].at, faults[i].value);
		assert_int_equal(decode(e, e->payload, e->len), -1);
		memcpy(e->payload + faults[i].at, kept, 4);
	}
	assert_int_equal(decode(e, e->payload, e->len), 0);
}

/* A payload of columns that are not compressed, from which a test takes what it wants to change. */
static size_t start_columns(struct ends *e, uint32_t raw_len, uint16_t items)
{
	memset(e->payload, 0, HEADER);
	e->payload[0] = 1;
	e->payload[AT_ITEMS] = (uint8_t)(items >> 8);
	e->payload[AT_ITEMS + 1] = (uint8_t)items;
	set_be32(e->payload + AT_RAW, raw_len);
	return HEADER;
}

static int end_columns(struct ends *e, size_t len)
{
	set_be32(e->payload + AT_COLUMNS, (uint32_t)(len - HEADER));
	return decode(e, e->payload, len);
}

#define KIND(code, count) (uint8_t)((code) << 5 | ((count)-1))

static void test_columns_that_are_longer_than_their_items_are_refused(void **state)
{
	struct ends *e = *state;
	size_t len = start_columns(e, 9, 1);

	/* A zero page, one run of it, at page 0. */
	e->payload[len++] = KIND(0, 1);
	e->payload[len++] = 0;
	e->payload[len++] = 0;
	assert_int_equal(end_columns(e, len), 0);
	e->payload[len++] = 0;
	assert_int_equal(end_columns(e, len), -1);
}

static void test_items_that_do_not_fit_into_the_piece_are_refused(void **state)
{
	struct ends *e = *state;
	size_t len;

	/* A full page of zeros takes 4,104 bytes; 254 of them are 1,042,416, and 255 and
	 * more too many. */
	for (unsigned short_by = 0; short_by < 2; short_by++)
		for (unsigned count = 1; count <= 509; count += 127) {
			uint32_t raw_len = count * (STREAM_PAGE + STREAM_WORD) - short_by;

			if (raw_len > BATCH_RAW_MAX)
				raw_len = BATCH_RAW_MAX;
			len = start_columns(e, raw_len, (uint16_t)count);
			for (unsigned i = 0; i < count; i++)
				e->payload[len++] = KIND(1, 1);
			e->payload[len++] = (uint8_t)((count - 1) << 3 | (count > 16 ? 0x80 : 0));
			if (count > 16)
				e->payload[len++] = (uint8_t)((count - 1) >> 4);
			e->payload[len++] = 0;
			assert_int_equal(end_columns(e, len), short_by || count >= 255 ? -1 : 0);
		}
}

static void test_a_gap_beyond_the_piece_is_refused(void **state)
{
	struct ends *e = *state;

	for (unsigned gap = 1; gap < 0x80; gap++) {
		size_t len = start_columns(e, 9 + 5, 1);

		e->payload[len++] = KIND(0, 1);
		e->payload[len++] = 1; /* a gap precedes */
		e->payload[len++] = (uint8_t)gap;
		e->payload[len++] = 0;
		memset(e->payload + len, 0, 5);
		assert_int_equal(end_columns(e, len + 5), gap <= 5 ? 0 : -1);
	}
	for (unsigned octets = 2; octets <= 9; octets++) {
		size_t len = start_columns(e, 9, 1);

		e->payload[len++] = KIND(0, 1);
		e->payload[len++] = 1;
		memset(e->payload + len, 0xff, octets);
		len += octets;
		e->payload[len++] = 0x7f;
		e->payload[len++] = 0;
		assert_int_equal(end_columns(e, len), -1);
	}
}

static void test_a_difference_has_one_to_256_words(void **state)
{
	struct ends *e = *state;

	for (unsigned words = 0; words <= 300; words++) {
		size_t len = start_columns(e, STREAM_PAGE + STREAM_WORD, 1);
		unsigned octets = (words + 7) / 8;

		e->payload[len++] = KIND(3, 1);
		e->payload[len++] = 0;
		e->payload[len++] = 0;
		for (unsigned i = 0; i < 64; i += 8)
			e->payload[len++] = (uint8_t)(octets >= i + 8 ? 0xff
						      : octets > i    ? (1u << (octets - i)) - 1
								      : 0);
		for (unsigned i = 0; i < octets; i++)
			e->payload[len++] =
				(uint8_t)(words >= i * 8 + 8 ? 0xff : (1u << words % 8) - 1);
		memset(e->payload + len, 'w', (size_t)words * 8);
		len += (size_t)words * 8;
		assert_int_equal(end_columns(e, len), words && words <= 256 ? 0 : -1);
	}
}

static void test_a_varint_that_never_ends_is_refused(void **state)
{
	struct ends *e = *state;

	for (unsigned n = 1; n < 40; n++) {
		size_t len = start_columns(e, 9, 1);

		e->payload[len++] = KIND(0, 1);
		e->payload[len++] = 0;
		memset(e->payload + len, 0x80, n);
		e->payload[len + n] = 0;
		/* Ten octets are as long as one may be. */
		assert_int_equal(end_columns(e, len + n + 1), n < 10 ? 0 : -1);
	}
}

static void test_a_wrong_bit_in_a_hash_makes_a_miss(void **state)
{
	struct ends *e = *state;

	make_payload(e, 1);
	/* Two hashes follow the header. */
	for (size_t bit = HEADER * 8; bit < (HEADER + 32) * 8; bit++) {
		e->payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(decode(e, e->payload, e->len), 0);
		assert_int_equal(e->received->missing, 1);
		e->payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(decode(e, e->payload, e->len), 0);
	assert_int_equal(e->received->missing, 0);
}

/* A payload of one zstd frame that holds `held` bytes, and says `said` in the batch's header. Only
 * other bytes. */
static void make_frame(struct ends *e, size_t held, size_t said, bool with_size)
{
	ZSTD_CCtx *c = ZSTD_createCCtx();
	uint8_t *bytes = calloc(1, held);

	assert_non_null(bytes);
	ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, with_size);
	memset(e->payload, 0, HEADER);
	e->payload[0] = 1;
	e->payload[AT_FLAGS] = 1;
	set_be32(e->payload + AT_RAW, (uint32_t)said);
	set_be32(e->payload + AT_COLUMNS, (uint32_t)said);
	e->len = ZSTD_compress2(c, e->payload + HEADER, PAYLOAD_ROOM - HEADER, bytes, held);
	assert_false(ZSTD_isError(e->len));
	e->len += HEADER;
	free(bytes);
	ZSTD_freeCCtx(c);
}

static void test_a_frame_that_expands_to_another_length_than_it_says_is_refused(void **state)
{
	struct ends *e = *state;

	for (int with_size = 0; with_size < 2; with_size++) {
		make_frame(e, 4096, 4096, with_size);
		assert_int_equal(decode(e, e->payload, e->len), 0);
		make_frame(e, 4097, 4096, with_size);
		assert_int_equal(decode(e, e->payload, e->len), -1);
		make_frame(e, 4095, 4096, with_size);
		assert_int_equal(decode(e, e->payload, e->len), -1);
		/* Thirty times what a batch may be, in 3 kB. */
		make_frame(e, (size_t)1 << 25, BATCH_RAW_MAX, with_size);
		assert_int_equal(decode(e, e->payload, e->len), -1);
	}
}

static void test_a_frame_longer_than_its_batch_can_be_is_refused(void **state)
{
	struct ends *e = *state;

	/* It holds what it says; but no columns of so many bytes are ever made. */
	for (size_t more = BATCH_EXTRA; more < BATCH_EXTRA + 2; more++) {
		make_frame(e, BATCH_RAW_MAX + more, BATCH_RAW_MAX, false);
		set_be32(e->payload + AT_COLUMNS, (uint32_t)(BATCH_RAW_MAX + more));
		assert_int_equal(decode(e, e->payload, e->len), -1);
	}
	make_frame(e, 4 * BATCH_RAW_MAX, BATCH_RAW_MAX, false);
	set_be32(e->payload + AT_COLUMNS, 4 * BATCH_RAW_MAX);
	assert_int_equal(decode(e, e->payload, e->len), -1);
}

static void test_two_frames_and_a_frame_of_another_kind_are_refused(void **state)
{
	struct ends *e = *state;
	uint8_t frame[64];
	size_t len;

	make_frame(e, 4096, 8192, true);
	len = e->len - HEADER;
	assert_true(len < sizeof(frame));
	memcpy(frame, e->payload + HEADER, len);
	/* Together they would be what the header says. */
	memcpy(e->payload + e->len, frame, len);
	assert_int_equal(decode(e, e->payload, e->len + len), -1);
	/* A skippable frame of no byte before it. */
	make_frame(e, 4096, 4096, true);
	memcpy(e->payload + HEADER, "\x50\x2a\x4d\x18\0\0\0\0", 8);
	memcpy(e->payload + HEADER + 8, frame, len);
	assert_int_equal(decode(e, e->payload, HEADER + 8 + len), -1);
	assert_int_equal(decode(e, e->payload, HEADER + 8), -1);
	assert_int_equal(decode(e, e->payload, HEADER), -1);
}

static void test_a_difference_to_a_page_that_was_never_sent_is_refused(void **state)
{
	struct ends *e = *state;
	struct page_cache *empty = page_cache_open(CACHE_MIN, NULL);
	struct error *err = NULL;

	make_payload(e, 1);
	assert_int_equal(decode(e, e->payload, e->len), 0);
	assert_int_equal(batch_complete(e->received, empty, &err), -1);
	assert_int_equal(err->kind, ERROR_REQUEST);
	error_free(&err);
	assert_int_equal(batch_complete(e->received, NULL, NULL), -1);
	page_cache_close(empty);
}

static void test_bytes_at_random_are_refused_or_taken_but_do_no_harm(void **state)
{
	struct ends *e = *state;
	uint8_t *mutated = malloc(PAYLOAD_ROOM);
	unsigned taken = 0;

	for (unsigned round = 0; round < 3000; round++) {
		size_t len, hits = 1 + random_below(6);

		if (round % 100 == 0)
			make_payload(e, round % 200 ? 0 : 3);
		memcpy(mutated, e->payload, e->len);
		for (; hits; hits--)
			mutated[random_below(hits % 2 ? 120 : e->len)] = (uint8_t)random_u64();
		len = random_below(4) ? e->len : random_below(e->len);
		if (decode(e, mutated, len) == 0) {
			taken++;
			assert_true(e->received->raw_len <= BATCH_RAW_MAX);
			assert_true(e->received->items_len <= BATCH_ITEMS_MAX);
		}
	}
	assert_true(taken);
	free(mutated);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		end_test(test_a_payload_cut_anywhere_is_refused),
		end_test(test_no_flipped_bit_makes_a_wrong_page_of_a_reference),
		end_test(test_lengths_beyond_the_bounds_are_refused),
		end_test(test_columns_that_are_longer_than_their_items_are_refused),
		end_test(test_items_that_do_not_fit_into_the_piece_are_refused),
		end_test(test_a_gap_beyond_the_piece_is_refused),
		end_test(test_a_difference_has_one_to_256_words),
		end_test(test_a_varint_that_never_ends_is_refused),
		end_test(test_a_wrong_bit_in_a_hash_makes_a_miss),
		end_test(test_a_frame_longer_than_its_batch_can_be_is_refused),
		end_test(test_a_frame_that_expands_to_another_length_than_it_says_is_refused),
		end_test(test_two_frames_and_a_frame_of_another_kind_are_refused),
		end_test(test_a_difference_to_a_page_that_was_never_sent_is_refused),
		end_test(test_bytes_at_random_are_refused_or_taken_but_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
