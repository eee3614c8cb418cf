#include "wire/index.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static const char usage[] =
	"usage: drover-wire index [--background] IMAGE\n"
	"\n"
	"Makes the content index of a disk image, IMAGE.didx, by which migrations find pages\n"
	"that both nodes can read there.\n"
	"\n"
	"  --background  at the lowest priority, for processor and disk\n";

static volatile sig_atomic_t stop;

static void on_signal(int signal)
{
	stop = signal;
}

static void yield_to_others(void)
{
	setpriority(PRIO_PROCESS, 0, 19);
	process_yield_disk();
}

static int64_t cpu_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 +
	       (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

static void print(json_t *line)
{
	if (!line)
		abort();
	json_dumpf(line, stdout, JSON_COMPACT);
	fputc('\n', stdout);
	fflush(stdout);
	json_decref(line);
}

static int run(const char *image)
{
	struct sigaction ends = {.sa_handler = on_signal};
	cleanup_error struct error *err = NULL;
	int64_t start_ms = clock_ms();
	struct index_built built;

	sigaction(SIGINT, &ends, NULL);
	sigaction(SIGTERM, &ends, NULL);
	if (index_build(image, &stop, &built, &err) == 0) {
		print(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "event", "indexed",
			"image_bytes", (json_int_t)built.image_bytes, "read_bytes",
			(json_int_t)built.read_bytes, "entries", (json_int_t)built.entries,
			"index_bytes", (json_int_t)built.index_bytes, "duration_ms",
			(json_int_t)(clock_ms() - start_ms), "cpu_ms", (json_int_t)cpu_ms()));
		return 0;
	}
	log_error("%s", err->message);
	print(json_pack("{s:s, s:s, s:s}", "event", "error", "kind", error_kind_name(err->kind),
		"message", err->message));
	return error_kind_exit(err->kind);
}

int index_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"background", no_argument, NULL, 'b'}, {"help", no_argument, NULL, 'h'}, {0}};
	int option;

	while ((option = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
		if (option != 'b') {
			fputs(usage, option == 'h' ? stdout : stderr);
			return option == 'h' ? 0 : error_kind_exit(ERROR_USAGE);
		}
		yield_to_others();
	}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		return error_kind_exit(ERROR_USAGE);
	}
	return run(argv[optind]);
}
