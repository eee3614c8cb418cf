/*
 * Samples of a guest's memory: how its pages would travel, by the same code that makes them travel.
 *
 * `drover-wire sample` reads pages from its standard input, as unprivileged and as locked in as the
 * data mover, and says in one line of JSON how many of them are zero, are blocks of a content
 * source or are data, how many bytes they take at each level of compression and how long that takes
 * (docs/wire-protocol.md). When the pages come a second time, as they were a moment later, it says
 * as well how many have changed, and what these would take: as a difference, and whole.
 */
#ifndef DROVER_WIRE_SAMPLE_H
#define DROVER_WIRE_SAMPLE_H

/* Pages that are taken at most: 16 MiB of them, twice. */
#define SAMPLE_PAGES_MAX 4096

/* `drover-wire sample --pages N [--source NAME=PATH]...`, argv[0] being "sample". Returns the exit
 * status. */
int sample_main(int argc, char **argv);

#endif
