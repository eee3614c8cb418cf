#include "pool/internal.h"
#include "pool/settings.h"

#include "base/json.h"
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONF_MAX (16u << 10)
#define FACTS_MAX \
	(1u << 20)      /* a hypervisor with all its machines and CPU models is some 50 KiB \
			 */
#define ADDRESS_MAX 262 /* a DNS name of 255 and ":65535" */

static char *node_path(const struct pool *pool, const char *name, const char *suffix)
{
	return fs_format("%s/nodes/%s%s", pool->dir, name, suffix);
}

void pool_node_free(struct pool_node *node)
{
	if (!node)
		return;
	free(node->address);
	free(node->facts);
	free(node);
}

static int no_node(const char *name, struct error **err)
{
	return error_set(err, ERROR_NO_NODE, 0,
		"no node named %s in the pool; `drover node ls` lists the nodes", name);
}

static int check_address(const char *address, struct error **err)
{
	size_t len = strlen(address);

	if (len == 0 || len > ADDRESS_MAX)
		return error_set(err, ERROR_DEFINITION, 0,
			"address has 1 to %d characters, this one has %zu", ADDRESS_MAX, len);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)address[i]) && !strchr(".:-_[]%", address[i]))
			return error_set(err, ERROR_DEFINITION, 0,
				"address is HOST or HOST:PORT, not \"%s\"", address);
	return 0;
}

static int check_fingerprint(const char *fingerprint, struct error **err)
{
	if (pool_is_hex(fingerprint, 64))
		return 0;
	return error_set(err, ERROR_DEFINITION, 0,
		"fingerprint is 64 lower-case hexadecimal digits, not \"%s\"", fingerprint);
}

static int take_node(const struct settings_key *key, void *arg, struct error **err)
{
	struct pool_node *node = arg;

	if (strcmp(key->section, "node") != 0)
		return error_set(err, ERROR_DEFINITION, 0, "the section is [node]");
	if (!strcmp(key->key, "address")) {
		node->address = fs_format("%s", key->value);
		return check_address(key->value, err);
	}
	if (!strcmp(key->key, "fingerprint")) {
		if (check_fingerprint(key->value, err) < 0)
			return -1;
		memcpy(node->fingerprint, key->value, sizeof(node->fingerprint));
		return 0;
	}
	return error_set(err, ERROR_DEFINITION, 0,
		"\"%s\" is not known here; address and fingerprint are", key->key);
}

static int read_conf(const struct pool *pool, struct pool_node *node, struct error **err)
{
	cleanup_free char *path = node_path(pool, node->name, ".conf"), *text = NULL;
	struct error *why = NULL;
	size_t len;

	text = fs_read(path, CONF_MAX, &len, &why);
	if (!text && why->kind == ERROR_NOT_FOUND) {
		error_free(&why);
		return no_node(node->name, err);
	}
	if (text && settings_read(path, text, len, 0, take_node, node, &why) == 0 &&
		(!node->address || !node->fingerprint[0]))
		error_set(&why, ERROR_POOL, 0, "%s must have address and fingerprint", path);
	if (!why)
		return 0;
	why->kind = ERROR_POOL;
	return error_move(err, why);
}

/* What a node has published is for information: a broken file is as good as none. */
static char *read_facts(const struct pool *pool, const char *name)
{
	cleanup_free char *path = node_path(pool, name, ".facts");
	cleanup_error struct error *why = NULL;
	cleanup_json json_t *json = NULL;
	char *text;
	size_t len;

	text = fs_read(path, FACTS_MAX, &len, &why);
	if (text)
		json = json_parse(path, text, len, &why);
	if (json)
		return text;
	free(text);
	if (why->kind != ERROR_NOT_FOUND)
		log_warning("the facts of node %s are not used: %s", name, why->message);
	return fs_format("{}");
}

struct pool_node *pool_node_read(const struct pool *pool, const char *name, struct error **err)
{
	struct pool_node *node;

	if (fs_check_name("node", name, err) < 0)
		return NULL;
	node = calloc(1, sizeof(*node));
	if (!node)
		abort();
	memcpy(node->name, name, strlen(name) + 1);
	if (read_conf(pool, node, err) < 0) {
		pool_node_free(node);
		return NULL;
	}
	node->facts = read_facts(pool, name);
	return node;
}

static int write_facts(const struct pool *pool, const struct pool_node *node, struct error **err)
{
	cleanup_free char *path = node_path(pool, node->name, ".facts");
	cleanup_json json_t *json = NULL;
	size_t len = strlen(node->facts);

	if (len > FACTS_MAX)
		return error_set(err, ERROR_DEFINITION, 0,
			"the facts of node %s are larger than %u bytes", node->name, FACTS_MAX);
	json = json_parse("the node's facts", node->facts, len, err);
	return json ? fs_write(path, node->facts, len, 0644, err) : -1;
}

int pool_node_write(const struct pool *pool, const struct pool_node *node, struct error **err)
{
	cleanup_free char *path = node_path(pool, node->name, ".conf"), *text = NULL;

	if (fs_check_name("node", node->name, err) < 0 || check_address(node->address, err) < 0 ||
		check_fingerprint(node->fingerprint, err) < 0)
		return -1;
	if (node->facts && write_facts(pool, node, err) < 0)
		return -1;
	text = fs_format(
		"[node]\naddress = %s\nfingerprint = %s\n", node->address, node->fingerprint);
	return fs_write(path, text, strlen(text), 0644, err);
}

int pool_node_remove(const struct pool *pool, const char *name, struct error **err)
{
	cleanup_free char *conf = NULL, *facts = NULL, *nodes = fs_format("%s/nodes", pool->dir);

	if (fs_check_name("node", name, err) < 0)
		return -1;
	conf = node_path(pool, name, ".conf");
	facts = node_path(pool, name, ".facts");
	/* The membership goes first: what is left after a crash is then no member. */
	if (unlink(conf) < 0)
		return errno == ENOENT
			       ? no_node(name, err)
			       : error_set(err, ERROR_POOL, errno, "cannot remove %s", conf);
	if (unlink(facts) < 0 && errno != ENOENT)
		return error_set(err, ERROR_POOL, errno, "cannot remove %s", facts);
	return fs_sync_dir(nodes, err);
}

int pool_node_list(const struct pool *pool, struct pool_names *names, struct error **err)
{
	cleanup_free char *nodes = fs_format("%s/nodes", pool->dir);

	return pool_names_read(nodes, "node", ".conf", S_IFREG, names, err);
}
