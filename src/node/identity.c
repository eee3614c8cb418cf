#include "node/identity.h"

#include "base/log.h"
#include "node/http.h"
#include "pool/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONF_MAX (16u << 10)

static char *path(const char *state_dir, const char *file)
{
	return fs_format("%s/%s", state_dir, file);
}

bool identity_exists(const char *state_dir)
{
	cleanup_free char *conf = path(state_dir, "node.conf");

	return fs_exists(conf);
}

void identity_free(struct identity *id)
{
	if (!id)
		return;
	free(id->address);
	free(id->pool_dir);
	pki_free_key(id->key_pem);
	pki_free_key(id->ca_key_pem);
	free(id->cert_pem);
	free(id->ca_pem);
	free(id->key_file);
	free(id->cert_file);
	free(id->ca_file);
	free(id);
}

/* A value that is too long for it is left out, and found missing by complete(). */
static void take_text(char *to, size_t size, const char *value)
{
	if (strlen(value) < size)
		memcpy(to, value, strlen(value) + 1);
}

static int take_setting(const struct settings_key *key, void *arg, struct error **err)
{
	struct identity *id = arg;

	if (strcmp(key->section, "node") != 0)
		return error_set(err, ERROR_DEFINITION, 0, "the section is [node]");
	if (!strcmp(key->key, "name"))
		take_text(id->name, sizeof(id->name), key->value);
	else if (!strcmp(key->key, "cluster"))
		take_text(id->cluster_id, sizeof(id->cluster_id), key->value);
	else if (!strcmp(key->key, "address"))
		id->address = fs_format("%s", key->value);
	else if (!strcmp(key->key, "pool"))
		id->pool_dir = fs_format("%s", key->value);
	else
		return error_set(err, ERROR_DEFINITION, 0,
			"\"%s\" is not known here; name, address, pool and cluster are", key->key);
	return 0;
}

static int read_conf(const char *conf, struct identity *id, struct error **err)
{
	size_t len = 0;
	cleanup_free char *text = fs_read(conf, CONF_MAX, &len, err);

	if (!text || settings_read(conf, text, len, 0, take_setting, id, err) < 0)
		return -1;
	if (!id->address || !id->pool_dir)
		return error_set(err, ERROR_DEFINITION, 0, "%s lacks address or pool", conf);
	return 0;
}

/* Sets what is derived, and checks what does not depend on files. */
static int complete(const char *state_dir, struct identity *id, struct error **err)
{
	char host[256];
	int port;

	if (pki_check_name(id->name, err) < 0 ||
		pki_check(id->cert_pem, id->ca_pem, id->name, id->key_pem, err) < 0 ||
		pki_fingerprint(id->cert_pem, id->fingerprint, err) < 0)
		return -1;
	if (strspn(id->cluster_id, "0123456789abcdef") != 32 || id->cluster_id[32])
		return error_set(err, ERROR_DEFINITION, 0,
			"\"cluster\" is not 32 hexadecimal digits: \"%s\"", id->cluster_id);
	if (id->pool_dir[0] != '/' || !settings_value_ok(id->pool_dir) ||
		!settings_value_ok(id->address) ||
		http_split_address(id->address, host, &port, err) < 0)
		return error_set(err, ERROR_DEFINITION, 0,
			"the pool \"%s\" is not an absolute path, or holds what a file of settings "
			"cannot",
			id->pool_dir);
	free(id->key_file);
	free(id->cert_file);
	free(id->ca_file);
	id->key_file = path(state_dir, "node.key");
	id->cert_file = path(state_dir, "node.crt");
	id->ca_file = path(state_dir, "ca.crt");
	return 0;
}

static int read_pem(const char *state_dir, const char *file, char **pem, struct error **err)
{
	cleanup_free char *name = path(state_dir, file);

	*pem = fs_read(name, PKI_PEM_MAX, NULL, err);
	return *pem ? 0 : -1;
}

static int read_all(const char *state_dir, struct identity *id, struct error **err)
{
	cleanup_free char *conf = path(state_dir, "node.conf");
	cleanup_free char *ca_key = path(state_dir, "ca.key");

	if (read_conf(conf, id, err) < 0 ||
		read_pem(state_dir, "node.key", &id->key_pem, err) < 0 ||
		read_pem(state_dir, "node.crt", &id->cert_pem, err) < 0 ||
		read_pem(state_dir, "ca.crt", &id->ca_pem, err) < 0)
		return -1;
	if (fs_exists(ca_key) && read_pem(state_dir, "ca.key", &id->ca_key_pem, err) < 0)
		return -1;
	return complete(state_dir, id, err);
}

static struct identity *new_identity(void)
{
	struct identity *id = calloc(1, sizeof(*id));

	if (!id)
		abort();
	return id;
}

struct identity *identity_load(const char *state_dir, struct error **err)
{
	struct identity *id;

	if (!identity_exists(state_dir)) {
		error_set(err, ERROR_NO_CLUSTER, 0,
			"this node is in no cluster: `drover init` makes one, `drover join` "
			"enters one");
		return NULL;
	}
	id = new_identity();
	if (read_all(state_dir, id, err) < 0) {
		error_prefix(err, "the identity of this node in %s cannot be used", state_dir);
		identity_free(id);
		return NULL;
	}
	return id;
}

static int write_pem(
	const char *state_dir, const char *file, const char *pem, mode_t mode, struct error **err)
{
	cleanup_free char *name = path(state_dir, file);

	return fs_write(name, pem, strlen(pem), mode, err);
}

int identity_save(const char *state_dir, struct identity *id, struct error **err)
{
	cleanup_free char *conf = NULL;

	if (identity_exists(state_dir))
		return error_set(err, ERROR_EXISTS, 0,
			"this node is in a cluster already; its identity is in %s", state_dir);
	if (complete(state_dir, id, err) < 0 || fs_mkdirs(state_dir, 0700, err) < 0)
		return -1;
	conf = fs_format("[node]\nname = %s\naddress = %s\npool = %s\ncluster = %s\n", id->name,
		id->address, id->pool_dir, id->cluster_id);
	if (id->ca_key_pem && write_pem(state_dir, "ca.key", id->ca_key_pem, 0600, err) < 0)
		return -1;
	if (write_pem(state_dir, "node.key", id->key_pem, 0600, err) < 0 ||
		write_pem(state_dir, "node.crt", id->cert_pem, 0644, err) < 0 ||
		write_pem(state_dir, "ca.crt", id->ca_pem, 0644, err) < 0)
		return -1;
	return write_pem(state_dir, "node.conf", conf, 0644, err);
}

int identity_keep_ca_key(const char *state_dir, struct error **err)
{
	cleanup_free char *name = path(state_dir, "ca.key"),
			  *kept = path(state_dir, "ca.key.forgotten");

	if (!fs_exists(name))
		return 0;
	if (link(name, kept) < 0 || unlink(name) < 0)
		return error_set(err, ERROR_FAILED, errno,
			"the cluster's key cannot be kept as %s (move away what is there)", kept);
	log_warning("the cluster's key, without which no node can join it any more, is kept as %s",
		kept);
	return 0;
}

int identity_remove(const char *state_dir, struct error **err)
{
	static const char *const files[] = {
		"node.conf", "node.key", "ca.key", "node.crt", "ca.crt"};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		cleanup_free char *name = path(state_dir, files[i]);

		if (unlink(name) < 0 && errno != ENOENT)
			return error_set(err, ERROR_FAILED, errno, "cannot remove %s", name);
	}
	return fs_exists(state_dir) ? fs_sync_dir(state_dir, err) : 0;
}
