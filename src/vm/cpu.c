#include "vm/cpu.h"

#include "base/json.h"
#include "base/log.h"
#include "vm/internal.h"

#include <stdlib.h>
#include <string.h>

void vm_offers_free(struct vm_offers *offers)
{
	for (size_t i = 0; i < offers->count; i++)
		hv_cpu_offer_free(&offers->list[i]);
	free(offers->list);
	json_free(&offers->silent);
	*offers = (struct vm_offers){0};
}

/* What a node has published. This one's record may be older than its hypervisor. */
static json_t *facts_of(const struct vms *vms, const char *node, struct error **err)
{
	struct pool_node *record;
	json_t *facts;

	if (!strcmp(node, vms->node))
		return json_pack("{s:o}", "hypervisor", hv_facts_json(vms->hv));
	record = pool_node_read(vms->pool, node, err);
	if (!record)
		return NULL;
	facts = json_parse("the node's facts", record->facts, strlen(record->facts), err);
	pool_node_free(record);
	return facts;
}

static int add_offer(
	const struct vms *vms, const char *node, struct vm_offers *offers, struct error **err)
{
	cleanup_error struct error *why = NULL;
	cleanup_json json_t *facts = facts_of(vms, node, &why);
	struct hv_cpu_offer *offer = &offers->list[offers->count];

	if (facts && hv_cpu_offer_read(offer, node, facts, &why) == 0) {
		offers->count++;
		return 0;
	}
	if (facts)
		hv_cpu_offer_free(offer);
	if (why->kind == ERROR_NO_NODE || why->kind == ERROR_NAME) {
		error_move(err, why);
		why = NULL;
		return -1;
	}
	json_array_append_new(
		offers->silent, json_pack("{s:s, s:s}", "node", node, "problem", why->message));
	return 0;
}

/* The names that a list holds, each once; the caller frees them with pool_names_free. */
static void split_names(const char *list, struct pool_names *names)
{
	cleanup_free char *copy = fs_format("%s", list);
	char *rest = copy, *name;

	*names = (struct pool_names){0};
	while ((name = strsep(&rest, ","))) {
		size_t i = 0;

		while (i < names->count && strcmp(names->names[i], name))
			i++;
		if (i < names->count)
			continue;
		names->names = reallocarray(names->names, i + 1, sizeof(*names->names));
		if (!names->names)
			abort();
		names->names[names->count++] = fs_format("%s", name);
	}
}

int vm_offers_read(struct vms *vms, const char *nodes, struct vm_offers *offers, struct error **err)
{
	struct pool_names names = {0};
	int rc = 0;

	*offers = (struct vm_offers){.silent = json_array()};
	if (nodes)
		split_names(nodes, &names);
	else
		rc = pool_node_list(vms->pool, &names, err);
	offers->list = calloc(names.count + 1, sizeof(*offers->list));
	if (!offers->list)
		abort();
	for (size_t i = 0; rc == 0 && i < names.count; i++)
		rc = add_offer(vms, names.names[i], offers, err);
	pool_names_free(&names);
	return rc;
}

const struct hv_cpu_offer *vm_offers_find(const struct vm_offers *offers, const char *node)
{
	for (size_t i = 0; i < offers->count; i++)
		if (!strcmp(offers->list[i].node, node))
			return &offers->list[i];
	return NULL;
}

const struct hv_cpu_offer **vm_offers_room(const struct vm_offers *offers)
{
	const struct hv_cpu_offer **some = calloc(offers->count + 1, sizeof(*some));

	if (!some)
		abort();
	return some;
}

size_t vm_offers_alike(const struct vm_offers *offers, const struct hv_cpu_offer *like,
	const char *but, const struct hv_cpu_offer **some)
{
	size_t count = 0;

	for (size_t i = 0; i < offers->count; i++)
		if (hv_cpu_alike(&offers->list[i], like, NULL) &&
			(!but || strcmp(offers->list[i].node, but)))
			some[count++] = &offers->list[i];
	return count;
}

/* What they can give is not known: a VM that is started now may not be able to go there. */
static void warn_of_silent(const struct vm_offers *offers)
{
	const json_t *one;
	size_t i;

	json_array_foreach(offers->silent, i, one)
	{
		log_warning("cpu = " CPU_BASELINE " leaves %s out: %s",
			json_string_value(json_object_get(one, "node")),
			json_string_value(json_object_get(one, "problem")));
	}
}

static char *cluster_baseline(struct vms *vms, struct error **err)
{
	cleanup_offers struct vm_offers offers = {0};
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_free const struct hv_cpu_offer **some = NULL;
	const struct hv_cpu_offer *self;
	size_t count;

	if (vm_offers_read(vms, NULL, &offers, err) < 0)
		return NULL;
	warn_of_silent(&offers);
	self = vm_offers_find(&offers, vms->node);
	if (!self) {
		error_set(err, ERROR_POOL, 0, "%s is no member of the pool", vms->node);
		return NULL;
	}
	some = vm_offers_room(&offers);
	count = vm_offers_alike(&offers, self, NULL, some);
	if (hv_cpu_baseline(hv_cpu_models(vms->hv), some, count, &spec, err) < 0)
		return NULL;
	return cpu_spec_text(&spec);
}

int vm_make_cpu_exact(struct vms *vms, struct vm_def *def, struct error **err)
{
	free(def->cpu_in_force);
	def->cpu_in_force = NULL;
	if (!def->cpu || strcmp(def->cpu, CPU_BASELINE) != 0)
		return 0;
	def->cpu_in_force = cluster_baseline(vms, err);
	if (!def->cpu_in_force)
		return error_prefix(
			err, "cannot tell which CPU %s gets (cpu = " CPU_BASELINE ")", def->name);
	return 0;
}

int vms_check_cpu_from(
	struct vms *vms, const struct vm_def *def, const char *from, struct error **err)
{
	cleanup_free char *both = fs_format("%s,%s", from, vms->node);
	cleanup_offers struct vm_offers offers = {0};
	const struct hv_cpu_offer *there, *here;
	char why[160];

	if (hv_check_cpu(vms->hv, def, err) < 0 || vm_offers_read(vms, both, &offers, err) < 0)
		return -1;
	there = vm_offers_find(&offers, from);
	here = vm_offers_find(&offers, vms->node);
	if (!there || !here || hv_cpu_alike(there, here, why))
		return 0;
	return error_set(err, ERROR_HYPERVISOR, 0, "the CPU of %s cannot be the same: %s and %s %s",
		def->name, from, vms->node, why);
}
