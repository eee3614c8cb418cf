#include "cli/interrupt.h"

#include "base/fs.h"
#include "base/json.h"
#include "node/http.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* Written to the pipe: a signal's number, or this. */
#define STOP 0

struct interrupt {
	struct cli *cli;
	struct http_client *client;
	const char *node, *id;
	bool asks;
	atomic_bool asking;
	bool cancelled; /* asked droverd to, already */
	int pipe_fds[2];
	pthread_t thread;
};

/* The handler's end of the pipe. */
static int signal_fd = -1;

static void on_signal(int number)
{
	int errnum = errno;
	unsigned char byte = (unsigned char)number;
	ssize_t ignored = write(signal_fd, &byte, 1);

	(void)ignored;
	errno = errnum;
}

/* The next signal, or STOP. */
static int next_signal(struct interrupt *in)
{
	unsigned char byte;
	ssize_t n;

	do
		n = read(in->pipe_fds[0], &byte, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 ? byte : STOP;
}

static void cancel(struct interrupt *in)
{
	cleanup_error struct error *e = NULL;
	cleanup_free char *path = cli_path("/v1/migrations/%s/cancel", in->id);
	json_t *answer =
		cli_call_within(in->cli, in->client, CLI_CALL_MS, "POST", in->node, path, NULL, &e);

	in->cancelled = true;
	if (!answer)
		fprintf(stderr, "%sdrover: it is not cancelled: %s\n", in->asks ? "\n" : "",
			e->message);
	json_decref(answer);
}

/* Who goes on running where, for the question. */
static void print_question(struct interrupt *in, int tty)
{
	cleanup_free char *path = cli_path("/v1/migrations/%s", in->id);
	json_t *m = cli_call_within(in->cli, in->client, 3000, "GET", in->node, path, NULL, NULL);

	dprintf(tty, "\ncancel the migration? %s goes on running on %s [y/N] ",
		cli_text(m, "vm", "the VM"), cli_text(m, "from", "its node"));
	json_decref(m);
}

/* Asks, and cancels after a yes or one more Ctrl-C. Returns STOP when it is too late. */
static int ask(struct interrupt *in)
{
	cleanup_fd int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
	struct pollfd p[2] = {
		{.fd = tty, .events = POLLIN}, {.fd = in->pipe_fds[0], .events = POLLIN}};
	char answer[16] = "";
	int number = SIGINT;
	ssize_t n;

	if (tty < 0) {
		cancel(in);
		return number;
	}
	atomic_store(&in->asking, true);
	print_question(in, tty);
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	if (p[1].revents) {
		number = next_signal(in);
		strcpy(answer, number == STOP ? "n" : "y");
		dprintf(tty, "\n");
	} else {
		n = read(tty, answer, sizeof(answer) - 1);
		answer[n > 0 ? n : 0] = '\0';
		answer[strcspn(answer, "\r\n")] = '\0';
	}
	if (!strcasecmp(answer, "y") || !strcasecmp(answer, "yes"))
		cancel(in);
	atomic_store(&in->asking, false);
	return number;
}

static void *interrupt_thread(void *arg)
{
	struct interrupt *in = arg;
	int number = next_signal(in);

	while (number != STOP) {
		if (in->cancelled) {
			fprintf(stderr,
				"\ndrover: droverd goes on cancelling; `drover migration show %s` "
				"tells\n",
				in->id);
			_exit(error_kind_exit(ERROR_CANCELLED));
		}
		if (in->asks && number == SIGINT) {
			if (ask(in) == STOP)
				break;
		} else {
			cancel(in);
		}
		number = next_signal(in);
	}
	return NULL;
}

static void take_signals(void (*handler)(int))
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

struct interrupt *interrupt_start(
	struct cli *cli, const char *node, const char *id, bool asks, struct error **err)
{
	struct interrupt *in = calloc(1, sizeof(*in));

	if (!in)
		abort();
	*in = (struct interrupt){.cli = cli, .node = node, .id = id, .asks = asks};
	in->client = cli_connect(cli, err);
	if (!in->client || pipe2(in->pipe_fds, O_CLOEXEC) < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot follow the migration");
		http_close(in->client);
		free(in);
		return NULL;
	}
	signal_fd = in->pipe_fds[1];
	take_signals(on_signal);
	if (pthread_create(&in->thread, NULL, interrupt_thread, in) != 0)
		abort();
	return in;
}

bool interrupt_asking(const struct interrupt *in)
{
	return atomic_load(&in->asking);
}

void interrupt_stop(struct interrupt *in)
{
	take_signals(SIG_DFL);
	on_signal(STOP);
	pthread_join(in->thread, NULL);
	close(in->pipe_fds[0]);
	close(in->pipe_fds[1]);
	http_close(in->client);
	free(in);
}
