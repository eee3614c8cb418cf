/*
 * The pool: the directory that every node mounts, and the cluster's shared state.
 *
 *     pool.conf                    cluster id and the CA's certificate
 *     nodes/NODE.conf              address and certificate fingerprint of a member
 *     nodes/NODE.facts             what it is and can do, in JSON; for information only
 *     images/                      base images
 *     vms/VM/vm.conf               definition (pool/vm_def.h)
 *     vms/VM/owner.EPOCH           who may run the VM (pool/owner.h)
 *     vms/VM/saved/                the state of a suspended VM (vm/saved.h)
 *
 * Names of files that are being written start with ".tmp." and are nobody's. docs/pool.md has every
 * format and the protocol of ownership.
 */
#ifndef DROVER_POOL_POOL_H
#define DROVER_POOL_POOL_H

#include "base/error.h"
#include "base/fs.h"

#include <stddef.h>

struct pool {
	char *dir;           /* absolute, without a trailing slash */
	char cluster_id[33]; /* 32 hexadecimal digits */
	char *ca_pem;        /* the cluster CA's certificate */
};

/* Makes the layout in an empty or absent directory. ERROR_EXISTS when a pool is there already, or
 * when the directory holds something else; of two who make one pool, one succeeds. `dir` must be
 * absolute (ERROR_USAGE). */
int pool_create(const char *dir, const char *cluster_id, const char *ca_pem, struct error **err);
/* ERROR_POOL when dir is no pool or cannot be read. The caller closes it. */
struct pool *pool_open(const char *dir, struct error **err);
void pool_close(struct pool *pool);

/* Whether the pool's directory, or what it will be made in, is mounted without options that make a
 * pool unsafe; docs/storage.md has them. ERROR_POOL names the option and why. What cannot be told
 * (Linux before 5.8) is logged and let pass. */
int pool_check_mount(const char *dir, struct error **err);
/* The same for a type and for options as mount(8) shows them. */
int pool_check_options(const char *dir, const char *type, const char *options, struct error **err);

/* The active check that two nodes see the same storage. The first writes a file with a nonce and
 * locks it (pool_probe_begin; nonce is 32 hexadecimal digits, made by the caller; *lock is an open
 * file that holds the lock, the caller closes it before it finishes); the second answers it
 * (pool_probe_answer: reads it, checks the nonce, must not get the lock on it, adds its own by
 * rename and hard link, and takes and gives back a lock there); the first looks at the answer and
 * removes all (pool_probe_finish, also to be called when the second failed). ERROR_POOL. What
 * probes have left more than a day ago is removed by pool_probe_begin. */
int pool_probe_begin(const struct pool *pool, const char *nonce, int *lock, struct error **err);
int pool_probe_answer(const char *dir, const char *nonce, const char *answer, struct error **err);
int pool_probe_finish(
	const struct pool *pool, const char *nonce, const char *answer, struct error **err);

/* Members. */
struct pool_node {
	char name[FS_NAME_MAX + 1];
	char *address;        /* HOST or HOST:PORT of its droverd */
	char fingerprint[65]; /* SHA-256 of its certificate, lower-case hexadecimal */
	char *facts;          /* JSON text: CPU, memory, hypervisors; "{}" when not published */
};
/* Facts that cannot be read are logged and count as not published. */

void pool_node_free(struct pool_node *node);
/* ERROR_NO_NODE "no node named X in the pool; `drover node ls` lists the nodes". */
struct pool_node *pool_node_read(const struct pool *pool, const char *name, struct error **err);
/* Writes both files; facts NULL leaves those that are there. */
int pool_node_write(const struct pool *pool, const struct pool_node *node, struct error **err);
int pool_node_remove(const struct pool *pool, const char *name, struct error **err);

/* Sorted names; the caller frees them with pool_names_free. */
struct pool_names {
	char **names;
	size_t count;
};
void pool_names_free(struct pool_names *names);
int pool_node_list(const struct pool *pool, struct pool_names *names, struct error **err);
int pool_vm_list(const struct pool *pool, struct pool_names *names, struct error **err);

/* "DIR/vms/VM" (file NULL) and below it; the caller frees it, and has checked `vm` by
 * fs_check_name. */
char *pool_vm_path(const struct pool *pool, const char *vm, const char *file);
bool pool_vm_exists(const struct pool *pool, const char *vm);
/* Says why a VM's directory is not there, and returns -1: ERROR_NO_VM "no VM named X; ...", or
 * ERROR_POOL when the pool itself is not there (not mounted). */
int pool_no_vm(const struct pool *pool, const char *vm, struct error **err);
/* Makes vms/VM, first under a temporary name with its vm.conf in it, then renamed: it is there
 * whole or not at all. ERROR_EXISTS. */
int pool_vm_create(
	const struct pool *pool, const char *vm, const char *vm_conf, struct error **err);
/* Renames away, then removes vms/VM and all that is in it (never following a link). */
int pool_vm_remove(const struct pool *pool, const char *vm, struct error **err);
/* ERROR_EXISTS when `to` is there. */
int pool_vm_rename(const struct pool *pool, const char *from, const char *to, struct error **err);

/* Removes the directory `name` in dir_fd and all that is in it, never following a link. -1 with
 * errno. */
int pool_remove_tree(int dir_fd, const char *name);

/* Absolute path of a disk of a definition: relative ones are below vms/VM ("disk0.qcow2") or,
 * when they start with "images/", below the pool. NULL and ERROR_DEFINITION for one that leaves
 * vms/ and images/ through ".." or the pool through a symbolic link, or names a file of the pool's
 * own (vm.conf, owner.E). It need not exist. An absolute path is taken as it is
 * (image_check_places says whether it may be). The caller frees
 * it. */
char *pool_disk_path(const struct pool *pool, const char *vm, const char *disk, struct error **err);

#endif
