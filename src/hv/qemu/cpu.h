/*
 * What QEMU says of CPUs, asked over QMP while a QEMU without a VM runs:
 *
 *   query-cpu-definitions       its models, and for each the "unavailable-features" that it cannot
 *                               give here with this accelerator;
 *   query-cpu-model-expansion   "static", which gives a model as every feature that QEMU knows, on
 *                               or off; of `max` under TCG, `host` under KVM: what it can give.
 *
 * (QEMU: qapi/machine-target.json.) Nothing of it is trusted: names are bounded and checked, and
 * there are at most HV_CPU_MODELS_MAX models.
 */
#ifndef DROVER_HV_QEMU_CPU_H
#define DROVER_HV_QEMU_CPU_H

#include "hv/qemu/qemu.h"

/* Asks all of it, into hv->cpus, hv->models, hv->given and hv->vendor. ERROR_HYPERVISOR. */
int qemu_cpu_ask(struct hv *hv, struct qmp *qmp, int64_t deadline_ms, struct error **err);
/* Frees what that has read. */
void qemu_cpu_forget(struct hv *hv);
/* "MODEL,avx2=on,…" for -cpu, from a definition's exact CPU; the caller frees it.
 * ERROR_DEFINITION. (+avx2 and -avx2 are understood too, but in an order of QEMU's own.) */
char *qemu_cpu_argument(const struct vm_def *def, struct error **err);

#endif
