#include "base/buf.h"
#include "bhyve_gen.h"
#include "hv/bhyve/transfer.h"
#include "test_stream_support.h"

#include <string.h>

#define STREAMS 300u
/* Of a stream's head: where things are. */
#define AT_PAGE_SIZE (80u + 512u)
#define AT_TYPE (80u + 520u)

static struct fed feed_told(const char *name, const struct stream_table *made, size_t len,
	uint64_t memory, const struct stream_split *split)
{
	struct fed f = {.p = stream_parser_open(name)};
	const char *broken;

	assert_non_null(f.p);
	if (memory)
		assert_true(stream_parser_expect(f.p, memory));
	f.counts = stream_parser_counts(f.p);
	broken = stream_feed(f.p, made->bytes.data, len, split, &f.found);
	if (broken)
		fail_msg("%s (split %llu)", broken, (unsigned long long)split->seed);
	assert_true(stream_rebuild(&f.found, made->bytes.data, len));
	return f;
}

static void test_every_page_of_generated_streams_is_found(void **state)
{
	(void)state;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct bhyve_gen options = bhyve_gen_random(seed);
		struct stream_table made;

		bhyve_gen_make(&made, &options);
		struct fed f = feed_told(seed % 2 ? "bhyve" : "auto", &made, made.bytes.len,
			bhyve_gen_memory(&options), &whole);
		assert_true(made.items_len >= options.lowmem_pages);
		assert_same_tables(&made, &f.found);
		assert_int_equal(f.counts->unknown_bytes, 0);
		assert_int_equal(f.counts->pages, made.items_len);
		assert_string_equal(stream_parser_name(f.p), "bhyve");
		fed_free(&f);
		stream_table_free(&made);
	}
}

static void test_no_split_changes_the_table(void **state)
{
	(void)state;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct bhyve_gen options = bhyve_gen_random(seed);
		struct stream_split split = stream_splits[seed % STREAM_SPLITS];
		struct stream_table made;

		if (split.piece_max < 100) {
			options.lowmem_pages = options.lowmem_pages % 8 + 1;
			options.highmem_pages %= 8;
		}
		bhyve_gen_make(&made, &options);
		split.seed = seed;
		struct fed f = feed_told(
			"auto", &made, made.bytes.len, bhyve_gen_memory(&options), &split);
		assert_same_tables(&made, &f.found);
		assert_int_equal(f.counts->unknown_bytes, 0);
		fed_free(&f);
		stream_table_free(&made);
	}
}

static const struct bhyve_gen small[BHYVE_GEN_TYPES] = {
	{.type = BHYVE_GEN_OLD,
		.seed = 5,
		.lowmem_pages = 3,
		.highmem_pages = 2,
		.structures = 3,
		.devices = 2,
		.state_max = 500},
	{.type = BHYVE_GEN_WARM, .seed = 6, .lowmem_pages = 4, .structures = 1, .state_max = 1},
	{.type = BHYVE_GEN_LIVE,
		.seed = 7,
		.lowmem_pages = 3,
		.highmem_pages = 3,
		.rounds = 2,
		.dirty_percent = 50,
		.structures = 2,
		.devices = 3,
		.state_max = 300},
};

static void test_a_stream_may_end_anywhere(void **state)
{
	(void)state;
	for (unsigned type = 0; type < BHYVE_GEN_TYPES; type++) {
		struct stream_table made;

		bhyve_gen_make(&made, &small[type]);
		for (size_t len = 0; len < made.bytes.len; len += len < 1000 ? 1 : 97) {
			struct stream_split split = {.seed = len, .piece_max = 600, .items_max = 4};
			struct fed f = feed_told(
				"auto", &made, len, bhyve_gen_memory(&small[type]), &split);

			assert_int_equal(f.counts->unknown_bytes, 0);
			fed_free(&f);
		}
		stream_table_free(&made);
	}
}

/* The source sends so much and waits for an answer: nothing of it may be kept back. */
static void test_nothing_is_left_where_the_source_waits(void **state)
{
	struct stream_item items[64];
	size_t found;

	(void)state;
	for (unsigned type = 0; type < BHYVE_GEN_TYPES; type++) {
		size_t sizes = AT_TYPE + (type == BHYVE_GEN_OLD ? 16 : 20);
		struct stream_table made;
		size_t waits[3], from = 0;

		bhyve_gen_make(&made, &small[type]);
		waits[0] = AT_TYPE;
		waits[1] = type == BHYVE_GEN_LIVE ? AT_TYPE + 5 : sizes;
		waits[2] = made.bytes.len;
		struct stream_parser *p = stream_parser_open("bhyve");
		assert_true(stream_parser_expect(p, bhyve_gen_memory(&small[type])));
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(stream_parse(p, made.bytes.data + from, waits[i] - from,
						 items, 64, &found),
				waits[i] - from);
			from = waits[i];
		}
		stream_parser_close(p);
		stream_table_free(&made);
	}
}

/* Whatever a parser believes, what it keeps back goes on when nothing follows; the pages behind it
 * are found as before. */
static void test_a_page_that_was_passed_on_in_parts_is_no_item(void **state)
{
	struct stream_item items[64];
	struct stream_table made;
	size_t found, taken, cut;

	(void)state;
	bhyve_gen_make(&made, &small[BHYVE_GEN_LIVE]);
	struct stream_parser *p = stream_parser_open("bhyve");
	assert_true(stream_parser_expect(p, bhyve_gen_memory(&small[BHYVE_GEN_LIVE])));
	assert_false(stream_parser_pass(p, 10));
	cut = made.items[1].at + 1000;
	taken = stream_parse(p, made.bytes.data, cut, items, 64, &found);
	assert_int_equal(taken, made.items[1].at);
	assert_int_equal(found, 1);
	assert_false(stream_parser_pass(p, 0));
	assert_true(stream_parser_pass(p, cut - taken));
	assert_int_equal(
		stream_parse(p, made.bytes.data + cut, made.bytes.len - cut, items, 64, &found),
		made.bytes.len - cut);
	assert_int_equal(found, made.items_len - 2);
	for (size_t i = 0; i < found; i++) {
		assert_int_equal(items[i].at + cut, made.items[i + 2].at);
		assert_int_equal(items[i].address, made.items[i + 2].address);
	}
	assert_int_equal(stream_parser_counts(p)->unknown_bytes, 0);
	assert_int_equal(stream_parser_counts(p)->other_bytes,
		made.bytes.len - (made.items_len - 1) * STREAM_PAGE);
	stream_parser_close(p);
	stream_table_free(&made);
}

static void test_a_qemu_stream_is_never_passed_on_in_parts(void **state)
{
	struct stream_item items[4];
	size_t found;

	(void)state;
	struct stream_parser *p = stream_parser_open("qemu");
	assert_int_equal(stream_parse(p, (const uint8_t *)"QEVM", 4, items, 4, &found), 0);
	assert_false(stream_parser_pass(p, 4));
	stream_parser_close(p);
}

/* Overwrites `size` bytes, little-endian, and expects all from `lost` on to be unknown. */
static void expect_lost(const struct bhyve_gen *options, uint64_t memory, size_t at, uint64_t value,
	unsigned size, size_t lost)
{
	struct stream_split split = {.seed = at, .piece_max = 700, .items_max = 5};
	struct stream_table made;

	bhyve_gen_make(&made, options);
	for (unsigned i = 0; i < size; i++)
		made.bytes.data[at + i] = (uint8_t)(value >> 8 * i);
	struct fed f = feed_told("bhyve", &made, made.bytes.len, memory, &whole);
	struct fed cut = feed_told("bhyve", &made, made.bytes.len, memory, &split);
	assert_int_equal(f.counts->unknown_bytes, made.bytes.len - lost);
	assert_int_equal(cut.counts->unknown_bytes, made.bytes.len - lost);
	assert_same_tables(&f.found, &cut.found);
	fed_free(&f);
	fed_free(&cut);
	stream_table_free(&made);
}

static void test_a_head_that_it_does_not_know_is_passed_on(void **state)
{
	const struct bhyve_gen *warm = &small[BHYVE_GEN_WARM];

	(void)state;
	expect_lost(warm, 0, 0, 521, 8, 16);
	expect_lost(warm, 0, 0, 520ull << 32 | 520, 8, 16);
	expect_lost(warm, 0, 8, 2, 4, 16);
	expect_lost(warm, 0, AT_PAGE_SIZE, 16384, 8, AT_TYPE);
	expect_lost(warm, 0, AT_PAGE_SIZE, 0, 8, AT_TYPE);
	expect_lost(warm, 0, AT_TYPE, 2, 4, AT_TYPE + 4);
	expect_lost(warm, 0, AT_TYPE, 0xffffffff, 4, AT_TYPE + 4);
}

static void test_sizes_that_no_guest_has_are_passed_on(void **state)
{
	const struct bhyve_gen *warm = &small[BHYVE_GEN_WARM];
	const size_t low = AT_TYPE + 4, high = low + 8, old = AT_TYPE;

	(void)state;
	expect_lost(warm, 0, low, 0, 8, high);
	expect_lost(warm, 0, low, 4097, 8, high);
	expect_lost(warm, 0, low, 1ull << 32, 8, high);
	expect_lost(warm, 0, low, UINT64_MAX, 8, high);
	expect_lost(warm, 0, high, 1, 8, high + 8);
	expect_lost(warm, 0, high, UINT64_MAX, 8, high + 8);
	expect_lost(warm, 0, high, (uint64_t)-4096, 8, high + 8);
	expect_lost(warm, 0, high, STREAM_MEMORY_MAX, 8, high + 8);
	expect_lost(&small[BHYVE_GEN_OLD], 0, old + 4, 1, 4, old + 8);
	expect_lost(&small[BHYVE_GEN_OLD], 0, old, 4097, 8, old + 4);
}

static void test_more_memory_than_comes_is_waited_for(void **state)
{
	struct stream_table made;

	(void)state;
	bhyve_gen_make(&made, &small[BHYVE_GEN_WARM]);
	memcpy(made.bytes.data + AT_TYPE + 4 + 8, "\0\0\0\0\1\0\0\0", 8);
	struct fed f = feed_told("bhyve", &made, made.bytes.len, 0, &whole);
	assert_int_equal(f.counts->unknown_bytes, 0);
	assert_in_range(f.counts->pages, 4, made.bytes.len / STREAM_PAGE);
	fed_free(&f);
	stream_table_free(&made);
}

static void test_live_lists_are_unknown_without_the_guests_memory(void **state)
{
	const struct bhyve_gen *live = &small[BHYVE_GEN_LIVE];
	struct stream_table made;

	(void)state;
	bhyve_gen_make(&made, live);
	struct fed f = feed_told("bhyve", &made, made.bytes.len, 0, &whole);
	assert_int_equal(f.counts->unknown_bytes, made.bytes.len - AT_TYPE - 5);
	assert_int_equal(f.counts->pages, 0);
	fed_free(&f);
	/* Told wrongly, it finds other pages, and still passes on the same bytes. */
	for (uint64_t pages = 1; pages < 20; pages++) {
		f = feed_told("bhyve", &made, made.bytes.len, pages * STREAM_PAGE, &whole);
		fed_free(&f);
	}
	stream_table_free(&made);
}

static void test_memory_that_no_guest_has_is_not_taken(void **state)
{
	(void)state;
	struct stream_parser *p = stream_parser_open("bhyve");
	assert_false(stream_parser_expect(p, 0));
	assert_false(stream_parser_expect(p, 4097));
	assert_false(stream_parser_expect(p, UINT64_MAX));
	assert_false(stream_parser_expect(p, STREAM_MEMORY_MAX + STREAM_PAGE));
	assert_true(stream_parser_expect(p, STREAM_PAGE));
	assert_true(stream_parser_expect(p, 1ull << 40));
	stream_parser_close(p);
}

static void test_what_is_no_structure_and_no_device_is_passed_on(void **state)
{
	struct bhyve_gen o = small[BHYVE_GEN_WARM];
	size_t tail = AT_TYPE + 20 + 4 * STREAM_PAGE;

	(void)state;
	o.devices = 3;
	o.state_max = 0;
	/* One structure and three devices without state. */
	expect_lost(&o, 0, tail, 257u << 20, 8, tail + 16);
	expect_lost(&o, 0, tail, UINT64_MAX, 8, tail + 16);
	expect_lost(&o, 0, tail + 8, 3, 4, tail + 16);
	expect_lost(&o, 0, tail + 80, 0, 4, tail + 96);
	expect_lost(&o, 0, tail + 80, 2, 4, tail + 244 + 16);
	expect_lost(&o, 0, tail + 84, 257u << 20, 8, tail + 96);
	expect_lost(&o, 0, tail + 84 + 80 + 8, 4, 4, tail + 84 + 80 + 16);
	expect_lost(&o, 0, tail + 84 + 80, 257u << 20, 8, tail + 84 + 80 + 16);
}

static void test_damaged_streams_are_passed_on_as_they_are(void **state)
{
	unsigned lost = 0;

	(void)state;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct bhyve_gen options = bhyve_gen_random(seed);
		struct stream_split split = {.seed = seed, .piece_max = 5000, .items_max = 9};
		struct stream_table made;
		uint64_t random = seed;

		options.lowmem_pages = options.lowmem_pages % 10 + 1;
		options.highmem_pages %= 10;
		bhyve_gen_make(&made, &options);
		for (unsigned i = 0; i < 4; i++) {
			uint64_t r = stream_gen_next(&random);
			size_t at = (r >> 8) % (i % 2 ? made.bytes.len : 32);

			made.bytes.data[i % 2 ? at : at < 16 ? at : AT_PAGE_SIZE + at] = (uint8_t)r;
		}
		uint64_t memory = bhyve_gen_memory(&options);
		struct fed all = feed_told("bhyve", &made, made.bytes.len, memory, &whole);
		struct fed cut = feed_told("bhyve", &made, made.bytes.len, memory, &split);
		assert_same_tables(&all.found, &cut.found);
		assert_int_equal(all.counts->unknown_bytes, cut.counts->unknown_bytes);
		lost += all.counts->unknown_bytes > 0;
		fed_free(&all);
		fed_free(&cut);
		stream_table_free(&made);
	}
	assert_in_range(lost, STREAMS / 4, STREAMS);
}

/*
 * The files of a suspended guest.
 */

/* Memory of so many bytes, kern and meta, and `more` bytes behind them. */
static void make_files(
	struct stream_table *made, uint64_t memory, uint64_t kern, uint64_t meta, uint64_t more)
{
	static const uint8_t magic[] = BHYVE_TRANSFER_MAGIC;
	uint64_t rest = kern + meta + more;
	uint8_t header[BHYVE_TRANSFER_HEADER];

	memcpy(header, magic, sizeof(magic));
	put_be64(header + 8, memory);
	put_be64(header + 16, kern);
	put_be64(header + 24, meta);
	memset(made, 0, sizeof(*made));
	buf_init(&made->bytes, 1 << 20);
	assert_true(buf_add(&made->bytes, header, sizeof(header)));
	for (uint64_t i = 0; i < memory + rest; i++) {
		uint8_t byte = (uint8_t)(i * 31 >> 3);

		assert_true(buf_add(&made->bytes, &byte, 1));
	}
}

static void test_the_memory_of_a_suspended_guest_is_its_pages(void **state)
{
	const struct {
		uint64_t memory, kern, meta, more;
	} cases[] = {{8 * STREAM_PAGE, 5000, 300, 0}, {8 * STREAM_PAGE + 77, 5000, 300, 0},
		{77, 1, 1, 0}, {STREAM_PAGE, 0, 0, 0}, {3 * STREAM_PAGE, 100, 100, 50}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (unsigned split = 0; split < STREAM_SPLITS; split++) {
			struct stream_table made;
			struct fed f;

			make_files(&made, cases[i].memory, cases[i].kern, cases[i].meta,
				cases[i].more);
			f = feed_told("auto", &made, made.bytes.len, 0, &stream_splits[split]);
			assert_string_equal(stream_parser_name(f.p), "bhyve");
			assert_int_equal(f.counts->pages, cases[i].memory / STREAM_PAGE);
			assert_int_equal(f.counts->unknown_bytes, cases[i].more);
			for (size_t n = 0; n < f.found.items_len; n++)
				assert_int_equal(f.found.items[n].address, n * STREAM_PAGE);
			fed_free(&f);
			stream_table_free(&made);
		}
}

static void test_files_that_no_guest_has_are_passed_on(void **state)
{
	const struct {
		uint64_t memory, kern, meta;
	} cases[] = {{STREAM_MEMORY_MAX + 1, 1, 1}, {UINT64_MAX, 1, 1},
		{STREAM_PAGE, UINT64_MAX, 1}, {STREAM_PAGE, 1, UINT64_MAX}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct stream_table made;
		struct fed f;

		make_files(&made, 2 * STREAM_PAGE, 0, 0, 0);
		put_be64(made.bytes.data + 8, cases[i].memory);
		put_be64(made.bytes.data + 16, cases[i].kern);
		put_be64(made.bytes.data + 24, cases[i].meta);
		f = feed_told("auto", &made, made.bytes.len, 0, &whole);
		assert_int_equal(f.counts->pages, 0);
		assert_true(f.counts->unknown_bytes >= 2 * STREAM_PAGE);
		fed_free(&f);
		stream_table_free(&made);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_page_of_generated_streams_is_found),
		cmocka_unit_test(test_no_split_changes_the_table),
		cmocka_unit_test(test_a_stream_may_end_anywhere),
		cmocka_unit_test(test_nothing_is_left_where_the_source_waits),
		cmocka_unit_test(test_a_page_that_was_passed_on_in_parts_is_no_item),
		cmocka_unit_test(test_a_qemu_stream_is_never_passed_on_in_parts),
		cmocka_unit_test(test_a_head_that_it_does_not_know_is_passed_on),
		cmocka_unit_test(test_sizes_that_no_guest_has_are_passed_on),
		cmocka_unit_test(test_more_memory_than_comes_is_waited_for),
		cmocka_unit_test(test_live_lists_are_unknown_without_the_guests_memory),
		cmocka_unit_test(test_memory_that_no_guest_has_is_not_taken),
		cmocka_unit_test(test_what_is_no_structure_and_no_device_is_passed_on),
		cmocka_unit_test(test_damaged_streams_are_passed_on_as_they_are),
		cmocka_unit_test(test_the_memory_of_a_suspended_guest_is_its_pages),
		cmocka_unit_test(test_files_that_no_guest_has_are_passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
