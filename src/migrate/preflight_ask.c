/* The source's question to the destination, and its answer: hostile until it has been read here. */
#include "migrate/preflight_internal.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

static json_t *make_request(const struct preflight *p)
{
	cleanup_free char *conf = vm_def_format(p->def);

	return json_pack("{s:s, s:s, s:I, s:s, s:b, s:o*}", "vm", p->vm, "definition", conf,
		"epoch", (json_int_t)p->epoch, "nonce", p->nonce, "postcopy", p->options.postcopy,
		"warm", p->options.files ? json_true() : NULL);
}

static int call(struct preflight *p, const char *method, const char *path, const json_t *body,
	struct preflight_asked *a, struct error **err)
{
	int rc;

	a->sent_ms = clock_wall_ms();
	rc = node_call(
		p->all->set.peers, p->peer, method, path, body, PREFLIGHT_CALL_MS, &a->answer, err);
	a->came_ms = clock_wall_ms();
	return rc;
}

void preflight_ask(struct preflight *p)
{
	const struct migrate_settings *set = &p->all->set;
	cleanup_json json_t *request = make_request(p);
	struct preflight_asked a = {0};
	const char *seen;
	int lock;

	/* Without it the others can still be asked. */
	pool_probe_begin(set->pool, p->nonce, &lock, &a.begin);
	/* An older droverd says of itself what it can: its version, its hypervisor, its time. */
	if (call(p, "POST", "/v1/preflight", request, &a, &a.error) < 0 &&
		a.error->kind == ERROR_NOT_FOUND)
		call(p, "GET", "/v1/status", NULL, &a, NULL);
	close_fd(&lock);
	seen = json_string_value(json_object_get(a.answer, "seen"));
	if (!a.begin)
		pool_probe_finish(set->pool, p->nonce, seen ? seen : "", &a.unmatched);
	preflight_keep_asked(p, &a);
}

/* A member that is text, cut to what there is room for, without control characters. */
static void read_text(const json_t *object, const char *key, char *out, size_t size)
{
	const char *text = json_string_value(json_object_get(object, key));
	size_t len;

	snprintf(out, size, "%s", text ? text : "");
	for (char *c = out; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	/* Not in the middle of a character of several bytes. */
	len = strlen(out);
	if (text && len == size - 1 && strlen(text) > len) {
		while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
			len--;
		out[len] = 0;
	}
}

static void read_node(const json_t *answer, struct preflight_node *n)
{
	const json_t *hv = json_object_get(answer, "hypervisor");

	read_text(answer, "version", n->version, sizeof(n->version));
	read_text(answer, "arch", n->arch, sizeof(n->arch));
	read_text(answer, "cpu_model", n->cpu_model, sizeof(n->cpu_model));
	read_text(answer, "pool", n->pool, sizeof(n->pool));
	read_text(hv, "driver", n->driver, sizeof(n->driver));
	read_text(hv, "version", n->hv_version, sizeof(n->hv_version));
	read_text(hv, "accel", n->accel, sizeof(n->accel));
	json_opt_int(answer, "page_size", 0, INT32_MAX, 0, &n->page_size, NULL);
	/* Of an older one. */
	json_opt_int(answer, "time_ms", 0, (int64_t)1 << 50, 0, &n->received_ms, NULL);
	n->answered_ms = n->received_ms;
	if (n->received_ms)
		return;
	json_opt_int(answer, "received_ms", 0, (int64_t)1 << 50, 0, &n->received_ms, NULL);
	json_opt_int(answer, "answered_ms", 0, (int64_t)1 << 50, 0, &n->answered_ms, NULL);
}

static int result_from_name(const char *name)
{
	for (int r = PREFLIGHT_OK; r <= PREFLIGHT_FAILED; r++)
		if (!strcmp(name, preflight_result_name((enum preflight_result)r)))
			return r;
	return -1;
}

/* What names no check of the destination's here, or no result, is passed over. */
static void read_check(struct preflight *p, const json_t *item)
{
	const char *id = json_string_value(json_object_get(item, "id"));
	const char *result = json_string_value(json_object_get(item, "result"));
	const char *kind = json_string_value(json_object_get(item, "kind"));
	int row = id ? preflight_find(id) : -1, r = result ? result_from_name(result) : -1;
	struct finding *f = &p->findings[row < 0 ? 0 : row];

	if (row < 0 || r < 0 || !preflight_checks[row].destination || f->known)
		return;
	f->known = true;
	f->result = (enum preflight_result)r;
	f->kind = kind ? error_kind_from_name(kind) : ERROR_FAILED;
	read_text(item, "here", f->here, sizeof(f->here));
	read_text(item, "there", f->there, sizeof(f->there));
	read_text(item, "message", f->message, sizeof(f->message));
}

void preflight_read_answer(struct preflight *p)
{
	const json_t *item;
	size_t i;

	if (!p->asked.answer)
		return;
	read_node(p->asked.answer, &p->there);
	json_array_foreach(json_object_get(p->asked.answer, "checks"), i, item) read_check(p, item);
}
