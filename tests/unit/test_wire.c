#include "base/pass_fd.h"
#include "base/clock.h"
#include "wire/chunk.h"
#include "wire/endpoint.h"
#include "wire/frame.h"
#include "wire/options.h"
#include "wire/pace.h"
#include "wire/tls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <endian.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct frame_hello good_hello = {
	.role = FRAME_ROLE_SEND,
	.oldest = 1,
	.newest = 3,
	.features = 0x8000000000000001,
	.payload_max = 65520,
	.next = 1,
	.lane = 2,
	.lanes = 4,
	.window = 16,
	.session = 0x0102030405060708,
	.migration = "5f0c",
};

static void expect_refused(int result, const char *part, struct error **err)
{
	assert_int_equal(result, -1);
	assert_int_equal((*err)->kind, ERROR_REQUEST);
	if (!strstr((*err)->message, part))
		fail_msg("\"%s\" does not say \"%s\"", (*err)->message, part);
	error_free(err);
}

static void test_header_is_laid_out_as_documented(void **state)
{
	static const uint8_t octets[FRAME_HEADER] = {
		0, 1, 2, 3, 2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
	struct frame_header back,
		h = {.length = 0x10203, .type = FRAME_DATA, .sequence = 0x0102030405060708};
	uint8_t out[FRAME_HEADER];

	(void)state;
	frame_header_encode(&h, out);
	assert_memory_equal(out, octets, sizeof(octets));
	assert_int_equal(frame_header_decode(out, &back, NULL), 0);
	assert_int_equal(back.length, h.length);
	assert_int_equal(back.type, h.type);
	assert_true(back.sequence == h.sequence);
}

static void test_headers_of_every_type_come_back(void **state)
{
	(void)state;
	for (unsigned type = 0; type < 256; type++) {
		struct frame_header back, h = {.length = FRAME_PAYLOAD_MAX, .type = (uint8_t)type};
		bool known = type >= FRAME_HELLO && type <= FRAME_READING;
		cleanup_error struct error *err = NULL;
		uint8_t out[FRAME_HEADER];

		h.sequence = frame_type_numbered(h.type) ? UINT64_MAX : 0;
		frame_header_encode(&h, out);
		assert_int_equal(frame_header_decode(out, &back, &err), known ? 0 : -1);
		if (!known)
			expect_refused(-1, "unknown type", &err);
	}
}

static void test_header_with_a_giant_length_is_refused(void **state)
{
	struct frame_header back, h = {.type = FRAME_DATA, .sequence = 1};
	struct error *err = NULL;
	uint8_t out[FRAME_HEADER];

	(void)state;
	h.length = FRAME_PAYLOAD_MAX + 1;
	frame_header_encode(&h, out);
	expect_refused(frame_header_decode(out, &back, &err), "1048561 bytes long", &err);
	h.length = UINT32_MAX;
	frame_header_encode(&h, out);
	expect_refused(frame_header_decode(out, &back, &err), "4294967295 bytes long", &err);
}

static void test_header_with_reserved_bytes_or_a_wrong_number_is_refused(void **state)
{
	struct frame_header back, h = {.type = FRAME_DATA, .sequence = 1};
	struct error *err = NULL;
	uint8_t out[FRAME_HEADER];

	(void)state;
	for (int i = 5; i < 8; i++) {
		frame_header_encode(&h, out);
		out[i] = 1;
		expect_refused(frame_header_decode(out, &back, &err), "reserved", &err);
	}
	h.sequence = 0;
	frame_header_encode(&h, out);
	expect_refused(frame_header_decode(out, &back, &err), "DATA came with number 0", &err);
	h = (struct frame_header){.type = FRAME_ACK, .sequence = 1};
	frame_header_encode(&h, out);
	expect_refused(frame_header_decode(out, &back, &err), "ACK came with number 1", &err);
}

static size_t encode_good_hello(uint8_t out[FRAME_HELLO_MAX])
{
	return frame_hello_encode(&good_hello, out);
}

static void test_hello_comes_back(void **state)
{
	static const uint8_t octets[] = {'D', 'R', 'V', 'W', 0, 1, 0, 3, 1, 2, 0x80, 0, 0, 0, 0, 0,
		0, 1, 0, 0, 0xff, 0xf0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 16, 0, 4, 1, 2, 3, 4, 5, 6, 7, 8,
		'5', 'f', '0', 'c'};
	struct frame_hello back;
	uint8_t out[FRAME_HELLO_MAX];
	size_t len = encode_good_hello(out);

	(void)state;
	assert_int_equal(len, sizeof(octets));
	assert_memory_equal(out, octets, len);
	assert_int_equal(frame_hello_decode(out, len, &back, NULL), 0);
	assert_memory_equal(&back, &good_hello, sizeof(back));
}

static void test_hello_of_any_other_length_is_refused(void **state)
{
	uint8_t out[FRAME_HELLO_MAX + 1] = {0};
	size_t len = encode_good_hello(out);
	struct frame_hello back;

	(void)state;
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(frame_hello_decode(out, cut, &back, NULL), -1);
	assert_int_equal(frame_hello_decode(out, len + 1, &back, NULL), -1);
}

static void test_hello_with_a_wrong_field_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
		const char *says;
	} wrong[] = {
		{0, 'X', "not drover-wire's"},
		{5, 4, "versions 4 to 3"},
		{8, 0, "role 0"},
		{8, 3, "role 3"},
		{9, 5, "lane 5 of 4"},
		{29, 0, "impossible limits"},
		{30, 0, "lane 2 of 0"},
		{30, 17, "lane 2 of 17"},
		{30, 200, "lane 2 of 200"},
		{31, 0, "impossible limits"},
		{32, 1, "migration id of 260 bytes"},
		{33, 49, "migration id of 49 bytes"},
		{33, 3, "wrong form"},
		{43, 0, "wrong form"},
	};
	struct frame_hello back;
	struct error *err = NULL;
	uint8_t out[FRAME_HELLO_MAX];
	size_t len;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		len = encode_good_hello(out);
		out[wrong[i].at] = wrong[i].value;
		expect_refused(frame_hello_decode(out, len, &back, &err), wrong[i].says, &err);
	}
	len = encode_good_hello(out);
	memset(out + 18, 0, 4);
	expect_refused(frame_hello_decode(out, len, &back, &err), "impossible limits", &err);
	len = encode_good_hello(out);
	out[FRAME_HELLO_SIZE] = '/';
	assert_int_equal(frame_hello_decode(out, len, &back, &err), -1);
	assert_int_equal(err->kind, ERROR_NAME);
	error_free(&err);
}

static void test_ack_and_end_take_just_their_size(void **state)
{
	struct frame_ack ack = {0x0102030405060708, UINT64_MAX}, ack_back;
	struct frame_end end = {UINT64_MAX - 1, 3}, end_back;
	uint8_t out[FRAME_ACK_SIZE + 1] = {0};
	struct error *err = NULL;

	(void)state;
	frame_ack_encode(&ack, out);
	assert_int_equal(frame_ack_decode(out, FRAME_ACK_SIZE, &ack_back, NULL), 0);
	assert_memory_equal(&ack, &ack_back, sizeof(ack));
	expect_refused(frame_ack_decode(out, 15, &ack_back, &err), "15 bytes", &err);
	expect_refused(frame_ack_decode(out, 17, &ack_back, &err), "17 bytes", &err);
	expect_refused(frame_ack_decode(out, 0, &ack_back, &err), "0 bytes", &err);
	frame_end_encode(&end, out);
	assert_int_equal(frame_end_decode(out, FRAME_END_SIZE, &end_back, NULL), 0);
	assert_memory_equal(&end, &end_back, sizeof(end));
	expect_refused(frame_end_decode(out, 8, &end_back, &err), "8 bytes", &err);
}

static void test_error_arrives_with_its_kind(void **state)
{
	struct error *e = NULL, *back = NULL;
	uint8_t out[FRAME_ERROR_MAX];
	size_t len;

	(void)state;
	error_set(&e, ERROR_HYPERVISOR, 0, "cannot write");
	len = frame_error_encode(e, out);
	assert_int_equal(frame_error_decode(out, len, "node2", &back), -1);
	assert_int_equal(back->kind, ERROR_HYPERVISOR);
	assert_string_equal(back->message, "node2 says: cannot write");
	error_free(&back);
	memset(e->message, 'x', sizeof(e->message) - 1);
	len = frame_error_encode(e, out);
	assert_int_equal(len, FRAME_ERROR_MAX);
	assert_int_equal(frame_error_decode(out, len, "node2", &back), -1);
	assert_int_equal(back->kind, ERROR_HYPERVISOR);
	error_free(&back);
	error_free(&e);
}

static void test_error_that_cannot_be_read_is_an_error_still(void **state)
{
	static const uint8_t bad[][4] = {{4, 'f', 'a', 'i'}, {255, 0, 0, 0}, {3, '\n', 0, '\n'}};
	struct error *err = NULL;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(frame_error_decode(bad[i], 4, "node2", &err), -1);
		assert_int_equal(err->kind, ERROR_FAILED);
		assert_null(strchr(err->message, '\n'));
		error_free(&err);
	}
	assert_int_equal(frame_error_decode(NULL, 0, "node2", &err), -1);
	error_free(&err);
}

/* Whatever 4,096 random payloads hold, a decoder refuses or takes it, and reads only that. */
static void test_decoders_survive_random_bytes(void **state)
{
	struct frame_header h;
	struct frame_hello hello;

	(void)state;
	srandom(1);
	for (int round = 0; round < 4096; round++) {
		size_t len = (size_t)random() % (FRAME_HELLO_MAX + 8);
		uint8_t *bytes = malloc(len ? len : 1), header[FRAME_HEADER];
		struct error *err = NULL;

		for (size_t i = 0; i < len; i++)
			bytes[i] = (uint8_t)random();
		for (size_t i = 0; i < sizeof(header); i++)
			header[i] = (uint8_t)random();
		if (len >= 4 && round % 2)
			memcpy(bytes, "DRVW", 4);
		frame_hello_decode(bytes, len, &hello, NULL);
		frame_header_decode(header, &h, NULL);
		assert_int_equal(frame_error_decode(bytes, len, "p", &err), -1);
		error_free(&err);
		free(bytes);
	}
}

static struct chunk_pool *pool;

static void *give_back(void *arg)
{
	chunk_give_back(pool, arg);
	return NULL;
}

static void test_pool_has_no_more_chunks_than_it_was_given(void **state)
{
	struct chunk *first, *second;
	pthread_t thread;

	(void)state;
	pool = chunk_pool_open(2, 64, NULL);
	first = chunk_take(pool);
	second = chunk_take(pool);
	assert_ptr_not_equal(first, second);
	assert_int_equal(first->cap, 64);
	first->len = 7;
	/* There is none until the other thread has given it back. */
	assert_int_equal(pthread_create(&thread, NULL, give_back, first), 0);
	assert_ptr_equal(chunk_take(pool), first);
	assert_int_equal(first->len, 0);
	pthread_join(thread, NULL);
	chunk_pool_close(pool);
}

static void test_pace_keeps_the_rate_and_bounds_the_burst(void **state)
{
	struct pace pace = {.rate_bps = 1000000}, none = {0};
	int64_t now_us = 1000000000, start_us = now_us;

	(void)state;
	assert_int_equal(pace_take(&none, 1ull << 40, now_us), 0);
	for (int i = 0; i < 1000; i++)
		now_us += pace_take(&pace, 10000, now_us);
	/* 10 MB at 1 MB/s; the last piece is not waited for, and 5 ms are free. */
	assert_in_range(now_us - start_us, 10000000 - 10000 - PACE_BURST_US, 10000000);
	now_us += 60000000;
	start_us = now_us;
	for (int i = 0; i < 100; i++)
		now_us += pace_take(&pace, 10000, now_us);
	assert_in_range(now_us - start_us, 1000000 - 10000 - PACE_BURST_US, 1000000);
}

static void test_generated_stream_is_as_documented(void **state)
{
	__attribute__((cleanup(endpoint_close))) struct endpoint e;
	uint64_t words[16], at = 0;
	ssize_t n;

	(void)state;
	assert_int_equal(endpoint_open_input(&e, "generate:1003", NULL), 0);
	while ((n = endpoint_read(&e, words, sizeof(words), NULL)) > 0) {
		for (ssize_t i = 0; i < n / 8; i++)
			assert_true(le64toh(words[i]) == (at / 8 + (uint64_t)i) * ENDPOINT_STEP);
		at += (uint64_t)n;
	}
	assert_int_equal(at, 1003);
}

static void pass(int to, int fd)
{
	assert_int_equal(pass_fd_send(to, fd), 0);
}

static void open_passed(struct endpoint *e, int *giver)
{
	char text[32];
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	snprintf(text, sizeof(text), "passed:%d", pair[0]);
	assert_int_equal(endpoint_open_output(e, text, NULL), 0);
	*giver = pair[1];
}

static void test_a_connection_that_is_passed_is_used_both_ways(void **state)
{
	__attribute__((cleanup(endpoint_close))) struct endpoint e;
	char got[16] = "";
	int giver, hypervisor[2];

	(void)state;
	open_passed(&e, &giver);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, hypervisor), 0);
	pass(giver, hypervisor[0]);
	close(hypervisor[0]);
	assert_int_equal(endpoint_connect(&e, clock_ms() + 1000, NULL), 0);
	assert_true(e.both_ways);
	assert_int_equal(endpoint_write(&e, "there", 5, NULL), 0);
	assert_int_equal(read(hypervisor[1], got, sizeof(got)), 5);
	assert_int_equal(write(hypervisor[1], "back", 4), 4);
	assert_int_equal(endpoint_read(&e, got, sizeof(got), NULL), 4);
	close(hypervisor[1]);
	close(giver);
}

static void test_a_connection_that_is_not_passed_is_an_error(void **state)
{
	__attribute__((cleanup(endpoint_close))) struct endpoint nothing, given_up, late;
	struct error *err = NULL;
	int giver;

	(void)state;
	open_passed(&late, &giver);
	assert_int_equal(endpoint_connect(&late, clock_ms() + 10, &err), -1);
	assert_int_equal(err->kind, ERROR_TIMEOUT);
	error_free(&err);
	close(giver);
	open_passed(&nothing, &giver);
	assert_int_equal(send(giver, "", 1, 0), 1);
	assert_int_equal(endpoint_connect(&nothing, clock_ms() + 1000, &err), -1);
	assert_int_equal(err->kind, ERROR_HYPERVISOR);
	error_free(&err);
	close(giver);
	open_passed(&given_up, &giver);
	close(giver);
	assert_int_equal(endpoint_connect(&given_up, clock_ms() + 1000, &err), -1);
	assert_int_equal(err->kind, ERROR_HYPERVISOR);
	error_free(&err);
}

static void test_endpoints_that_make_no_sense_are_refused(void **state)
{
	static const char *const inputs[] = {"", "unix:", "null", "file", "fd:x", "fd:-1",
		"fd:1000000", "passed:", "passed:1000000", "passed:x", "generate:0",
		"generate:2000T", "http://x", "file:/nowhere/at/all"};
	static const char *const outputs[] = {
		"", "generate:1", "null:", "nullx", "unix:", "fd:", "file:/nowhere/at/all"};
	struct endpoint e;

	(void)state;
	for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
		assert_int_equal(endpoint_open_input(&e, inputs[i], NULL), -1);
		endpoint_close(&e);
	}
	for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
		assert_int_equal(endpoint_open_output(&e, outputs[i], NULL), -1);
		endpoint_close(&e);
	}
}

static void test_socket_path_that_is_too_long_is_refused(void **state)
{
	char text[256] = "unix:/";
	struct error *err = NULL;
	struct endpoint e;

	(void)state;
	memset(text + 6, 'x', 200);
	assert_int_equal(endpoint_open_output(&e, text, &err), -1);
	assert_non_null(strstr(err->message, "at most 107 bytes"));
	error_free(&err);
	endpoint_close(&e);
}

static int parse(struct options *options, struct error **err, const char *line)
{
	static char copy[1024];
	char *argv[40], *word;
	int argc = 0;

	snprintf(copy, sizeof(copy), "%s", line);
	for (word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	optind = 0;
	return options_parse(options, argc, argv, err);
}

#define FILES " --cert c --key k --ca a --peer node1 --id m1"

static void test_arguments_are_checked(void **state)
{
	static const char *const bad[] = {
		"w",
		"w carry" FILES,
		"w send" FILES,
		"w send" FILES " --input null --connect a:1 --output null",
		"w send" FILES " --input fd:0",
		"w recv" FILES " --output null",
		"w recv" FILES " --output null --listen a:1 --listen-fd 3",
		"w recv" FILES " --output null --listen a:1 --bandwidth 1M",
		"w recv --output null --listen a:1",
		"w recv" FILES " --output null --listen a:1 --id ../x",
		"w recv" FILES " --output null --listen a:1 --peer -x",
		"w recv" FILES " --output null --listen a:1 --peer-fingerprint 12",
		"w recv" FILES " --output null --listen a:1 --timeout 0",
		"w recv" FILES " --output null --listen a:1 --what",
		"w recv" FILES " --output null --listen a:1 more",
		"w recv" FILES " --output null --listen",
		"w recv" FILES " --output null --listen a:1 --lanes 0",
		"w recv" FILES " --output null --listen a:1 --lanes 17",
		"w recv" FILES " --output null --listen a:1 --threads 0",
		"w recv" FILES " --output null --listen a:1 --threads 17",
		"w recv" FILES " --output null --listen a:1 --reconnect 0",
		"w recv" FILES " --output null --listen a:1 --cache 1000",
		"w recv" FILES " --output null --listen a:1 --cache 32G",
		"w recv" FILES " --output null --listen a:1 --source base",
		"w recv" FILES " --output null --listen a:1 --source =base",
		"w recv" FILES " --output null --listen a:1 --source base=",
		"w send" FILES " --input fd:0 --connect a:1 --codec zip",
		"w send" FILES " --input fd:0 --connect a:1 --parser xen",
	};
	struct options o;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (parse(&o, NULL, bad[i]) != -1)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(
		parse(&o, NULL,
			"w send" FILES " --input fd:0 --connect a:1 --bandwidth 100M --timeout 7"),
		0);
	assert_int_equal(o.role, FRAME_ROLE_SEND);
	assert_int_equal(o.bandwidth_bps, 100 << 20);
	assert_int_equal(o.timeout_ms, 7000);
	assert_string_equal(o.peer.name, "node1");
	assert_string_equal(o.migration, "m1");
	assert_int_equal(o.lanes, 1);
	assert_int_equal(o.cache_bytes, 128 << 20);
	assert_int_equal(o.reconnect_ms, 60000);
	assert_string_equal(o.parser, "auto");
	assert_false(o.plain);
}

static void test_arguments_of_the_codec_and_the_lanes_are_taken(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(
		parse(&o, NULL,
			"w send" FILES " --input fd:0 --connect a:1 --lanes 16 --threads 3"
			" --reconnect 5 --cache 0 --codec plain --parser qemu --source a=/b=c"
			" --source images/d=/e"),
		0);
	assert_int_equal(o.lanes, 16);
	assert_int_equal(o.threads, 3);
	assert_int_equal(o.reconnect_ms, 5000);
	assert_int_equal(o.cache_bytes, 0);
	assert_true(o.plain);
	assert_string_equal(o.parser, "qemu");
	assert_int_equal(o.sources_len, 2);
	assert_string_equal(o.sources[0].name, "a");
	assert_string_equal(o.sources[0].path, "/b=c");
	assert_string_equal(o.sources[1].name, "images/d");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header_is_laid_out_as_documented),
		cmocka_unit_test(test_headers_of_every_type_come_back),
		cmocka_unit_test(test_header_with_a_giant_length_is_refused),
		cmocka_unit_test(test_header_with_reserved_bytes_or_a_wrong_number_is_refused),
		cmocka_unit_test(test_hello_comes_back),
		cmocka_unit_test(test_hello_of_any_other_length_is_refused),
		cmocka_unit_test(test_hello_with_a_wrong_field_is_refused),
		cmocka_unit_test(test_ack_and_end_take_just_their_size),
		cmocka_unit_test(test_error_arrives_with_its_kind),
		cmocka_unit_test(test_error_that_cannot_be_read_is_an_error_still),
		cmocka_unit_test(test_decoders_survive_random_bytes),
		cmocka_unit_test(test_pool_has_no_more_chunks_than_it_was_given),
		cmocka_unit_test(test_pace_keeps_the_rate_and_bounds_the_burst),
		cmocka_unit_test(test_generated_stream_is_as_documented),
		cmocka_unit_test(test_a_connection_that_is_passed_is_used_both_ways),
		cmocka_unit_test(test_a_connection_that_is_not_passed_is_an_error),
		cmocka_unit_test(test_endpoints_that_make_no_sense_are_refused),
		cmocka_unit_test(test_socket_path_that_is_too_long_is_refused),
		cmocka_unit_test(test_arguments_are_checked),
		cmocka_unit_test(test_arguments_of_the_codec_and_the_lanes_are_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
