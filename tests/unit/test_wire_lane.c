#include "node/pki.h"
#include "wire/lane.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Two ends of one lane in this process. */
struct end {
	const char *name, *peer_name;
	enum tls_side side;
	int fd;
	struct tls_credentials *credentials;
	struct tls_peer peer;
	struct lane *lane;
};

static char dir[] = "/tmp/drover-wire-XXXXXX";
static struct end ends[2] = {
	{.name = "node1", .peer_name = "node2", .side = TLS_CONNECTS},
	{.name = "node2", .peer_name = "node1", .side = TLS_LISTENS},
};

static char *put(const char *name, const char *text)
{
	char *path = fs_format("%s/%s", dir, name);

	assert_int_equal(fs_write(path, text, strlen(text), 0600, NULL), 0);
	return path;
}

static struct tls_credentials *make_credentials(
	const char *name, const char *ca_key, const char *ca_pem)
{
	cleanup_free char *key = NULL, *request = NULL, *cert = NULL;
	cleanup_free char *key_file = NULL, *cert_file = NULL, *ca_file = NULL;
	struct tls_credentials *credentials;

	assert_int_equal(pki_make_request(name, &key, &request, NULL), 0);
	cert = pki_sign(ca_key, ca_pem, request, name, 3600, NULL);
	assert_non_null(cert);
	key_file = put("key", key);
	cert_file = put("crt", cert);
	ca_file = put("ca", ca_pem);
	credentials = tls_credentials_load(cert_file, key_file, ca_file, NULL);
	unlink(key_file);
	unlink(cert_file);
	unlink(ca_file);
	return credentials;
}

static int make_certificates(void **state)
{
	cleanup_free char *ca_key = NULL, *ca_pem = NULL;

	(void)state;
	if (!mkdtemp(dir) ||
		pki_make_ca("0123456789abcdef0123456789abcdef", &ca_key, &ca_pem, NULL))
		return -1;
	for (int i = 0; i < 2; i++) {
		ends[i].credentials = make_credentials(ends[i].name, ca_key, ca_pem);
		if (!ends[i].credentials ||
			tls_peer_set(&ends[i].peer, ends[i].peer_name, NULL, NULL))
			return -1;
	}
	return rmdir(dir);
}

static int free_certificates(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		tls_credentials_free(ends[i].credentials);
	return 0;
}

static void *open_end(void *arg)
{
	struct end *end = arg;
	struct frame_hello theirs,
		mine = {.role = end->side == TLS_CONNECTS ? FRAME_ROLE_SEND : FRAME_ROLE_RECV,
			.oldest = 1,
			.newest = 1,
			.payload_max = 65520,
			.next = 1,
			.lanes = 1,
			.window = 16,
			.migration = "m1"};

	end->lane = lane_open(end->fd, "here", end->side, end->credentials, &end->peer, NULL);
	if (!end->lane || lane_hello(end->lane, &mine, &theirs, NULL, NULL, NULL) < 0)
		abort();
	return NULL;
}

static void run_four(void *(*bodies[4])(void *), void *args[4], int count)
{
	pthread_t threads[4];

	for (int i = 0; i < count; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, bodies[i], args[i]), 0);
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static void open_lanes(void)
{
	void *(*bodies[4])(void *) = {open_end, open_end};
	void *args[4] = {&ends[0], &ends[1]};
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	ends[0].fd = fds[0];
	ends[1].fd = fds[1];
	run_four(bodies, args, 2);
}

#define FRAMES 1500
#define PAYLOAD 65520u
#define KEYS 5 /* GnuTLS takes 8 changes a second */

static void *send_many(void *arg)
{
	struct end *end = arg;
	enum frame_type type = end->side == TLS_CONNECTS ? FRAME_DATA : FRAME_RETURN;
	uint8_t *data = malloc(PAYLOAD);
	struct error *err = NULL;

	if (!data)
		abort();
	for (unsigned i = 0; i < FRAMES && !err; i++) {
		size_t len = 1 + i * 7919u % PAYLOAD;

		memset(data, (int)(i & 0xff), len);
		if (i % (FRAMES / KEYS) == FRAMES / KEYS / 2)
			lane_update_key(end->lane, &err);
		if (!err)
			lane_send_frame(end->lane, type, i + 1, data, len, &err);
	}
	if (err)
		print_error("%s\n", err->message);
	error_free(&err);
	free(data);
	return NULL;
}

/* How many frames arrived as they were sent, at each end. */
static unsigned arrived[2];

static void *receive_many(void *arg)
{
	struct end *end = arg;
	struct chunk_pool *pool = chunk_pool_open(1, PAYLOAD, NULL);
	struct chunk *chunk = chunk_take(pool);
	struct error *err = NULL;
	unsigned i = 0;

	while (i < FRAMES && lane_receive(end->lane, chunk, &err) == 0) {
		if (chunk->sequence != i + 1 || chunk->len != 1 + i * 7919u % chunk->cap ||
			chunk->data[0] != (i & 0xff) || chunk->data[chunk->len - 1] != (i & 0xff))
			break;
		i++;
	}
	if (err)
		print_error("%s\n", err->message);
	arrived[end - ends] = i;
	/* The other threads are not left waiting for what cannot come any more. */
	if (i < FRAMES)
		shutdown(end->fd, SHUT_RDWR);
	error_free(&err);
	chunk_pool_close(pool);
	return NULL;
}

static void test_keys_change_amid_traffic_both_ways(void **state)
{
	void *(*bodies[4])(void *) = {send_many, send_many, receive_many, receive_many};
	void *args[4] = {&ends[0], &ends[1], &ends[0], &ends[1]};

	(void)state;
	open_lanes();
	run_four(bodies, args, 4);
	assert_int_equal(arrived[0], FRAMES);
	assert_int_equal(arrived[1], FRAMES);
	lane_close(ends[0].lane);
	lane_close(ends[1].lane);
}

static struct chunk *great;

static void *send_great(void *arg)
{
	struct end *end = arg;

	if (lane_send_frame(end->lane, FRAME_DATA, 1, great->data, great->len, NULL) < 0)
		abort();
	return NULL;
}

static void test_frame_of_the_greatest_length_arrives(void **state)
{
	struct chunk_pool *pool = chunk_pool_open(2, FRAME_PAYLOAD_MAX, NULL);
	struct chunk *in = chunk_take(pool);
	pthread_t thread;

	(void)state;
	great = chunk_take(pool);
	great->len = great->cap;
	for (size_t i = 0; i < great->len; i++)
		great->data[i] = (uint8_t)(i * 31 >> 4);
	open_lanes();
	/* It is more than the socket holds. */
	assert_int_equal(pthread_create(&thread, NULL, send_great, &ends[0]), 0);
	assert_int_equal(lane_receive(ends[1].lane, in, NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(in->len, great->len);
	assert_memory_equal(in->data, great->data, in->len);
	lane_close(ends[0].lane);
	lane_close(ends[1].lane);
	chunk_pool_close(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys_change_amid_traffic_both_ways),
		cmocka_unit_test(test_frame_of_the_greatest_length_arrives),
	};

	return cmocka_run_group_tests(tests, make_certificates, free_certificates);
}
