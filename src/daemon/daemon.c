#include "daemon/daemon.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "daemon/api.h"
#include "daemon/indexer.h"
#include "daemon/parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Worth a line in the log: neither a node without a cluster nor one that is just starting. */
static bool worth_telling(const struct error *e)
{
	return e && e->kind != ERROR_NO_CLUSTER && e->kind != ERROR_DAEMON;
}

/* Keeps why something is missing; logged when that changes. */
static void keep_reason(struct daemon *daemon, struct error **at, struct error *now)
{
	pthread_mutex_lock(&daemon->lock);
	if (worth_telling(now) && (!*at || strcmp((*at)->message, now->message)))
		log_warning("%s", now->message);
	else if (!now && worth_telling(*at))
		log_info("no longer so: %s", (*at)->message);
	error_free(at);
	*at = now;
	pthread_mutex_unlock(&daemon->lock);
}

static int copy_error(struct error **err, const struct error *from)
{
	return from ? error_set(err, from->kind, 0, "%s", from->message) : 0;
}

/* What has come up: published when it has become more. */
static int count_parts(struct daemon *daemon)
{
	return (atomic_load(&daemon->cluster) != NULL) + (atomic_load(&daemon->machine) != NULL);
}

/* One try of all that is missing. */
static void bring_up(struct daemon *daemon)
{
	struct error *hv = NULL, *cluster = NULL, *machine = NULL;
	cleanup_error struct error *unpublished = NULL;
	int before = count_parts(daemon);

	parts_open_hv(daemon, &hv);
	parts_open_cluster(daemon, &cluster);
	if (copy_error(&machine, cluster) == 0 && copy_error(&machine, hv) == 0)
		parts_open_machine(daemon, &machine);
	if (count_parts(daemon) > before && parts_publish(daemon, &unpublished) < 0)
		log_warning("cannot publish this node's facts: %s", unpublished->message);
	keep_reason(daemon, &daemon->no_hv, hv);
	keep_reason(daemon, &daemon->no_cluster, cluster);
	keep_reason(daemon, &daemon->no_machine, machine);
}

static void look_at_pool(struct daemon *daemon)
{
	struct cluster *c = atomic_load(&daemon->cluster);
	struct error *e = NULL;

	if (c)
		daemon_check_member(c, &e);
	keep_reason(daemon, &daemon->no_member, e);
}

static bool is_migrated(void *arg, const char *vm)
{
	return migrations_have(arg, vm, NULL);
}

/* This node may have been held for dead, and its VMs recovered elsewhere; or may wait for VMs whose
 * source has died. */
static void look_at_owners(struct daemon *daemon)
{
	struct machine *m = atomic_load(&daemon->machine);

	if (!m)
		return;
	vms_end_lost(m->vms, &(struct vms_spare){.is_spared = is_migrated, .arg = m->migrations});
	migrations_end_expected(m->migrations);
}

/* Waits on `changed`, with the lock held, at most until `until_ms`; false when that has passed. */
static bool wait_changed(struct daemon *daemon, int64_t until_ms)
{
	return cond_wait_until(&daemon->changed, &daemon->lock, until_ms);
}

static void wait_for_next_try(struct daemon *daemon)
{
	int64_t until_ms = clock_ms() + DAEMON_RETRY_MS;

	while (!daemon->stopping && daemon->asked == daemon->answered)
		if (!wait_changed(daemon, until_ms))
			return;
}

static void *run(void *arg)
{
	struct daemon *daemon = arg;

	pthread_mutex_lock(&daemon->lock);
	while (!daemon->stopping) {
		uint64_t asked = daemon->asked;

		daemon->trying_since_ms = clock_ms();
		pthread_mutex_unlock(&daemon->lock);
		bring_up(daemon);
		look_at_pool(daemon);
		look_at_owners(daemon);
		pthread_mutex_lock(&daemon->lock);
		daemon->trying_since_ms = 0;
		daemon->answered = asked;
		pthread_cond_broadcast(&daemon->changed);
		wait_for_next_try(daemon);
	}
	daemon->ended = true;
	pthread_cond_broadcast(&daemon->changed);
	pthread_mutex_unlock(&daemon->lock);
	return NULL;
}

void daemon_init(struct daemon *daemon, const struct config *config, struct db *db)
{

	*daemon = (struct daemon){.config = config, .db = db};
	daemon->hv_settings = (struct hv_settings){.driver = config->hypervisor,
		.bhyve = config->bhyve,
		.bhyvectl = config->bhyvectl,
		.bhyveload = config->bhyveload,
		.grub_bhyve = config->grub_bhyve,
		.bootrom = config->bootrom,
		.vmm_dir = config->vmm,
		.nmdm_dir = config->nmdm,
		.suspend_dir = config->suspend_dir,
		.port_min = config->bhyve_port_min,
		.port_max = config->bhyve_port_max,
		.binary = config->qemu_binary,
		.img_binary = config->qemu_img,
		.data_dirs = config->qemu_data,
		.accel = config->accel,
		.uid = config->uid,
		.gid = config->gid};
	pthread_mutex_init(&daemon->lock, NULL);
	pthread_mutex_init(&daemon->joining, NULL);
	cond_init(&daemon->changed);
	error_set(&daemon->no_hv, ERROR_DAEMON, 0, "droverd is starting its hypervisor");
	error_set(&daemon->no_cluster, ERROR_DAEMON, 0, "droverd is starting; try again");
	error_set(&daemon->no_machine, ERROR_DAEMON, 0, "droverd is starting; try again");
}

/* Asks for a try that begins after now and waits for its end; false when limit_ms have passed. */
static bool ask_for_try(struct daemon *daemon, int limit_ms)
{
	int64_t until_ms = clock_ms() + limit_ms;
	uint64_t mine;
	bool answered;

	pthread_mutex_lock(&daemon->lock);
	mine = ++daemon->asked;
	pthread_cond_broadcast(&daemon->changed);
	while (daemon->answered < mine)
		if (!wait_changed(daemon, until_ms))
			break;
	answered = daemon->answered >= mine;
	pthread_mutex_unlock(&daemon->lock);
	return answered;
}

static int serve_local(struct daemon *daemon, struct error **err)
{
	struct server_options options = {.socket_path = daemon->config->socket_path,
		.group = daemon->config->group,
		.routes = api_routes(),
		.context = daemon};

	daemon->local = server_start(&options, err);
	return daemon->local ? 0 : -1;
}

int daemon_start(struct daemon *daemon, int limit_ms, struct error **err)
{
	daemon->indexer = indexer_open(daemon->config->wire_binary);
	if (serve_local(daemon, err) < 0)
		return -1;
	if (pthread_create(&daemon->thread, NULL, run, daemon) != 0)
		abort();
	daemon->started = true;
	if (!ask_for_try(daemon, limit_ms))
		log_warning("the pool or the hypervisor has not answered within %d s: serving "
			    "without them until they do",
			limit_ms / 1000);
	return 0;
}

int daemon_try_now(struct daemon *daemon, struct error **err)
{
	if (!ask_for_try(daemon, DAEMON_TRY_MS))
		return error_set(err, ERROR_TIMEOUT, 0,
			"the cluster's part of droverd has not come up within %d s; it is tried "
			"further, and `drover status` says how it stands",
			DAEMON_TRY_MS / 1000);
	return daemon_cluster_even_removed(daemon, err) ? 0 : -1;
}

/* The thread may hang in a file system that does not answer. */
static bool end_thread(struct daemon *daemon, int64_t until_ms)
{
	bool ended;

	pthread_mutex_lock(&daemon->lock);
	daemon->stopping = true;
	pthread_cond_broadcast(&daemon->changed);
	while (daemon->started && !daemon->ended)
		if (!wait_changed(daemon, until_ms))
			break;
	ended = !daemon->started || daemon->ended;
	pthread_mutex_unlock(&daemon->lock);
	if (daemon->started && ended)
		pthread_join(daemon->thread, NULL);
	return ended;
}

static bool stop_serving(struct daemon *daemon, int64_t until_ms)
{
	struct cluster *c = atomic_load(&daemon->cluster);
	int left = server_stop(daemon->local, clock_left_ms(until_ms));

	if (c)
		left += server_stop(c->server, clock_left_ms(until_ms));
	if (left > 0)
		log_warning("%d requests have not ended in time and are cut off", left);
	return left == 0;
}

bool daemon_stop(struct daemon *daemon, int limit_ms)
{
	int64_t until_ms = clock_ms() + limit_ms;
	struct machine *m;

	if (!end_thread(daemon, until_ms))
		return false;
	m = atomic_load(&daemon->machine);
	/* Ends the requests that wait for a migration, too. */
	if (m && !migrations_close(m->migrations))
		return false;
	/* The same goes for those that wait for an index. */
	if (!indexer_stop(daemon->indexer, until_ms) || !stop_serving(daemon, until_ms))
		return false;
	indexer_free(daemon->indexer);
	parts_close(daemon);
	error_free(&daemon->no_hv);
	error_free(&daemon->no_cluster);
	error_free(&daemon->no_machine);
	error_free(&daemon->no_member);
	pthread_cond_destroy(&daemon->changed);
	pthread_mutex_destroy(&daemon->joining);
	pthread_mutex_destroy(&daemon->lock);
	return true;
}

/* Why a part is missing, as the last try said. */
static void *missing(struct daemon *daemon, struct error *const *reason, struct error **err)
{
	pthread_mutex_lock(&daemon->lock);
	if (copy_error(err, *reason) == 0)
		error_set(err, ERROR_DAEMON, 0, "droverd is starting; try again");
	pthread_mutex_unlock(&daemon->lock);
	return NULL;
}

struct cluster *daemon_cluster_even_removed(struct daemon *daemon, struct error **err)
{
	struct cluster *c = atomic_load(&daemon->cluster);

	return c ? c : missing(daemon, &daemon->no_cluster, err);
}

struct machine *daemon_machine_even_removed(struct daemon *daemon, struct error **err)
{
	struct machine *m = atomic_load(&daemon->machine);

	return m ? m : missing(daemon, &daemon->no_machine, err);
}

struct cluster *daemon_cluster(struct daemon *daemon, struct error **err)
{
	struct cluster *c = daemon_cluster_even_removed(daemon, err);
	struct error *e = NULL;

	if (!c || daemon_check_member(c, &e) == 0)
		return c;
	error_set(err, e->kind, 0, "%s", e->message);
	keep_reason(daemon, &daemon->no_member, e);
	return NULL;
}

struct machine *daemon_machine(struct daemon *daemon, struct error **err)
{
	return daemon_cluster(daemon, err) ? daemon_machine_even_removed(daemon, err) : NULL;
}

struct task_queue *daemon_tasks(struct daemon *daemon, struct error **err)
{
	struct task_queue *tasks = atomic_load(&daemon->tasks);

	return tasks ? tasks : missing(daemon, &daemon->no_machine, err);
}

/* A directory that nothing is mounted on holds no records either. */
static int check_pool_there(const struct pool *pool, struct error **err)
{
	cleanup_free char *path = fs_format("%s/pool.conf", pool->dir);

	if (access(path, F_OK) == 0)
		return 0;
	return error_set(
		err, ERROR_POOL, errno, "the pool cannot be read at %s; is it mounted?", pool->dir);
}

int daemon_check_member(const struct cluster *c, struct error **err)
{
	cleanup_error struct error *e = NULL;
	struct pool_node *record = pool_node_read(c->pool, c->identity->name, &e);
	bool same = record && pki_fingerprint_equal(record->fingerprint, c->identity->fingerprint);

	pool_node_free(record);
	if (same)
		return 0;
	if (check_pool_there(c->pool, err) < 0)
		return -1;
	if (e && e->kind != ERROR_NO_NODE) {
		error_move(err, e);
		e = NULL;
		return -1;
	}
	return error_set(err, ERROR_CERTIFICATE, 0,
		"this node (%s) has been removed from the cluster%s; stop droverd, run `droverd "
		"--forget`, start it and join again",
		c->identity->name, e ? "" : ", and another has its name");
}

/* How long the thread has been held by something, in seconds; 0: it has not. With the lock held. */
static int hangs_for_s(const struct daemon *daemon)
{
	int64_t took_ms = daemon->trying_since_ms ? clock_ms() - daemon->trying_since_ms : 0;

	return took_ms < DAEMON_HANGS_MS ? 0 : (int)(took_ms / 1000);
}

bool daemon_pool_answers(struct daemon *daemon)
{
	bool answers;

	pthread_mutex_lock(&daemon->lock);
	answers = atomic_load(&daemon->cluster) && hangs_for_s(daemon) == 0 &&
		  (!daemon->no_member || daemon->no_member->kind == ERROR_CERTIFICATE);
	pthread_mutex_unlock(&daemon->lock);
	return answers;
}

static void add_problem(json_t *list, const struct error *e)
{
	size_t i;
	json_t *other;

	if (!e)
		return;
	json_array_foreach(
		list, i, other) if (!strcmp(json_string_value(other), e->message)) return;
	json_array_append_new(list, json_string(e->message));
}

static void add_hang(json_t *list, const struct daemon *daemon)
{
	int hangs_s = hangs_for_s(daemon);

	if (hangs_s)
		json_array_append_new(list,
			json_sprintf(
				"the pool or the hypervisor has not answered for %d s; look at "
				"the file system of the pool",
				hangs_s));
}

json_t *daemon_problems(struct daemon *daemon)
{
	json_t *list = json_array();

	pthread_mutex_lock(&daemon->lock);
	add_hang(list, daemon);
	add_problem(list, daemon->no_member);
	add_problem(list, daemon->no_hv);
	add_problem(list, daemon->no_cluster);
	add_problem(list, daemon->no_machine);
	pthread_mutex_unlock(&daemon->lock);
	return list;
}
