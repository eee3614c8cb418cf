#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x1d /* Ctrl-] */

const struct cli_option cli_console_options[] = {
	{CLI_POSITIONAL, "vm", "VM", "name of the VM", "jname name", cli_check_vm},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* For the handlers of signals that end us, and for the end of main(). */
static struct termios saved;
static volatile sig_atomic_t is_raw;

static void restore_terminal(void)
{
	if (!is_raw)
		return;
	is_raw = 0;
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

static void restore_and_die(int signal_number)
{
	restore_terminal();
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

static void make_raw(void)
{
	static const int ending[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGABRT, SIGSEGV, SIGPIPE};
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &saved) < 0)
		return;
	atexit(restore_terminal);
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		signal(ending[i], restore_and_die);
	raw = saved;
	cfmakeraw(&raw);
	is_raw = 1;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

/* bhyve's consoles are terminals, the other end of an nmdm(4) pair. */
static int open_terminal(const char *path, struct error **err)
{
	struct termios raw;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return error_set(err, errno == EACCES ? ERROR_REFUSED : ERROR_FAILED, errno,
			"cannot open the console %s", path);
	if (tcgetattr(fd, &raw) == 0) {
		cfmakeraw(&raw);
		tcsetattr(fd, TCSANOW, &raw);
	}
	return fd;
}

static int connect_to(const char *path, struct error **err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat st;
	int fd;

	if (stat(path, &st) == 0 && S_ISCHR(st.st_mode))
		return open_terminal(path, err);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || strlen(path) >= sizeof(address.sun_path)) {
		close_fd(&fd);
		return error_set(err, ERROR_FAILED, fd < 0 ? errno : ENAMETOOLONG,
			"cannot open the console %s", path);
	}
	memcpy(address.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	error_set(err, errno == EACCES ? ERROR_REFUSED : ERROR_FAILED, errno,
		errno == EACCES ? "you may not open the console %s; run this as root"
				: "cannot open the console %s; is another one open?",
		path);
	close_fd(&fd);
	return -1;
}

/* Where we are in "~." at the beginning of a line, as in ssh. */
enum escape { LINE_START, TILDE, IN_LINE };

/* Passes on what was typed; false when it says that this is the end. */
static bool send_typed(int fd, const char *typed, size_t len, enum escape *escape)
{
	for (size_t i = 0; i < len; i++) {
		char c = typed[i];

		if (c == ESCAPE || (*escape == TILDE && c == '.'))
			return false;
		if (*escape == LINE_START && c == '~') {
			*escape = TILDE;
			continue;
		}
		/* "~~" is one; "~x" is both. */
		if (*escape == TILDE && c != '~' && fs_write_all(fd, "~", 1) < 0)
			return false;
		if (fs_write_all(fd, &c, 1) < 0)
			return false;
		*escape = c == '\r' || c == '\n' ? LINE_START : IN_LINE;
	}
	return true;
}

/* True when the guest's side has ended, false when the user has. */
static bool pass_on(int fd)
{
	struct pollfd p[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
	enum escape escape = LINE_START;
	char block[4096];

	for (;;) {
		ssize_t n;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return true;
		if (p[1].revents) {
			n = read(fd, block, sizeof(block));
			if (n <= 0 || fs_write_all(STDOUT_FILENO, block, (size_t)n) < 0)
				return true;
		}
		if (p[0].revents) {
			n = read(STDIN_FILENO, block, sizeof(block));
			if (n < 0 && errno == EINTR)
				continue;
			if (n > 0 && !send_typed(fd, block, (size_t)n, &escape))
				return false;
			/* A pipe that has ended: the rest of the guest's output is still shown. */
			if (n <= 0)
				p[0].fd = -1;
			if (n <= 0 && isatty(STDIN_FILENO))
				return false;
		}
	}
}

int cli_console(struct cli *cli, struct error **err)
{
	const char *vm = cli_get(&cli->args, "vm");
	cleanup_free char *path = cli_path("/v1/vms/%s/console", vm), *node = NULL;
	cleanup_json json_t *answer = NULL;
	cleanup_fd int fd = -1;
	bool guest_ended;

	if (cli_find_vm(cli, vm, &node, err) < 0)
		return -1;
	if (node)
		return error_set(err, ERROR_NOT_OWNER, 0,
			"%s is on %s: its console can be opened there (`ssh %s drover console %s`)",
			vm, node, node, vm);
	answer = cli_call(cli, "GET", NULL, path, NULL, err);
	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	fd = connect_to(cli_text(answer, "path", ""), err);
	if (fd < 0)
		return -1;
	if (isatty(STDIN_FILENO)) {
		fprintf(stderr,
			"Console of %s. Ctrl-], or ~. at the beginning of a line, ends it.\n", vm);
		make_raw();
	}
	guest_ended = pass_on(fd);
	restore_terminal();
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "\n%s\n", guest_ended ? "The console was closed." : "");
	return 0;
}
