/*
 * The command line of drover-wire; drover-wire(1) describes it.
 */
#ifndef DROVER_WIRE_OPTIONS_H
#define DROVER_WIRE_OPTIONS_H

#include "wire/frame.h"
#include "wire/source.h"
#include "wire/tls.h"

#include <stdio.h>

#define OPTIONS_TIMEOUT_S 60
#define OPTIONS_RECONNECT_S 60
#define OPTIONS_THREADS_MAX 16

struct options {
	enum frame_role role;
	const char *migration;
	const char *endpoint; /* --input or --output */
	const char *address;  /* --connect or --listen; NULL with --listen-fd */
	int listen_fd;        /* -1: none */
	const char *cert, *key, *ca;
	struct tls_peer peer;
	uint64_t bandwidth_bps; /* bytes per second; 0: no limit */
	int64_t timeout_ms;     /* until the lane is there and the hypervisor is connected */
	int status_fd;
	bool plain;            /* --codec plain: the stream goes as it is */
	const char *parser;    /* --parser: what finds the pages (stream.h) */
	uint64_t memory_bytes; /* --memory: the guest's; 0: not told */
	uint64_t hold_bytes;   /* --hold: the guest's memory (hold.h); 0: nothing is held back */
	unsigned lanes, threads;
	uint64_t cache_bytes; /* of pages that were sent before */
	int64_t reconnect_ms; /* a lane may be down for so long */
	/* --source NAME=PATH, in the order in which they were given; names are copies. */
	size_t sources_len;
	struct {
		char name[SOURCE_NAME_MAX + 1];
		const char *path;
	} sources[SOURCE_MAX];
};

/* Reads the arguments. 1: --help or --version was asked for and has been answered on stdout; -1 and
 * ERROR_USAGE when they make no sense. Strings stay argv's. */
int options_parse(struct options *options, int argc, char **argv, struct error **err);

#endif
