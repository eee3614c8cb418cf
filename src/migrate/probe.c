#include "migrate/probe.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "migrate/dest.h"
#include "migrate/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_MS 2000
#define LANE_S 3
#define LOOK_MS 100
#define END_MS 3000
/* More than the bytes that were counted may have gone; what comes later may be slower or faster. */
#define LEAST_SHARE 0.92
#define MOST_SHARE 1.06

static struct mover *start_mover(struct migrations *all, const char *id, const char *peer,
	const char *connect, int listen_fd, const char *carried, struct error **err)
{
	const struct migrate_settings *set = &all->set;
	struct pool_node *node = pool_node_read(set->pool, peer, err);
	struct mover_options options = {.binary = set->wire_binary,
		.id = id,
		.peer = peer,
		.connect = connect,
		.listen_fd = listen_fd,
		.carried = carried,
		.timeout_s = LANE_S,
		.reconnect_s = 1,
		.cert_pem = set->identity->cert_pem,
		.key_pem = set->identity->key_pem,
		.ca_pem = set->identity->ca_pem,
		.log_fd = -1,
		.uid = set->wire_uid,
		.gid = set->wire_gid};
	struct mover *mover;

	if (!node)
		return NULL;
	options.fingerprint = node->fingerprint;
	mover = mover_start(&options, err);
	pool_node_free(node);
	return mover;
}

static int find_rate(struct mover *mover, struct estimate_range *bps, struct error **err)
{
	cleanup_json json_t *report = mover_report(mover);
	int64_t least, most;

	if (json_opt_int(report, "steady_least_bps", 0, (int64_t)1 << 50, 0, &least, err) < 0 ||
		json_opt_int(report, "steady_most_bps", 0, (int64_t)1 << 50, 0, &most, err) < 0)
		return -1;
	if (least <= 0)
		return error_set(err, ERROR_TIMEOUT, 0, "too little came through to tell");
	*bps = (struct estimate_range){(double)least * LEAST_SHARE, (double)most * MOST_SHARE};
	return 0;
}

static int ask(struct migrations *all, const char *node, const json_t *request, json_t **answer,
	struct error **err)
{
	struct error *e = NULL;

	if (node_call(all->set.peers, node, "POST", "/v1/probes", request, CALL_MS, answer, &e) ==
		0)
		return 0;
	if (e->kind != ERROR_NOT_FOUND)
		return error_move(err, e);
	error_free(&e);
	return error_set(err, ERROR_NOT_FOUND, 0,
		"the link was not measured, for %s has an older drover", node);
}

int probe_link(struct migrations *all, const char *node, const char *probe, int64_t deadline_ms,
	struct estimate_range *bps, struct error **err)
{
	cleanup_json json_t *request = NULL, *answer = NULL;
	cleanup_free char *carried = fs_format("probe:%s", probe);
	struct mover *mover;
	char id[33], lane[300];
	int64_t port;
	int rc;

	fs_random_hex(id, 16);
	request = json_pack("{s:s}", "id", id);
	if (ask(all, node, request, &answer, err) < 0 ||
		json_get_int(answer, "port", 1, 65535, &port, err) < 0 ||
		source_lane_address(all, node, (int)port, lane, err) < 0)
		return -1;
	mover = start_mover(all, id, node, lane, -1, carried, err);
	if (!mover)
		return -1;
	rc = mover_wait(mover, "end", deadline_ms, err);
	if (rc == 0)
		rc = find_rate(mover, bps, err);
	mover_close(mover);
	return rc;
}

/* What is received at the destination, in a thread of its own. */
struct received {
	struct migrations *all;
	struct mover *mover;
};

static bool is_over(struct migrations *all)
{
	bool over;

	pthread_mutex_lock(&all->lock);
	over = all->closing || all->probes_held > 0;
	pthread_mutex_unlock(&all->lock);
	return over;
}

static void forget(struct migrations *all)
{
	pthread_mutex_lock(&all->lock);
	all->probes--;
	all->threads--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
}

static void *follow(void *arg)
{
	struct received r = *(struct received *)arg;
	int64_t deadline = clock_ms() + PROBE_LIFE_MS;

	free(arg);
	while (clock_ms() < deadline && !is_over(r.all)) {
		cleanup_error struct error *e = NULL;

		if (mover_wait(r.mover, "end", clock_ms() + LOOK_MS, &e) == 0 ||
			e->kind != ERROR_TIMEOUT || mover_check(r.mover, NULL) < 0)
			break;
	}
	mover_close(r.mover);
	forget(r.all);
	return NULL;
}

/* One of the places that there are. */
static int take_place(struct migrations *all, struct error **err)
{
	bool full;

	pthread_mutex_lock(&all->lock);
	full = all->probes >= PROBES_MAX || all->probes_held > 0 || all->closing;
	if (!full) {
		all->probes++;
		all->threads++;
	}
	pthread_mutex_unlock(&all->lock);
	return full ? error_set(err, ERROR_BUSY, 0,
			      "%s measures other links, or has no port for another", all->set.node)
		    : 0;
}

static int begin(
	struct migrations *all, const char *from, const char *id, int *port, struct error **err)
{
	cleanup_fd int listen_fd = dest_listen(&all->set, port, err);
	struct received *r;
	pthread_t thread;

	if (listen_fd < 0)
		return -1;
	r = malloc(sizeof(*r));
	if (!r)
		abort();
	*r = (struct received){all, start_mover(all, id, from, NULL, listen_fd, "null", err)};
	if (!r->mover) {
		free(r);
		return -1;
	}
	if (pthread_create(&thread, NULL, follow, r) != 0)
		abort();
	pthread_detach(thread);
	return 0;
}

json_t *probe_receive(
	struct migrations *all, const char *from, const json_t *request, struct error **err)
{
	const char *id = json_get_string(request, "id", err);
	int port;

	if (!id || fs_check_name("migration", id, err) < 0 || take_place(all, err) < 0)
		return NULL;
	if (begin(all, from, id, &port, err) < 0) {
		forget(all);
		return NULL;
	}
	return json_pack("{s:i}", "port", port);
}

void probes_hold(struct migrations *all)
{
	int64_t deadline = clock_ms() + END_MS;

	pthread_mutex_lock(&all->lock);
	all->probes_held++;
	while (all->probes > 0 && clock_ms() < deadline)
		migrations_wait(all, deadline);
	pthread_mutex_unlock(&all->lock);
}

void probes_release(struct migrations *all)
{
	pthread_mutex_lock(&all->lock);
	all->probes_held--;
	pthread_mutex_unlock(&all->lock);
}
