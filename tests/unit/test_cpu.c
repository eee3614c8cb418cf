/* CPUs: sets of features, the grammar of `cpu`, what nodes publish, and the best of several. */
#include "hv/cpu.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct cpu_set set_of(const char *text)
{
	struct cpu_set set = {0};

	if (!cpu_set_parse(&set, text))
		fail_msg("not a set: %s", text);
	return set;
}

static void expect_set(const struct cpu_set *set, const char *text)
{
	cleanup_free char *is = cpu_set_text(set);

	assert_string_equal(is, text);
}

static void test_a_set_is_sorted_and_holds_each_name_once(void **state)
{
	cleanup_cpu_set struct cpu_set set = set_of("sse4.2 avx avx2 avx");

	(void)state;
	expect_set(&set, "avx avx2 sse4.2");
	assert_true(cpu_set_has(&set, "avx2"));
	assert_false(cpu_set_has(&set, "avx5"));
	assert_false(cpu_set_has(&set, "av"));
	cpu_set_remove(&set, "avx");
	cpu_set_remove(&set, "pku");
	expect_set(&set, "avx2 sse4.2");
}

static void test_sets_are_united_intersected_and_subtracted(void **state)
{
	cleanup_cpu_set struct cpu_set a = set_of("a b c d"), b = set_of("b d e"), c = {0};

	(void)state;
	cpu_set_copy(&c, &a);
	cpu_set_intersect(&c, &b);
	expect_set(&c, "b d");
	assert_true(cpu_set_within(&c, &a) && cpu_set_within(&c, &b));
	assert_false(cpu_set_within(&b, &a));
	cpu_set_copy(&c, &a);
	cpu_set_subtract(&c, &b);
	expect_set(&c, "a c");
	assert_true(cpu_set_unite(&c, &b));
	expect_set(&c, "a b c d e");
	cpu_set_subtract(&c, &c);
	expect_set(&c, "");
	assert_true(cpu_set_within(&c, &b));
}

/* As many as go in, added from both ends, and one more. */
static void test_a_set_has_a_limit_and_keeps_its_order_up_to_it(void **state)
{
	cleanup_cpu_set struct cpu_set set = {0};
	char name[16];

	(void)state;
	for (int i = 0; i < CPU_SET_MAX; i++) {
		snprintf(name, sizeof(name), "f%04d", i % 2 ? 5000 - i : i);
		assert_true(cpu_set_add(&set, name));
	}
	assert_int_equal(set.count, CPU_SET_MAX);
	assert_false(cpu_set_add(&set, "g"));
	assert_true(cpu_set_add(&set, "f0000"));
	for (size_t i = 1; i < set.count; i++)
		assert_true(strcmp(set.names[i - 1], set.names[i]) < 0);
}

static void test_what_is_no_feature_is_no_name(void **state)
{
	static const char *const bad[] = {"", "-avx", "+avx", "AVX", "avx,x", "avx=on", "a b",
		"avx\n", "avx/", "\xc3\xa9",
		"x234567890123456789012345678901234567890123456789012345678901234", NULL};
	struct cpu_set set = {0};

	(void)state;
	for (const char *const *name = bad; *name; name++) {
		assert_false(cpu_name_ok(*name));
		assert_false(cpu_set_add(&set, *name));
	}
	assert_true(cpu_name_ok("3dnow") && cpu_name_ok("sse4.2") && cpu_name_ok("cr8_legacy"));
	assert_false(cpu_set_parse(&set, "avx  avx2"));
	assert_false(cpu_set_parse(&set, " avx"));
	assert_false(cpu_set_parse(&set, "avx avx2 "));
	assert_int_equal(set.count, 0);
	assert_true(cpu_set_parse(&set, ""));
}

static void test_a_list_for_a_person_fits_its_room(void **state)
{
	cleanup_cpu_set struct cpu_set set = set_of("aaaa bbbb cccc dddd"), none = {0};
	char text[64], small[30];

	(void)state;
	cpu_set_list(&set, text, sizeof(text));
	assert_string_equal(text, "aaaa, bbbb, cccc, dddd");
	cpu_set_list(&set, small, sizeof(small));
	assert_string_equal(small, "aaaa, bbbb and 2 more");
	cpu_set_list(&none, text, sizeof(text));
	assert_string_equal(text, "");
}

static void test_an_exact_cpu_is_read_and_written_in_one_form(void **state)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_free char *text = NULL;

	(void)state;
	assert_int_equal(cpu_spec_parse(&spec, "Haswell-v4,-rdrand,+vaes,+avx512f", NULL), 0);
	assert_string_equal(spec.model, "Haswell-v4");
	expect_set(&spec.plus, "avx512f vaes");
	expect_set(&spec.minus, "rdrand");
	text = cpu_spec_text(&spec);
	assert_string_equal(text, "Haswell-v4,+avx512f,+vaes,-rdrand");
}

static void test_what_is_no_exact_cpu_is_an_error(void **state)
{
	static const char *const bad[][2] = {{"", "name of a CPU model"},
		{"host", "could not move"}, {"max,+avx", "could not move"},
		{"base", "nothing in it"}, {"baseline", "name of a CPU model"},
		{"baseline,+avx", "name of a CPU model"}, {"-cpu", "name of a CPU model"},
		{"qemu64 ", "name of a CPU model"}, {"qemu64=x", "name of a CPU model"},
		{"qemu64,", "+FEATURE"}, {"qemu64,,+a", "+FEATURE"}, {"qemu64,avx", "+FEATURE"},
		{"qemu64,avx=on", "+FEATURE"}, {"qemu64,+", "+FEATURE"},
		{"qemu64,+avx=off", "+FEATURE"}, {"qemu64,+Avx", "+FEATURE"},
		{"qemu64,++avx", "+FEATURE"}, {"qemu64,+avx,+avx", "twice"},
		{"qemu64,+avx,-avx", "twice"}};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cleanup_cpu_spec struct cpu_spec spec = {{0}};
		cleanup_error struct error *err = NULL;

		if (cpu_spec_parse(&spec, bad[i][0], &err) == 0)
			fail_msg("was taken: %s", bad[i][0]);
		assert_int_equal(err->kind, ERROR_DEFINITION);
		if (!strstr(err->message, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], err->message);
	}
}

static void test_an_exact_cpu_has_a_longest_length(void **state)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}}, longer = {{0}};
	cleanup_error struct error *err = NULL;
	char text[CPU_SPEC_MAX + 2];
	size_t len = (size_t)sprintf(text, "q");

	(void)state;
	for (int i = 0; len + 7 <= CPU_SPEC_MAX; i++)
		len += (size_t)sprintf(text + len, ",+f%04d", i);
	while (len < CPU_SPEC_MAX)
		text[len++] = 'x';
	text[len] = '\0';
	assert_int_equal(cpu_spec_parse(&spec, text, NULL), 0);
	text[len] = 'x';
	text[len + 1] = '\0';
	assert_int_equal(cpu_spec_parse(&longer, text, &err), -1);
	assert_non_null(strstr(err->message, "longer than"));
}

#define INTEL "GenuineIntel"

/* Offers as records have them. */

static void read_offer(struct hv_cpu_offer *offer, const char *node, const char *accel,
	const char *vendor, const char *features)
{
	cleanup_json json_t *facts = json_pack("{s:{s:s, s:s, s:s, s:[s, s, s, s], s:{s:s, s:s}}}",
		"hypervisor", "driver", "qemu", "version", "10.0.2", "accel", accel, "cpus",
		"Small-v1", "Large-v1", "Large-v2", "Other-v1", "cpu", "vendor", vendor, "features",
		features);
	cleanup_error struct error *err = NULL;

	if (hv_cpu_offer_read(offer, node, facts, &err) < 0)
		fail_msg("%s", err->message);
}

static void test_what_a_node_offers_is_published_and_read(void **state)
{
	cleanup_cpu_set struct cpu_set given = set_of("avx sse4.2");
	cleanup_json json_t *cpu = hv_cpu_offer_json("GenuineIntel", &given);
	cleanup_free char *text = json_text(cpu);
	struct hv_cpu_offer offer;

	(void)state;
	assert_string_equal(text, "{\"vendor\":\"GenuineIntel\",\"features\":\"avx sse4.2\"}");
	read_offer(&offer, "node1", "kvm", "GenuineIntel", "avx sse4.2");
	assert_string_equal(offer.node, "node1");
	assert_string_equal(offer.accel, "kvm");
	expect_set(&offer.given, "avx sse4.2");
	hv_cpu_offer_free(&offer);
}

static void test_a_record_without_or_with_nonsense_says_so(void **state)
{
	static const char *const bad[][2] = {{"{}", "has not published a hypervisor"},
		{"{\"hypervisor\":{}}", "older"}, {"{\"hypervisor\":{\"cpu\":3}}", "no sense"},
		{"{\"hypervisor\":{\"driver\":\"qemu\",\"version\":\"1\",\"accel\":\"tcg\","
		 "\"cpus\":[],"
		 "\"cpu\":{\"vendor\":\"x\",\"features\":\"a,b\"}}}",
			"features"},
		{"{\"hypervisor\":{\"driver\":\"qemu\",\"version\":\"1\",\"accel\":\"tcg\","
		 "\"cpus\":{},"
		 "\"cpu\":{\"vendor\":\"x\",\"features\":\"\"}}}",
			"cpus"},
		{"{\"hypervisor\":{\"driver\":\"qemu\",\"version\":\"1\",\"accel\":"
		 "\"acceleration\","
		 "\"cpus\":[],\"cpu\":{\"vendor\":\"x\",\"features\":\"\"}}}",
			"too long"}};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cleanup_json json_t *facts = json_loads(bad[i][0], 0, NULL);
		cleanup_error struct error *err = NULL;
		struct hv_cpu_offer offer;

		assert_int_equal(hv_cpu_offer_read(&offer, "node7", facts, &err), -1);
		hv_cpu_offer_free(&offer);
		assert_int_equal(err->kind, ERROR_POOL);
		if (!strstr(err->message, bad[i][1]) || !strstr(err->message, "node7"))
			fail_msg("%s: %s", bad[i][0], err->message);
	}
}

static void test_nodes_are_alike_by_accelerator_and_what_the_guest_sees(void **state)
{
	struct hv_cpu_offer intel, amd, tcg, tcg_too;
	char why[160];

	(void)state;
	read_offer(&intel, "a", "kvm", "GenuineIntel", "x");
	read_offer(&amd, "b", "kvm", "AuthenticAMD", "x");
	read_offer(&tcg, "c", "tcg", "AuthenticAMD", "x");
	read_offer(&tcg_too, "d", "tcg", "GenuineIntel", "x");
	assert_true(hv_cpu_alike(&intel, &intel, why));
	assert_false(hv_cpu_alike(&intel, &amd, why));
	assert_non_null(strstr(why, "AuthenticAMD"));
	assert_false(hv_cpu_alike(&amd, &tcg, why));
	assert_non_null(strstr(why, "kvm and tcg"));
	/* What is emulated is of whichever vendor the model says. */
	assert_true(hv_cpu_alike(&tcg, &tcg_too, NULL));
	hv_cpu_offer_free(&intel);
	hv_cpu_offer_free(&amd);
	hv_cpu_offer_free(&tcg);
	hv_cpu_offer_free(&tcg_too);
}

/* A hypervisor's models: the last but one is not the same in each version, and the last is of
 * another maker. */
static struct hv_cpu_model list[5];
static struct hv_cpu_models models;

static void set_model(size_t i, const char *name, const char *vendor, const char *features)
{
	snprintf(list[i].name, sizeof(list[i].name), "%s", name);
	list[i].lasting = strchr(name, '-') != NULL;
	list[i].vendor = vendor;
	list[i].features = set_of(features);
}

static int make_models(void **state)
{
	(void)state;
	set_model(0, "Small-v1", NULL, "a");
	set_model(1, "Large-v1", "GenuineIntel", "a b c");
	set_model(2, "Large-v2", "GenuineIntel", "a b d");
	set_model(3, "Large", "GenuineIntel", "a b c d");
	set_model(4, "Other-v1", "AuthenticAMD", "a e f g");
	models = (struct hv_cpu_models){.list = list, .count = 5};
	models.known = set_of("a b c d e f g vmx");
	models.addable = set_of("a b c d e f g");
	return 0;
}

static int free_models(void **state)
{
	(void)state;
	for (size_t i = 0; i < 5; i++)
		cpu_set_free(&list[i].features);
	cpu_set_free(&models.known);
	cpu_set_free(&models.addable);
	return 0;
}

static void test_what_a_node_lacks_for_a_guest_is_told(void **state)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_cpu_set struct cpu_set missing = {0};
	struct hv_cpu_offer offer;

	(void)state;
	read_offer(&offer, "a", "tcg", "x", "a b");
	cpu_spec_parse(&spec, "Large-v1,+e,+b", NULL);
	assert_int_equal(hv_cpu_missing(&models, &spec, &offer, &missing, NULL), 0);
	expect_set(&missing, "c e");
	cpu_spec_free(&spec);
	cpu_set_free(&missing);
	cpu_spec_parse(&spec, "Large-v1,-c", NULL);
	assert_int_equal(hv_cpu_missing(&models, &spec, &offer, &missing, NULL), 0);
	expect_set(&missing, "");
	cpu_spec_free(&spec);
	cpu_spec_parse(&spec, "Huge-v1", NULL);
	assert_int_equal(hv_cpu_missing(&models, &spec, &offer, &missing, NULL), -1);
	hv_cpu_offer_free(&offer);
}

static void expect_baseline(
	const char *vendor, const char *first, const char *second, const char *is)
{
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_error struct error *err = NULL;
	cleanup_free char *text = NULL;
	struct hv_cpu_offer offers[2];
	const struct hv_cpu_offer *some[] = {&offers[0], &offers[1]};
	int rc;

	read_offer(&offers[0], "a", "tcg", vendor, first);
	read_offer(&offers[1], "b", "tcg", vendor, second);
	rc = hv_cpu_baseline(&models, some, 2, &spec, &err);
	hv_cpu_offer_free(&offers[0]);
	hv_cpu_offer_free(&offers[1]);
	text = rc == 0 ? cpu_spec_text(&spec) : fs_format("%s", err->message);
	if (!strstr(text, is) || (rc == 0 && strcmp(text, is)))
		fail_msg("%s and %s give %s, not %s", first, second, text, is);
}

static void test_the_best_that_all_give_is_a_model_and_what_else_they_have(void **state)
{
	(void)state;
	/* Two are as good: the last by name. What it lacks is added. */
	expect_baseline(INTEL, "a b c d", "a b c d", "Large-v2,+c");
	expect_baseline(INTEL, "a b c d", "a b c", "Large-v1");
	/* No feature of the model is given up for it. */
	expect_baseline(INTEL, "a c d", "a c d e", "Small-v1,+c,+d");
	/* The order of the nodes makes no difference. */
	expect_baseline(INTEL, "a c d e", "a c d", "Small-v1,+c,+d");
	/* Not what is not to be added at all. */
	expect_baseline(INTEL, "a b c vmx", "a b c vmx", "Large-v1");
}

static void test_neither_the_model_nor_what_is_added_is_of_another_maker(void **state)
{
	(void)state;
	expect_baseline(INTEL, "a b c e f g", "a b c e f g", "Large-v1");
	expect_baseline("AuthenticAMD", "a b c", "a b c", "Small-v1");
	expect_baseline("AuthenticAMD", "a b c d e f g", "a b c d e f g", "Other-v1");
}

static void test_nodes_with_no_model_in_common_have_no_baseline(void **state)
{
	(void)state;
	expect_baseline(INTEL, "b c", "a", "no CPU model that all nodes can give");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_set_is_sorted_and_holds_each_name_once),
		cmocka_unit_test(test_sets_are_united_intersected_and_subtracted),
		cmocka_unit_test(test_a_set_has_a_limit_and_keeps_its_order_up_to_it),
		cmocka_unit_test(test_what_is_no_feature_is_no_name),
		cmocka_unit_test(test_a_list_for_a_person_fits_its_room),
		cmocka_unit_test(test_an_exact_cpu_is_read_and_written_in_one_form),
		cmocka_unit_test(test_what_is_no_exact_cpu_is_an_error),
		cmocka_unit_test(test_an_exact_cpu_has_a_longest_length),
		cmocka_unit_test(test_what_a_node_offers_is_published_and_read),
		cmocka_unit_test(test_a_record_without_or_with_nonsense_says_so),
		cmocka_unit_test(test_nodes_are_alike_by_accelerator_and_what_the_guest_sees),
		cmocka_unit_test(test_what_a_node_lacks_for_a_guest_is_told),
		cmocka_unit_test(test_the_best_that_all_give_is_a_model_and_what_else_they_have),
		cmocka_unit_test(test_neither_the_model_nor_what_is_added_is_of_another_maker),
		cmocka_unit_test(test_nodes_with_no_model_in_common_have_no_baseline),
	};

	return cmocka_run_group_tests(tests, make_models, free_models);
}
