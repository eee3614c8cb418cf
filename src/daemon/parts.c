#include "daemon/parts.h"

#include "base/json.h"
#include "base/log.h"
#include "daemon/api.h"
#include "host/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *make(size_t size)
{
	void *made = calloc(1, size);

	if (!made)
		abort();
	return made;
}

static int check_binary(const struct config *config, struct error **err)
{
	bool bhyve = !strcmp(config->hypervisor, "bhyve");
	const char *binary = bhyve ? config->bhyve : config->qemu_binary;

	if (access(binary, X_OK) == 0)
		return 0;
	return error_set(err, ERROR_HYPERVISOR, errno,
		"no VM can run here: %s cannot be started; install %s or set binary in [%s] of "
		"drover.conf",
		binary, bhyve ? "bhyve" : "QEMU", config->hypervisor);
}

int parts_open_hv(struct daemon *daemon, struct error **err)
{
	struct hv *hv = atomic_load(&daemon->hv);

	if (hv)
		return 0;
	/* Found out without starting anything, for it is tried again and again. */
	if (check_binary(daemon->config, err) < 0)
		return -1;
	hv = hv_open(&daemon->hv_settings, err);
	if (!hv)
		return -1;
	atomic_store(&daemon->hv, hv);
	log_info("VMs are run by %s %s with %s", hv_get_facts(hv)->driver,
		hv_get_facts(hv)->version, hv_get_facts(hv)->accel);
	return 0;
}

static void free_cluster(struct cluster *c)
{
	node_close(c->peers);
	pool_close(c->pool);
	identity_free(c->identity);
	free(c);
}

static int check_same_cluster(const struct cluster *c, struct error **err)
{
	if (strcmp(c->pool->cluster_id, c->identity->cluster_id))
		return error_set(err, ERROR_POOL, 0,
			"%s holds the pool of cluster %s, but this node is of cluster %s; mount "
			"its own pool there",
			c->pool->dir, c->pool->cluster_id, c->identity->cluster_id);
	return 0;
}

/* All of it but the server. */
static struct cluster *enter_cluster(const char *state, struct error **err)
{
	struct cluster *c = make(sizeof(*c));
	cleanup_error struct error *unsafe = NULL;

	c->identity = identity_load(state, err);
	c->pool = c->identity ? pool_open(c->identity->pool_dir, err) : NULL;
	/* VMs may be running on it: it is said, and gone on. */
	if (c->pool && pool_check_mount(c->identity->pool_dir, &unsafe) < 0)
		log_warning("%s", unsafe->message);
	if (c->pool && check_same_cluster(c, err) == 0)
		c->peers = node_open(c->identity, c->pool, err);
	if (c->peers)
		return c;
	free_cluster(c);
	return NULL;
}

int parts_open_cluster(struct daemon *daemon, struct error **err)
{
	struct server_options options = {
		.listen = daemon->config->listen, .routes = api_routes(), .context = daemon};
	struct cluster *c;

	if (atomic_load(&daemon->cluster))
		return 0;
	c = enter_cluster(daemon->config->state, err);
	if (!c)
		return -1;
	options.identity = c->identity;
	options.pool = c->pool;
	c->server = server_start(&options, err);
	if (!c->server) {
		free_cluster(c);
		return -1;
	}
	atomic_store(&daemon->cluster, c);
	log_info("%s serves the other nodes of cluster %s on %s", c->identity->name,
		c->identity->cluster_id, daemon->config->listen);
	return 0;
}

static struct migrations *open_migrations(
	struct daemon *daemon, const struct cluster *c, struct vms *vms, struct error **err)
{
	const struct config *config = daemon->config;
	cleanup_free char *run = fs_format("%s/wire", config->run);
	struct migrate_settings settings = {.vms = vms,
		.pool = c->pool,
		.peers = c->peers,
		.hv = atomic_load(&daemon->hv),
		.db = daemon->db,
		.node = c->identity->name,
		.identity = c->identity,
		.wire_binary = config->wire_binary,
		.run_dir = run,
		.listen_address = config->listen_host,
		.port_min = config->port_min,
		.port_max = config->port_max,
		.vm_uid = config->uid,
		.vm_gid = config->gid,
		.wire_uid = config->wire_uid,
		.wire_gid = config->wire_gid};
	struct migrations *m = migrations_open(&settings, err);

	if (m && migrations_recover(m, err) < 0) {
		if (migrations_close(m))
			migrations_free(m);
		return NULL;
	}
	if (m)
		vms_recovered(vms);
	return m;
}

static struct machine *make_machine(
	struct daemon *daemon, const struct cluster *c, struct error **err)
{
	cleanup_free char *run = fs_format("%s/vms", daemon->config->run);
	struct machine *m = make(sizeof(*m));

	m->vms = vms_open(c->pool, atomic_load(&daemon->hv), c->identity->name, run, err);
	if (m->vms)
		vms_allow_paths(m->vms, daemon->config->allow_paths);
	if (m->vms && vms_find_again(m->vms, err) == 0)
		m->migrations = open_migrations(daemon, c, m->vms, err);
	if (m->migrations)
		return m;
	/* What it has found again is found again by the next try. */
	vms_close(m->vms);
	free(m);
	return NULL;
}

/* Tasks are clients of the API: they start when it can answer them. */
static int open_tasks(struct daemon *daemon, struct error **err)
{
	const struct config *config = daemon->config;
	cleanup_free char *logs = fs_format("%s/tasks", config->state);
	struct task_queue *tasks;

	tasks = task_queue_open(daemon->db, config->task_binary, config->socket_path, logs, err);
	atomic_store(&daemon->tasks, tasks);
	return tasks ? 0 : -1;
}

int parts_open_machine(struct daemon *daemon, struct error **err)
{
	struct machine *m = atomic_load(&daemon->machine);

	if (!m) {
		m = make_machine(daemon, atomic_load(&daemon->cluster), err);
		if (!m)
			return -1;
		atomic_store(&daemon->machine, m);
	}
	return atomic_load(&daemon->tasks) ? 0 : open_tasks(daemon, err);
}

static json_t *host_json(void)
{
	struct host_facts f;

	if (host_facts_read(&f, NULL) < 0)
		return json_object();
	return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:i, s:b}", "os", f.os, "arch", f.arch,
		"cpu_model", f.cpu_model, "cpus", f.cpus, "memory", (json_int_t)f.memory_bytes,
		"memory_free", (json_int_t)f.memory_free_bytes, "page_size", (int)f.page_size,
		"hardware_virtualization", f.hardware_virtualization);
}

int parts_publish(struct daemon *daemon, struct error **err)
{
	struct cluster *c = atomic_load(&daemon->cluster);
	struct machine *m = atomic_load(&daemon->machine);
	const struct hv *hv = atomic_load(&daemon->hv);
	cleanup_json json_t *facts = NULL;
	struct pool_node *record;
	int rc;

	if (daemon_check_member(c, err) < 0)
		return -1;
	record = pool_node_read(c->pool, c->identity->name, err);
	if (!record)
		return -1;
	facts = json_pack("{s:s, s:o}", "drover", DROVER_VERSION, "host", host_json());
	if (hv)
		json_object_set_new(facts, "hypervisor", hv_facts_json(hv));
	free(record->facts);
	record->facts = json_text(facts);
	rc = pool_node_write(c->pool, record, err);
	pool_node_free(record);
	if (rc == 0 && m)
		vms_warn_of_cpu(m->vms);
	return rc;
}

void parts_close(struct daemon *daemon)
{
	struct machine *m = atomic_exchange(&daemon->machine, NULL);
	struct cluster *c = atomic_exchange(&daemon->cluster, NULL);
	struct hv *hv = atomic_exchange(&daemon->hv, NULL);

	task_queue_close(atomic_exchange(&daemon->tasks, NULL));
	if (m) {
		migrations_free(m->migrations);
		vms_close(m->vms);
		free(m);
	}
	if (c)
		free_cluster(c);
	if (hv)
		hv_close(hv);
}
