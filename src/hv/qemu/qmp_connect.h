/*
 * What qmp.c has for qmp_connect.c: a connection is made in three steps.
 */
#ifndef DROVER_HV_QEMU_QMP_CONNECT_H
#define DROVER_HV_QEMU_QMP_CONNECT_H

#include "hv/qemu/qmp.h"

/* Takes the descriptors over, also on error: a socket (twice the same), or two ends of FIFOs that
 * do not block. */
struct qmp *qmp_new(int in, int out, const char *who, struct error **err);
/* Begins to read. `agreed`: on capabilities, on this connection, by another program before. */
int qmp_start(struct qmp *q, bool agreed, struct error **err);
/* Waits until commands can be sent. */
int qmp_wait_agreed(struct qmp *q, int64_t deadline_ms, struct error **err);

#endif
