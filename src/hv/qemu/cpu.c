#include "hv/qemu/cpu.h"

#include "base/buf.h"
#include "base/json.h"
#include "hv/qemu/args.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Never added to a model, though all nodes may have it:
 *  - virtualization inside the guest, with all that hangs on it: QEMU does not promise that a guest
 *    that runs guests of its own can be moved;
 *  - hle and rtm: a microcode update takes them away; mpx: newer CPUs have it no more;
 *  - la57: page tables of five levels, which cost every guest, for addresses above 128 TiB;
 *  - monitor: lets a guest put a CPU of the host to sleep;
 *  - acpi and ss: of the chip's clock and caches, of which a guest has nothing.
 */
static const char *const never_added[] = {"vmx", "svm", "npt", "lbrv", "svm-lock", "nrip-save",
	"tsc-scale", "vmcb-clean", "flushbyasid", "decodeassists", "pause-filter", "pfthreshold",
	"avic", "v-vmsave-vmload", "vgif", "svme-addr-chk", "vnmi", "hle", "rtm", "mpx", "la57",
	"monitor", "acpi", "ss"};

static bool may_be_added(const char *feature)
{
	if (!strncmp(feature, "vmx-", 4))
		return false;
	for (size_t i = 0; i < sizeof(never_added) / sizeof(never_added[0]); i++)
		if (!strcmp(feature, never_added[i]))
			return false;
	return true;
}

/* Whose CPU a model is like. Under KVM its guest sees the host's vendor all the same, and takes the
 * model's number for one of that vendor's. */
static const char *vendor_of(const char *model)
{
	static const struct {
		const char *prefix, *vendor;
	} makers[] = {
		{"EPYC", "AuthenticAMD"},
		{"Opteron", "AuthenticAMD"},
		{"athlon", "AuthenticAMD"},
		{"phenom", "AuthenticAMD"},
		{"Dhyana", "HygonGenuine"},
		{"YongFeng", "  Shanghai  "},
		{"qemu", NULL},
		{"kvm", NULL},
	};

	for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++)
		if (!strncmp(model, makers[i].prefix, strlen(makers[i].prefix)))
			return makers[i].vendor;
	return "GenuineIntel";
}

/* "Haswell-v4": "Haswell" alone is another CPU with each machine type. */
static bool has_version(const char *model)
{
	const char *last = strrchr(model, '-');

	return last && last[1] == 'v' && isdigit((unsigned char)last[2]) &&
	       strspn(last + 2, "0123456789") == strlen(last + 2);
}

static json_t *expand(struct qmp *qmp, int64_t deadline_ms, const char *model, struct error **err)
{
	json_t *arguments = json_pack("{s:s, s:{s:s}}", "type", "static", "model", "name", model);
	cleanup_json json_t *answer = NULL;
	json_t *props;

	if (qmp_run(qmp, "query-cpu-model-expansion", arguments, deadline_ms, &answer, err) < 0)
		return NULL;
	props = json_object_get(json_object_get(answer, "model"), "props");
	if (json_is_object(props))
		return json_incref(props);
	error_set(err, ERROR_HYPERVISOR, 0, "QEMU does not say what CPU model %s is", model);
	return NULL;
}

/* Properties that are on, or all of them that can be. What is no feature among these is "lmce", a
 * setting of machine checks. */
static void take_features(struct cpu_set *set, const json_t *props, bool off_too)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)props, name, value)
	{
		if (strcmp(name, "lmce") &&
			(json_is_true(value) || (off_too && json_is_false(value))))
			cpu_set_add(set, name);
	}
}

static int ask_given(struct hv *hv, struct qmp *qmp, int64_t deadline_ms, struct error **err)
{
	const char *fullest = !strcmp(hv->facts.accel, "kvm") ? "host" : "max";
	cleanup_json json_t *props = expand(qmp, deadline_ms, fullest, err);
	const char *vendor = json_string_value(json_object_get(props, "vendor"));

	if (!props)
		return -1;
	take_features(&hv->given, props, false);
	take_features(&hv->models.known, props, true);
	snprintf(hv->vendor, sizeof(hv->vendor), "%s", vendor ? vendor : "");
	return 0;
}

static void add_model(struct hv *hv, const char *name, const json_t *props)
{
	struct hv_cpu_models *models = &hv->models;
	struct hv_cpu_model *model;

	if (models->count == HV_CPU_MODELS_MAX || strlen(name) >= sizeof(model->name))
		return;
	models->list = reallocarray(models->list, models->count + 1, sizeof(*models->list));
	if (!models->list)
		abort();
	model = &models->list[models->count++];
	*model = (struct hv_cpu_model){.lasting = has_version(name), .vendor = vendor_of(name)};
	memcpy(model->name, name, strlen(name) + 1);
	take_features(&model->features, props, false);
	for (size_t i = 0; model->lasting && i < model->features.count; i++)
		if (may_be_added(model->features.names[i]))
			cpu_set_add(&models->addable, model->features.names[i]);
}

/* One that cannot be expanded (KVM's own, under TCG) is one that cannot be used. */
static int ask_model(struct hv *hv, struct qmp *qmp, int64_t deadline_ms, const json_t *definition,
	struct error **err)
{
	const char *name = json_string_value(json_object_get(definition, "name"));
	json_t *missing = json_object_get(definition, "unavailable-features");
	cleanup_error struct error *why = NULL;
	cleanup_json json_t *props = NULL;

	if (!name || !qemu_cpu_fits(name) || !json_is_array(missing))
		return 0;
	props = expand(qmp, deadline_ms, name, &why);
	if (!props && why->kind != ERROR_HYPERVISOR) {
		error_move(err, why);
		why = NULL;
		return -1;
	}
	if (!props)
		return 0;
	json_object_set(hv->cpus, name, missing);
	add_model(hv, name, props);
	return 0;
}

int qemu_cpu_ask(struct hv *hv, struct qmp *qmp, int64_t deadline_ms, struct error **err)
{
	cleanup_json json_t *definitions = NULL;
	json_t *definition;
	size_t i;

	if (qmp_run(qmp, "query-cpu-definitions", NULL, deadline_ms, &definitions, err) < 0 ||
		ask_given(hv, qmp, deadline_ms, err) < 0)
		return -1;
	json_array_foreach(definitions, i, definition)
	{
		if (ask_model(hv, qmp, deadline_ms, definition, err) < 0)
			return -1;
	}
	return 0;
}

void qemu_cpu_forget(struct hv *hv)
{
	json_object_clear(hv->cpus);
	hv_cpu_models_free(&hv->models);
	cpu_set_free(&hv->given);
}

char *qemu_cpu_argument(const struct vm_def *def, struct error **err)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	struct buf text;

	if (cpu_spec_parse(&spec, vm_def_exact_cpu(def), err) < 0) {
		error_prefix(err, "cpu");
		return NULL;
	}
	buf_init(&text, 4 * CPU_SPEC_MAX);
	buf_printf(&text, "%s", spec.model);
	for (size_t i = 0; i < spec.plus.count; i++)
		buf_printf(&text, ",%s=on", spec.plus.names[i]);
	for (size_t i = 0; i < spec.minus.count; i++)
		buf_printf(&text, ",%s=off", spec.minus.names[i]);
	buf_string(&text);
	return (char *)text.data;
}

/* What this node lacks for it: what QEMU says of the model, and of the features by their names. */
static void find_missing(const struct hv *hv, const struct cpu_spec *spec, const json_t *of_model,
	struct cpu_set *missing)
{
	cleanup_cpu_set struct cpu_set more = {0};
	json_t *feature;
	size_t i;

	json_array_foreach(of_model, i, feature)
	{
		if (json_is_string(feature))
			cpu_set_add(missing, json_string_value(feature));
	}
	cpu_set_copy(&more, &spec->plus);
	cpu_set_subtract(&more, &hv->given);
	cpu_set_unite(missing, &more);
	cpu_set_subtract(missing, &spec->minus);
	/* It refuses to go without what it has never heard of, too. */
	cpu_set_copy(&more, &spec->minus);
	cpu_set_subtract(&more, &hv->models.known);
	cpu_set_unite(missing, &more);
}

static int lacks(const struct hv *hv, const struct vm_def *def, const struct cpu_spec *spec,
	const struct cpu_set *missing, struct error **err)
{
	cleanup_cpu_set struct cpu_set unknown = {0};
	char list[300], strange[200] = "";

	cpu_set_list(missing, list, sizeof(list));
	cpu_set_copy(&unknown, missing);
	cpu_set_subtract(&unknown, &hv->models.known);
	if (unknown.count == missing->count)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"VM %s has CPU features that QEMU %s on this node does not know: %s",
			def->name, hv->facts.version, list);
	if (unknown.count)
		cpu_set_list(&unknown, strange, sizeof(strange));
	return error_set(err, ERROR_HYPERVISOR, 0,
		"VM %s has CPU %s%s, of which this node (%s) lacks: %s%s%s%s; choose a CPU that "
		"all nodes can give (`drover cpu` shows it)",
		def->name, spec->model, spec->plus.count ? " with more features" : "",
		hv->facts.accel, list, *strange ? " (not known to its QEMU: " : "", strange,
		*strange ? ")" : "");
}

int qemu_check_cpu(const struct hv *hv, const struct vm_def *def, struct error **err)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_cpu_set struct cpu_set missing = {0};
	cleanup_error struct error *why = NULL;
	const json_t *of_model;

	if (cpu_spec_parse(&spec, vm_def_exact_cpu(def), &why) < 0)
		return error_set(err, ERROR_DEFINITION, 0, "VM %s has CPU %.64s: %s", def->name,
			vm_def_exact_cpu(def), why->message);
	of_model = json_object_get(hv->cpus, spec.model);
	if (!of_model)
		return error_set(err, ERROR_HYPERVISOR, 0,
			"VM %s has CPU model %s, which QEMU %s on this node does not know",
			def->name, spec.model, hv->facts.version);
	find_missing(hv, &spec, of_model, &missing);
	return missing.count ? lacks(hv, def, &spec, &missing, err) : 0;
}
