/*
 * Ctrl-C while a migration is followed.
 *
 * On a terminal the first asks whether to cancel, a second while the question stands is a yes, and
 * the migration goes on meanwhile. In a pipe, and for SIGTERM, the first cancels. Cancelling is a
 * request to droverd: the migration is then followed to its end as before. One more signal after
 * that ends this program and leaves the rest to droverd.
 */
#ifndef DROVER_CLI_INTERRUPT_H
#define DROVER_CLI_INTERRUPT_H

#include "cli/cli.h"

struct interrupt;

/* Takes SIGINT and SIGTERM from now on, in a thread of its own with a connection of its own. `node`
 * and `id` must outlive it. */
struct interrupt *interrupt_start(
	struct cli *cli, const char *node, const char *id, bool asks, struct error **err);
/* Whether a question stands on the terminal. */
bool interrupt_asking(const struct interrupt *interrupt);
/* The migration has ended: ends the question too. Signals have their usual meaning again. */
void interrupt_stop(struct interrupt *interrupt);

#endif
