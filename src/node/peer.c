#include "node/peer.h"

#include "base/clock.h"
#include "node/member.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Connections without a request, for all nodes together. */
#define IDLE_MAX 256

/* A connection to a node; in the list of ctx while nobody uses it, the one used last in front. */
struct node_link {
	struct node_ctx *ctx;
	struct pool_node *node; /* as the pool had it when the connection was made */
	struct http_client *client;
	int64_t idle_since_ms;
	struct node_link *next;
};

struct node_ctx {
	const struct identity *id;
	const struct pool *pool;
	pthread_mutex_t lock;
	struct node_link *idle;
};

struct node_ctx *node_open(const struct identity *id, const struct pool *pool, struct error **err)
{
	struct node_ctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx) {
		error_set(err, ERROR_FAILED, 0, "no memory");
		return NULL;
	}
	ctx->id = id;
	ctx->pool = pool;
	pthread_mutex_init(&ctx->lock, NULL);
	return ctx;
}

static void free_link(struct node_link *link)
{
	http_close(link->client);
	pool_node_free(link->node);
	free(link);
}

static void free_links(struct node_link *link)
{
	while (link) {
		struct node_link *next = link->next;

		free_link(link);
		link = next;
	}
}

void node_close(struct node_ctx *ctx)
{
	if (!ctx)
		return;
	free_links(ctx->idle);
	pthread_mutex_destroy(&ctx->lock);
	free(ctx);
}

static bool leads_to(const struct node_link *link, const struct pool_node *node)
{
	return !strcmp(link->node->name, node->name) &&
	       !strcmp(link->node->address, node->address) &&
	       pki_fingerprint_equal(link->node->fingerprint, node->fingerprint);
}

/* Takes a kept connection to that node out of the list; NULL when there is none. */
static struct node_link *take_idle(struct node_ctx *ctx, const struct pool_node *node)
{
	struct node_link **at, *found;

	pthread_mutex_lock(&ctx->lock);
	for (at = &ctx->idle; *at && !leads_to(*at, node); at = &(*at)->next)
		;
	found = *at;
	if (found)
		*at = found->next;
	pthread_mutex_unlock(&ctx->lock);
	return found;
}

static struct http_client *connect_to(
	struct node_ctx *ctx, const struct pool_node *node, struct error **err)
{
	struct http_target target = {
		.name = node->name,
		.address = node->address,
		.fingerprint = node->fingerprint,
		.ca_pem = ctx->id->ca_pem,
		.ca_file = ctx->id->ca_file,
		.cert_file = ctx->id->cert_file,
		.key_file = ctx->id->key_file,
	};

	return http_open(&target, err);
}

struct node_link *node_link_open(struct node_ctx *ctx, const char *name, struct error **err)
{
	struct pool_node *node = member_read(ctx->pool, name, err);
	struct node_link *link;
	struct http_client *client;

	if (!node)
		return NULL;
	link = take_idle(ctx, node);
	if (link) {
		pool_node_free(node);
		return link;
	}
	client = connect_to(ctx, node, err);
	link = client ? calloc(1, sizeof(*link)) : NULL;
	if (!link) {
		error_set(err, ERROR_FAILED, 0, "no memory");
		http_close(client);
		pool_node_free(node);
		return NULL;
	}
	*link = (struct node_link){.ctx = ctx, .node = node, .client = client};
	return link;
}

/* Cuts what is too many or too old out of the list; returns it. The list is in the order of use. */
static struct node_link *cut_idle(struct node_ctx *ctx, const struct node_link *newest)
{
	struct node_link *cut = NULL, **at = &ctx->idle;
	int of_peer = 0, count = 0;

	while (*at) {
		struct node_link *link = *at;
		bool same = !strcmp(link->node->name, newest->node->name);

		of_peer += same;
		count++;
		if (link->idle_since_ms + NODE_IDLE_MS > newest->idle_since_ms &&
			count <= IDLE_MAX &&
			(!same ||
				(of_peer <= NODE_IDLE_PER_PEER && leads_to(link, newest->node)))) {
			at = &link->next;
			continue;
		}
		*at = link->next;
		link->next = cut;
		cut = link;
	}
	return cut;
}

void node_link_close(struct node_link *link)
{
	struct node_ctx *ctx;
	struct node_link *cut;

	if (!link)
		return;
	ctx = link->ctx;
	link->idle_since_ms = clock_ms();
	pthread_mutex_lock(&ctx->lock);
	link->next = ctx->idle;
	ctx->idle = link;
	cut = cut_idle(ctx, link);
	pthread_mutex_unlock(&ctx->lock);
	free_links(cut);
}

int node_link_call(struct node_link *link, const struct http_request *request, json_t **answer,
	struct error **err)
{
	return http_call(link->client, request, answer, err);
}

long node_link_connections(const struct node_link *link)
{
	return http_connections(link->client);
}

int node_call(struct node_ctx *ctx, const char *node, const char *method, const char *path,
	const json_t *body, int timeout_ms, json_t **answer, struct error **err)
{
	struct http_request request = {
		.method = method, .path = path, .body = body, .timeout_ms = timeout_ms};
	struct node_link *link = node_link_open(ctx, node, err);
	int result;

	if (!link)
		return -1;
	result = node_link_call(link, &request, answer, err);
	node_link_close(link);
	return result;
}
