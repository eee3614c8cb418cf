#include "test_stream_support.h"

#include <string.h>

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

static void test_blocks_have_the_numbers_of_the_list(void **state)
{
	struct script s;
	(void)state;
	add_magic(&s);
	add_start(&s, "ram", 4);
	add_be(&s, 0x2000 | 0x04, 8);
	for (unsigned i = 0; i < 2; i++) {
		add_name(&s, i ? "second" : "first");
		add_be(&s, 0x1000, 8);
	}
	for (unsigned i = 0; i < 3; i++) {
		add_be(&s, 0x02, 8);
		add_name(&s, i == 0 ? "second" : i == 1 ? "third" : "first");
		add_u8(&s, 0);
	}
	struct fed f = feed("qemu", s.bytes, s.len, &whole);
	assert_int_equal(f.found.items_len, 3);
	assert_int_equal(f.found.items[0].block, 1);
	assert_int_equal(f.found.items[1].block, 2);
	assert_int_equal(f.found.items[2].block, 0);
	fed_free(&f);
}

static void test_pages_of_blocks_beyond_the_last_number_are_other_bytes(void **state)
{
	struct stream_gen options = {
		.seed = 2, .blocks = 300, .block_pages = 2, .pages = 1500, .round_pages = 70};
	struct stream_table made;
	(void)state;
	stream_table_make(&made, &options);
	struct fed f = feed("qemu", made.bytes.data, made.bytes.len, &whole);
	assert_same_tables(&made, &f.found);
	/* 600 pages in a round, 510 of them in numbered blocks */
	assert_int_equal(f.found.items_len, 510 + 510 + 300);
	assert_int_equal(f.counts->unknown_bytes, 0);
	fed_free(&f);
	stream_table_free(&made);
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
	add_magic(&s);
	add_start(&s, "ram", 4);
	s.bytes[s.len - 5] = 1; /* the second one */
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

static void test_advise_of_another_length_ends_the_walk(void **state)
{
	struct script s;
	(void)state;
	for (unsigned len = 15; len <= 17; len++) {
		add_magic(&s);
		size_t from = s.len;
		add_u8(&s, 0x08);
		add_be(&s, 3, 2);
		add_be(&s, len, 2);
		add_be(&s, 4096, 8);
		add_be(&s, 4096, 8);
		if (len == 17)
			add_u8(&s, 0);
		if (len != 16)
			expect_lost(&s, from, 0);
	}
}

static void test_subsection_of_another_version_ends_the_walk(void **state)
{
	struct script s;
	(void)state;
	add_magic(&s);
	add_u8(&s, 0x07);
	add_be(&s, 0, 4);
	size_t from = s.len;
	add_u8(&s, 0x05);
	add_name(&s, "configuration/uuid");
	add_be(&s, 2, 4);
	add(&s, "sixteen bytes...", 16);
	expect_lost(&s, from, 0);
}

static void test_stream_that_ends_without_ram_is_known(void **state)
{
	struct script s;
	(void)state;
	add_magic(&s);
	add(&s, "\0 and what follows", 18);
	struct fed f = feed("qemu", s.bytes, s.len, &whole);
	assert_int_equal(f.counts->other_bytes, s.len);
	assert_int_equal(f.counts->unknown_bytes, 0);
	fed_free(&f);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_page_with_its_name_is_an_item_without_its_word),
		cmocka_unit_test(test_blocks_have_the_numbers_of_the_list),
		cmocka_unit_test(test_pages_of_blocks_beyond_the_last_number_are_other_bytes),
		cmocka_unit_test(test_words_that_nobody_writes_end_the_walk),
		cmocka_unit_test(test_page_before_any_block_ends_the_walk),
		cmocka_unit_test(test_lengths_that_cannot_be_end_the_walk),
		cmocka_unit_test(test_sections_of_unknown_length_end_the_walk),
		cmocka_unit_test(test_sections_and_footers_of_another_number_end_the_walk),
		cmocka_unit_test(test_second_beginning_of_ram_ends_the_walk),
		cmocka_unit_test(test_commands_that_are_not_known_end_the_walk),
		cmocka_unit_test(test_advise_of_another_length_ends_the_walk),
		cmocka_unit_test(test_subsection_of_another_version_ends_the_walk),
		cmocka_unit_test(test_stream_that_ends_without_ram_is_known),
		cmocka_unit_test(test_guest_pages_of_another_size_end_the_walk),
		cmocka_unit_test(test_huge_pages_with_shared_memory_end_the_walk),
		cmocka_unit_test(test_what_follows_the_end_of_ram_is_other_but_known),
		cmocka_unit_test(test_capability_that_changes_the_stream_makes_it_opaque),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
