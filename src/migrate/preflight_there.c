/* The destination's checks but those of disks. */
#include "migrate/preflight_internal.h"

#include "host/host.h"
#include "pool/cpu_spec.h"

#include <stdio.h>
#include <string.h>

/* What a QEMU takes beside the guest's memory: docs/operations.md, "Before a move". */
#define OVERHEAD_BYTES (128ull << 20)
#define OVERHEAD_PART 256

void preflight_check_pool_there(struct preflight *p, struct finding *f)
{
	const struct pool *pool = p->all->set.pool;
	struct error *e = NULL;

	if (pool_probe_answer(pool->dir, p->nonce, p->seen, &e) == 0)
		return;
	finding_set(f, PREFLIGHT_FAILED, ERROR_POOL,
		"%s; the pool at %s must be the one of %s, and mounted for writing", e->message,
		pool->dir, p->peer);
	error_free(&e);
}

void preflight_check_owner(struct preflight *p, struct finding *f)
{
	struct pool_owner owner;
	struct error *e = NULL;

	finding_here(f, "%s at epoch %llu", p->peer, (unsigned long long)p->epoch);
	if (vms_where(p->all->set.vms, p->vm, &owner, &e) < 0) {
		finding_fail(f, &e);
		return;
	}
	/* Who has an epoch is always the same, and nobody's is not moved (preflight_check_vm). */
	if (!*owner.node && owner.epoch == p->epoch)
		finding_here(f, "nobody at epoch %llu", (unsigned long long)p->epoch);
	finding_there(f, "%s at epoch %llu", preflight_owner_name(&owner),
		(unsigned long long)owner.epoch);
	if ((*owner.node && strcmp(owner.node, p->peer)) || owner.epoch != p->epoch)
		finding_set(f, PREFLIGHT_FAILED, ERROR_NOT_OWNER,
			"%s belongs to %s at epoch %llu, not to %s at epoch %llu; is the pool the "
			"same, and does the file system show what other nodes write?",
			p->vm, preflight_owner_name(&owner), (unsigned long long)owner.epoch,
			p->peer, (unsigned long long)p->epoch);
}

void preflight_check_vacant(struct preflight *p, struct finding *f)
{
	struct vms *vms = p->all->set.vms;
	struct vm *vm = vms_find(vms, p->vm);
	struct error *e = NULL;
	char operation[128];

	finding_there(f, "nothing of it");
	if (vms_operation(vms, p->vm, operation)) {
		finding_there(f, "%s", operation);
		if (!migrations_say_busy(p->all, p->vm, &e))
			vms_check_free(vms, p->vm, &e);
	} else if (vm) {
		finding_there(f, "a hypervisor of it");
		finding_set(f, PREFLIGHT_FAILED, ERROR_ALREADY_THERE,
			"%s has a hypervisor already; its droverd ends it when it sees that it is "
			"not the owner: see its log",
			p->vm);
	}
	if (e)
		finding_fail(f, &e);
	if (vm)
		vm_unref(vm);
}

void preflight_check_postcopy(struct preflight *p, struct finding *f)
{
	struct error *e = NULL;

	if (!p->options.postcopy) {
		finding_here(f, "not asked for");
		return;
	}
	finding_here(f, "asked for");
	if (hv_check_postcopy(p->all->set.hv, &e) < 0)
		finding_fail(f, &e);
	else
		finding_there(f, "allowed");
}

void preflight_check_machine(struct preflight *p, struct finding *f)
{
	const struct hv_facts *hv = hv_get_facts(p->all->set.hv);
	const char *machine = p->def->machine ? p->def->machine : p->def->hypervisor;
	struct error *e = NULL;

	finding_here(f, "%s", machine);
	if (hv_check_machine(p->all->set.hv, p->def, &e) < 0) {
		finding_there(f, "not in %s %s", hv->driver, hv->version);
		finding_fail(f, &e);
	} else {
		finding_there(f, "%s", machine);
	}
}

/* "Haswell-v4, 12 features changed": the exact CPU can be a line of hundreds of characters. */
static void show_cpu(
	void (*show)(struct finding *, const char *, ...), struct finding *f, const char *exact)
{
	int changed = 0;

	for (const char *comma = exact; (comma = strchr(comma, ',')); comma++)
		changed++;
	if (changed)
		show(f, "%.*s, %d features changed", (int)strcspn(exact, ","), exact, changed);
	else
		show(f, "%s", exact);
}

/* Whether the guest's CPU can be the same here: asked of this hypervisor when droverd started it.
 */
void preflight_check_cpu(struct preflight *p, struct finding *f)
{
	const struct hv_facts *hv = hv_get_facts(p->all->set.hv);
	const char *exact = vm_def_exact_cpu(p->def);
	struct error *e = NULL;

	show_cpu(finding_here, f, exact);
	if (!strcmp(exact, CPU_BASELINE)) {
		finding_there(f, "made exact when it is started");
		return;
	}
	if (vms_check_cpu_from(p->all->set.vms, p->def, p->peer, &e) < 0) {
		finding_there(f, "not with %s %s, %s", hv->driver, hv->version, hv->accel);
		finding_fail(f, &e);
	} else {
		show_cpu(finding_there, f, exact);
	}
}

void preflight_check_memory(struct preflight *p, struct finding *f)
{
	uint64_t needed =
		p->def->memory_bytes + p->def->memory_bytes / OVERHEAD_PART + OVERHEAD_BYTES;
	struct host_facts host;
	struct error *e = NULL;

	finding_here(f, "%llu MiB", (unsigned long long)needed >> 20);
	if (host_facts_read(&host, &e) < 0) {
		finding_fail(f, &e);
		return;
	}
	finding_there(f, "%llu MiB free", (unsigned long long)host.memory_free_bytes >> 20);
	if (host.memory_free_bytes < needed)
		finding_set(f, PREFLIGHT_FAILED, ERROR_REFUSED,
			"it needs %llu MiB of memory, %llu of them for its hypervisor, and %llu "
			"MiB are free there; move another VM away first",
			(unsigned long long)needed >> 20,
			(unsigned long long)(needed - p->def->memory_bytes) >> 20,
			(unsigned long long)host.memory_free_bytes >> 20);
}

void preflight_check_bridges(struct preflight *p, struct finding *f)
{
	struct error *e = NULL;
	size_t used = 0;

	for (int i = 0; i < p->def->nics_count && used < sizeof(f->here) - 1; i++)
		used += (size_t)snprintf(f->here + used, sizeof(f->here) - used, "%s%s",
			i ? ", " : "", p->def->nics[i].bridge);
	for (int i = 0; i < p->def->nics_count; i++)
		if (host_bridge_check(p->def->nics[i].bridge, &e) < 0) {
			finding_there(f, "not %s", p->def->nics[i].bridge);
			finding_fail(f, &e);
			return;
		}
	memcpy(f->there, f->here, sizeof(f->there));
}
