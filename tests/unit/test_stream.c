#include "stream_feed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#define STREAMS 300u
#define WHOLE ((size_t)1 << 30)

static const struct stream_split whole = {.seed = 1, .piece_max = 1, .items_max = 1 << 20};

/* A parser that has been given a stream, and what it has found. */
struct fed {
	struct stream_parser *p;
	const struct stream_counts *counts;
	struct stream_table found;
};

static struct fed feed(
	const char *name, const uint8_t *bytes, size_t len, const struct stream_split *split)
{
	struct stream_split how = *split;
	struct fed f = {.p = stream_parser_open(name)};
	assert_non_null(f.p);
	f.counts = stream_parser_counts(f.p);
	if (split == &whole)
		how.piece_max = WHOLE;
	const char *broken = stream_feed(f.p, bytes, len, &how, &f.found);
	if (broken)
		fail_msg("%s (split %llu)", broken, (unsigned long long)split->seed);
	assert_true(stream_rebuild(&f.found, bytes, len));
	return f;
}

static void fed_free(struct fed *f)
{
	stream_parser_close(f->p);
	stream_table_free(&f->found);
}

static void assert_same_tables(const struct stream_table *a, const struct stream_table *b)
{
	assert_int_equal(a->items_len, b->items_len);
	for (size_t i = 0; i < a->items_len; i++) {
		const struct stream_item *x = &a->items[i], *y = &b->items[i];
		if (x->address != y->address || x->at != y->at || x->kind != y->kind ||
			x->block != y->block || x->word != y->word)
			fail_msg("item %zu differs: at %u, %u", i, x->at, y->at);
	}
}

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
	static const struct stream_split splits[] = {{.piece_max = 1, .items_max = 3},
		{.piece_max = 40, .items_max = 1}, {.piece_max = 9000, .items_max = 20},
		{.piece_max = 200000, .items_max = 700}};
	(void)state;
	for (unsigned seed = 0; seed < STREAMS; seed++) {
		struct stream_gen options = stream_gen_random(seed, STREAM_GEN_FLAGS);
		struct stream_split split = splits[seed % 4];
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

/* A stream written by hand: header, a section of ram with one block "r" of two pages. */
struct script {
	uint8_t bytes[16384];
	size_t len;
};

static void add(struct script *s, const void *bytes, size_t len)
{
	assert_true(len <= sizeof(s->bytes) - s->len);
	memcpy(s->bytes + s->len, bytes, len);
	s->len += len;
}

static void add_u8(struct script *s, uint8_t v)
{
	add(s, &v, 1);
}

static void add_be(struct script *s, uint64_t v, size_t size)
{
	uint8_t bytes[8];
	put_be64(bytes, v);
	add(s, bytes + 8 - size, size);
}

static void add_name(struct script *s, const char *name)
{
	add_u8(s, (uint8_t)strlen(name));
	add(s, name, strlen(name));
}

static void add_magic(struct script *s)
{
	s->len = 0;
	add(s, "QEVM\0\0\0\3", 8);
}

static void add_start(struct script *s, const char *name, uint32_t version)
{
	add_u8(s, 0x01);
	add_be(s, 77, 4);
	add_name(s, name);
	add_be(s, 0, 4);
	add_be(s, version, 4);
}

/* Up to where words of pages come, the first named. */
static void add_setup(struct script *s)
{
	add_magic(s);
	add_start(s, "ram", 4);
	add_be(s, 0x2000 | 0x04, 8);
	add_name(s, "r");
	add_be(s, 0x2000, 8);
	add_be(s, 0x1000 | 0x02, 8);
	add_name(s, "r");
	add_u8(s, 0);
}

/* Adds some pages more, which nobody must find, and expects the parser to be lost at `from`. */
static void expect_lost(struct script *s, size_t from, unsigned pages)
{
	for (unsigned i = 0; i < 3; i++) {
		add_be(s, 0x1000 | 0x22, 8);
		add_u8(s, 0);
	}
	struct fed f = feed("qemu", s->bytes, s->len, &whole);
	assert_int_equal(f.counts->zero_pages, pages);
	assert_int_equal(f.counts->unknown_bytes, s->len - from);
	assert_string_equal(stream_parser_name(f.p), "qemu");
	fed_free(&f);
}

static void test_page_with_its_name_is_an_item_without_its_word(void **state)
{
	struct script s;
	(void)state;
	add_setup(&s);
	size_t at = s.len;
	add_be(&s, 0x22, 8);
	add_u8(&s, 0);
	struct fed f = feed("qemu", s.bytes, s.len, &whole);
	assert_int_equal(f.found.items_len, 2);
	assert_false(f.found.items[0].word);
	assert_int_equal(f.found.items[0].at, at - 1);
	assert_int_equal(f.found.items[0].address, 0x1000);
	assert_true(f.found.items[1].word);
	assert_int_equal(f.found.items[1].at, at);
	assert_int_equal(f.found.items[1].address, 0);
	fed_free(&f);
}

static void test_words_that_nobody_writes_end_the_walk(void **state)
{
	static const uint64_t words[] = {0x0, 0x1, 0x20, 0x0a, 0x2a, 0x06, 0x12, 0x30, 0x1010,
		0x1080, 0x1200, 0x24, 0x400, 0x800, 0x42, 0x148, 0xa8, 0x280, 0xfff, 0x1000};
	struct script s;
	(void)state;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		add_setup(&s);
		size_t from = s.len;
		add_be(&s, words[i], 8);
		expect_lost(&s, from, 1);
	}
}

static void test_page_before_any_block_ends_the_walk(void **state)
{
	struct script s;
	(void)state;
	add_magic(&s);
	add_start(&s, "ram", 4);
	expect_lost(&s, s.len, 0);
	add_magic(&s);
	add_start(&s, "ram", 4);
	size_t from = s.len;
	add_be(&s, 0x02, 8);
	add_name(&s, "");
	expect_lost(&s, from, 0);
}

static void test_lengths_that_cannot_be_end_the_walk(void **state)
{
	struct script s;
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		add_setup(&s);
		size_t from = s.len;
		add_be(&s, i < 2 ? 0x60 : i < 3 ? 0x120 : 0x2004, 8);
		if (i == 0) { /* another encoding of XBZRLE */
			add_u8(&s, 2);
			add_be(&s, 4, 2);
		} else if (i == 1) { /* longer than a page */
			add_u8(&s, 1);
			add_be(&s, 4097, 2);
		} else if (i == 2) {
			add_be(&s, 9000, 4);
		} else { /* a block larger than all */
			from = s.len;
			add_name(&s, "r");
			add_be(&s, 0x3000, 8);
		}
		expect_lost(&s, from, 1);
	}
}

static void test_sections_of_unknown_length_end_the_walk(void **state)
{
	static const uint8_t types[] = {0x01, 0x04, 0x05, 0x06, 0x07, 0x7e, 0x09, 0xff};
	struct script s;
	(void)state;
	for (size_t i = 0; i < sizeof(types); i++) {
		add_setup(&s);
		add_be(&s, 0x10, 8);
		add_u8(&s, 0x7e);
		add_be(&s, 77, 4);
		size_t from = s.len;
		if (types[i] == 0x01)
			add_start(&s, "dirty-bitmap", 1);
		add_u8(&s, types[i]);
		expect_lost(&s, from, 1);
	}
	add_magic(&s);
	size_t from = s.len;
	add_start(&s, "ram", 3);
	expect_lost(&s, from, 0);
}

static void test_sections_and_footers_of_another_number_end_the_walk(void **state)
{
	struct script s;
	(void)state;
	for (unsigned type = 0; type < 3; type++) {
		add_setup(&s);
		add_be(&s, 0x10, 8);
		size_t from = s.len;
		add_u8(&s, type == 0 ? 0x7e : type == 1 ? 0x02 : 0x03);
		add_be(&s, 78, 4);
		expect_lost(&s, from, 1);
	}
	add_magic(&s);
	size_t from = s.len;
	add_u8(&s, 0x02); /* none has begun */
	add_be(&s, 0, 4);
	expect_lost(&s, from, 0);
}

static void test_second_beginning_of_ram_ends_the_walk(void **state)
{
	struct script s;
	(void)state;
	add_setup(&s);
	add_be(&s, 0x10, 8);
	size_t from = s.len;
	add_start(&s, "ram", 4);
	expect_lost(&s, from, 1);
}

static void test_commands_that_are_not_known_end_the_walk(void **state)
{
	/* number, length */
	static const uint16_t commands[][2] = {
		{0, 0}, {8, 0}, {12, 0}, {0xffff, 0}, {3, 8}, {3, 17}, {7, 8}, {7, 0}};
	struct script s;
	(void)state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		add_setup(&s);
		add_be(&s, 0x10, 8);
		size_t from = s.len;
		add_u8(&s, 0x08);
		add_be(&s, commands[i][0], 2);
		add_be(&s, commands[i][1], 2);
		expect_lost(&s, from, 1);
	}
}

static void test_guest_pages_of_another_size_end_the_walk(void **state)
{
	struct script s;
	(void)state;
	add_magic(&s);
	size_t from = s.len;
	add_u8(&s, 0x08);
	add_be(&s, 3, 2);
	add_be(&s, 16, 2);
	add_be(&s, 8192, 8);
	add_be(&s, 8192, 8);
	expect_lost(&s, from, 0);
	add_magic(&s);
	add_u8(&s, 0x07);
	add_be(&s, 0, 4);
	from = s.len;
	add_u8(&s, 0x05);
	add_name(&s, "configuration/target-page-bits");
	add_be(&s, 1, 4);
	add_be(&s, 13, 4);
	expect_lost(&s, from, 0);
}

static void test_huge_pages_with_shared_memory_end_the_walk(void **state)
{
	struct stream_gen options = {.seed = 1,
		.flags = STREAM_GEN_POSTCOPY | STREAM_GEN_HUGE_PAGES | STREAM_GEN_IGNORE_SHARED,
		.blocks = 3,
		.block_pages = 5,
		.pages = 50,
		.round_pages = 9};
	struct stream_table made;
	(void)state;
	stream_table_make(&made, &options);
	struct fed f = feed("qemu", made.bytes.data, made.bytes.len, &whole);
	assert_int_equal(f.found.items_len, 0);
	assert_true(f.counts->unknown_bytes > made.bytes.len / 2);
	fed_free(&f);
	stream_table_free(&made);
}

static void test_what_follows_the_end_of_ram_is_other_but_known(void **state)
{
	struct script s;
	(void)state;
	add_setup(&s);
	add_be(&s, 0x10, 8);
	add_u8(&s, 0x03);
	add_be(&s, 77, 4);
	add_be(&s, 0x22, 8);
	add_u8(&s, 0);
	add_be(&s, 0x10, 8);
	add(&s, "\x04 a device, and what looks like a page: \0\0\0\0\0\0\x10\x22", 48);
	struct fed f = feed("qemu", s.bytes, s.len, &whole);
	assert_int_equal(f.counts->zero_pages, 2);
	assert_int_equal(f.counts->unknown_bytes, 0);
	fed_free(&f);
}

static void test_capability_that_changes_the_stream_makes_it_opaque(void **state)
{
	struct script s;
	(void)state;
	add_magic(&s);
	add_u8(&s, 0x07);
	add_be(&s, 3, 4);
	add(&s, "pc1", 3);
	add_u8(&s, 0x05);
	add_name(&s, "configuration/capabilities");
	add_be(&s, 1, 4);
	add_be(&s, 2, 4);
	add_name(&s, "x-ignore-shared");
	size_t from = s.len;
	add_name(&s, "mapped-ram");
	add(&s, "whatever", 8);
	struct fed f = feed("auto", s.bytes, s.len, &whole);
	assert_string_equal(stream_parser_name(f.p), "opaque");
	assert_int_equal(f.counts->other_bytes, s.len);
	assert_int_equal(f.counts->unknown_bytes, s.len - from);
	fed_free(&f);
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

static void test_there_are_three_parsers(void **state)
{
	(void)state;
	assert_null(stream_parser_open("bhyve"));
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
		cmocka_unit_test(test_page_with_its_name_is_an_item_without_its_word),
		cmocka_unit_test(test_words_that_nobody_writes_end_the_walk),
		cmocka_unit_test(test_page_before_any_block_ends_the_walk),
		cmocka_unit_test(test_lengths_that_cannot_be_end_the_walk),
		cmocka_unit_test(test_sections_of_unknown_length_end_the_walk),
		cmocka_unit_test(test_sections_and_footers_of_another_number_end_the_walk),
		cmocka_unit_test(test_second_beginning_of_ram_ends_the_walk),
		cmocka_unit_test(test_commands_that_are_not_known_end_the_walk),
		cmocka_unit_test(test_guest_pages_of_another_size_end_the_walk),
		cmocka_unit_test(test_huge_pages_with_shared_memory_end_the_walk),
		cmocka_unit_test(test_what_follows_the_end_of_ram_is_other_but_known),
		cmocka_unit_test(test_capability_that_changes_the_stream_makes_it_opaque),
		cmocka_unit_test(test_auto_knows_a_stream_by_its_first_bytes),
		cmocka_unit_test(test_opaque_finds_nothing),
		cmocka_unit_test(test_qemu_parser_wants_its_magic),
		cmocka_unit_test(test_there_are_three_parsers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
