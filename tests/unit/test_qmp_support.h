/*
 * For the tests of the QMP client: a QEMU that the test plays on the other end of a socket pair,
 * and commands that run while it does.
 */
#ifndef DROVER_TESTS_UNIT_TEST_QMP_SUPPORT_H
#define DROVER_TESTS_UNIT_TEST_QMP_SUPPORT_H

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "hv/qemu/qmp.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define LONG_MS 20000

/* The other end: a socket, and what was read from it. */
struct fake {
	int fd;
	FILE *in;
};

struct opening {
	int fd;
	struct qmp *q;
	struct error *err;
};

static inline void *open_thread(void *arg)
{
	struct opening *o = arg;

	o->q = qmp_open(o->fd, "VM web1", clock_ms() + LONG_MS, &o->err);
	return NULL;
}

static inline void say(struct fake *f, const char *text)
{
	fs_write_all(f->fd, text, strlen(text));
}

static inline void say_many(struct fake *f, const char *text, size_t count)
{
	for (size_t i = 0; i < count; i++)
		say(f, text);
}

/* Reads a command and gives its id; `name` must be its name. */
static inline json_int_t hear_as(struct fake *f, const char *how, const char *name)
{
	cleanup_free char *line = NULL;
	cleanup_json json_t *json = NULL;
	size_t size = 0;
	ssize_t n = getline(&line, &size, f->in);

	assert_true(n > 0);
	json = json_parse("command", line, (size_t)n, NULL);
	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, how)), name);
	return json_integer_value(json_object_get(json, "id"));
}

static inline json_int_t hear(struct fake *f, const char *name)
{
	return hear_as(f, "execute", name);
}

static inline void answer(struct fake *f, json_int_t id, const char *value)
{
	cleanup_free char *line =
		fs_format("{\"return\": %s, \"id\": %lld}\r\n", value, (long long)id);

	say(f, line);
}

static inline struct qmp *begin(struct fake *f)
{
	struct opening o = {0};
	pthread_t thread;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	o.fd = pair[0];
	f->fd = pair[1];
	f->in = fdopen(dup(pair[1]), "r");
	pthread_create(&thread, NULL, open_thread, &o);
	say(f, GREETING);
	answer(f, hear(f, "qmp_capabilities"), "{}");
	pthread_join(thread, NULL);
	assert_non_null(o.q);
	return o.q;
}

static inline void hang_up(struct fake *f)
{
	if (f->in)
		fclose(f->in);
	f->in = NULL;
	close_fd(&f->fd);
}

/* A command run by a thread of its own. */
struct running {
	struct qmp *q;
	const char *command;
	int64_t deadline_ms;
	json_t *result;
	struct error *err;
	int rc;
	pthread_t thread;
};

static inline void *run_thread(void *arg)
{
	struct running *r = arg;

	r->rc = qmp_run(r->q, r->command, NULL, r->deadline_ms, &r->result, &r->err);
	return NULL;
}

static inline void start(struct running *r, struct qmp *q, const char *command)
{
	*r = (struct running){.q = q, .command = command, .deadline_ms = clock_ms() + LONG_MS};
	pthread_create(&r->thread, NULL, run_thread, r);
}

static inline void finish(struct running *r)
{
	pthread_join(r->thread, NULL);
}

#endif
