/*
 * Inside src/vm: the CPUs of the cluster's nodes, as their records in the pool tell (hv/cpu.h).
 */
#ifndef DROVER_VM_CPU_H
#define DROVER_VM_CPU_H

#include "hv/cpu.h"
#include "vm/vm.h"

/* Offers of several nodes. */
struct vm_offers {
	struct hv_cpu_offer *list;
	size_t count;
	json_t *silent; /* [{"node","problem"}] of those whose record tells nothing of use */
};

/* Of the nodes named (with commas between them; NULL: all members), by name; of this node what its
 * hypervisor says now. ERROR_NO_NODE, ERROR_NAME. To be freed in any case. */
int vm_offers_read(
	struct vms *vms, const char *nodes, struct vm_offers *offers, struct error **err);
void vm_offers_free(struct vm_offers *offers);
#define cleanup_offers __attribute__((cleanup(vm_offers_free)))
/* NULL when there is none of that node. */
const struct hv_cpu_offer *vm_offers_find(const struct vm_offers *offers, const char *node);
/* Room for pointers to all of them; the caller frees it. */
const struct hv_cpu_offer **vm_offers_room(const struct vm_offers *offers);
/* Those that are like `like` (hv_cpu_alike), itself included, but for the one of node `but` (NULL:
 * none), into `some` (vm_offers_room). How many they are. */
size_t vm_offers_alike(const struct vm_offers *offers, const struct hv_cpu_offer *like,
	const char *but, const struct hv_cpu_offer **some);

/* Makes the CPU of a definition exact before a start: "baseline" becomes what all nodes like this
 * one can give, in def->cpu_in_force; another leaves none there. */
int vm_make_cpu_exact(struct vms *vms, struct vm_def *def, struct error **err);

#endif
