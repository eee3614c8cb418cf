#include "test_stream_support.h"

#define STREAMS 300u

static void test_every_page_of_generated_streams_is_found(void **state)
{
	(void)state;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct stream_gen options = stream_gen_random(seed, STREAM_GEN_FLAGS);
		struct stream_table made;
		stream_table_make(&made, &options);
		struct fed f = feed("qemu", made.bytes.data, made.bytes.len, &whole);
		assert_same_tables(&made, &f.found);
		assert_int_equal(f.counts->unknown_bytes, 0);
		assert_int_equal(f.counts->zero_pages, made.zero_pages);
		assert_int_equal(f.counts->pages, made.items_len - made.zero_pages);
		fed_free(&f);
		stream_table_free(&made);
	}
}

static void test_each_flag_by_itself_is_followed(void **state)
{
	(void)state;
	for (unsigned flag = 1; flag < STREAM_GEN_FLAGS; flag <<= 1) {
		struct stream_gen options = {.seed = 7,
			.flags = flag,
			.blocks = 5,
			.block_pages = 64,
			.pages = 1000,
			.zero_percent = 50,
			.round_pages = 50};
		struct stream_table made;
		stream_table_make(&made, &options);
		struct fed f = feed("auto", made.bytes.data, made.bytes.len, &whole);
		assert_true(made.items_len > 400);
		assert_same_tables(&made, &f.found);
		assert_int_equal(f.counts->unknown_bytes, 0);
		fed_free(&f);
		stream_table_free(&made);
	}
}

static void test_no_split_changes_the_table(void **state)
{
	(void)state;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct stream_gen options = stream_gen_random(seed, STREAM_GEN_FLAGS);
		struct stream_split split = stream_splits[seed % STREAM_SPLITS];
		struct stream_table made;
		if (split.piece_max == 1)
			options.pages = options.pages % 20 + 1;
		stream_table_make(&made, &options);
		split.seed = seed;
		struct fed f = feed("auto", made.bytes.data, made.bytes.len, &split);
		assert_same_tables(&made, &f.found);
		assert_int_equal(f.counts->unknown_bytes, 0);
		fed_free(&f);
		stream_table_free(&made);
	}
}

/* Streams with some bytes changed are still passed on whole, and found the same however split. */
static void test_damaged_streams_are_passed_on_as_they_are(void **state)
{
	(void)state;
	unsigned lost = 0;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct stream_gen options = stream_gen_random(seed, STREAM_GEN_FLAGS);
		struct stream_split split = {.seed = seed, .piece_max = 5000, .items_max = 9};
		struct stream_table made;
		uint64_t random = seed;
		options.pages = options.pages % 50 + 1;
		options.zero_percent = 90;
		stream_table_make(&made, &options);
		for (unsigned i = 0; i < 8; i++) {
			uint64_t r = stream_gen_next(&random);
			size_t start = i < 4 ? 300 : made.bytes.len;
			made.bytes.data[(r >> 8) %
					(start < made.bytes.len ? start : made.bytes.len)] =
				(uint8_t)r;
		}
		struct fed all = feed("qemu", made.bytes.data, made.bytes.len, &whole);
		struct fed cut = feed("qemu", made.bytes.data, made.bytes.len, &split);
		assert_same_tables(&all.found, &cut.found);
		assert_int_equal(all.counts->unknown_bytes, cut.counts->unknown_bytes);
		lost += all.counts->unknown_bytes > 0;
		fed_free(&all);
		fed_free(&cut);
		stream_table_free(&made);
	}
	assert_in_range(lost, STREAMS / 4, STREAMS);
}

static void test_a_stream_may_end_anywhere(void **state)
{
	struct stream_gen options = {.seed = 3,
		.flags = STREAM_GEN_FLAGS & ~(unsigned)STREAM_GEN_HUGE_PAGES &
			 ~(unsigned)STREAM_GEN_NO_CONFIGURATION,
		.blocks = 2,
		.block_pages = 6,
		.pages = 8,
		.zero_percent = 80,
		.round_pages = 3};
	struct stream_table made;
	(void)state;
	stream_table_make(&made, &options);
	for (size_t len = 0; len < made.bytes.len; len += len < 2000 ? 1 : 97) {
		struct stream_split split = {.seed = len, .piece_max = 600, .items_max = 4};
		struct fed f = feed("auto", made.bytes.data, len, &split);
		assert_int_equal(f.counts->unknown_bytes, 0);
		fed_free(&f);
	}
	stream_table_free(&made);
}

static void test_auto_knows_a_stream_by_its_first_bytes(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *name;
		size_t unknown;
	} cases[] = {{"", 0, "auto", 0}, {"QEVM\0\0\0", 7, "auto", 0},
		{"QEVM\0\0\0\3", 8, "qemu", 0}, {"QEVM\0\0\0\2", 8, "opaque", 8},
		{"QEVN", 4, "opaque", 4}, {"\0", 1, "opaque", 1}};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct stream_split bytewise = {.piece_max = 1, .items_max = 1};
		struct fed f =
			feed("auto", (const uint8_t *)cases[i].bytes, cases[i].len, &bytewise);
		assert_string_equal(stream_parser_name(f.p), cases[i].name);
		assert_int_equal(f.counts->other_bytes, cases[i].len);
		assert_int_equal(f.counts->unknown_bytes, cases[i].unknown);
		fed_free(&f);
	}
}

static void test_opaque_finds_nothing(void **state)
{
	struct stream_gen options = stream_gen_random(5, 0);
	struct stream_table made;
	(void)state;
	stream_table_make(&made, &options);
	struct fed f = feed("opaque", made.bytes.data, made.bytes.len, &whole);
	assert_int_equal(f.found.items_len, 0);
	assert_int_equal(f.counts->unknown_bytes, made.bytes.len);
	assert_string_equal(stream_parser_name(f.p), "opaque");
	fed_free(&f);
	stream_table_free(&made);
}

static void test_qemu_parser_wants_its_magic(void **state)
{
	(void)state;
	struct fed f = feed("qemu", (const uint8_t *)"QEVM\0\0\0\2 and more", 17, &whole);
	assert_int_equal(f.counts->unknown_bytes, 17);
	fed_free(&f);
}

static void test_a_parser_that_is_not_there_is_not_opened(void **state)
{
	(void)state;
	assert_null(stream_parser_open("xen"));
	assert_null(stream_parser_open(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_page_of_generated_streams_is_found),
		cmocka_unit_test(test_each_flag_by_itself_is_followed),
		cmocka_unit_test(test_no_split_changes_the_table),
		cmocka_unit_test(test_damaged_streams_are_passed_on_as_they_are),
		cmocka_unit_test(test_a_stream_may_end_anywhere),
		cmocka_unit_test(test_auto_knows_a_stream_by_its_first_bytes),
		cmocka_unit_test(test_opaque_finds_nothing),
		cmocka_unit_test(test_qemu_parser_wants_its_magic),
		cmocka_unit_test(test_a_parser_that_is_not_there_is_not_opened),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
