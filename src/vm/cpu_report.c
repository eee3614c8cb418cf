/*
 * What `drover cpu` shows: nodes, features that differ, the best CPU that they can all give, what
 * each node costs the others, and the running VMs that could not move.
 */
#include "vm/cpu.h"

#include "base/json.h"
#include "base/log.h"
#include "vm/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *names_json(const struct cpu_set *set)
{
	json_t *list = json_array();

	for (size_t i = 0; i < set->count; i++)
		json_array_append_new(list, json_string(set->names[i]));
	return list;
}

/* The baseline of some offers as text, and all features of it; NULL when there is none. */
static char *baseline_of(const struct hv_cpu_models *models, const struct hv_cpu_offer **some,
	size_t count, struct cpu_set *features, struct error **err)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};

	if (hv_cpu_baseline(models, some, count, &spec, err) < 0)
		return NULL;
	cpu_set_copy(features, &hv_cpu_find_model(models, spec.model)->features);
	cpu_spec_apply(&spec, features);
	return cpu_spec_text(&spec);
}

/* What the other nodes like it would have together, and this one lacks of it. */
static void add_cost(json_t *info, const struct hv_cpu_models *models,
	const struct vm_offers *offers, const struct hv_cpu_offer *offer,
	const struct hv_cpu_offer **some)
{
	cleanup_cpu_set struct cpu_set lacks = {0};
	size_t count = vm_offers_alike(offers, offer, offer->node, some);
	cleanup_free char *without = count ? baseline_of(models, some, count, &lacks, NULL) : NULL;

	cpu_set_subtract(&lacks, &offer->given);
	json_object_set_new(info, "lacks", names_json(&lacks));
	if (without && lacks.count)
		json_object_set_new(info, "without_it", json_string(without));
}

static json_t *node_json(const struct hv_cpu_models *models, const struct vm_offers *offers,
	const struct hv_cpu_offer *offer, const struct hv_cpu_offer **some)
{
	json_t *info = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "node", offer->node, "driver",
		offer->driver, "version", offer->version, "accel", offer->accel, "vendor",
		offer->vendor, "features", names_json(&offer->given));

	add_cost(info, models, offers, offer, some);
	return info;
}

json_t *vms_cpu_lacks(struct vms *vms, struct error **err)
{
	cleanup_offers struct vm_offers offers = {0};
	cleanup_free const struct hv_cpu_offer **some = NULL;
	json_t *lacking;

	if (vm_offers_read(vms, NULL, &offers, err) < 0)
		return NULL;
	some = vm_offers_room(&offers);
	lacking = json_object();
	for (size_t i = 0; i < offers.count; i++) {
		cleanup_json json_t *info = json_object();
		json_t *lacks;

		add_cost(info, hv_cpu_models(vms->hv), &offers, &offers.list[i], some);
		lacks = json_object_get(info, "lacks");
		if (json_array_size(lacks))
			json_object_set(lacking, offers.list[i].node, lacks);
	}
	return lacking;
}

/* Features that some of the nodes give, and not all. */
static json_t *differences(const struct vm_offers *offers)
{
	cleanup_cpu_set struct cpu_set any = {0}, all = {0};

	for (size_t i = 0; i < offers->count; i++) {
		if (i == 0)
			cpu_set_copy(&all, &offers->list[i].given);
		cpu_set_intersect(&all, &offers->list[i].given);
		cpu_set_unite(&any, &offers->list[i].given);
	}
	cpu_set_subtract(&any, &all);
	return names_json(&any);
}

static json_t *group_json(
	const struct hv_cpu_models *models, const struct hv_cpu_offer **some, size_t count)
{
	cleanup_cpu_set struct cpu_set features = {0};
	cleanup_error struct error *why = NULL;
	cleanup_free char *text = baseline_of(models, some, count, &features, &why);
	json_t *nodes = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(nodes, json_string(some[i]->node));
	if (!text)
		return json_pack("{s:o, s:s}", "nodes", nodes, "problem", why->message);
	return json_pack(
		"{s:o, s:s, s:o}", "nodes", nodes, "cpu", text, "features", names_json(&features));
}

/* A baseline for each group of nodes that are alike. */
static json_t *baselines(const struct hv_cpu_models *models, const struct vm_offers *offers,
	const struct hv_cpu_offer **some)
{
	json_t *groups = json_array();

	for (size_t i = 0; i < offers->count; i++) {
		size_t count = vm_offers_alike(offers, &offers->list[i], NULL, some);

		if (some[0] == &offers->list[i])
			json_array_append_new(groups, group_json(models, some, count));
	}
	return groups;
}

/* Why a VM cannot move to a node, as far as its CPU goes; NULL: it can. */
static json_t *obstacle(const struct hv_cpu_models *models, const struct cpu_spec *spec,
	const struct hv_cpu_offer *from, const struct hv_cpu_offer *to)
{
	cleanup_cpu_set struct cpu_set missing = {0};
	cleanup_error struct error *e = NULL;
	char why[160];

	if (from && !hv_cpu_alike(from, to, why))
		return json_pack("{s:s, s:[], s:o}", "node", to->node, "missing", "problem",
			json_sprintf("%s and %s %s", from->node, to->node, why));
	if (hv_cpu_missing(models, spec, to, &missing, &e) < 0)
		return json_pack(
			"{s:s, s:[], s:s}", "node", to->node, "missing", "problem", e->message);
	if (missing.count == 0)
		return NULL;
	return json_pack("{s:s, s:o}", "node", to->node, "missing", names_json(&missing));
}

/* The exact CPU of a VM that runs, or is held to run, on a node; NULL for all others. */
static char *cpu_in_force(
	struct vms *vms, const char *name, struct pool_owner *owner, struct cpu_spec *spec)
{
	cleanup_vm_def struct vm_def *def = NULL;
	struct vm *vm = vms_find(vms, name);
	char *text = NULL;

	if (pool_owner_read(vms->pool, name, owner, NULL) == 0 && *owner->node)
		def = vm_def_load(vms->pool, name, NULL);
	/* As it was started, where that is known for certain. */
	if (def)
		text = fs_format("%s", vm_def_exact_cpu(vm ? vm->def : def));
	if (vm)
		vm_unref(vm);
	if (!text || cpu_spec_parse(spec, text, NULL) == 0)
		return text;
	free(text);
	return NULL;
}

static json_t *vm_json(struct vms *vms, const struct vm_offers *offers, const char *name)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	struct pool_owner owner;
	cleanup_free char *cpu = cpu_in_force(vms, name, &owner, &spec);
	json_t *obstacles = json_array();

	for (size_t i = 0; cpu && i < offers->count; i++) {
		const struct hv_cpu_offer *to = &offers->list[i];
		json_t *one = strcmp(to->node, owner.node)
				      ? obstacle(hv_cpu_models(vms->hv), &spec,
						vm_offers_find(offers, owner.node), to)
				      : NULL;

		if (one)
			json_array_append_new(obstacles, one);
	}
	if (json_array_size(obstacles) == 0) {
		json_decref(obstacles);
		return NULL;
	}
	return json_pack("{s:s, s:s, s:s, s:o}", "vm", name, "node", owner.node, "cpu", cpu,
		"cannot_move_to", obstacles);
}

static json_t *stuck_vms(struct vms *vms, const struct vm_offers *offers, struct error **err)
{
	struct pool_names names;
	json_t *list;

	if (pool_vm_list(vms->pool, &names, err) < 0)
		return NULL;
	list = json_array();
	for (size_t i = 0; i < names.count; i++) {
		json_t *one = vm_json(vms, offers, names.names[i]);

		if (one)
			json_array_append_new(list, one);
	}
	pool_names_free(&names);
	return list;
}

json_t *vms_cpu_report(struct vms *vms, const char *nodes, struct error **err)
{
	const struct hv_cpu_models *models = hv_cpu_models(vms->hv);
	cleanup_offers struct vm_offers offers = {0};
	cleanup_free const struct hv_cpu_offer **some = NULL;
	json_t *list, *stuck;

	if (vm_offers_read(vms, nodes, &offers, err) < 0)
		return NULL;
	stuck = stuck_vms(vms, &offers, err);
	if (!stuck)
		return NULL;
	some = vm_offers_room(&offers);
	list = json_array();
	for (size_t i = 0; i < offers.count; i++)
		json_array_append_new(list, node_json(models, &offers, &offers.list[i], some));
	json_array_extend(list, offers.silent);
	return json_pack("{s:o, s:o, s:o, s:o}", "nodes", list, "differ", differences(&offers),
		"baselines", baselines(models, &offers, some), "vms", stuck);
}

/* "web1, web2" of the running VMs that could not move to a node, as far as there is room. */
static void list_stuck(const json_t *report, const char *node, char *out, size_t size)
{
	const json_t *vm, *to;
	size_t i, j, used = 0;

	out[0] = '\0';
	json_array_foreach(json_object_get(report, "vms"), i, vm)
	{
		json_array_foreach(json_object_get(vm, "cannot_move_to"), j, to)
		{
			const char *name = json_string_value(json_object_get(to, "node"));

			if (!strcmp(name, node) && used < size - 1)
				used += (size_t)snprintf(out + used, size - used, "%s%s",
					used ? ", " : "",
					json_string_value(json_object_get(vm, "vm")));
		}
	}
}

static void warn_of_node(const json_t *report, const json_t *node)
{
	const char *name = json_string_value(json_object_get(node, "node"));
	const json_t *lacks = json_object_get(node, "lacks"), *feature;
	cleanup_cpu_set struct cpu_set set = {0};
	char list[300], stuck[300];
	size_t i;

	json_array_foreach(lacks, i, feature)
	{
		cpu_set_add(&set, json_string_value(feature));
	}
	cpu_set_list(&set, list, sizeof(list));
	list_stuck(report, name, stuck, sizeof(stuck));
	if (set.count)
		log_warning("%s can give guests less than the other nodes, and costs VMs with cpu "
			    "= " CPU_BASELINE " from their next start on: %s",
			name, list);
	if (*stuck)
		log_warning("running VMs whose CPU %s cannot give, so that they cannot move to it: "
			    "%s",
			name, stuck);
}

void vms_warn_of_cpu(struct vms *vms)
{
	cleanup_error struct error *e = NULL;
	cleanup_json json_t *report = vms_cpu_report(vms, NULL, &e);
	const json_t *node;
	size_t i;

	if (!report)
		log_warning("cannot compare this node's CPU with the others': %s", e->message);
	json_array_foreach(json_object_get(report, "nodes"), i, node)
	{
		if (!strcmp(json_string_value(json_object_get(node, "node")), vms->node))
			warn_of_node(report, node);
	}
}
