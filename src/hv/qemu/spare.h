/*
 * The spare monitor: a second way to a QEMU that waits for a stream, for a droverd that is started
 * while that QEMU hangs.
 *
 * QEMU takes no order on a new connection before its main thread has agreed to it, not even one out
 * of band; and that thread may hang for a page that a post-copy has not brought, for which a new
 * lane is needed, of which QEMU has to be told. So it has a second QMP monitor, agreed on at its
 * start, whose connection never ends: two FIFOs in the run directory, `spare.in` (orders) and
 * `spare.out` (answers), both root's alone. QEMU gets them open, and both ends of each, so that
 * droverd may come and go unseen.
 *
 * QEMU has what this needs (`-chardev file` with `input-path`) since 8.1.
 */
#ifndef DROVER_HV_QEMU_SPARE_H
#define DROVER_HV_QEMU_SPARE_H

#include "base/error.h"
#include "hv/hv.h"
#include "hv/qemu/qmp.h"

#include <stdbool.h>

/* What QEMU is given; -1: none. It uses the ends `in` (to read) and `out` (to write); that it has
 * the other ends too keeps the FIFOs from ending. */
struct qemu_spare {
	int in, in_other, out, out_other;
};
#define QEMU_SPARE_FDS 4
#define QEMU_SPARE_NONE \
	{ \
		-1, -1, -1, -1 \
	}

bool qemu_spare_fits(const struct hv_facts *facts);
/* Makes the FIFOs; on error what was opened is closed. */
int qemu_spare_make(const char *run_dir, struct qemu_spare *spare, struct error **err);
/* Writes the descriptors that are passed to `fds`; how many. */
size_t qemu_spare_pass(const struct qemu_spare *spare, int fds[QEMU_SPARE_FDS]);
void qemu_spare_close(struct qemu_spare *spare);
/* Connects to that of a QEMU that was just started, and agrees on capabilities. */
struct qmp *qemu_spare_connect(
	const char *run_dir, const char *who, int64_t deadline_ms, struct error **err);
/* Connects again; NULL when there is none. */
struct qmp *qemu_spare_find(const char *run_dir, const char *who);

#endif
