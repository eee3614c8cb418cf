#include "wire/hold.h"

#include "base/clock.h"
#include "hv/bhyve/answer.h"
#include "wire/stream_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* The slowest that a hypervisor's memory is expected to be read and dropped at. */
#define DROP_MS 60000
#define ITEMS 64

struct hold {
	struct stream_bhyve stream;
	bool tail; /* memory is over */
	bool ended;
};

struct hold *hold_open(uint64_t memory_bytes, struct error **err)
{
	struct hold *h = calloc(1, sizeof(*h));

	if (!h)
		abort();
	if (stream_bhyve_expect(&h->stream, memory_bytes))
		return h;
	free(h);
	error_set(err, ERROR_USAGE, 0, "--hold is the guest's memory, in whole pages");
	return NULL;
}

/* Whether the next byte belongs to what comes after memory. */
static bool in_tail(const struct hold *h)
{
	return !h->stream.skip && h->stream.state == STREAM_BHYVE_STRUCTURE;
}

static bool at_end(const struct hold *h)
{
	const struct stream_bhyve *b = &h->stream;

	return b->state == STREAM_BHYVE_DEVICE && !b->skip && !b->devices_left && !b->held_len;
}

/* Parts of pages are passed over, for nobody wants to know the pages. */
static enum stream_step step(struct hold *h, struct stream_cursor *c)
{
	enum stream_step step;

	c->items_len = 0;
	step = stream_bhyve_step(&h->stream, c);
	if (step != STREAM_WAIT)
		return step;
	if (c->items_len == c->items_max)
		return STREAM_ON;
	if (!stream_bhyve_pass(&h->stream, c->len - c->at))
		return STREAM_LOST;
	c->at = c->len;
	return STREAM_ON;
}

ssize_t hold_feed(struct hold *h, const uint8_t *data, size_t len, struct error **err)
{
	struct stream_item items[ITEMS];
	struct stream_cursor c = {.data = data, .len = len, .items = items, .items_max = ITEMS};
	size_t memory = h->tail ? 0 : len;

	while (c.at < len) {
		if (h->ended)
			return error_set(err, ERROR_HYPERVISOR, 0,
				"the hypervisor's stream goes on behind its end");
		if (step(h, &c) != STREAM_ON)
			return error_set(err, ERROR_HYPERVISOR, 0,
				"the hypervisor's stream is none that is known, or of a guest with "
				"other memory: where it ends cannot be told");
		if (!h->tail && in_tail(h)) {
			h->tail = true;
			memory = c.at;
		}
		h->ended = at_end(h);
	}
	return (ssize_t)memory;
}

bool hold_last_round(const struct hold *h)
{
	switch (h->stream.state) {
	case STREAM_BHYVE_LIST:
	case STREAM_BHYVE_PAGES:
		return h->stream.lists_left == 1;
	case STREAM_BHYVE_LOWMEM:
	case STREAM_BHYVE_LOWMEM_UPPER:
	case STREAM_BHYVE_HIGHMEM:
	case STREAM_BHYVE_MEMORY:
		return true;
	default:
		return h->tail;
	}
}

bool hold_ended(const struct hold *h)
{
	return h->ended;
}

static int release_pipe[2] = {-1, -1};

static void on_release(int signal)
{
	int keep = errno;

	(void)signal;
	if (write(release_pipe[1], "", 1) < 0)
		errno = keep;
}

int hold_catch_release(struct error **err)
{
	struct sigaction action = {.sa_handler = on_release, .sa_flags = SA_RESTART};

	if (pipe2(release_pipe, O_CLOEXEC) < 0 || fcntl(release_pipe[1], F_SETFL, O_NONBLOCK) < 0)
		return error_set(err, ERROR_FAILED, errno, "cannot make a pipe");
	sigaction(SIGUSR1, &action, NULL);
	return 0;
}

void hold_wait_release(void)
{
	char byte;

	while (read(release_pipe[0], &byte, 1) < 0 && errno == EINTR)
		;
}

static int kept_fd = -1;

void hold_keep(int fd)
{
	kept_fd = fd;
}

void hold_leave(struct run *run, bool failed)
{
	if (kept_fd >= 0 && run_wait_told(run, kept_fd, failed))
		bhyve_refuse(kept_fd, clock_ms() + DROP_MS);
}
