/*
 * Who this node is: what `drover init` or `drover join` left in the state directory.
 *
 *     node.conf    name, address, pool and cluster (INI, section [node]); written last: a state
 *                  directory without it holds no identity
 *     node.key     this node's private key           mode 0600
 *     node.crt     its certificate, signed by the cluster's CA
 *     ca.crt       the cluster's CA
 *     ca.key       the CA's private key              mode 0600; only where `drover init` was run
 */
#ifndef DROVER_NODE_IDENTITY_H
#define DROVER_NODE_IDENTITY_H

#include "base/error.h"
#include "node/pki.h"

#include <stdbool.h>

struct identity {
	char name[FS_NAME_MAX + 1];
	char *address;       /* HOST or HOST:PORT where other nodes reach it */
	char *pool_dir;      /* absolute */
	char cluster_id[33]; /* 32 hexadecimal digits */
	char *key_pem, *cert_pem, *ca_pem;
	char *ca_key_pem; /* NULL where `drover init` was not run */

	/* Set by identity_load and identity_save. */
	char fingerprint[PKI_FINGERPRINT_SIZE]; /* of cert_pem */
	char *key_file, *cert_file, *ca_file; /* for libcurl and the data mover, which take paths */
};

/* Whether the state directory holds one. */
bool identity_exists(const char *state_dir);

/*
 * Loads and checks it: names, certificate signed by this CA, key fits. ERROR_NO_CLUSTER "this node
 * is in no cluster: `drover init` makes one, `drover join` enters one"; ERROR_DEFINITION or
 * ERROR_CERTIFICATE when it is there and broken. The caller frees it with identity_free.
 */
struct identity *identity_load(const char *state_dir, struct error **err);

/* Checks it as identity_load does and writes it, node.conf last. ERROR_EXISTS when one is there. */
int identity_save(const char *state_dir, struct identity *id, struct error **err);

/* Forgets it, node.conf first: a node that leaves, or an init or join that failed further on. None
 * there is no error. */
int identity_remove(const char *state_dir, struct error **err);
/* Before a node that is a member forgets its cluster: gives the cluster's key, if it is here, the
 * name ca.key.forgotten, for the other nodes have no other. An error where that name is taken. */
int identity_keep_ca_key(const char *state_dir, struct error **err);

void identity_free(struct identity *id);

#endif
