/*
 * What the files of the VM definition share: its keys, and the check of each value alone.
 */
#ifndef DROVER_POOL_VM_DEF_INTERNAL_H
#define DROVER_POOL_VM_DEF_INTERNAL_H

#include "pool/vm_def.h"

#include <stddef.h>

#define VM_DEF_VCPUS_MAX 288 /* of QEMU's q35 machine before 8.2 */

/* A key of [vm], or of [diskN] or [nicN]. `check` judges a value and makes its stored form, which
 * the caller frees; NULL and *err (which names the key) when it is not allowed. */
struct vm_key {
	const char *name;
	char *(*check)(const char *key, const char *value, struct error **err);
	size_t offset; /* of the char * in struct vm_def, vm_disk or vm_nic */
	bool optional; /* can be removed */
};

extern const struct vm_key vm_def_text_keys[], vm_def_disk_keys[], vm_def_nic_keys[];

/* Sets a key of [vm] ("memory"), [diskN] or [nicN] by section and key. `gaps`: N need not be the
 * next free number. */
int vm_def_set_key(struct vm_def *def, const char *section, const char *key, const char *value,
	bool gaps, struct error **err);

/* The char * that a key stands for. */
static inline char **vm_key_slot(void *base, const struct vm_key *key)
{
	return (char **)(void *)((char *)base + key->offset);
}

void vm_disk_clear(struct vm_disk *disk);
void vm_nic_clear(struct vm_nic *nic);

#endif
