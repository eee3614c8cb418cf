#include "test_batch_support.h"
#include "wire/batch_words.h"

/* Both ends of a migration, with nothing but memory between them. */
struct ends {
	struct source_set *set;
	struct guest *guest;
	struct page_cache *from, *to;
	struct batch_coder *coder; /* has no state of its own between batches */
	struct batch *sent, *received;
	uint8_t *payload;
};

static int open_ends(void **state)
{
	struct ends *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	random_state = 1;
	e->set = make_source();
	e->guest = make_guest();
	e->from = page_cache_open(2 * CACHE_MIN, NULL);
	e->to = page_cache_open(2 * CACHE_MIN, NULL);
	e->coder = make_coder();
	e->sent = make_batch();
	e->received = make_batch();
	/* Exactly what the header asks for, so that a byte more is seen under ASan. */
	e->payload = malloc(PAYLOAD_ROOM);
	assert_true(e->from && e->to && e->payload);
	*state = e;
	return 0;
}

static int close_ends(void **state)
{
	struct ends *e = *state;

	free(e->set);
	free(e->guest);
	page_cache_close(e->from);
	page_cache_close(e->to);
	batch_coder_close(e->coder);
	batch_free(e->sent);
	batch_free(e->received);
	free(e->payload);
	free(e);
	return 0;
}

static void assert_equal_caches(const struct ends *e)
{
	for (unsigned i = 0; i < GUEST_BLOCKS * GUEST_PAGES; i++) {
		uint8_t block = (uint8_t)(i / GUEST_PAGES);
		uint64_t address = i % GUEST_PAGES * (uint64_t)STREAM_PAGE;
		const uint8_t *a = page_cache_find(e->from, block, address);
		const uint8_t *b = page_cache_find(e->to, block, address);

		assert_int_equal(!a, !b);
		assert_true(!a || !memcmp(a, b, STREAM_PAGE));
	}
}

static void assert_equal_items(const struct batch *a, const struct batch *b)
{
	assert_int_equal(a->items_len, b->items_len);
	for (size_t i = 0; i < a->items_len; i++) {
		assert_int_equal(a->items[i].address, b->items[i].address);
		assert_int_equal(a->items[i].at, b->items[i].at);
		assert_int_equal(a->items[i].kind, b->items[i].kind);
		assert_int_equal(a->items[i].block, b->items[i].block);
		assert_int_equal(a->items[i].word, b->items[i].word);
	}
}

static void assert_equal_counts(const struct batch *a, const struct batch *b)
{
	assert_memory_equal(&a->counts, &b->counts, sizeof(a->counts));
}

/* Asks for what is missing and answers it, in as many frames as that takes. */
static void settle_misses(struct batch *sent, struct batch *received)
{
	static uint8_t miss[BATCH_MISS_PAYLOAD_MAX], answer[BATCH_ANSWER_PAYLOAD_MAX];
	size_t from = 0, len;
	unsigned frames = 0, missing = received->missing;

	while ((len = batch_misses_encode(received, &from, miss))) {
		struct error *err = NULL;

		len = batch_answer_encode(sent, miss, len, answer, &err);
		assert_true(len && len <= sizeof(answer));
		assert_int_equal(batch_answer_take(received, answer, len, &err), 0);
		/* An answer that comes twice changes nothing. */
		assert_int_equal(batch_answer_take(received, answer, len, &err), 0);
		frames++;
	}
	assert_int_equal(frames, (missing + BATCH_MISSES_MAX - 1) / BATCH_MISSES_MAX);
	assert_int_equal(received->missing, 0);
}

/* Sends e->sent, which was filled, the whole way. Returns the payload's length. */
static size_t carry(struct ends *e, int level, bool keep)
{
	struct error *err = NULL;
	size_t len;

	batch_plan(e->sent, e->from, e->set, keep);
	len = batch_encode(e->coder, e->sent, level, e->payload);
	assert_true(len <= e->sent->raw_len + BATCH_EXTRA);
	batch_reset(e->received);
	assert_int_equal(batch_decode(e->coder, e->payload, len, e->set, e->received, &err), 0);
	settle_misses(e->sent, e->received);
	assert_int_equal(batch_complete(e->received, e->to, &err), 0);
	assert_true(same_piece(e->sent, e->received));
	assert_equal_items(e->sent, e->received);
	assert_equal_counts(e->sent, e->received);
	return len;
}

/* Sends the page at address 0 twice, which is when it is kept. */
static void carry_into_cache(struct ends *e, const uint8_t *page)
{
	for (unsigned i = 0; i < 2; i++) {
		batch_reset(e->sent);
		add_item(e->sent, 0, 0, true, page);
		carry(e, 1, true);
	}
}

static int random_level(void)
{
	static const int levels[] = {0, 0, -5, -1, 1, 1, 3, 5};

	return levels[random_below(sizeof(levels) / sizeof(*levels))];
}

/* Makes half of the source's blocks other than the index says, or right again. */
static void change_source(struct source_set *set)
{
	bool change = random_below(2);

	for (size_t i = 0; i < SOURCE_BLOCKS; i++) {
		memcpy(set->now[i], set->indexed[i], STREAM_PAGE);
		if (change && random_below(2))
			set->now[i][random_below(STREAM_PAGE)] ^= 1;
	}
	set->unreadable = !random_below(5);
}

#define GROUP 6u

static void test_batches_arrive_as_they_were_whatever_order_they_are_decoded_in(void **state)
{
	struct ends *e = *state;
	struct batch *sent[GROUP], *received[GROUP];
	struct batch_counts sum = {0};
	uint8_t *payload[GROUP];
	size_t len[GROUP];

	for (unsigned i = 0; i < GROUP; i++) {
		sent[i] = make_batch();
		received[i] = make_batch();
		payload[i] = malloc(PAYLOAD_ROOM);
	}
	for (unsigned round = 0; round < 500; round++) {
		unsigned first = (unsigned)random_below(GROUP);

		for (unsigned i = 0; i < GROUP; i++) {
			batch_reset(sent[i]);
			batch_reset(received[i]);
			sent[i]->sequence = received[i]->sequence = round * GROUP + i;
			fill_batch(sent[i], e->guest, e->set, random_below(round % 50 ? 40 : 400));
			batch_plan(sent[i], e->from, random_below(8) ? e->set : NULL,
				random_below(10) != 0);
			len[i] = batch_encode(e->coder, sent[i], random_level(), payload[i]);
			assert_true(len[i] <= sent[i]->raw_len + BATCH_EXTRA);
		}
		for (unsigned n = 0; n < GROUP; n++) {
			unsigned i = (first + n * 5) % GROUP;

			change_source(e->set);
			assert_int_equal(
				batch_decode(e->coder, payload[i], len[i],
					random_below(9) ? e->set : NULL, received[i], NULL),
				0);
			settle_misses(sent[i], received[i]);
		}
		for (unsigned i = 0; i < GROUP; i++) {
			assert_int_equal(batch_complete(received[i], e->to, NULL), 0);
			assert_true(same_piece(sent[i], received[i]));
			assert_equal_items(sent[i], received[i]);
			assert_equal_counts(sent[i], received[i]);
			batch_counts_add(&sum, &received[i]->counts);
		}
		assert_equal_caches(e);
	}
	/* The pages were of every kind, and some references missed. */
	for (unsigned kind = 0; kind < BATCH_KINDS; kind++)
		assert_true(sum.pages[kind] > 1000);
	assert_true(sum.hits[1] > 100 && sum.misses[1] > 10 && sum.misses[1] < sum.hits[1]);
	assert_int_equal(sum.hits[0], 0);
	for (unsigned i = 0; i < GROUP; i++) {
		batch_free(sent[i]);
		batch_free(received[i]);
		free(payload[i]);
	}
}

static void test_thousands_of_zero_pages_take_a_few_bytes(void **state)
{
	struct ends *e = *state;

	for (unsigned i = 0; i < BATCH_ITEMS_MAX; i++)
		assert_true(add_item(e->sent, 0, (uint64_t)i * STREAM_PAGE, true, NULL));
	assert_in_range(carry(e, 0, true), 17, 32);
	assert_int_equal(e->received->counts.pages[BATCH_ZERO], BATCH_ITEMS_MAX);
}

static void test_a_full_page_of_zeros_goes_as_zero(void **state)
{
	static const uint8_t zero[STREAM_PAGE];
	struct ends *e = *state;

	for (unsigned i = 0; i < 100; i++)
		add_item(e->sent, 0, (uint64_t)i * STREAM_PAGE, i % 3, zero);
	/* The destination's batch was used before. */
	memset(e->received->raw, 0xff, BATCH_RAW_MAX);
	assert_in_range(carry(e, 0, true), 17, 250);
	assert_int_equal(e->received->counts.pages[BATCH_ZERO], 100);
}

static void test_a_page_that_did_not_change_takes_next_to_nothing(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE];

	fill_random(page, sizeof(page));
	for (unsigned round = 0; round < 3; round++) {
		size_t len;

		batch_reset(e->sent);
		for (unsigned i = 0; i < 50; i++)
			add_item(e->sent, 0, (uint64_t)i * STREAM_PAGE, true, page);
		len = carry(e, 0, true);
		if (round == 2)
			assert_in_range(len, 17, 64);
	}
	assert_int_equal(e->received->counts.pages[BATCH_DIFFERENCE], 50);
}

static void test_few_changed_words_take_few_bytes(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE];

	fill_random(page, sizeof(page));
	carry_into_cache(e, page);
	for (unsigned words = 1; words <= 512; words *= 2) {
		for (unsigned i = 0; i < words; i++)
			page[i * (512 / words) * 8]++;
		batch_reset(e->sent);
		add_item(e->sent, 0, 0, true, page);
		assert_in_range(carry(e, 0, true), 1, 32 + 8 + words * 10);
		assert_int_equal(
			e->received->counts.pages[words > 256 ? BATCH_DATA : BATCH_DIFFERENCE], 1);
	}
}

static void test_a_page_twice_in_a_batch_is_a_difference_to_itself(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE];

	fill_random(page, sizeof(page));
	for (unsigned i = 0; i < 20; i++) {
		page[i * 100]++;
		add_item(e->sent, 0, 0, true, i == 10 ? NULL : page);
	}
	carry(e, 1, true);
	assert_int_equal(e->received->counts.pages[BATCH_DATA], 3);
	assert_int_equal(e->received->counts.pages[BATCH_DIFFERENCE], 16);
	assert_equal_caches(e);
}

static void test_a_reference_takes_some_twenty_bytes_and_its_page_leaves_the_cache(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE];

	fill_random(page, sizeof(page));
	carry_into_cache(e, page);
	assert_non_null(page_cache_find(e->to, 0, 0));
	batch_reset(e->sent);
	for (unsigned i = 0; i < SOURCE_BLOCKS; i++)
		add_item(e->sent, 0, i * (uint64_t)STREAM_PAGE, true, e->set->indexed[i]);
	assert_in_range(carry(e, 0, true), SOURCE_BLOCKS * 16, 64 + SOURCE_BLOCKS * 21);
	assert_int_equal(e->received->counts.pages[BATCH_REFERENCE], SOURCE_BLOCKS);
	assert_null(page_cache_find(e->to, 0, 0));
	assert_equal_caches(e);
}

static void test_of_blocks_that_are_read_at_once_only_the_wrong_ones_are_asked_for(void **state)
{
	struct ends *e = *state;
	struct error *err = NULL;
	size_t len;

	for (unsigned i = 0; i < SOURCE_BLOCKS; i++) {
		add_item(e->sent, 0, i * (uint64_t)STREAM_PAGE, true, e->set->indexed[i]);
		/* What is between references does not part them. */
		add_item(e->sent, 1, i * (uint64_t)STREAM_PAGE, true, NULL);
	}
	e->set->hole = 11 + 1;
	e->set->now[14][0] ^= 1;
	batch_plan(e->sent, e->from, e->set, true);
	len = batch_encode(e->coder, e->sent, 1, e->payload);
	assert_int_equal(batch_decode(e->coder, e->payload, len, e->set, e->received, &err), 0);
	assert_int_equal(e->received->missing, 2);
	for (unsigned i = 0; i < SOURCE_BLOCKS; i++)
		assert_int_equal(e->received->pages[2 * i].missing, i == 11 || i == 14);
	settle_misses(e->sent, e->received);
	assert_int_equal(batch_complete(e->received, e->to, &err), 0);
	assert_true(same_piece(e->sent, e->received));
}

static void test_a_batch_without_the_cache_leaves_it_alone(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE], old[STREAM_PAGE];

	fill_random(old, sizeof(old));
	memcpy(page, old, sizeof(page));
	carry_into_cache(e, old);
	page[0]++;
	batch_reset(e->sent);
	add_item(e->sent, 0, 0, true, page);
	add_item(e->sent, 0, STREAM_PAGE, true, page);
	carry(e, 1, false);
	assert_int_equal(e->received->counts.pages[BATCH_DATA], 2);
	assert_memory_equal(page_cache_find(e->to, 0, 0), old, sizeof(old));
	assert_null(page_cache_find(e->to, 0, STREAM_PAGE));
	/* And later the old version is what both differ from. */
	batch_reset(e->sent);
	add_item(e->sent, 0, 0, true, page);
	carry(e, 1, true);
	assert_int_equal(e->received->counts.pages[BATCH_DIFFERENCE], 1);
}

static void test_batches_with_no_page_and_with_no_byte_arrive(void **state)
{
	struct ends *e = *state;

	assert_in_range(carry(e, 1, true), 16, 16);
	add_other(e->sent, BATCH_RAW_MAX);
	carry(e, 5, true);
	assert_int_equal(e->received->counts.other_bytes, BATCH_RAW_MAX);
	batch_reset(e->sent);
	fill_text(e->sent->raw, BATCH_RAW_MAX);
	e->sent->raw_len = BATCH_RAW_MAX;
	assert_in_range(carry(e, 1, true), 16, BATCH_RAW_MAX / 3);
}

static void test_pages_at_the_ends_of_the_address_space_arrive(void **state)
{
	struct ends *e = *state;
	uint64_t last = ~(uint64_t)STREAM_PAGE + 1;

	add_item(e->sent, 0, last, true, NULL);
	add_item(e->sent, 0, 0, true, NULL);
	add_item(e->sent, 254, last / 2 & ~(uint64_t)(STREAM_PAGE - 1), true, NULL);
	add_item(e->sent, 0, last, true, NULL);
	carry(e, 0, true);
	assert_int_equal(e->received->items_len, 4);
}

static void test_random_pages_take_no_more_than_themselves_at_any_level(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE];

	for (int level = BATCH_LEVEL_MIN; level <= BATCH_LEVEL_MAX; level += level > 5 ? 7 : 1) {
		batch_reset(e->sent);
		for (unsigned i = 0; i < 254; i++) {
			fill_random(page, sizeof(page));
			add_item(e->sent, 0, (uint64_t)i * STREAM_PAGE, true, page);
		}
		assert_in_range(carry(e, level, true), 1, 254 * STREAM_PAGE + 64);
	}
}

/* As bhyve's live rounds have them. */
static void test_pages_without_words_are_found_however_far_apart(void **state)
{
	struct ends *e = *state;
	static uint8_t pages[255][STREAM_PAGE];

	fill_random(pages[0], sizeof(pages));
	/* The cache takes a page that comes for the second time. */
	for (unsigned version = 0; version < 3; version++) {
		batch_reset(e->sent);
		for (unsigned i = 0; i < 255; i++) {
			pages[i][0]++;
			add_item(e->sent, (uint8_t)(i % 250),
				(i * 0x9e3779b97f4a7c15) & ~(uint64_t)0xfff, false, pages[i]);
		}
		carry(e, 0, true);
		assert_int_equal(e->received->items_len, 255);
		assert_int_equal(e->received->counts.other_bytes, 0);
		assert_in_range(
			e->received->counts.pages[version < 2 ? BATCH_DATA : BATCH_DIFFERENCE], 250,
			255);
	}
	assert_equal_caches(e);
}

static void test_items_that_cost_more_than_they_save_become_other_bytes(void **state)
{
	struct ends *e = *state;

	for (unsigned i = 0; i < BATCH_ITEMS_MAX; i++)
		add_item(e->sent, (uint8_t)(i % 200), random_u64() & ~(uint64_t)0xfff, false, NULL);
	carry(e, 0, true);
	assert_equal_caches(e);
}

static void test_items_that_are_not_what_they_should_be_become_other_bytes(void **state)
{
	struct ends *e = *state;
	uint8_t page[STREAM_PAGE];

	fill_random(page, sizeof(page));
	for (unsigned fault = 0; fault < 8; fault++) {
		batch_reset(e->sent);
		for (unsigned i = 0; i < 3; i++)
			add_item(e->sent, 0, (uint64_t)i * STREAM_PAGE, true, i == 1 ? NULL : page);
		switch (fault) {
		case 0:
			e->sent->raw[3] ^= 1; /* its word */
			break;
		case 1:
			e->sent->raw[e->sent->items[2].at - 1] = 7; /* a page of sevens */
			break;
		case 2:
			e->sent->items[2].at--; /* two items at one place */
			break;
		case 3:
			e->sent->items[2].at++; /* the end */
			break;
		case 4:
			e->sent->items[0].kind = 2;
			break;
		case 5:
			e->sent->items[1].block = 255;
			break;
		case 6:
			e->sent->items[1].address++;
			break;
		case 7:
			e->sent->items[2].at = UINT32_MAX;
			break;
		}
		carry(e, 1, true);
		assert_int_equal(e->received->items_len, 0);
	}
}

static void test_encoding_again_at_another_level_gives_the_same_batch(void **state)
{
	struct ends *e = *state;
	size_t len;

	fill_batch(e->sent, e->guest, e->set, 200);
	batch_plan(e->sent, e->from, e->set, true);
	for (int level = BATCH_LEVEL_MIN; level < 7; level++) {
		batch_encode(e->coder, e->sent, 6 - level, e->payload);
		len = batch_encode(e->coder, e->sent, level, e->payload);
		batch_reset(e->received);
		assert_int_equal(
			batch_decode(e->coder, e->payload, len, e->set, e->received, NULL), 0);
		assert_equal_counts(e->sent, e->received);
	}
	assert_int_equal(batch_complete(e->received, e->to, NULL), 0);
	assert_true(same_piece(e->sent, e->received));
}

static void test_comparing_finds_each_word_with_and_without_avx2(void **state)
{
	uint8_t old[STREAM_PAGE], new[STREAM_PAGE];
	uint8_t bitmap[2][STREAM_PAGE / 64];

	(void)state;
	fill_random(old, sizeof(old));
	for (unsigned i = 0; i < 2000; i++) {
		memcpy(new, old, sizeof(new));
		for (size_t n = random_below(600); n; n--)
			new[random_below(sizeof(new))] ^= (uint8_t)random_below(256);
		memset(bitmap[1], 0, sizeof(bitmap[1]));
		for (unsigned w = 0; w < 512; w++)
			if (memcmp(old + w * 8, new + w * 8, 8))
				bitmap[1][w / 8] |= (uint8_t)(1u << w % 8);
		assert_int_equal(words_compare_any(old, new, bitmap[0]), words_count(bitmap[1]));
		assert_memory_equal(bitmap[0], bitmap[1], sizeof(bitmap[0]));
		assert_int_equal(words_compare(old, new, bitmap[0]), words_count(bitmap[1]));
		assert_memory_equal(bitmap[0], bitmap[1], sizeof(bitmap[0]));
	}
}

#define end_test(name) cmocka_unit_test_setup_teardown(name, open_ends, close_ends)

int main(void)
{
	const struct CMUnitTest tests[] = {
		end_test(test_batches_arrive_as_they_were_whatever_order_they_are_decoded_in),
		end_test(test_thousands_of_zero_pages_take_a_few_bytes),
		end_test(test_a_full_page_of_zeros_goes_as_zero),
		end_test(test_a_page_that_did_not_change_takes_next_to_nothing),
		end_test(test_few_changed_words_take_few_bytes),
		end_test(test_a_page_twice_in_a_batch_is_a_difference_to_itself),
		end_test(test_a_reference_takes_some_twenty_bytes_and_its_page_leaves_the_cache),
		end_test(test_of_blocks_that_are_read_at_once_only_the_wrong_ones_are_asked_for),
		end_test(test_a_batch_without_the_cache_leaves_it_alone),
		end_test(test_batches_with_no_page_and_with_no_byte_arrive),
		end_test(test_pages_at_the_ends_of_the_address_space_arrive),
		end_test(test_random_pages_take_no_more_than_themselves_at_any_level),
		end_test(test_pages_without_words_are_found_however_far_apart),
		end_test(test_items_that_cost_more_than_they_save_become_other_bytes),
		end_test(test_items_that_are_not_what_they_should_be_become_other_bytes),
		end_test(test_encoding_again_at_another_level_gives_the_same_batch),
		cmocka_unit_test(test_comparing_finds_each_word_with_and_without_avx2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
