/*
 * Definition of a VM: vms/VM/vm.conf, an INI file.
 *
 *     [vm]
 *     hypervisor = qemu | bhyve
 *     uuid = 6f9619ff-8b86-d011-b42d-00c04fc964ff
 *     memory = 1G
 *     sockets = 1            cores = 1            threads = 1
 *     machine = pc-q35-10.0
 *     cpu = baseline         (what all nodes can give), or an exact CPU like Haswell-v4,+avx2
 *     cpu_in_force = …       the exact CPU that the guest was given (pool/cpu_spec.h)
 *     kernel = … initrd = … append = …            optional: direct boot
 *     vnc = off | 127.0.0.1:N | unix
 *     loader = uefi | bhyveload | grub            bhyve: what starts the guest
 *     bootrom = /usr/local/share/uefi-firmware/BHYVE_UEFI.fd     of loader uefi
 *     [disk0] file = disk0.qcow2   format = qcow2|raw   cache = none|writeback|directsync
 *             model = virtio-blk|ahci-hd|nvme     bhyve
 *     [nic0]  bridge = br0         mac = 52:54:00:…     model = virtio-net-pci
 *
 * Machine type and CPU are QEMU's: a guest of bhyve gets what its host has.
 *
 * What is made without a value gets one when the VM is created (UUID, MAC addresses, machine type
 * with its version), so that it looks the same on every node and after every upgrade. A key that is
 * not known is an error that names its line: a misspelt key must not be lost silently.
 */
#ifndef DROVER_POOL_VM_DEF_H
#define DROVER_POOL_VM_DEF_H

#include "base/error.h"
#include "base/fs.h"

#include <stdbool.h>
#include <stdint.h>

#define VM_DEF_DISKS_MAX 16
#define VM_DEF_NICS_MAX 8
#define VM_DEF_TEXT_MAX (64u << 10) /* bytes of a vm.conf */
#define VM_DEF_MEMORY_MIN (16ull << 20)
#define VM_DEF_MEMORY_MAX (16ull << 40)

struct vm_disk {
	char *file;   /* as written: see pool_disk_path */
	char *format; /* "qcow2" or "raw" */
	char *cache;  /* "none", "writeback" or "directsync" */
	char *model;  /* "virtio-blk", "ahci-hd" or "nvme"; NULL: virtio-blk, as always in QEMU */
};

struct vm_nic {
	char *bridge;
	char *mac;   /* "52:54:00:12:34:56" */
	char *model; /* "virtio-net-pci" or "e1000" */
};

struct vm_def {
	char *name;       /* the directory's; not in the file */
	char *hypervisor; /* "qemu" or "bhyve" */
	char *uuid;
	uint64_t memory_bytes;       /* a multiple of 1 MiB */
	int sockets, cores, threads; /* vCPUs: their product, at most 288 */
	char *machine;               /* "pc-q35-10.0"; NULL with bhyve */
	char *cpu; /* "baseline", or an exact CPU (pool/cpu_spec.h); NULL with bhyve */
	/* What the guest was given at the last start, where `cpu` does not say it: that was
	 * baseline, or has been changed since. NULL: `cpu`. Made by drover, set by nobody. */
	char *cpu_in_force;
	char *kernel, *initrd, *append; /* NULL: boots from its disk */
	char *vnc;                      /* NULL: none; "ADDRESS:DISPLAY" or "unix" */
	char *loader, *bootrom;         /* bhyve's; NULL: uefi, and the node's bootrom */
	struct vm_disk disks[VM_DEF_DISKS_MAX];
	int disks_count;
	struct vm_nic nics[VM_DEF_NICS_MAX];
	int nics_count;
};

/* Parses and checks the text of a vm.conf; ERROR_DEFINITION names key, line and what is allowed. */
struct vm_def *vm_def_parse(const char *name, const char *text, struct error **err);
/* The file's text in a fixed order; parse(format(def)) equals def. The caller frees it. */
char *vm_def_format(const struct vm_def *def);
void vm_def_free(struct vm_def *def);
#define cleanup_vm_def __attribute__((cleanup(vm_def_cleanup)))
void vm_def_cleanup(struct vm_def **def);

/* A definition with one vCPU, 512 MiB and nothing else; UUID made. hypervisor, machine and cpu are
 * NULL: the hypervisor driver fills them in (hv_complete_def). */
struct vm_def *vm_def_new(const char *name);
/* Sets one key as the command line gives it: "memory", "cpus" (sockets=1, cores=N), "sockets",
 * "disk0.file", "disk" (adds one: "FILE[,format=F][,cache=C]"), "nic" (adds one:
 * "bridge=B[,mac=M][,model=M]"), "nic0.bridge", ...; NULL value removes an optional one, and a
 * whole disk or nic by its key "disk1", those behind it moving down.
 * Checks only the value itself. */
int vm_def_set(struct vm_def *def, const char *key, const char *value, struct error **err);
/* Checks the whole, machine and cpu too (so hv_complete_def comes before it), and gives what is
 * missing: MAC addresses to nics (from the UUID and the nic's number), model virtio-net-pci; to
 * disks cache none, and format qcow2 (raw for a name that ends in .raw or .img). */
int vm_def_check(struct vm_def *def, struct error **err);

#define VM_DEF_HOST_CPU "host"
/* The exact CPU of the guest that was started by this definition: cpu_in_force, or else cpu, which
 * is "baseline" only while it has never been started; VM_DEF_HOST_CPU with bhyve. Belongs to the
 * definition. */
const char *vm_def_exact_cpu(const struct vm_def *def);

/* Reads vms/VM/vm.conf of the pool: ERROR_NO_VM "no VM named X; `drover ls` lists the VMs". */
struct pool;
struct vm_def *vm_def_load(const struct pool *pool, const char *name, struct error **err);
int vm_def_save(const struct pool *pool, const struct vm_def *def, struct error **err);

#endif
