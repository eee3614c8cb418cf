#include "hv/cpu.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hv_cpu_models_free(struct hv_cpu_models *models)
{
	for (size_t i = 0; i < models->count; i++)
		cpu_set_free(&models->list[i].features);
	free(models->list);
	cpu_set_free(&models->known);
	cpu_set_free(&models->addable);
	*models = (struct hv_cpu_models){0};
}

const struct hv_cpu_model *hv_cpu_find_model(const struct hv_cpu_models *models, const char *name)
{
	for (size_t i = 0; i < models->count; i++)
		if (!strcmp(models->list[i].name, name))
			return &models->list[i];
	return NULL;
}

json_t *hv_cpu_offer_json(const char *vendor, const struct cpu_set *given)
{
	cleanup_free char *features = cpu_set_text(given);

	return json_pack("{s:s, s:s}", "vendor", vendor, "features", features);
}

/* A short word of a record: what does not fit is no such word. */
static int take_word(
	const json_t *object, const char *key, char *out, size_t size, struct error **err)
{
	const char *text = json_get_string(object, key, err);

	if (!text)
		return -1;
	if (strlen(text) >= size)
		return error_set(err, ERROR_REQUEST, 0, "\"%s\" is too long", key);
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

static int take_offer(
	struct hv_cpu_offer *offer, const json_t *hv, const json_t *cpu, struct error **err)
{
	/* Longer than what json_get_string takes. */
	const char *features = json_string_value(json_object_get(cpu, "features"));

	if (take_word(hv, "driver", offer->driver, sizeof(offer->driver), err) < 0 ||
		take_word(hv, "version", offer->version, sizeof(offer->version), err) < 0 ||
		take_word(hv, "accel", offer->accel, sizeof(offer->accel), err) < 0 ||
		take_word(cpu, "vendor", offer->vendor, sizeof(offer->vendor), err) < 0)
		return -1;
	if (!features || !cpu_set_parse(&offer->given, features))
		return error_set(err, ERROR_REQUEST, 0, "\"features\" is not a list of features");
	offer->models = json_incref(json_object_get(hv, "cpus"));
	if (!json_is_array(offer->models))
		return error_set(err, ERROR_REQUEST, 0, "\"cpus\" is not a list of models");
	return 0;
}

int hv_cpu_offer_read(
	struct hv_cpu_offer *offer, const char *node, const json_t *facts, struct error **err)
{
	const json_t *hv = json_object_get(facts, "hypervisor"), *cpu = json_object_get(hv, "cpu");
	cleanup_error struct error *why = NULL;

	*offer = (struct hv_cpu_offer){0};
	snprintf(offer->node, sizeof(offer->node), "%s", node);
	if (!hv)
		return error_set(err, ERROR_POOL, 0,
			"%s has not published a hypervisor: droverd has not found one there yet",
			node);
	if (!cpu)
		return error_set(err, ERROR_POOL, 0,
			"%s has not published which CPUs it can give: its drover is older; "
			"upgrade it",
			node);
	if (take_offer(offer, hv, cpu, &why) == 0)
		return 0;
	return error_set(err, ERROR_POOL, 0,
		"what %s has published of its CPUs makes no sense (%s); restart droverd there",
		node, why->message);
}

void hv_cpu_offer_free(struct hv_cpu_offer *offer)
{
	json_free(&offer->models);
	cpu_set_free(&offer->given);
}

bool hv_cpu_alike(const struct hv_cpu_offer *a, const struct hv_cpu_offer *b, char why[160])
{
	char ignored[160];
	char *out = why ? why : ignored;

	if (strcmp(a->driver, b->driver))
		snprintf(out, 160, "run VMs by %s and %s", a->driver, b->driver);
	else if (strcmp(a->accel, b->accel))
		snprintf(out, 160, "run VMs with %s and %s", a->accel, b->accel);
	else if (strcmp(a->accel, "tcg") && strcmp(a->vendor, b->vendor))
		snprintf(out, 160, "have CPUs of %s and %s, which the guest sees", a->vendor,
			b->vendor);
	else
		return true;
	return false;
}

int hv_cpu_missing(const struct hv_cpu_models *models, const struct cpu_spec *spec,
	const struct hv_cpu_offer *offer, struct cpu_set *missing, struct error **err)
{
	const struct hv_cpu_model *model = hv_cpu_find_model(models, spec->model);

	*missing = (struct cpu_set){0};
	if (!model)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"the hypervisor of this node does not know CPU model %s", spec->model);
	cpu_set_copy(missing, &model->features);
	cpu_spec_apply(spec, missing);
	cpu_set_subtract(missing, &offer->given);
	return 0;
}

static bool offers_model(const struct hv_cpu_offer *offer, const struct hv_cpu_model *model)
{
	json_t *name;
	size_t i;

	json_array_foreach(offer->models, i, name)
	{
		if (json_is_string(name) && !strcmp(json_string_value(name), model->name))
			return true;
	}
	return false;
}

/* Whether it may be chosen where the CPU is of this vendor. Of another it would be something odd: a
 * guest that sees both takes its number for another CPU's, and one that is emulated guards against
 * flaws that it does not have (Meltdown, of Intel's). */
static bool is_kindred(const struct hv_cpu_model *model, const char *vendor)
{
	return model->lasting && (!model->vendor || !strcmp(model->vendor, vendor));
}

/* Whether all can give it. */
static bool is_fit(const struct hv_cpu_model *model, const struct cpu_set *common,
	const struct hv_cpu_offer *const *offers, size_t count)
{
	if (!is_kindred(model, offers[0]->vendor) || !cpu_set_within(&model->features, common))
		return false;
	for (size_t i = 0; i < count; i++)
		if (!offers_model(offers[i], model))
			return false;
	return true;
}

/* Of two with as many features the one whose name is last: a newer version of the same, often; and
 * the same one on every node. */
static bool is_better(const struct hv_cpu_model *model, const struct hv_cpu_model *best)
{
	if (!best || model->features.count != best->features.count)
		return !best || model->features.count > best->features.count;
	return strcmp(model->name, best->name) > 0;
}

/* Features that a CPU of this vendor has somewhere in reality. */
static void find_kindred(
	const struct hv_cpu_models *models, const char *vendor, struct cpu_set *kindred)
{
	for (size_t i = 0; i < models->count; i++)
		if (is_kindred(&models->list[i], vendor))
			cpu_set_unite(kindred, &models->list[i].features);
}

/* Adds what there is room for in a definition. */
static void add_features(struct cpu_spec *spec, const struct cpu_set *more)
{
	size_t len = strlen(spec->model);

	for (size_t i = 0; i < more->count; i++) {
		len += 2 + strlen(more->names[i]);
		if (len > CPU_SPEC_MAX)
			return;
		cpu_set_add(&spec->plus, more->names[i]);
	}
}

int hv_cpu_baseline(const struct hv_cpu_models *models, const struct hv_cpu_offer *const *offers,
	size_t count, struct cpu_spec *spec, struct error **err)
{
	cleanup_cpu_set struct cpu_set common = {0}, kindred = {0};
	const struct hv_cpu_model *best = NULL;

	*spec = (struct cpu_spec){0};
	cpu_set_copy(&common, &offers[0]->given);
	for (size_t i = 1; i < count; i++)
		cpu_set_intersect(&common, &offers[i]->given);
	for (size_t i = 0; i < models->count; i++)
		if (is_fit(&models->list[i], &common, offers, count) &&
			is_better(&models->list[i], best))
			best = &models->list[i];
	if (!best)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"there is no CPU model that all nodes can give; `drover cpu` shows what "
			"each of them lacks");
	memcpy(spec->model, best->name, strlen(best->name) + 1);
	find_kindred(models, offers[0]->vendor, &kindred);
	cpu_set_intersect(&common, &kindred);
	cpu_set_intersect(&common, &models->addable);
	cpu_set_subtract(&common, &best->features);
	add_features(spec, &common);
	return 0;
}
