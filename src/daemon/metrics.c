#include "daemon/api.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

/* A label's value is one of our own words, or a node's name: nothing in it needs escaping. */
#define TEXT_MAX (1u << 20)
#define STATES_MAX 32

/* How many entries of a list are in each state. */
struct states {
	const char *names[STATES_MAX];
	int counts[STATES_MAX];
	int used;
};

static void count_state(struct states *s, const char *name, int by)
{
	for (int i = 0; i < s->used; i++)
		if (!strcmp(s->names[i], name)) {
			s->counts[i] += by;
			return;
		}
	if (s->used == STATES_MAX)
		return;
	s->names[s->used] = name;
	s->counts[s->used++] = by;
}

static void print_states(struct buf *out, const char *metric, const char *help,
	const char *const *always, const json_t *list)
{
	struct states s = {.used = 0};
	const json_t *entry;
	size_t i;

	/* A state that nothing is in is shown as 0, so that what watches it has something to see.
	 */
	for (; *always; always++)
		count_state(&s, *always, 0);
	json_array_foreach(list, i, entry)
	{
		const char *state = json_string_value(json_object_get(entry, "state"));

		if (state)
			count_state(&s, state, 1);
	}
	buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", metric, help, metric);
	for (int n = 0; n < s.used; n++)
		buf_printf(out, "%s{state=\"%s\"} %d\n", metric, s.names[n], s.counts[n]);
}

static void print_gauge(struct buf *out, const char *name, const char *help, int value)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", name, help, name, name, value);
}

static void print_requests(struct buf *out)
{
	buf_printf(out,
		"# HELP drover_requests_total Requests answered.\n"
		"# TYPE drover_requests_total counter\n"
		"drover_requests_total %llu\n"
		"# HELP drover_request_errors_total Requests answered with an error, by its kind.\n"
		"# TYPE drover_request_errors_total counter\n",
		(unsigned long long)api_requests());
	for (int kind = 0; kind < ERROR_KINDS; kind++)
		if (api_failures((enum error_kind)kind))
			buf_printf(out, "drover_request_errors_total{kind=\"%s\"} %llu\n",
				error_kind_name((enum error_kind)kind),
				(unsigned long long)api_failures((enum error_kind)kind));
}

static void print_cluster(struct buf *out, struct daemon *daemon)
{
	cleanup_json json_t *problems = daemon_problems(daemon);

	print_gauge(out, "drover_ready", "1 when nothing that this node needs is missing.",
		json_array_size(problems) == 0);
	print_gauge(out, "drover_pool_reachable", "1 when the pool can be read.",
		daemon_pool_answers(daemon));
}

static void print_machine(struct buf *out, struct daemon *daemon)
{
	static const char *const vm_states[] = {"running", "starting", "paused", "failed", "silent",
		"stopped", "down", "elsewhere", "broken", NULL};
	static const char *const task_states[] = {
		"queued", "waiting", "running", "failed", "interrupted", NULL};
	struct machine *m = atomic_load(&daemon->machine);
	struct task_queue *tasks = atomic_load(&daemon->tasks);
	cleanup_json json_t *vm_list =
		m && daemon_pool_answers(daemon) ? vms_list(m->vms, NULL) : NULL;
	cleanup_json json_t *queue = tasks ? task_list(tasks, NULL) : NULL;
	cleanup_free char *migrations = m ? migrations_metrics(m->migrations) : NULL;

	print_states(out, "drover_vms", "VMs of the pool as this node sees them.", vm_states,
		json_object_get(vm_list, "vms"));
	print_states(out, "drover_tasks", "Tasks of this node's queue.", task_states,
		json_object_get(queue, "tasks"));
	if (migrations)
		buf_printf(out, "%s", migrations);
}

char *metrics_text(struct daemon *daemon, size_t *len)
{
	struct buf out;
	char *text;

	buf_init(&out, TEXT_MAX);
	buf_printf(&out,
		"# HELP drover_build_info The version of droverd.\n"
		"# TYPE drover_build_info gauge\n"
		"drover_build_info{version=\"%s\"} 1\n",
		DROVER_VERSION);
	print_cluster(&out, daemon);
	print_machine(&out, daemon);
	print_requests(&out);
	text = fs_format("%s", buf_string(&out));
	*len = strlen(text);
	buf_free(&out);
	return text;
}
