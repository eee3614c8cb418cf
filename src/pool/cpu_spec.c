#include "pool/cpu_spec.h"

#include "base/buf.h"
#include "base/fs.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static bool is_model(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return false;
	return len > 0 && len < CPU_NAME_MAX && isalnum((unsigned char)text[0]);
}

static int take_model(struct cpu_spec *spec, const char *model, struct error **err)
{
	if (!strcmp(model, "host") || !strcmp(model, "max"))
		return error_set(err, ERROR_DEFINITION, 0,
			"%s gives the guest whatever this node's CPU has, so the VM could not move "
			"to a node that lacks any of it; write " CPU_BASELINE
			" for what all nodes can give, or a model like qemu64 or "
			"Skylake-Server-v4",
			model);
	if (!strcmp(model, "base"))
		return error_set(err, ERROR_DEFINITION, 0,
			"base is a CPU with nothing in it; write " CPU_BASELINE
			" or a model like qemu64");
	if (!is_model(model) || !strcmp(model, CPU_BASELINE))
		return error_set(err, ERROR_DEFINITION, 0,
			"\"%.64s\" is not the name of a CPU model like qemu64 or "
			"Skylake-Server-v4",
			model);
	memcpy(spec->model, model, strlen(model) + 1);
	return 0;
}

static int take_feature(struct cpu_spec *spec, const char *item, struct error **err)
{
	const char *name = item + 1;
	struct cpu_set *set = *item == '+' ? &spec->plus : &spec->minus;

	if ((*item != '+' && *item != '-') || !cpu_name_ok(name))
		return error_set(err, ERROR_DEFINITION, 0,
			"\"%.64s\" is not +FEATURE or -FEATURE, like +avx2; it is written "
			"MODEL,+FEATURE,-FEATURE",
			item);
	if (cpu_set_has(&spec->plus, name) || cpu_set_has(&spec->minus, name))
		return error_set(err, ERROR_DEFINITION, 0, "%s is there twice", name);
	if (!cpu_set_add(set, name))
		return error_set(err, ERROR_DEFINITION, 0, "it has too many features");
	return 0;
}

int cpu_spec_parse(struct cpu_spec *spec, const char *text, struct error **err)
{
	cleanup_free char *copy = NULL;
	char *rest, *item;

	*spec = (struct cpu_spec){0};
	if (strnlen(text, CPU_SPEC_MAX + 1) > CPU_SPEC_MAX)
		return error_set(
			err, ERROR_DEFINITION, 0, "it is longer than %d bytes", CPU_SPEC_MAX);
	rest = copy = fs_format("%s", text);
	if (take_model(spec, strsep(&rest, ","), err) < 0)
		return -1;
	while ((item = strsep(&rest, ",")))
		if (take_feature(spec, item, err) < 0)
			return -1;
	return 0;
}

void cpu_spec_free(struct cpu_spec *spec)
{
	cpu_set_free(&spec->plus);
	cpu_set_free(&spec->minus);
}

static void add_all(struct buf *text, char sign, const struct cpu_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		buf_printf(text, ",%c%s", sign, set->names[i]);
}

char *cpu_spec_text(const struct cpu_spec *spec)
{
	struct buf text;

	/* Two full sets, and the model. */
	buf_init(&text, (2 * CPU_SET_MAX + 1) * (CPU_NAME_MAX + 1));
	buf_printf(&text, "%s", spec->model);
	add_all(&text, '+', &spec->plus);
	add_all(&text, '-', &spec->minus);
	buf_string(&text);
	return (char *)text.data;
}

void cpu_spec_apply(const struct cpu_spec *spec, struct cpu_set *given)
{
	cpu_set_unite(given, &spec->plus);
	cpu_set_subtract(given, &spec->minus);
}
