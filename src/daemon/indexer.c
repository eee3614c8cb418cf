#include "daemon/indexer.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "pool/image.h"
#include "pool/vm_def.h"
#include "wire/index.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUE_MAX 1024 /* VMs; what is lost is looked at again at the VM's next start or move */
#define LOOK_MS 500    /* how often it is asked whether somebody still waits */
#define KILL_MS 2000   /* from SIGTERM to SIGKILL */
#define OUTPUT_MAX 8192

/* A VM that is to be looked at. */
struct item {
	const struct pool *pool;
	char vm[FS_NAME_MAX + 1];
	struct item *next;
};

/* A running child. */
struct job {
	const char *image;
	struct process_id process;
	struct job *next;
};

struct indexer {
	const char *wire_binary;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* CLOCK_MONOTONIC */
	bool stopping, ended;
	struct item *queue;
	size_t queued;
	struct job *jobs;
};

/* Starts the child, known to indexer_stop from its first moment. */
static int start_job(
	struct indexer *x, struct job *job, bool background, int output, struct error **err)
{
	const char *argv[] = {
		x->wire_binary, "index", background ? "--background" : "--", job->image, NULL};
	struct process_options options = {
		.argv = argv, .stdin_fd = -1, .stdout_fd = output, .stderr_fd = -1};
	int rc;

	pthread_mutex_lock(&x->lock);
	rc = x->stopping ? error_set(err, ERROR_INTERRUPTED, 0, "droverd stops")
			 : process_start(&options, &job->process, err);
	if (rc == 0) {
		job->next = x->jobs;
		x->jobs = job;
	}
	pthread_mutex_unlock(&x->lock);
	return rc;
}

static void end_job(struct indexer *x, struct job *job)
{
	struct job **at = &x->jobs;

	pthread_mutex_lock(&x->lock);
	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
	pthread_cond_broadcast(&x->changed);
	pthread_mutex_unlock(&x->lock);
}

/* Waits for its end; it is told to stop when `stop` says so. */
static int wait_job(struct job *job, indexer_stop_fn *stop, void *arg)
{
	int64_t kill_ms = 0;
	int status;

	while (!process_wait(&job->process, clock_ms() + LOOK_MS, &status)) {
		if (kill_ms && clock_ms() > kill_ms)
			process_signal(&job->process, SIGKILL);
		if (kill_ms || !stop || !stop(arg))
			continue;
		process_signal(&job->process, SIGTERM);
		kill_ms = clock_ms() + KILL_MS;
	}
	return status;
}

/* The line of JSON that the child has written. */
static json_t *read_answer(const char *image, int output, int status, struct error **err)
{
	char text[OUTPUT_MAX], how[64];
	ssize_t len = pread(output, text, sizeof(text), 0);
	cleanup_json json_t *answer =
		len > 0 ? json_parse("the index's maker", text, (size_t)len, NULL) : NULL;
	const char *kind = json_string_value(json_object_get(answer, "kind"));
	const char *message = json_string_value(json_object_get(answer, "message"));

	if (status == 0 && answer) {
		json_object_del(answer, "event");
		return json_incref(answer);
	}
	if (kind && message)
		error_set(err, error_kind_from_name(kind), 0, "%s", message);
	else
		error_set(err, ERROR_FAILED, 0, "indexing of %s ended with %s", image,
			process_status_text(status, how, sizeof(how)));
	return NULL;
}

static json_t *make(struct indexer *x, const char *image, bool background, indexer_stop_fn *stop,
	void *arg, struct error **err)
{
	cleanup_fd int output = memfd_create("drover-index", MFD_CLOEXEC);
	struct job job = {.image = image};
	int status;

	if (output < 0) {
		error_set(err, ERROR_FAILED, errno, "cannot make a file in memory");
		return NULL;
	}
	if (start_job(x, &job, background, output, err) < 0)
		return NULL;
	status = wait_job(&job, stop, arg);
	end_job(x, &job);
	return read_answer(image, output, status, err);
}

json_t *indexer_make(
	struct indexer *x, const char *image, indexer_stop_fn *stop, void *arg, struct error **err)
{
	return make(x, image, false, stop, arg, err);
}

bool indexer_makes(struct indexer *x, const char *image)
{
	const struct job *job;

	pthread_mutex_lock(&x->lock);
	for (job = x->jobs; job && strcmp(job->image, image); job = job->next)
		;
	pthread_mutex_unlock(&x->lock);
	return job;
}

static bool is_stopping(struct indexer *x)
{
	bool stopping;

	pthread_mutex_lock(&x->lock);
	stopping = x->stopping;
	pthread_mutex_unlock(&x->lock);
	return stopping;
}

static void look_at_image(struct indexer *x, const struct image_file *file)
{
	cleanup_error struct error *e = NULL;
	cleanup_json json_t *made = NULL;
	enum index_state state;

	if (!file->in_pool || is_stopping(x) || indexer_makes(x, file->path))
		return;
	if (index_look(file->path, &state, &e) == 0) {
		if (state == INDEX_FRESH)
			return;
		made = make(x, file->path, true, NULL, NULL, &e);
	}
	if (made)
		log_info("%s is indexed: %lld blocks in %lld ms", file->name,
			(long long)json_integer_value(json_object_get(made, "entries")),
			(long long)json_integer_value(json_object_get(made, "duration_ms")));
	else if (!is_stopping(x))
		log_warning("%s is not indexed: %s", file->name, e->message);
}

static void look_at_vm(struct indexer *x, const struct item *item)
{
	cleanup_error struct error *e = NULL;
	cleanup_vm_def struct vm_def *def = vm_def_load(item->pool, item->vm, &e);
	struct image_files files = {0};

	/* It may have been removed meanwhile; and whoever starts it is told what is wrong with its
	 * disks. */
	if (!def)
		return;
	image_backing_files(item->pool, def, &files, NULL);
	for (size_t i = 0; i < files.count; i++)
		look_at_image(x, &files.list[i]);
	image_files_free(&files);
	image_sweep(item->pool);
}

/* The next VM, NULL when droverd stops. */
static struct item *next_item(struct indexer *x)
{
	struct item *item;

	pthread_mutex_lock(&x->lock);
	while (!x->queue && !x->stopping)
		pthread_cond_wait(&x->changed, &x->lock);
	item = x->stopping ? NULL : x->queue;
	if (item) {
		x->queue = item->next;
		x->queued--;
	}
	pthread_mutex_unlock(&x->lock);
	return item;
}

static void *run(void *arg)
{
	struct indexer *x = arg;
	struct item *item;

	while ((item = next_item(x))) {
		look_at_vm(x, item);
		free(item);
	}
	pthread_mutex_lock(&x->lock);
	x->ended = true;
	pthread_cond_broadcast(&x->changed);
	pthread_mutex_unlock(&x->lock);
	return NULL;
}

struct indexer *indexer_open(const char *wire_binary)
{
	struct indexer *x = calloc(1, sizeof(*x));

	if (!x)
		abort();
	x->wire_binary = wire_binary;
	pthread_mutex_init(&x->lock, NULL);
	cond_init(&x->changed);
	if (pthread_create(&x->thread, NULL, run, x) != 0)
		abort();
	return x;
}

void indexer_look_at(struct indexer *x, const struct pool *pool, const char *vm)
{
	struct item **at = &x->queue, *item = calloc(1, sizeof(*item));

	if (!item)
		abort();
	item->pool = pool;
	strncpy(item->vm, vm, FS_NAME_MAX);
	pthread_mutex_lock(&x->lock);
	while (*at && strcmp((*at)->vm, vm))
		at = &(*at)->next;
	if (!*at && x->queued < QUEUE_MAX && !x->stopping) {
		*at = item;
		item = NULL;
		x->queued++;
		pthread_cond_broadcast(&x->changed);
	}
	pthread_mutex_unlock(&x->lock);
	free(item);
}

/* With the lock held. */
static void signal_jobs(const struct indexer *x, int signal)
{
	for (const struct job *job = x->jobs; job; job = job->next)
		process_signal(&job->process, signal);
}

/* With the lock held: waits for the end of all jobs and the thread; false at the deadline. */
static bool wait_ended(struct indexer *x, int64_t until_ms)
{
	while (x->jobs || !x->ended)
		if (!cond_wait_until(&x->changed, &x->lock, until_ms))
			return !x->jobs && x->ended;
	return true;
}

bool indexer_stop(struct indexer *x, int64_t until_ms)
{
	int64_t kill_ms = clock_ms() + KILL_MS;
	bool ended;

	pthread_mutex_lock(&x->lock);
	x->stopping = true;
	pthread_cond_broadcast(&x->changed);
	signal_jobs(x, SIGTERM);
	ended = wait_ended(x, kill_ms < until_ms ? kill_ms : until_ms);
	if (!ended) {
		signal_jobs(x, SIGKILL);
		ended = wait_ended(x, until_ms);
	}
	pthread_mutex_unlock(&x->lock);
	return ended;
}

void indexer_free(struct indexer *x)
{
	if (!x)
		return;
	pthread_join(x->thread, NULL);
	while (x->queue) {
		struct item *next = x->queue->next;

		free(x->queue);
		x->queue = next;
	}
	pthread_cond_destroy(&x->changed);
	pthread_mutex_destroy(&x->lock);
	free(x);
}
