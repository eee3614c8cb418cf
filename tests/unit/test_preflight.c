#include "migrate/preflight_internal.h"

#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static struct migrations here = {.set = {.node = "node1"}};

/* A source that got this answer. */
static struct preflight *answered(const char *text)
{
	struct migrate_options options = {0};
	struct preflight *p = preflight_new(&here, "web1", "node2", &options, NULL);

	p->asked.answer = json_loads(text, JSON_ALLOW_NUL, NULL);
	assert_non_null(p->asked.answer);
	preflight_read_answer(p);
	return p;
}

static const struct finding *found(struct preflight *p, const char *id)
{
	return &p->findings[preflight_find(id)];
}

static void test_an_answer_is_read(void **state)
{
	struct preflight *p = answered(
		"{\"version\":\"0.1.0\",\"arch\":\"x86_64\",\"page_size\":4096,\"checks\":[{"
		"\"id\":\"bridges\",\"result\":\"failed\",\"kind\":\"network\",\"here\":\"br0\","
		"\"there\":\"none\",\"message\":\"no bridge br0\"}]}");

	(void)state;
	assert_string_equal(p->there.version, "0.1.0");
	assert_int_equal(p->there.page_size, 4096);
	assert_true(found(p, "bridges")->known);
	assert_int_equal(found(p, "bridges")->result, PREFLIGHT_FAILED);
	assert_int_equal(found(p, "bridges")->kind, ERROR_NETWORK);
	assert_string_equal(found(p, "bridges")->message, "no bridge br0");
	assert_false(found(p, "disks")->known);
	preflight_unref(p);
}

/* None of them makes a check known, nor harms. */
static void test_what_is_not_an_answer_is_passed_over(void **state)
{
	static const char *const texts[] = {"{}", "{\"checks\":null}", "{\"checks\":{\"id\":1}}",
		"{\"checks\":[1,\"x\",null,[],{}]}", "{\"checks\":[{\"id\":\"disks\"}]}",
		"{\"checks\":[{\"id\":7,\"result\":\"ok\"}]}",
		"{\"checks\":[{\"id\":\"disks\",\"result\":\"fine\"}]}",
		"{\"checks\":[{\"id\":\"nothing\",\"result\":\"ok\"}]}",
		"{\"checks\":[{\"id\":\"\",\"result\":\"ok\"}]}",
		/* The source's own. */
		"{\"checks\":[{\"id\":\"vm\",\"result\":\"ok\"}]}",
		"{\"checks\":[{\"id\":\"clock\",\"result\":\"ok\"}]}",
		"{\"version\":5,\"arch\":[],\"page_size\":-1,\"hypervisor\":\"qemu\"}",
		"{\"page_size\":\"4096\",\"received_ms\":1e300,\"answered_ms\":-5}"};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct preflight *p = answered(texts[i]);

		for (int row = 0; preflight_checks[row].id; row++)
			if (p->findings[row].known)
				fail_msg("%s made %s known", texts[i], preflight_checks[row].id);
		assert_int_equal(p->there.page_size, 0);
		preflight_unref(p);
	}
}

static void test_the_first_word_about_a_check_counts(void **state)
{
	struct preflight *p = answered("{\"checks\":[{\"id\":\"disks\",\"result\":\"failed\"},"
				       "{\"id\":\"disks\",\"result\":\"ok\"}]}");

	(void)state;
	assert_int_equal(found(p, "disks")->result, PREFLIGHT_FAILED);
	preflight_unref(p);
}

static void test_texts_are_cut_and_cleaned(void **state)
{
	char long_text[3000], text[4000];
	cleanup_json json_t *item = NULL;
	struct preflight *p;
	const struct finding *f;

	(void)state;
	/* Of two bytes each: the cut may not leave half of one. */
	for (size_t i = 0; i < sizeof(long_text) - 1; i += 2)
		memcpy(long_text + i, "\xc3\xa9", 2);
	long_text[sizeof(long_text) - 2] = 0;
	snprintf(text, sizeof(text),
		"{\"checks\":[{\"id\":\"disks\",\"result\":\"failed\",\"there\":\"a\\u001b["
		"2Jb\\n\","
		"\"message\":\"%s\"}]}",
		long_text);
	p = answered(text);
	f = found(p, "disks");
	assert_string_equal(f->there, "a?[2Jb?");
	assert_true(strlen(f->message) < sizeof(f->message));
	item = preflight_finding_json("disks", f);
	assert_true(json_is_string(json_object_get(item, "message")));
	preflight_unref(p);
}

/* The difference of clocks in ms, when the question took `there` and the answer `back`. */
static const struct finding *clocks(struct preflight *p, int64_t ahead, int64_t there, int64_t back)
{
	static struct finding f;

	f = (struct finding){0};
	p->asked.answer = p->asked.answer ? p->asked.answer : json_object();
	p->asked.sent_ms = 1000000;
	p->there.received_ms = p->asked.sent_ms + there + ahead;
	p->there.answered_ms = p->there.received_ms + 700;
	p->asked.came_ms = p->there.answered_ms - ahead + back;
	preflight_compare_clock(p, &f);
	return &f;
}

static void test_clocks_are_compared_whatever_the_way_takes(void **state)
{
	struct preflight *p = answered("{}");

	(void)state;
	assert_int_equal(clocks(p, 0, 1, 1)->result, PREFLIGHT_OK);
	assert_int_equal(clocks(p, 990, 2, 2)->result, PREFLIGHT_OK);
	assert_int_equal(clocks(p, -990, 2, 2)->result, PREFLIGHT_OK);
	assert_int_equal(clocks(p, 1100, 2, 2)->result, PREFLIGHT_FAILED);
	assert_int_equal(clocks(p, -1100, 2, 2)->result, PREFLIGHT_FAILED);
	/* A way that is longer in one direction looks like a difference, of half of it. */
	assert_int_equal(clocks(p, 0, 3000, 0)->result, PREFLIGHT_UNKNOWN);
	assert_int_equal(clocks(p, 0, 0, 3000)->result, PREFLIGHT_UNKNOWN);
	assert_int_equal(clocks(p, 5000, 3000, 0)->result, PREFLIGHT_FAILED);
	assert_int_equal(clocks(p, 0, 400, 400)->result, PREFLIGHT_OK);
	preflight_unref(p);
}

static enum preflight_result versions(const char *mine, const char *theirs)
{
	struct preflight *p = answered("{}");
	struct finding f = {0};

	snprintf(p->here.version, sizeof(p->here.version), "%s", mine);
	snprintf(p->there.version, sizeof(p->there.version), "%s", theirs);
	preflight_compare_version(p, &f);
	preflight_unref(p);
	return f.known ? f.result : PREFLIGHT_UNKNOWN;
}

static void test_versions_go_together_by_their_first_number(void **state)
{
	(void)state;
	assert_int_equal(versions("0.1.0", "0.1.0"), PREFLIGHT_OK);
	assert_int_equal(versions("0.1.0", "0.2.0"), PREFLIGHT_WARNING);
	assert_int_equal(versions("1.0.0", "0.2.0"), PREFLIGHT_FAILED);
	assert_int_equal(versions("1.0.0", "10.0.0"), PREFLIGHT_FAILED);
	assert_int_equal(versions("1.0.0", "new"), PREFLIGHT_FAILED);
	assert_int_equal(versions("1.0.0", ""), PREFLIGHT_UNKNOWN);
}

/* What one machine cannot show of two. */
static const struct preflight_node usual = {.arch = "x86_64",
	.page_size = 4096,
	.cpu_model = "Intel(R) Xeon(R) CPU E5-2650 v2 @ 2.60GHz",
	.driver = "qemu",
	.hv_version = "10.0.2",
	.accel = "kvm"};

static enum preflight_result compared(preflight_fn *compare, const struct preflight_node *there)
{
	struct preflight *p = answered("{}");
	struct finding f = {0};

	p->here = usual;
	p->there = *there;
	compare(p, &f);
	preflight_unref(p);
	return f.known ? f.result : PREFLIGHT_UNKNOWN;
}

static void test_architecture_and_page_size_must_be_equal(void **state)
{
	struct preflight_node n = usual;

	(void)state;
	assert_int_equal(compared(preflight_compare_architecture, &n), PREFLIGHT_OK);
	n.page_size = 16384;
	assert_int_equal(compared(preflight_compare_architecture, &n), PREFLIGHT_FAILED);
	n = usual;
	strcpy(n.arch, "aarch64");
	assert_int_equal(compared(preflight_compare_architecture, &n), PREFLIGHT_FAILED);
	n.arch[0] = 0;
	assert_int_equal(compared(preflight_compare_architecture, &n), PREFLIGHT_UNKNOWN);
}

static int force(const char *text, uint32_t *forced, struct error **err)
{
	cleanup_json json_t *list = json_loads(text, JSON_DECODE_ANY, NULL);

	return preflight_parse_force(list, forced, err);
}

static void test_bhyve_wants_model_architecture_and_page_size_equal(void **state)
{
	struct preflight_node n = usual;
	uint32_t forced = 0;

	(void)state;
	assert_int_equal(compared(preflight_compare_model, &n), PREFLIGHT_OK);
	strcpy(n.cpu_model, "Intel(R) Xeon(R) CPU E5-2650 v2 @ 2.61GHz");
	assert_int_equal(compared(preflight_compare_model, &n), PREFLIGHT_FAILED);
	n = usual;
	n.page_size = 16384;
	assert_int_equal(compared(preflight_compare_model, &n), PREFLIGHT_FAILED);
	n = usual;
	strcpy(n.arch, "aarch64");
	assert_int_equal(compared(preflight_compare_model, &n), PREFLIGHT_FAILED);
	n = usual;
	strcpy(n.cpu_model, "unknown");
	assert_int_equal(compared(preflight_compare_model, &n), PREFLIGHT_UNKNOWN);
	n.cpu_model[0] = 0;
	assert_int_equal(compared(preflight_compare_model, &n), PREFLIGHT_UNKNOWN);
	assert_string_equal(preflight_checks[preflight_find("model")].driver, "bhyve");
	assert_int_equal(force("[\"model\"]", &forced, NULL), -1);
}

static void test_hypervisor_and_accelerator_must_be_equal(void **state)
{
	struct preflight_node n = usual;

	(void)state;
	assert_int_equal(compared(preflight_compare_hypervisor, &n), PREFLIGHT_OK);
	strcpy(n.hv_version, "10.1.0");
	assert_int_equal(compared(preflight_compare_hypervisor, &n), PREFLIGHT_OK);
	strcpy(n.hv_version, "9.2.0");
	assert_int_equal(compared(preflight_compare_hypervisor, &n), PREFLIGHT_WARNING);
	strcpy(n.accel, "tcg");
	assert_int_equal(compared(preflight_compare_hypervisor, &n), PREFLIGHT_FAILED);
	n = usual;
	strcpy(n.driver, "bhyve");
	assert_int_equal(compared(preflight_compare_hypervisor, &n), PREFLIGHT_FAILED);
	n.driver[0] = 0;
	assert_int_equal(compared(preflight_compare_hypervisor, &n), PREFLIGHT_UNKNOWN);
}

static void test_only_safe_checks_can_be_overridden(void **state)
{
	uint32_t forced;

	(void)state;
	assert_int_equal(preflight_parse_force(NULL, &forced, NULL), 0);
	assert_int_equal(forced, 0);
	assert_int_equal(force("[\"memory\",\"clock\",\"memory\"]", &forced, NULL), 0);
	assert_int_equal(forced, 1u << preflight_find("memory") | 1u << preflight_find("clock"));
	for (int row = 0; preflight_checks[row].id; row++) {
		cleanup_error struct error *err = NULL;
		cleanup_json json_t *list = json_pack("[s]", preflight_checks[row].id);
		int rc = preflight_parse_force(list, &forced, &err);

		assert_int_equal(rc, preflight_checks[row].no_force ? -1 : 0);
		if (rc < 0)
			assert_int_equal(err->kind, ERROR_REFUSED);
	}
}

static void test_what_is_no_list_of_checks_is_refused(void **state)
{
	static const char *const texts[] = {"\"memory\"", "{}", "[1]", "[null]", "[\"\"]",
		"[\"memory\",\"all\"]", "[[\"memory\"]]"};
	uint32_t forced;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (force(texts[i], &forced, NULL) == 0)
			fail_msg("%s was taken", texts[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_answer_is_read),
		cmocka_unit_test(test_what_is_not_an_answer_is_passed_over),
		cmocka_unit_test(test_the_first_word_about_a_check_counts),
		cmocka_unit_test(test_texts_are_cut_and_cleaned),
		cmocka_unit_test(test_clocks_are_compared_whatever_the_way_takes),
		cmocka_unit_test(test_versions_go_together_by_their_first_number),
		cmocka_unit_test(test_architecture_and_page_size_must_be_equal),
		cmocka_unit_test(test_bhyve_wants_model_architecture_and_page_size_equal),
		cmocka_unit_test(test_hypervisor_and_accelerator_must_be_equal),
		cmocka_unit_test(test_only_safe_checks_can_be_overridden),
		cmocka_unit_test(test_what_is_no_list_of_checks_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
