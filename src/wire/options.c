#include "wire/options.h"

#include "wire/cache.h"
#include "wire/stream.h"

#include <getopt.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
	"usage: drover-wire send --id MIGRATION --input INPUT --connect ADDRESS:PORT\n"
	"                        --cert FILE --key FILE --ca FILE --peer NAME [OPTION]...\n"
	"       drover-wire recv --id MIGRATION --output OUTPUT --listen ADDRESS:PORT\n"
	"                        --cert FILE --key FILE --ca FILE --peer NAME [OPTION]...\n"
	"\n"
	"Carries a hypervisor's migration stream from one node to another, unchanged, over\n"
	"mutually authenticated TLS 1.3 connections.\n"
	"\n"
	"  --id MIGRATION          the same on both sides\n"
	"  --input INPUT           unix:PATH, tcp:ADDRESS:PORT, passed:N, file:PATH, fd:N,\n"
	"                          generate:SIZE or probe:MS\n"
	"  --output OUTPUT         unix:PATH, tcp:ADDRESS:PORT, passed:N, file:PATH, fd:N or null\n"
	"  --connect ADDRESS:PORT  where the receiver listens\n"
	"  --listen ADDRESS:PORT   port 0: any; the status line \"listening\" tells which\n"
	"  --listen-fd N           a listening socket, instead of --listen\n"
	"  --cert, --key, --ca FILE  PEM; /dev/fd/N may be given\n"
	"  --peer NAME             the node that the other side must be\n"
	"  --peer-fingerprint HEX  SHA-256 of the certificate that it must have\n"
	"  --bandwidth BYTES       at most so many bytes per second (\"100M\"); send only\n"
	"  --source NAME=PATH      a file that both sides can read, for references; repeated\n"
	"  --cache BYTES           pages kept for differences; 128M, 0 for none\n"
	"  --codec NAME            pages (the default) or plain: the stream as it is; send only\n"
	"  --parser NAME           auto, qemu, bhyve or opaque; send only\n"
	"  --memory BYTES          of the guest, for the live rounds of bhyve; send only\n"
	"  --hold BYTES            the stream is bhyve's, of a guest with so much memory, and "
	"what\n"
	"                          comes after that is held back until SIGUSR1; both sides\n"
	"  --lanes N               TCP connections that carry the stream, 1 to 16; send only\n"
	"  --threads N             that encode or decode, 1 to 16; as many as processors, up to 4\n"
	"  --reconnect SECONDS     a connection may be broken for so long; 60\n"
	"  --timeout SECONDS       until both ends are connected; 60 at first\n"
	"  --status-fd N           JSON lines go there and not to standard output\n"
	"  --list-faults           print the fault points that DROVER_FAULT takes\n"
	"  --help, --version\n"
	"\n"
	"example, on one machine:\n"
	"  drover-wire recv --id t1 --output null --listen 127.0.0.1:7800 \\\n"
	"      --cert node2.crt --key node2.key --ca ca.crt --peer node1 &\n"
	"  drover-wire send --id t1 --input generate:8G --connect 127.0.0.1:7800 \\\n"
	"      --cert node1.crt --key node1.key --ca ca.crt --peer node2\n";

enum {
	OPT_ID = 256,
	OPT_INPUT,
	OPT_OUTPUT,
	OPT_CONNECT,
	OPT_LISTEN,
	OPT_LISTEN_FD,
	OPT_CERT,
	OPT_KEY,
	OPT_CA,
	OPT_PEER,
	OPT_FINGERPRINT,
	OPT_BANDWIDTH,
	OPT_TIMEOUT,
	OPT_STATUS_FD,
	OPT_SOURCE,
	OPT_CACHE,
	OPT_CODEC,
	OPT_PARSER,
	OPT_MEMORY,
	OPT_HOLD,
	OPT_LANES,
	OPT_THREADS,
	OPT_RECONNECT
};

static const struct option long_options[] = {
	{"id", required_argument, NULL, OPT_ID},
	{"input", required_argument, NULL, OPT_INPUT},
	{"output", required_argument, NULL, OPT_OUTPUT},
	{"connect", required_argument, NULL, OPT_CONNECT},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"listen-fd", required_argument, NULL, OPT_LISTEN_FD},
	{"cert", required_argument, NULL, OPT_CERT},
	{"key", required_argument, NULL, OPT_KEY},
	{"ca", required_argument, NULL, OPT_CA},
	{"peer", required_argument, NULL, OPT_PEER},
	{"peer-fingerprint", required_argument, NULL, OPT_FINGERPRINT},
	{"bandwidth", required_argument, NULL, OPT_BANDWIDTH},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"status-fd", required_argument, NULL, OPT_STATUS_FD},
	{"source", required_argument, NULL, OPT_SOURCE},
	{"cache", required_argument, NULL, OPT_CACHE},
	{"codec", required_argument, NULL, OPT_CODEC},
	{"parser", required_argument, NULL, OPT_PARSER},
	{"memory", required_argument, NULL, OPT_MEMORY},
	{"hold", required_argument, NULL, OPT_HOLD},
	{"lanes", required_argument, NULL, OPT_LANES},
	{"threads", required_argument, NULL, OPT_THREADS},
	{"reconnect", required_argument, NULL, OPT_RECONNECT},
	{0},
};

/* What is kept as text until all options have been seen. */
struct texts {
	const char *input, *output, *connect, *listen, *peer, *fingerprint, *codec;
};

static int parse_fd(const char *name, int *fd, struct error **err)
{
	int64_t value;

	if (fs_parse_number(name, optarg, 0, 1 << 20, &value, err) < 0)
		return -1;
	*fd = (int)value;
	return 0;
}

static int parse_seconds(const char *name, int64_t *ms, struct error **err)
{
	int64_t seconds;

	if (fs_parse_number(name, optarg, 1, 86400, &seconds, err) < 0)
		return -1;
	*ms = seconds * 1000;
	return 0;
}

static int parse_count(const char *name, int64_t max, unsigned *count, struct error **err)
{
	int64_t value;

	if (fs_parse_number(name, optarg, 1, max, &value, err) < 0)
		return -1;
	*count = (unsigned)value;
	return 0;
}

static int parse_cache(struct options *o, struct error **err)
{
	o->cache_bytes = 0;
	if (!strcmp(optarg, "0"))
		return 0;
	if (fs_parse_size("--cache", optarg, CACHE_MAX, &o->cache_bytes, err) < 0)
		return -1;
	if (o->cache_bytes < CACHE_MIN)
		return error_set(
			err, ERROR_USAGE, 0, "--cache is 0 or at least %u bytes", CACHE_MIN);
	return 0;
}

static int parse_memory(struct options *o, struct error **err)
{
	if (fs_parse_size("--memory", optarg, STREAM_MEMORY_MAX, &o->memory_bytes, err) < 0)
		return -1;
	if (o->memory_bytes % STREAM_PAGE)
		return error_set(
			err, ERROR_USAGE, 0, "--memory is a multiple of %u bytes", STREAM_PAGE);
	return 0;
}

static int parse_source(struct options *o, struct error **err)
{
	const char *path = strchr(optarg, '=');
	size_t len = path ? (size_t)(path - optarg) : 0;

	if (!len || len > SOURCE_NAME_MAX || !path[1])
		return error_set(err, ERROR_USAGE, 0, "--source takes NAME=PATH");
	if (o->sources_len == SOURCE_MAX)
		return error_set(err, ERROR_USAGE, 0, "there are more than %u sources", SOURCE_MAX);
	memcpy(o->sources[o->sources_len].name, optarg, len);
	o->sources[o->sources_len++].path = path + 1;
	return 0;
}

static int take_number(struct options *o, int option, struct error **err)
{
	switch (option) {
	case OPT_LISTEN_FD:
		return parse_fd("--listen-fd", &o->listen_fd, err);
	case OPT_STATUS_FD:
		return parse_fd("--status-fd", &o->status_fd, err);
	case OPT_BANDWIDTH:
		return fs_parse_size("--bandwidth", optarg, 1ull << 40, &o->bandwidth_bps, err);
	case OPT_MEMORY:
		return parse_memory(o, err);
	case OPT_HOLD:
		return fs_parse_size("--hold", optarg, STREAM_MEMORY_MAX, &o->hold_bytes, err);
	case OPT_TIMEOUT:
		return parse_seconds("--timeout", &o->timeout_ms, err);
	case OPT_RECONNECT:
		return parse_seconds("--reconnect", &o->reconnect_ms, err);
	case OPT_LANES:
		return parse_count("--lanes", FRAME_LANES_MAX, &o->lanes, err);
	case OPT_THREADS:
		return parse_count("--threads", OPTIONS_THREADS_MAX, &o->threads, err);
	case OPT_CACHE:
		return parse_cache(o, err);
	case OPT_SOURCE:
		return parse_source(o, err);
	default:
		return error_set(err, ERROR_USAGE, 0,
			"an argument is unknown or has no value; see drover-wire --help");
	}
}

static int take(struct options *o, struct texts *texts, int option, struct error **err)
{
	const char **place;

	switch (option) {
	case OPT_ID:
		place = &o->migration;
		break;
	case OPT_INPUT:
		place = &texts->input;
		break;
	case OPT_OUTPUT:
		place = &texts->output;
		break;
	case OPT_CONNECT:
		place = &texts->connect;
		break;
	case OPT_LISTEN:
		place = &texts->listen;
		break;
	case OPT_CERT:
		place = &o->cert;
		break;
	case OPT_KEY:
		place = &o->key;
		break;
	case OPT_CA:
		place = &o->ca;
		break;
	case OPT_PEER:
		place = &texts->peer;
		break;
	case OPT_CODEC:
		place = &texts->codec;
		break;
	case OPT_PARSER:
		place = &o->parser;
		break;
	case OPT_FINGERPRINT:
		place = &texts->fingerprint;
		break;
	default:
		return take_number(o, option, err);
	}
	*place = optarg;
	return 0;
}

static int check_side(struct options *o, const struct texts *texts, struct error **err)
{
	if (o->role == FRAME_ROLE_SEND) {
		if (!texts->input || !texts->connect || texts->output || texts->listen ||
			o->listen_fd >= 0)
			return error_set(err, ERROR_USAGE, 0,
				"send takes --input and --connect; see drover-wire --help");
		o->endpoint = texts->input;
		o->address = texts->connect;
		return 0;
	}
	if (!texts->output || texts->input || texts->connect || o->bandwidth_bps ||
		(texts->listen != NULL) == (o->listen_fd >= 0))
		return error_set(err, ERROR_USAGE, 0,
			"recv takes --output and either --listen or --listen-fd; see drover-wire "
			"--help");
	o->endpoint = texts->output;
	o->address = texts->listen;
	return 0;
}

static int check_codec(struct options *o, const struct texts *texts, struct error **err)
{
	if (texts->codec && strcmp(texts->codec, "pages") && strcmp(texts->codec, "plain"))
		return error_set(err, ERROR_USAGE, 0, "--codec is pages or plain");
	if (strcmp(o->parser, "auto") && strcmp(o->parser, "qemu") && strcmp(o->parser, "bhyve") &&
		strcmp(o->parser, "opaque"))
		return error_set(err, ERROR_USAGE, 0, "--parser is auto, qemu, bhyve or opaque");
	o->plain = texts->codec && !strcmp(texts->codec, "plain");
	return 0;
}

static int check(struct options *o, const struct texts *texts, struct error **err)
{
	if (!o->migration || !o->cert || !o->key || !o->ca || !texts->peer)
		return error_set(err, ERROR_USAGE, 0,
			"--id, --cert, --key, --ca and --peer are needed; see drover-wire --help");
	if (fs_check_name("migration", o->migration, err) < 0 ||
		tls_peer_set(&o->peer, texts->peer, texts->fingerprint, err) < 0)
		return -1;
	return check_codec(o, texts, err) < 0 ? -1 : check_side(o, texts, err);
}

static int parse_role(struct options *o, const char *word, struct error **err)
{
	if (word && !strcmp(word, "send"))
		o->role = FRAME_ROLE_SEND;
	else if (word && !strcmp(word, "recv"))
		o->role = FRAME_ROLE_RECV;
	else
		return error_set(err, ERROR_USAGE, 0,
			"the first argument is \"send\" or \"recv\"; see drover-wire --help");
	return 0;
}

static unsigned processors(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	if (n < 1)
		return 1;
	return n < 4 ? (unsigned)n : 4;
}

int options_parse(struct options *options, int argc, char **argv, struct error **err)
{
	struct texts texts = {0};
	int option;

	*options = (struct options){.listen_fd = -1,
		.status_fd = STDOUT_FILENO,
		.timeout_ms = OPTIONS_TIMEOUT_S * 1000,
		.reconnect_ms = OPTIONS_RECONNECT_S * 1000,
		.parser = "auto",
		.lanes = 1,
		.threads = processors(),
		.cache_bytes = CACHE_DEFAULT};
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help"))
			return fputs(help, stdout) < 0 ? -1 : 1;
		if (!strcmp(argv[i], "--version"))
			return puts("drover-wire " DROVER_VERSION) < 0 ? -1 : 1;
	}
	if (parse_role(options, argv[1], err) < 0)
		return -1;
	opterr = 0;
	while ((option = getopt_long(argc - 1, argv + 1, "", long_options, NULL)) != -1)
		if (take(options, &texts, option, err) < 0)
			return -1;
	if (optind < argc - 1)
		return error_set(
			err, ERROR_USAGE, 0, "\"%s\" is one argument too many", argv[1 + optind]);
	return check(options, &texts, err);
}
