#include "daemon/api.h"

#include "base/clock.h"
#include "base/fs.h"

/* How often a request that waits for output looks whether anybody still waits for it. */
#define LOOK_MS 1000

#define ROUTES(X) \
	X(list, "GET", "/v1/tasks", API_ANY_NODE, "", "") \
	X(add, "POST", "/v1/tasks", API_ANY_NODE, "", "argv after at_ms exclusive") \
	X(flush, "DELETE", "/v1/tasks", API_ANY_NODE, "", "") \
	X(show, "GET", "/v1/tasks/{id}", API_ANY_NODE, "", "") \
	X(output, "GET", "/v1/tasks/{id}/log", API_ANY_NODE, "offset wait_ms", "") \
	X(cancel, "POST", "/v1/tasks/{id}/cancel", API_ANY_NODE, "", "")

/* NULL and an error until droverd can answer what tasks ask of it. */
static struct task_queue *queue_of(const struct request *request, struct error **err)
{
	return daemon_tasks(api_daemon(request), err);
}

static int task_id(const struct request *request, int64_t *id, struct error **err)
{
	const char *text = request_param(request, "id");

	if (fs_parse_number("the number of a task", text, 1, INT64_MAX, id, NULL) == 0)
		return 0;
	return error_set(err, ERROR_NOT_FOUND, 0,
		"no task \"%.40s\": tasks have numbers, which `drover task ls` shows", text);
}

static int list(struct request *request, struct response *response, struct error **err)
{
	struct task_queue *queue = queue_of(request, err);

	return queue ? api_answer(response, task_list(queue, err)) : -1;
}

static int add(struct request *request, struct response *response, struct error **err)
{
	const json_t *body = request_body(request);
	struct task_new task = {
		.argv = json_object_get(body, "argv"), .from = request_peer(request)};
	struct task_queue *queue = queue_of(request, err);
	int64_t id;

	if (!queue || json_opt_int(body, "after", 1, INT64_MAX, 0, &task.after, err) < 0 ||
		json_opt_int(body, "at_ms", 0, INT64_MAX, 0, &task.at_ms, err) < 0 ||
		json_opt_bool(body, "exclusive", false, &task.exclusive, err) < 0 ||
		task_add(queue, &task, &id, err) < 0)
		return -1;
	return api_answer(response, json_pack("{s:I}", "id", (json_int_t)id));
}

static int flush(struct request *request, struct response *response, struct error **err)
{
	struct task_queue *queue = queue_of(request, err);
	int64_t removed;

	if (!queue || task_flush(queue, &removed, err) < 0)
		return -1;
	return api_answer(response, json_pack("{s:I}", "removed", (json_int_t)removed));
}

static int show(struct request *request, struct response *response, struct error **err)
{
	struct task_queue *queue = queue_of(request, err);
	int64_t id;

	if (!queue || task_id(request, &id, err) < 0)
		return -1;
	return api_answer(response, task_show(queue, id, err));
}

/* Whether an answer of task_log is worth sending before its time. */
static bool has_news(const json_t *answer)
{
	return json_string_length(json_object_get(answer, "text")) > 0 ||
	       json_is_true(json_object_get(answer, "ended"));
}

static int output(struct request *request, struct response *response, struct error **err)
{
	struct task_queue *queue = queue_of(request, err);
	int64_t id, offset, wait_ms, until_ms;
	json_t *answer = NULL;

	if (!queue || task_id(request, &id, err) < 0 ||
		api_query_int(request, "offset", 0, INT64_MAX, 0, &offset, err) < 0 ||
		api_query_int(request, "wait_ms", 0, API_WAIT_MAX_MS, 0, &wait_ms, err) < 0)
		return -1;
	until_ms = clock_ms() + wait_ms;
	do {
		int left_ms = clock_left_ms(until_ms);

		json_decref(answer);
		answer = task_log(queue, id, offset, left_ms < LOOK_MS ? left_ms : LOOK_MS, err);
	} while (answer && !has_news(answer) && clock_left_ms(until_ms) > 0 &&
		 !request_abandoned(request));
	return api_answer(response, answer);
}

static int cancel(struct request *request, struct response *response, struct error **err)
{
	struct task_queue *queue = queue_of(request, err);
	int64_t id;

	(void)response;
	if (!queue || task_id(request, &id, err) < 0)
		return -1;
	return task_cancel(queue, id, err);
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_task_routes[] = {ROUTES(API_ROUTE_ROW){0}};
