/*
 * CPUs across nodes: what each node's hypervisor can give a guest, and the best that several of
 * them can give. Sets only (pool/cpu_set.h): no hypervisor is asked here.
 *
 * A node publishes its offer in its record: the features of the fullest CPU that its hypervisor can
 * give with the accelerator that VMs are run with. What a model needs is the same everywhere, so
 * that a model and an offer are all it takes to tell what a node lacks for a guest.
 */
#ifndef DROVER_HV_CPU_H
#define DROVER_HV_CPU_H

#include "base/error.h"
#include "base/fs.h"
#include "pool/cpu_spec.h"

#include <jansson.h>
#include <stdbool.h>

#define HV_CPU_MODELS_MAX 1024

/* A CPU model that the hypervisor has by name. */
struct hv_cpu_model {
	char name[CPU_NAME_MAX];
	bool lasting;       /* the same CPU in every version of the hypervisor: may be chosen */
	const char *vendor; /* whose CPU it is like ("GenuineIntel"); NULL: nobody's */
	struct cpu_set features;
};

struct hv_cpu_models {
	struct hv_cpu_model *list;
	size_t count;
	struct cpu_set known;   /* every feature that the hypervisor knows by name */
	struct cpu_set addable; /* those that a guest may be given besides a model's */
};
void hv_cpu_models_free(struct hv_cpu_models *models);
/* NULL when there is none of that name. */
const struct hv_cpu_model *hv_cpu_find_model(const struct hv_cpu_models *models, const char *name);

/* What a node's hypervisor can give. */
struct hv_cpu_offer {
	char node[FS_NAME_MAX + 1];
	char driver[16], version[64], accel[8];
	char vendor[16]; /* of the CPU: "GenuineIntel" */
	json_t *models;  /* names of those that it can give whole */
	struct cpu_set given;
};

/* As JSON, the member "cpu" of a record's "hypervisor". */
json_t *hv_cpu_offer_json(const char *vendor, const struct cpu_set *given);
/* Reads what `node` has published, the record's "facts", whoever wrote them. ERROR_POOL says why
 * they are of no use: a node of an older drover, one without a hypervisor, nonsense. `offer` is to
 * be freed in any case. */
int hv_cpu_offer_read(
	struct hv_cpu_offer *offer, const char *node, const json_t *facts, struct error **err);
void hv_cpu_offer_free(struct hv_cpu_offer *offer);

/*
 * Whether a guest's CPU can be the same on two nodes at all, whatever features it has. The rule is
 * the driver's. QEMU masks what a model does not have, so that any two nodes will do whose guests
 * run on the same accelerator; under KVM the CPUs must be of one vendor, for a guest sees whose it
 * is. A hypervisor that cannot mask CPUID (bhyve) needs the very same CPU on both. `why` (may be
 * NULL) gets the rest of a sentence that begins with the names of both.
 */
bool hv_cpu_alike(const struct hv_cpu_offer *a, const struct hv_cpu_offer *b, char why[160]);

/* What `offer` lacks for a guest with this CPU. ERROR_HYPERVISOR when `models` do not have the
 * model. `missing` is to be freed in any case. */
int hv_cpu_missing(const struct hv_cpu_models *models, const struct cpu_spec *spec,
	const struct hv_cpu_offer *offer, struct cpu_set *missing, struct error **err);

/*
 * The best CPU that all `count` (1 or more, all alike) offers can give: of the models that all of
 * them give whole, and that are of their vendor or of none, the one with the most features; and
 * with it what all give of the addable ones that such models have.
 * ERROR_HYPERVISOR when there is no such model. `spec` is to be freed in any case.
 */
int hv_cpu_baseline(const struct hv_cpu_models *models, const struct hv_cpu_offer *const *offers,
	size_t count, struct cpu_spec *spec, struct error **err);

#endif
