#include "base/fault.h"
#include "base/log.h"
#include "wire/hold.h"
#include "wire/index.h"
#include "wire/sample.h"
#include "wire/sides.h"

#include <gnutls/gnutls.h>
#include <string.h>
#include <unistd.h>

static void report(struct run *run, const struct error *err)
{
	run_status(run, "error",
		json_pack(
			"{s:s,s:s}", "kind", error_kind_name(err->kind), "message", err->message));
}

/* Threads may be at work still: nothing is taken apart. */
static void leave(int status)
{
	_exit(status);
}

int main(int argc, char **argv)
{
	struct error *err = NULL;
	struct options options;
	struct run *run;
	int result;

	log_init("drover-wire", LOG_LEVEL_INFO);
	if (argc == 2 && !strcmp(argv[1], "--list-faults")) {
		fault_list(stdout);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "index"))
		return index_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "sample"))
		return sample_main(argc - 1, argv + 1);
	result = options_parse(&options, argc, argv, &err);
	if (result > 0)
		return 0;
	if (result < 0 || fault_init(&err) < 0) {
		log_error("%s", err->message);
		return error_kind_exit(err->kind);
	}
	log_set_migration(options.migration);
	run = run_open(options.status_fd, &err);
	if (run && (options.role == FRAME_ROLE_SEND ? send_run(&options, run, &err)
						    : recv_run(&options, run, &err)) == 0) {
		hold_leave(run, false);
		leave(0);
	}
	log_error("%s", err->message);
	if (run) {
		report(run, err);
		hold_leave(run, true);
	}
	leave(error_kind_exit(err->kind));
}
