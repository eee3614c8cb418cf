/*
 * drover-guest: the program inside the lab's guests by which a test sees that a move lost nothing.
 *
 *   UDP 7000   sends each datagram back as it came.
 *   TCP 7000   greets with "hello ID", ID being random and this connection's own, and answers each
 *              line L with "ID L": the same ID after a move is the same connection.
 *   TCP 7001   control: one command a line, one line of JSON as answer.
 *
 * Control commands:
 *   fill MIB text|random|zero       takes MIB of memory and writes every page of it
 *   dirty MIB_S page|words [MIB]    goes on changing the first MIB of it (all, when not given):
 *                                   whole pages or a few words of each, at this rate of pages
 *   stop                            stops changing it
 *   check                           compares every page with what was last written to it
 *   status                          what it has, and how many records are written
 *   disk PATH RECORDS_S             appends numbered, checksummed records, each written through
 *   diskcheck PATH                  reads them all back from the disk
 *   cpu                             what CPUID says at this moment, and where each CPU is
 *
 * What a page holds follows from (seed, page number, how often it was written); that count is kept
 * in a table of its own, and the sum of the table in one more place, so that a page that is lost,
 * old or swapped shows, whether it is the page's or the table's.
 *
 * With --power-button it powers the machine off when the ACPI power button is pressed, for guests
 * with no init system that would.
 */
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/input.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	DATA_PORT = 7000,
	CONTROL_PORT = 7001,
	MAX_STREAMS = 32,
	CONTROL_IDLE_S = 60,
};

static uint64_t datagrams, streams;

int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void sleep_ms(int ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
	nanosleep(&t, NULL);
}

uint64_t random_u64(void)
{
	uint64_t v;
	/* GRND_INSECURE: in an initramfs the pool may not be ready, and this is no secret. */
	if (getrandom(&v, sizeof(v), GRND_INSECURE) != sizeof(v))
		v = (uint64_t)now_us();
	return v;
}

void say(struct answer *a, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(a->text, sizeof(a->text) - 1, fmt, ap);
	va_end(ap);
	a->len = n < 0 ? 0 : (size_t)n < sizeof(a->text) - 1 ? (size_t)n : sizeof(a->text) - 2;
	a->text[a->len++] = '\n';
}

void fail(struct answer *a, const char *what)
{
	say(a, "{\"error\":\"%s\"}", what);
}

int64_t number(const char *text, int64_t max)
{
	char *end;
	errno = 0;
	if (!text || *text < '0' || *text > '9')
		return -1;
	long long v = strtoll(text, &end, 10);
	return errno || *end || v > max ? -1 : v;
}

static void status(struct answer *a, char **args)
{
	(void)args;
	char memory[256], records[128];
	struct timespec up;
	clock_gettime(CLOCK_BOOTTIME, &up);
	memory_status(memory, sizeof(memory));
	records_status(records, sizeof(records));
	say(a, "{%s,%s,\"datagrams\":%lu,\"streams\":%lu,\"up_s\":%ld}", memory, records, datagrams,
		streams, (long)up.tv_sec);
}

static const struct {
	const char *name;
	void (*run)(struct answer *a, char **args);
} commands[] = {{"fill", memory_fill}, {"dirty", memory_dirty}, {"stop", memory_stop},
	{"check", memory_check}, {"status", status}, {"disk", records_write},
	{"diskcheck", records_check}, {"cpu", cpu_show}};

static void run_command(struct answer *a, char *line)
{
	char *args[6] = {NULL}, *save = NULL;
	int n = 0;
	for (char *t = strtok_r(line, " \t\r", &save); t && n < 5;
		t = strtok_r(NULL, " \t\r", &save))
		args[n++] = t;
	for (size_t i = 0; n > 0 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(args[0], commands[i].name) != 0)
			continue;
		pthread_mutex_lock(&memory_lock);
		commands[i].run(a, args);
		pthread_mutex_unlock(&memory_lock);
		return;
	}
	fail(a, "unknown command");
}

static int listen_on(int type, uint16_t port)
{
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
		(type == SOCK_STREAM && listen(fd, 16) < 0)) {
		perror("drover-guest: listen");
		exit(1);
	}
	return fd;
}

static bool send_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

static void *control_connection(void *arg)
{
	int fd = (int)(intptr_t)arg;
	struct timeval idle = {CONTROL_IDLE_S, 0};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle));
	FILE *in = fdopen(fd, "r");
	char line[MAX_LINE];
	while (in && fgets(line, sizeof(line), in)) {
		struct answer a = {.len = 0};
		size_t len = strlen(line);
		if (line[len - 1] != '\n')
			break;
		line[len - 1] = 0;
		run_command(&a, line);
		if (!send_all(fd, a.text, a.len))
			break;
	}
	if (in)
		fclose(in);
	else
		close(fd);
	return NULL;
}

static bool start_thread(void *(*run)(void *), void *arg)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, run, arg) != 0)
		return false;
	pthread_detach(thread);
	return true;
}

static void *control(void *arg)
{
	int listener = (int)(intptr_t)arg;
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0 && !start_thread(control_connection, (void *)(intptr_t)fd))
			close(fd);
	}
	return NULL;
}

/* --- echo --- */

struct stream {
	int fd;
	uint64_t id;
	char line[MAX_LINE];
	size_t len;
};

static void echo_datagram(int fd)
{
	char data[2048];
	struct sockaddr_in from;
	socklen_t from_len = sizeof(from);
	ssize_t n =
		recvfrom(fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
	if (n < 0)
		return;
	datagrams++;
	sendto(fd, data, (size_t)n, MSG_DONTWAIT, (struct sockaddr *)&from, from_len);
}

static bool greet(struct stream *s, int listener)
{
	char hello[32];
	int one = 1, n;
	s->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (s->fd < 0)
		return false;
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	s->id = random_u64();
	s->len = 0;
	streams++;
	n = snprintf(hello, sizeof(hello), "hello %016lx\n", s->id);
	return send_all(s->fd, hello, (size_t)n);
}

/* Answers the whole lines that have come; false when the connection is to be closed. */
static bool echo_lines(struct stream *s)
{
	ssize_t n = recv(s->fd, s->line + s->len, sizeof(s->line) - s->len, 0);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	s->len += (size_t)n;
	for (char *end; (end = memchr(s->line, '\n', s->len));) {
		char out[MAX_LINE + 32];
		size_t len = (size_t)(end - s->line) + 1;
		int out_len = snprintf(out, sizeof(out), "%016lx %.*s", s->id, (int)len, s->line);
		s->len -= len;
		/* A client that does not read what it asked for loses its connection. */
		if (!send_all(s->fd, out, (size_t)out_len))
			return false;
		memmove(s->line, s->line + len, s->len);
	}
	return s->len < sizeof(s->line);
}

static void echo(int udp, int tcp)
{
	static struct stream list[MAX_STREAMS];
	int count = 0;
	for (;;) {
		struct pollfd fds[2 + MAX_STREAMS] = {{.fd = udp, .events = POLLIN},
			{.fd = count < MAX_STREAMS ? tcp : -1, .events = POLLIN}};
		for (int i = 0; i < count; i++)
			fds[2 + i] = (struct pollfd){.fd = list[i].fd, .events = POLLIN};
		if (poll(fds, (nfds_t)(2 + count), -1) < 0)
			continue;
		if (fds[0].revents)
			echo_datagram(udp);
		/* From the last one down: the last takes a closed one's place. */
		for (int i = count - 1; i >= 0; i--) {
			if (!fds[2 + i].revents || echo_lines(&list[i]))
				continue;
			close(list[i].fd);
			list[i] = list[--count];
		}
		if (fds[1].revents) {
			if (greet(&list[count], tcp))
				count++;
			else if (list[count].fd >= 0)
				close(list[count].fd);
		}
	}
}

/* --- power button --- */

static struct pollfd buttons[16];
static nfds_t button_count;

/* Opens the input devices: what is pressed from now on is seen. */
static void open_buttons(void)
{
	glob_t files;
	if (glob("/dev/input/event*", 0, NULL, &files) != 0)
		return;
	for (size_t i = 0; i < files.gl_pathc && button_count < 16; i++) {
		int fd = open(files.gl_pathv[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0)
			buttons[button_count++] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
	globfree(&files);
}

static void *power_button(void *arg)
{
	struct input_event event;
	(void)arg;
	while (poll(buttons, button_count, -1) >= 0) {
		for (nfds_t i = 0; i < button_count; i++) {
			if (!buttons[i].revents ||
				read(buttons[i].fd, &event, sizeof(event)) != sizeof(event))
				continue;
			if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
				sync();
				reboot(RB_POWER_OFF);
			}
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int udp = listen_on(SOCK_DGRAM, DATA_PORT), tcp = listen_on(SOCK_STREAM, DATA_PORT);
	int control_listener = listen_on(SOCK_STREAM, CONTROL_PORT);
	bool started = start_thread(control, (void *)(intptr_t)control_listener) &&
		       start_thread(memory_dirtier, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1 && strcmp(argv[1], "--power-button") == 0) {
		open_buttons();
		started = start_thread(power_button, NULL) && started;
	}
	if (!started) {
		fprintf(stderr, "drover-guest: cannot start its threads\n");
		return 1;
	}
	/* The answers must not wait for the dirtier: the probe measures the move, not this program.
	 */
	setpriority(PRIO_PROCESS, 0, -19);
	printf("drover-guest: READY\n");
	fflush(stdout);
	echo(udp, tcp);
}
