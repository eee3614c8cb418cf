/*
 * Pages that the receiver misses: who may ask for what, and what is taken for an answer.
 */
#include "test_batch_hostile.h"

static void test_a_batch_with_pages_missing_is_not_completed(void **state)
{
	struct ends *e = *state;
	struct error *err = NULL;

	make_payload(e, 1);
	e->set->unreadable = true;
	assert_int_equal(decode(e, e->payload, e->len), 0);
	assert_int_equal(e->received->missing, 2);
	assert_int_equal(batch_complete(e->received, e->to, &err), -1);
	assert_int_equal(err->kind, ERROR_REQUEST);
	error_free(&err);
}

/* The indexes of a MISS for the batch `sequence`. */
static size_t make_miss(uint8_t *out, uint64_t sequence, const uint16_t *items, size_t count)
{
	set_be32(out, (uint32_t)(sequence >> 32));
	set_be32(out + 4, (uint32_t)sequence);
	for (size_t i = 0; i < count; i++) {
		out[8 + 2 * i] = (uint8_t)(items[i] >> 8);
		out[9 + 2 * i] = (uint8_t)items[i];
	}
	return 8 + 2 * count;
}

static bool answers(struct ends *e, const uint8_t *miss, size_t len)
{
	/* Exactly the room that the header asks for. */
	uint8_t *out = malloc(BATCH_ANSWER_PAYLOAD_MAX), *copy = malloc(len ? len : 1);
	struct error *err = NULL;
	size_t answer;

	assert_true(out && copy);
	memcpy(copy, miss, len);
	answer = batch_answer_encode(e->sent, copy, len, out, &err);
	assert_int_equal(!answer, err != NULL);
	assert_true(!err || err->kind == ERROR_REQUEST);
	error_free(&err);
	free(copy);
	free(out);
	return answer;
}

static void test_only_references_of_that_batch_in_order_are_answered(void **state)
{
	/* In make_payload items 0 and 5 are references. */
	static const struct {
		uint64_t sequence;
		uint16_t items[3];
		size_t count;
		bool answered;
	} cases[] = {
		{7, {0}, 1, true},
		{7, {0, 5}, 2, true},
		{7, {5}, 1, true},
		{7, {0}, 0, false},
		{8, {0}, 1, false},
		{7ull << 32 | 7, {0}, 1, false},
		{7, {5, 0}, 2, false},
		{7, {5, 5}, 2, false},
		{7, {0, 1}, 2, false},
		{7, {8}, 1, false},
		{7, {65535}, 1, false},
	};
	static uint8_t miss[8 + 2 * (BATCH_MISSES_MAX + 1)];
	static uint16_t many[BATCH_MISSES_MAX + 1];
	struct ends *e = *state;

	make_payload(e, 1);
	e->sent->sequence = 7;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		size_t len = make_miss(miss, cases[i].sequence, cases[i].items, cases[i].count);

		assert_int_equal(answers(e, miss, len), cases[i].answered);
		assert_false(answers(e, miss, len - 1));
	}
	assert_false(answers(e, miss, make_miss(miss, 7, many, BATCH_MISSES_MAX + 1)));
	for (size_t len = 0; len < 8; len++)
		assert_false(answers(e, miss, len));
	/* However often they were asked for, two pages were missed. */
	assert_int_equal(e->sent->counts.misses[1], 2);
}

static bool takes(struct ends *e, uint64_t sequence, unsigned item, size_t len)
{
	uint8_t *answer = calloc(1, len < 10 ? 10 : len);
	struct error *err = NULL;
	int rc;

	assert_non_null(answer);
	make_miss(answer, sequence, &(uint16_t){(uint16_t)item}, 1);
	rc = batch_answer_take(e->received, answer, len, &err);
	assert_int_equal(rc < 0, err != NULL);
	error_free(&err);
	free(answer);
	return rc == 0;
}

static void test_only_answers_to_what_was_asked_are_taken(void **state)
{
	const size_t one = 8 + 2 + STREAM_PAGE;
	struct ends *e = *state;
	uint8_t kept[STREAM_PAGE];
	const uint8_t *page;

	make_payload(e, 1);
	e->set->unreadable = true;
	assert_int_equal(decode(e, e->payload, e->len), 0);
	e->received->sequence = 7;
	page = e->received->raw + e->received->items[6].at + 8;
	memcpy(kept, page, STREAM_PAGE);
	assert_false(takes(e, 8, 0, one));
	assert_false(takes(e, 7, 1, one));     /* zero */
	assert_false(takes(e, 7, 6, one));     /* data */
	assert_false(takes(e, 7, 8, one));     /* no item */
	assert_false(takes(e, 7, 65535, one)); /* nor this */
	assert_false(takes(e, 7, 0, one - 1));
	assert_false(takes(e, 7, 0, one + 1));
	assert_false(takes(e, 7, 0, 8));
	assert_false(takes(e, 7, 0, 0));
	assert_false(takes(e, 7, 0, 8 + (BATCH_MISSES_MAX + 1) * (size_t)(2 + STREAM_PAGE)));
	assert_int_equal(e->received->missing, 2);
	assert_memory_equal(page, kept, STREAM_PAGE);
	assert_true(takes(e, 7, 0, one));
	assert_int_equal(e->received->missing, 1);
	assert_true(takes(e, 7, 0, one));
	assert_int_equal(e->received->missing, 1);
	assert_true(takes(e, 7, 5, one));
	assert_int_equal(e->received->missing, 0);
	assert_int_equal(batch_complete(e->received, e->to, NULL), 0);
}

static void test_an_answer_to_a_reference_that_was_found_changes_nothing(void **state)
{
	struct ends *e = *state;

	make_payload(e, 1);
	assert_int_equal(decode(e, e->payload, e->len), 0);
	e->received->sequence = 7;
	assert_true(takes(e, 7, 0, 8 + 2 + STREAM_PAGE));
	assert_int_equal(batch_complete(e->received, e->to, NULL), 0);
	assert_true(same_piece(e->sent, e->received));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		end_test(test_a_batch_with_pages_missing_is_not_completed),
		end_test(test_only_references_of_that_batch_in_order_are_answered),
		end_test(test_only_answers_to_what_was_asked_are_taken),
		end_test(test_an_answer_to_a_reference_that_was_found_changes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
