/*
 * The CPU of a VM, as `cpu` and `cpu_in_force` of vm.conf write it:
 *
 *     cpu      = "baseline" | exact
 *     exact    = MODEL *("," ("+" | "-") FEATURE)
 *     MODEL    = 1 to 63 of [A-Za-z0-9._-], a letter or digit first; not host, max or base
 *     FEATURE  = a name as pool/cpu_set.h has it; each at most once
 *
 * "baseline" stands for what all nodes can give, whatever that is when the VM is started; an exact
 * CPU is the same on every node that can give it. No part can hold a comma, an equals sign or white
 * space, so that none can become another option of the hypervisor's command line.
 */
#ifndef DROVER_POOL_CPU_SPEC_H
#define DROVER_POOL_CPU_SPEC_H

#include "base/error.h"
#include "pool/cpu_set.h"

#define CPU_BASELINE "baseline"
#define CPU_SPEC_MAX 2047 /* bytes of the text */

struct cpu_spec {
	char model[CPU_NAME_MAX];   /* "Westmere-v1" */
	struct cpu_set plus, minus; /* features besides the model's; and of the model, without */
};

/* Reads an exact CPU: ERROR_DEFINITION says what is wrong with it ("baseline" is, too). `spec` is
 * to be freed by cpu_spec_free in any case. */
int cpu_spec_parse(struct cpu_spec *spec, const char *text, struct error **err);
void cpu_spec_free(struct cpu_spec *spec);
#define cleanup_cpu_spec __attribute__((cleanup(cpu_spec_free)))
/* Its text, features with + and then those with -, each sorted; the caller frees it. */
char *cpu_spec_text(const struct cpu_spec *spec);
/* What the guest then has of `given` (a model's features, say): those, with plus and without minus.
 */
void cpu_spec_apply(const struct cpu_spec *spec, struct cpu_set *given);

#endif
