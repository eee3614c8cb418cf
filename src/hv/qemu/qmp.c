#include "hv/qemu/qmp_connect.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/pass_fd.h"
#include "base/cond.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES (64u << 10)
/* QEMU reads nothing more, commands out of band neither, when it has 8 in band to answer. */
#define IN_BAND_MAX 4
/* The reader sends qmp_capabilities. */
#define AGREEMENT_MS 10000

/* A command that waits for its answer; lives on its caller's stack. */
struct command {
	json_int_t id;
	json_t *answer; /* the whole object */
	struct command *next;
};

struct qmp {
	int in, out; /* the same, where it is a socket */
	int wake[2]; /* a pipe: its end ends the reader */
	bool cut;    /* the first line that comes may lack its beginning */
	char *who;
	pthread_t reader;
	bool reader_started;
	pthread_mutex_t write_lock; /* one line at a time */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	bool greeted;
	bool agreed; /* on capabilities: before that QEMU takes no other command */
	bool oob;    /* QEMU offers commands out of band */
	bool ended;
	struct error *end_error; /* why, when it was not QEMU that closed */
	/* QEMU gives an answer that comes late to whoever is connected by then. So ids begin with
	 * the time in microseconds, which is later than all that an earlier connection has had;
	 * first_id is that of qmp_capabilities. */
	json_int_t first_id;
	json_int_t last_id; /* of commands in band; those out of band have it with a minus */
	int in_band;        /* sent, and not answered: also those that nobody waits for any more */
	struct command *waiting;
	struct qmp_event events[QMP_EVENTS_KEPT]; /* event n is at n % QMP_EVENTS_KEPT */
	uint64_t event_seq;
};

static void end(struct qmp *q, struct error *why)
{
	pthread_mutex_lock(&q->lock);
	if (!q->ended && why) {
		log_warning("%s", why->message);
		q->end_error = why;
		why = NULL;
	}
	q->ended = true;
	shutdown(q->out, SHUT_RDWR);
	close_fd(&q->wake[1]);
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	error_free(&why);
}

static int ended_error(struct qmp *q, struct error **err)
{
	if (q->end_error)
		return error_set(err, q->end_error->kind, 0, "%s", q->end_error->message);
	return error_set(err, ERROR_NOT_RUNNING, 0, "%s: its QEMU has ended", q->who);
}

static void keep_event(struct qmp *q, json_t *message, const char *name, size_t len)
{
	struct qmp_event *e = &q->events[++q->event_seq % QMP_EVENTS_KEPT];

	json_free(&e->data);
	e->seq = q->event_seq;
	snprintf(e->name, sizeof(e->name), "%s", name);
	if (len <= QMP_EVENT_MAX)
		e->data = json_incref(json_object_get(message, "data"));
}

static int keep_answer(struct qmp *q, json_t *message, struct error **err)
{
	const json_t *id = json_object_get(message, "id");
	struct command *c = q->waiting;

	if (json_integer_value(id) == q->first_id) {
		q->agreed = json_object_get(message, "return") != NULL;
		return q->agreed ? 0
				 : error_set(err, ERROR_HYPERVISOR, 0,
					   "it refuses its own capabilities");
	}
	if (json_integer_value(id) > 0 && q->in_band > 0)
		q->in_band--;
	while (c && (!json_is_integer(id) || c->id != json_integer_value(id)))
		c = c->next;
	if (c && !c->answer)
		c->answer = json_incref(message);
	return 0;
}

static void keep_greeting(struct qmp *q, const json_t *greeting)
{
	size_t i;
	json_t *capability;

	q->greeted = true;
	json_array_foreach(json_object_get(greeting, "capabilities"), i, capability)
	{
		const char *name = json_string_value(capability);

		q->oob |= name && !strcmp(name, "oob");
	}
}

static ssize_t put(struct qmp *q, const char *text, size_t len)
{
	if (q->in != q->out)
		return write(q->out, text, len);
	return send(q->out, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Errors here end the connection: after a part of a line nothing else can be sent. */
static int send_line(
	struct qmp *q, const char *text, size_t len, int64_t deadline_ms, struct error **err)
{
	while (len > 0) {
		ssize_t n = put(q, text, len);
		struct pollfd p = {.fd = q->out, .events = POLLOUT};

		if (n > 0) {
			text += n;
			len -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			if (poll(&p, 1, clock_left_ms(deadline_ms)) == 0)
				return error_set(err, ERROR_HYPERVISOR, 0,
					"%s: its QEMU hangs: it does not read its control socket",
					q->who);
		} else if (n < 0 && errno != EINTR) {
			return error_set(
				err, ERROR_NOT_RUNNING, 0, "%s: its QEMU has ended", q->who);
		}
	}
	return 0;
}

static int send_command(struct qmp *q, const char *command, json_t *arguments, json_int_t id,
	int64_t deadline_ms, struct error **err)
{
	cleanup_json json_t *message = json_pack("{s:s, s:o*, s:I}",
		id < 0 ? "exec-oob" : "execute", command, "arguments", arguments, "id", id);
	cleanup_free char *text = message ? json_text(message) : NULL;
	cleanup_free char *line = text ? fs_format("%s\n", text) : NULL;
	struct error *why = NULL;

	if (!line)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"%s: the arguments of QMP command %s are not text", q->who, command);
	pthread_mutex_lock(&q->write_lock);
	if (send_line(q, line, strlen(line), deadline_ms, &why) < 0)
		end(q, why);
	pthread_mutex_unlock(&q->write_lock);
	return 0;
}

int qmp_pass_fd(struct qmp *q, int fd, struct error **err)
{
	int rc;

	/* With a space, which is nothing between two commands. */
	pthread_mutex_lock(&q->write_lock);
	rc = pass_fd_send(q->out, fd);
	pthread_mutex_unlock(&q->write_lock);
	return rc == 0 ? 0
		       : error_set(err, ERROR_HYPERVISOR, errno, "%s: cannot pass a file to QEMU",
				 q->who);
}

/* Answers the greeting. A QEMU whose main thread hangs answers this when it hangs no more. */
static int agree(struct qmp *q, struct error **err)
{
	json_t *arguments = q->oob ? json_pack("{s:[s]}", "enable", "oob") : NULL;

	return send_command(
		q, "qmp_capabilities", arguments, q->first_id, clock_ms() + AGREEMENT_MS, err);
}

static int take_line(struct qmp *q, const char *text, size_t len, struct error **err)
{
	bool cut = q->cut;
	cleanup_json json_t *message = json_parse("a line", text, len, cut ? NULL : err);
	const char *event;
	bool greeted;
	int rc = 0;

	q->cut = false;
	if (!message)
		return cut ? 0 : -1;
	event = json_string_value(json_object_get(message, "event"));
	pthread_mutex_lock(&q->lock);
	greeted = q->greeted;
	if (event)
		keep_event(q, message, event, len);
	else if (json_object_get(message, "QMP"))
		keep_greeting(q, json_object_get(message, "QMP"));
	else
		rc = keep_answer(q, message, err);
	greeted = !greeted && q->greeted;
	/* Jansson's counting of references is not for two threads at once: what one thread gets
	 * from here is its own. */
	json_free(&message);
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	return rc == 0 && greeted ? agree(q, err) : rc;
}

/* Takes all whole lines from `in`. `*looked` bytes of it are known to hold no end of line. */
static int take_lines(struct qmp *q, struct buf *in, size_t *looked, struct error **err)
{
	size_t from = 0;
	uint8_t *eol;

	while ((eol = memchr(in->data + from + *looked, '\n', in->len - from - *looked))) {
		size_t len = (size_t)(eol - (in->data + from));

		*looked = 0;
		if (take_line(q, (const char *)in->data + from, len, err) < 0)
			return -1;
		from += len + 1;
	}
	buf_consume(in, from);
	*looked = in->len;
	return 0;
}

/* Waits for something to read; false when the connection is to end. */
static bool wait_input(struct qmp *q)
{
	struct pollfd p[] = {{.fd = q->in, .events = POLLIN}, {.fd = q->wake[0]}};

	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	return !p[1].revents;
}

static int read_all(struct qmp *q, struct error **err)
{
	cleanup_buf struct buf in;
	size_t looked = 0;
	uint8_t *room;
	ssize_t n;

	buf_init(&in, JSON_TEXT_MAX + READ_BYTES);
	for (;;) {
		room = in.len > JSON_TEXT_MAX ? NULL : buf_reserve(&in, READ_BYTES);
		if (!room)
			return error_set(
				err, ERROR_HYPERVISOR, 0, "a line of over %u bytes", JSON_TEXT_MAX);
		if (!wait_input(q))
			return 0;
		n = read(q->in, room, READ_BYTES);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return 0;
		in.len += (size_t)n;
		if (take_lines(q, &in, &looked, err) < 0)
			return -1;
	}
}

static void *reader(void *arg)
{
	struct qmp *q = arg;
	struct error *why = NULL, *said = NULL;

	if (read_all(q, &said) < 0)
		error_set(&why, ERROR_HYPERVISOR, 0,
			"%s: its QEMU broke the control protocol, so it is not asked any more: %s",
			q->who, said->message);
	error_free(&said);
	end(q, why);
	return NULL;
}

/* Waits for a change, with the lock held. False at the deadline. */
static bool wait_change(struct qmp *q, int64_t deadline_ms)
{
	return cond_wait_until(&q->changed, &q->lock, deadline_ms);
}

static int read_answer(
	struct qmp *q, const char *command, json_t *answer, json_t **result, struct error **err)
{
	json_t *value = json_object_get(answer, "return");
	const char *desc;

	if (value) {
		if (result)
			*result = json_incref(value);
		return 0;
	}
	desc = json_string_value(json_object_get(json_object_get(answer, "error"), "desc"));
	return error_set(err, ERROR_HYPERVISOR, 0, "%s: QEMU refuses %s: %s", q->who, command,
		desc ? desc : "it gave no reason");
}

static void forget_command(struct qmp *q, struct command *c)
{
	struct command **at = &q->waiting;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
}

static int not_answered(struct qmp *q, const char *command, struct error **err)
{
	return error_set(
		err, ERROR_TIMEOUT, 0, "%s: QEMU has not answered %s in time", q->who, command);
}

/* Whether a command may be sent now; with the lock held. */
static bool has_turn(const struct qmp *q, bool oob)
{
	return q->ended || (q->agreed && (oob || q->in_band < IN_BAND_MAX));
}

/* Gives the command an id, and its turn. */
static int enlist(struct qmp *q, struct command *c, bool oob, const char *name, int64_t deadline_ms,
	struct error **err)
{
	int rc = 0;

	pthread_mutex_lock(&q->lock);
	while (!has_turn(q, oob) && wait_change(q, deadline_ms))
		;
	if (!has_turn(q, oob))
		rc = not_answered(q, name, err);
	if (rc == 0) {
		q->in_band += !oob;
		q->last_id++;
		c->id = oob ? -q->last_id : q->last_id;
		c->next = q->waiting;
		q->waiting = c;
	}
	pthread_mutex_unlock(&q->lock);
	return rc;
}

static int run(struct qmp *q, bool oob, const char *command, json_t *arguments, int64_t deadline_ms,
	json_t **result, struct error **err)
{
	struct command c = {.answer = NULL};
	cleanup_json json_t *answer = NULL;
	int sent;

	if (enlist(q, &c, oob, command, deadline_ms, err) < 0) {
		json_decref(arguments);
		return -1;
	}
	sent = send_command(q, command, arguments, c.id, deadline_ms, err);

	pthread_mutex_lock(&q->lock);
	while (sent == 0 && !c.answer && !q->ended && wait_change(q, deadline_ms))
		;
	forget_command(q, &c);
	answer = c.answer;
	if (sent == 0 && !answer && q->ended)
		sent = ended_error(q, err);
	pthread_mutex_unlock(&q->lock);

	if (sent < 0)
		return -1;
	if (!answer)
		return not_answered(q, command, err);
	return read_answer(q, command, answer, result, err);
}

int qmp_run(struct qmp *q, const char *command, json_t *arguments, int64_t deadline_ms,
	json_t **result, struct error **err)
{
	return run(q, false, command, arguments, deadline_ms, result, err);
}

int qmp_run_oob(struct qmp *q, const char *command, json_t *arguments, int64_t deadline_ms,
	struct error **err)
{
	bool offered;

	pthread_mutex_lock(&q->lock);
	offered = q->oob;
	pthread_mutex_unlock(&q->lock);
	if (!offered) {
		json_decref(arguments);
		return error_set(err, ERROR_HYPERVISOR, 0, "%s: QEMU takes no %s out of band",
			q->who, command);
	}
	return run(q, true, command, arguments, deadline_ms, NULL, err);
}

uint64_t qmp_event_seq(struct qmp *q)
{
	uint64_t seq;

	pthread_mutex_lock(&q->lock);
	seq = q->event_seq;
	pthread_mutex_unlock(&q->lock);
	return seq;
}

bool qmp_wait_event(struct qmp *q, uint64_t after, int64_t deadline_ms, struct qmp_event *event)
{
	bool found;

	pthread_mutex_lock(&q->lock);
	while (q->event_seq <= after && !q->ended && wait_change(q, deadline_ms))
		;
	found = q->event_seq > after;
	if (found && event) {
		if (q->event_seq - after > QMP_EVENTS_KEPT)
			after = q->event_seq - QMP_EVENTS_KEPT;
		*event = q->events[(after + 1) % QMP_EVENTS_KEPT];
		event->data = json_deep_copy(event->data);
	}
	pthread_mutex_unlock(&q->lock);
	return found;
}

bool qmp_last_event(struct qmp *q, const char *name, struct qmp_event *event)
{
	bool found = false;

	pthread_mutex_lock(&q->lock);
	for (uint64_t n = q->event_seq; n > 0 && n + QMP_EVENTS_KEPT > q->event_seq && !found;
		n--) {
		*event = q->events[n % QMP_EVENTS_KEPT];
		found = !strcmp(event->name, name);
	}
	if (found)
		event->data = json_deep_copy(event->data);
	pthread_mutex_unlock(&q->lock);
	return found;
}

bool qmp_ended(struct qmp *q)
{
	bool ended;

	pthread_mutex_lock(&q->lock);
	ended = q->ended;
	pthread_mutex_unlock(&q->lock);
	return ended;
}

void qmp_close(struct qmp *q)
{
	if (!q)
		return;
	if (q->reader_started) {
		end(q, NULL);
		pthread_join(q->reader, NULL);
	}
	for (int i = 0; i < QMP_EVENTS_KEPT; i++)
		json_free(&q->events[i].data);
	if (q->out != q->in)
		close_fd(&q->out);
	close_fd(&q->in);
	close_fd(&q->wake[0]);
	close_fd(&q->wake[1]);
	error_free(&q->end_error);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->write_lock);
	free(q->who);
	free(q);
}

struct qmp *qmp_new(int in, int out, const char *who, struct error **err)
{
	struct qmp *q = calloc(1, sizeof(*q));

	if (!q)
		abort();
	q->in = in;
	q->out = out;
	q->first_id = q->last_id = clock_us();
	q->who = fs_format("%s", who);
	pthread_mutex_init(&q->write_lock, NULL);
	pthread_mutex_init(&q->lock, NULL);
	cond_init(&q->changed);
	if (pipe2(q->wake, O_CLOEXEC) == 0)
		return q;
	q->wake[0] = q->wake[1] = -1;
	error_set(err, ERROR_FAILED, errno, "%s: cannot make a pipe", who);
	qmp_close(q);
	return NULL;
}

int qmp_start(struct qmp *q, bool agreed, struct error **err)
{
	int failed;

	q->cut = q->greeted = q->agreed = q->oob = agreed;
	failed = pthread_create(&q->reader, NULL, reader, q);
	q->reader_started = !failed;
	if (failed)
		return error_set(err, ERROR_FAILED, failed, "cannot start a thread for %s", q->who);
	return 0;
}

int qmp_wait_agreed(struct qmp *q, int64_t deadline_ms, struct error **err)
{
	int rc = 0;

	pthread_mutex_lock(&q->lock);
	while (!q->agreed && !q->ended && wait_change(q, deadline_ms))
		;
	if (q->ended)
		rc = ended_error(q, err);
	else if (!q->greeted)
		rc = error_set(err, ERROR_TIMEOUT, 0,
			"%s: QEMU does not greet on its control socket; has another program "
			"connected to it?",
			q->who);
	else if (!q->agreed)
		rc = not_answered(q, "qmp_capabilities", err);
	pthread_mutex_unlock(&q->lock);
	return rc;
}

bool qmp_silent(struct qmp *q)
{
	bool silent;

	pthread_mutex_lock(&q->lock);
	silent = !q->agreed && !q->ended;
	pthread_mutex_unlock(&q->lock);
	return silent;
}
