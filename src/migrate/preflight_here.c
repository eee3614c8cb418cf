/*
 * The source's checks, and those that compare what both nodes have said. One that finds nothing
 * wrong leaves the result as it is, PREFLIGHT_OK.
 */
#include "migrate/preflight_internal.h"
#include "migrate/way.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOCKS_MAX_MS 1000

const char *preflight_owner_name(const struct pool_owner *owner)
{
	return *owner->node ? owner->node : "nobody";
}

/* There is nothing to move, and no need to: its disks, and its state, are in the pool. */
static void refuse_nobodys(const struct preflight *p, struct finding *f)
{
	bool suspended = vms_is_suspended(p->all->set.vms, p->vm);

	finding_here(f, "%s, of nobody", suspended ? "suspended" : "stopped");
	finding_set(f, PREFLIGHT_FAILED, ERROR_NOT_RUNNING,
		"%s is %s, and nothing of it has to be moved: `drover start %s --node %s` %s",
		p->vm, suspended ? "suspended" : "stopped", p->vm, p->peer,
		suspended ? "lets it go on there" : "starts it there");
}

void preflight_check_vm(struct preflight *p, struct finding *f)
{
	const struct migrate_settings *set = &p->all->set;
	struct vm *vm = vms_find(set->vms, p->vm);
	enum hv_state state = vm ? hv_vm_state(vm_hv(vm)) : HV_GONE;
	struct pool_owner owner;
	struct error *e = NULL;

	if (vm)
		vm_unref(vm);
	if (vms_where(set->vms, p->vm, &owner, &e) < 0) {
		finding_fail(f, &e);
		return;
	}
	finding_here(f, "%s, of %s", vm ? hv_state_name(state) : "does not run",
		preflight_owner_name(&owner));
	if (*owner.node && strcmp(owner.node, set->node))
		finding_set(f, PREFLIGHT_FAILED, ERROR_NOT_OWNER, "%s is on %s, not on %s", p->vm,
			owner.node, set->node);
	else if (!*owner.node) {
		refuse_nobodys(p, f);
	} else if (state == HV_GONE) {
		vms_not_running(set->vms, p->vm, &e);
		finding_fail(f, &e);
	} else if (state != HV_RUNNING && state != HV_PAUSED)
		finding_set(f, PREFLIGHT_FAILED,
			state == HV_MIGRATED || state == HV_INCOMING ? ERROR_BUSY
								     : ERROR_NOT_RUNNING,
			"%s cannot be moved while it is %s; its messages and `drover ls` tell more",
			p->vm, hv_state_name(state));
}

void preflight_check_operation(struct preflight *p, struct finding *f)
{
	char operation[128];
	struct error *e = NULL;

	finding_here(f, "none");
	if (!vms_operation(p->all->set.vms, p->vm, operation))
		return;
	finding_here(f, "%s", operation);
	if (migrations_say_busy(p->all, p->vm, &e) ||
		vms_check_free(p->all->set.vms, p->vm, &e) < 0)
		finding_fail(f, &e);
}

void preflight_check_member(struct preflight *p, struct finding *f)
{
	struct error *e = NULL;
	struct pool_node *node = pool_node_read(p->all->set.pool, p->peer, &e);

	if (!node) {
		finding_fail(f, &e);
		return;
	}
	finding_here(f, "%s", p->all->set.node);
	finding_there(f, "%s at %s", p->peer, node->address);
	pool_node_free(node);
}

void preflight_check_devices(struct preflight *p, struct finding *f)
{
	struct vm *vm = vms_find(p->all->set.vms, p->vm);
	struct error *e = NULL;
	char operation[128];

	if (!vm)
		return; /* preflight_check_vm tells */
	/* What it says of one that is being moved is of that move: preflight_check_operation. */
	if (vms_operation(p->all->set.vms, p->vm, operation))
		finding_here(f, "%s", operation);
	else if (hv_vm_check_movable(vm_hv(vm), &e) < 0)
		finding_fail(f, &e);
	else
		finding_here(f, "all can move");
	vm_unref(vm);
}

void preflight_check_defect(struct preflight *p, struct finding *f)
{
	const struct hv_facts *hv = hv_get_facts(p->all->set.hv);

	struct migrate_options still = p->options;

	still.pause = true;
	finding_here(f, "%s %s, %s", hv->driver, hv->version, hv->accel);
	if (hv->no_live && !p->options.pause &&
		migrate_way(p->all, p->peer, &still) == HV_WAY_STREAM)
		finding_set(f, PREFLIGHT_FAILED, ERROR_HYPERVISOR,
			"it cannot be moved while it runs: %s has %s %s, and %s; move it with "
			"--pause",
			p->all->set.node, hv->driver, hv->version, hv->no_live);
}

/* ---- of both, on the source ---- */

static enum error_kind asked_kind(const struct preflight *p)
{
	return p->asked.error ? p->asked.error->kind : ERROR_FAILED;
}

/* A node that has another pool, or has removed us, does not take us for a member. */
void preflight_compare_member(struct preflight *p, struct finding *f)
{
	if (f->known && f->result == PREFLIGHT_OK && asked_kind(p) == ERROR_CERTIFICATE)
		finding_fail(f, &p->asked.error);
}

/* What the other checks make more of is left to them. */
void preflight_compare_reachable(struct preflight *p, struct finding *f)
{
	switch (asked_kind(p)) {
	case ERROR_NO_NODE:
		return;
	case ERROR_POOL:
	case ERROR_CERTIFICATE:
	case ERROR_NOT_FOUND:
		break;
	default:
		if (p->asked.error)
			finding_set(f, PREFLIGHT_FAILED, p->asked.error->kind, "%s",
				p->asked.error->message);
	}
	f->known = f->known || p->asked.answer || p->asked.error;
	if (f->known && f->result == PREFLIGHT_OK)
		finding_there(
			f, "answered in %lld ms", (long long)(p->asked.came_ms - p->asked.sent_ms));
}

void preflight_compare_version(struct preflight *p, struct finding *f)
{
	unsigned here = 0, there = 0;

	finding_here(f, "%s", p->here.version);
	if (!*p->there.version)
		return;
	f->known = true;
	finding_there(f, "%s", p->there.version);
	if (sscanf(p->here.version, "%u.", &here) != 1 ||
		sscanf(p->there.version, "%u.", &there) != 1 || here != there)
		finding_set(f, PREFLIGHT_FAILED, ERROR_REFUSED,
			"%s has drover %s and %s has %s, which do not work together: the first "
			"number must be the same; install one version on both",
			p->all->set.node, p->here.version, p->peer, p->there.version);
	else if (strcmp(p->here.version, p->there.version) != 0)
		finding_set(f, PREFLIGHT_WARNING, 0,
			"%s has drover %s and %s has %s; that works, but is meant for the time of "
			"an upgrade",
			p->all->set.node, p->here.version, p->peer, p->there.version);
}

void preflight_compare_pool(struct preflight *p, struct finding *f)
{
	finding_here(f, "%s", p->here.pool);
	if (p->asked.begin)
		finding_set(f, PREFLIGHT_FAILED, ERROR_POOL,
			"on %s: %s; the pool must be mounted for writing", p->all->set.node,
			p->asked.begin->message);
	else if (asked_kind(p) == ERROR_POOL)
		finding_set(f, PREFLIGHT_FAILED, ERROR_POOL,
			"%s; mount the pool again there, and see that it is that of %s",
			p->asked.error->message, p->all->set.node);
	else if (f->known && f->result == PREFLIGHT_OK && p->asked.unmatched)
		finding_fail(f, &p->asked.unmatched);
	if (f->known && *p->there.pool)
		finding_there(f, "%s", p->there.pool);
}

void preflight_compare_hypervisor(struct preflight *p, struct finding *f)
{
	const struct preflight_node *h = &p->here, *t = &p->there;
	unsigned here[2] = {0}, there[2] = {0};

	finding_here(f, "%s %s, %s", h->driver, h->hv_version, h->accel);
	if (!*t->driver)
		return;
	f->known = true;
	finding_there(f, "%s %s, %s", t->driver, t->hv_version, t->accel);
	sscanf(h->hv_version, "%u.%u", &here[0], &here[1]);
	sscanf(t->hv_version, "%u.%u", &there[0], &there[1]);
	if (strcmp(h->driver, t->driver) || strcmp(h->accel, t->accel))
		finding_set(f, PREFLIGHT_FAILED, ERROR_HYPERVISOR,
			"a guest of %s with %s does not go on with %s and %s; set accel in "
			"drover.conf of both nodes to the same",
			h->driver, h->accel, t->driver, t->accel);
	else if (there[0] < here[0] || (there[0] == here[0] && there[1] < here[1]))
		finding_set(f, PREFLIGHT_WARNING, 0,
			"%s has an older %s (%s) than %s (%s): QEMU promises moves to newer ones "
			"only; the machine type is what makes the way back work",
			p->peer, t->driver, t->hv_version, p->all->set.node, h->hv_version);
}

void preflight_compare_architecture(struct preflight *p, struct finding *f)
{
	const struct preflight_node *h = &p->here, *t = &p->there;

	finding_here(f, "%s, %lld KiB pages", h->arch, (long long)h->page_size >> 10);
	if (!*t->arch || !t->page_size)
		return;
	f->known = true;
	finding_there(f, "%s, %lld KiB pages", t->arch, (long long)t->page_size >> 10);
	if (strcmp(h->arch, t->arch) || h->page_size != t->page_size)
		finding_set(f, PREFLIGHT_FAILED, ERROR_HYPERVISOR,
			"a guest moves only between nodes of one architecture and one page size");
}

static bool has_model(const struct preflight_node *n)
{
	return *n->cpu_model && strcmp(n->cpu_model, "unknown") != 0;
}

/* What bhyve's own ends compare before a guest moves (docs/wire-bhyve.md): hw.model, hw.machine and
 * hw.pagesize, each as text or number, and nothing of what the CPUs can do. */
void preflight_compare_model(struct preflight *p, struct finding *f)
{
	const struct preflight_node *h = &p->here, *t = &p->there;

	finding_here(f, "%s", h->cpu_model);
	if (!has_model(h) || !has_model(t) || !*t->arch || !t->page_size)
		return;
	f->known = true;
	finding_there(f, "%s", t->cpu_model);
	if (strcmp(h->cpu_model, t->cpu_model) != 0)
		finding_set(f, PREFLIGHT_FAILED, ERROR_HYPERVISOR,
			"the CPU of %s is a \"%s\" and that of %s a \"%s\"; bhyve moves a guest "
			"only to the same model: choose a node that has it",
			p->all->set.node, h->cpu_model, p->peer, t->cpu_model);
	else if (strcmp(h->arch, t->arch) != 0 || h->page_size != t->page_size)
		finding_set(f, PREFLIGHT_FAILED, ERROR_HYPERVISOR,
			"%s is %s with pages of %lld bytes and %s %s with %lld; bhyve moves a "
			"guest "
			"only to the same",
			p->all->set.node, h->arch, (long long)h->page_size, p->peer, t->arch,
			(long long)t->page_size);
}

/* By how much the destination's clock is ahead, from four times: the question's and the answer's,
 * on both sides. What the way took is halved; how unequal it can have been is what is not known
 * (RFC 5905, section 8, has the same formula). */
void preflight_compare_clock(struct preflight *p, struct finding *f)
{
	const struct preflight_asked *a = &p->asked;
	const struct preflight_node *t = &p->there;
	int64_t way, ahead;

	if (!a->answer || !t->received_ms || !t->answered_ms)
		return;
	f->known = true;
	way = (a->came_ms - a->sent_ms) - (t->answered_ms - t->received_ms);
	ahead = ((t->received_ms - a->sent_ms) + (t->answered_ms - a->came_ms)) / 2;
	way = way < 0 ? 0 : way;
	finding_there(f, "%+lld ms (within %lld)", (long long)ahead, (long long)(way + 1) / 2);
	if (llabs(ahead) - way / 2 > CLOCKS_MAX_MS)
		finding_set(f, PREFLIGHT_FAILED, ERROR_REFUSED,
			"the clock of %s is %.1f s %s that of %s; keep both by NTP", p->peer,
			(double)llabs(ahead) / 1000, ahead > 0 ? "ahead of" : "behind",
			p->all->set.node);
	else if (llabs(ahead) + way / 2 > CLOCKS_MAX_MS)
		finding_set(f, PREFLIGHT_UNKNOWN, 0,
			"the answer of %s took %lld ms, too long to compare the clocks", p->peer,
			(long long)way);
}
