/*
 * QEMU's arguments for a VM: a vector, never a shell line.
 *
 * What the guest sees must be the same on every node, in every QEMU from 7.2 on, and when it is
 * started to wait for a stream; only then can it move. So every device has a fixed id and a fixed
 * place on the root bus of the q35 machine, whatever else the VM has, and nothing is left to a
 * default that is not bound to the machine type's version:
 *
 *     slot 0x01        video (with vnc only)
 *     slot 0x02-0x09   nic0-nic7
 *     slot 0x0a-0x19   disk0-disk15
 *     slot 0x1a        random numbers (virtio-rng)
 *
 * NICs have no boot ROM (its size would be the guest's to see, and differs between packages); the
 * machine has no vmport and neither sleeps nor hibernates (a sleeping guest could not be told from
 * a stopped one). A change here is a change of hardware for guests that run: it needs a machine
 * type version to hang on.
 *
 * CPUs never run by themselves (-S), and a guest that powers off leaves its process (-no-shutdown),
 * so that its end is seen by droverd and not only the process's.
 */
#ifndef DROVER_HV_QEMU_ARGS_H
#define DROVER_HV_QEMU_ARGS_H

#include "base/error.h"
#include "hv/hv.h"

#define QEMU_SLOT_VIDEO 0x01
#define QEMU_SLOT_NIC 0x02
#define QEMU_SLOT_DISK 0x0a
#define QEMU_SLOT_RNG 0x1a

struct qemu_launch {
	const struct hv_settings *settings;
	const char *accel; /* "kvm" or "tcg" */
	const struct hv_start *how;
	int qmp_fd, console_fd;  /* listening Unix sockets, passed at these numbers */
	int spare_in, spare_out; /* FIFOs of the spare monitor (spare.h), as well, or -1 */
};

/* ERROR_DEFINITION when the definition holds what cannot be an argument (vm_def_check lets none of
 * that through), or a kernel or disk whose path is not absolute. Free with qemu_args_free. */
char **qemu_args(const struct qemu_launch *launch, struct error **err);
void qemu_args_free(char **args);
#define cleanup_args __attribute__((cleanup(qemu_args_cleanup)))
void qemu_args_cleanup(char ***args);

/* Whether a machine type is one that the layout above fits: "pc-q35-MAJOR.MINOR". */
bool qemu_machine_fits(const char *machine);
/* Whether a CPU model can be the same on two nodes: "host", "max" and "base" are not. */
bool qemu_cpu_fits(const char *cpu);

#endif
