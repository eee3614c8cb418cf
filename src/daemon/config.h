/*
 * Settings of droverd: drover.conf(5), an INI file with the sections node, qemu, bhyve, wire
 * and task.
 * Every key has a default; a section or key that is not known is an error that names its line,
 * because a misspelt setting must not be lost in silence.
 *
 * Where drover-wire and drover are not set, they are those that were installed; of a droverd that
 * is run in its build directory, those of that directory.
 */
#ifndef DROVER_DAEMON_CONFIG_H
#define DROVER_DAEMON_CONFIG_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define CONFIG_PATH "/etc/drover/drover.conf"
/* The user of drover-wire where none is set and there is one of this name. */
#define CONFIG_WIRE_USER "drover-wire"
/* Bytes of a drover.conf. */
#define CONFIG_TEXT_MAX (64u << 10)
/* sun_path holds 108 bytes (unix(7)); below run/ lie "vms/", a VM's name of up to 48 bytes and the
 * name of a socket. */
#define CONFIG_RUN_MAX 40

struct config {
	/* [node] */
	char *state;   /* /var/lib/drover */
	char *run;     /* /run/drover */
	char *listen;  /* HOST:PORT for other nodes: 0.0.0.0:7780 */
	char *address; /* where other nodes reach this one, for init and join; NULL: found out */
	char *vm_user; /* drover-vm; a name, UID or UID:GID */
	char *allow_paths; /* with colons between them; NULL: none besides the pool */
	char *wire_user;   /* the same for drover-wire; NULL: CONFIG_WIRE_USER, or vm_user */
	char *group;       /* of the Unix socket: drover */
	char *hypervisor;  /* qemu or bhyve: what all VMs of this node are run by */
	/* [qemu] */
	char *qemu_binary, *qemu_img;
	char *qemu_data; /* DIR[:DIR…], NULL: QEMU's own */
	char *accel;     /* auto, kvm, tcg */
	/* [bhyve] */
	char *bhyve, *bhyvectl, *bhyveload, *grub_bhyve, *bootrom;
	char *vmm, *nmdm;                   /* directories: /dev/vmm, /dev */
	char *suspend_dir;                  /* of guests that move as files: STATE/suspended */
	int bhyve_port_min, bhyve_port_max; /* where an incoming bhyve listens: 7900 to 7999 */
	/* [wire] */
	char *wire_binary;
	int port_min, port_max; /* of the lanes: 7800 to 7899 */
	/* [task] */
	char *task_binary; /* drover, which tasks are run with */

	/* Found out from the above. */
	uid_t uid; /* vm_user's */
	gid_t gid;
	uid_t wire_uid; /* wire_user's */
	gid_t wire_gid;
	bool wire_shares;  /* drover-wire runs as vm_user, for want of a user of its own */
	char *listen_host; /* the host of listen, as given */
	char *socket_path; /* RUN/droverd.sock */
};

/*
 * Reads a file; `path` NULL is CONFIG_PATH, which may be missing: then all is as by default.
 * ERROR_DEFINITION "/etc/drover/drover.conf, line 3: …", ERROR_NOT_FOUND. The caller frees it.
 */
struct config *config_load(const char *path, struct error **err);
/* The same of a text; `what` names it in messages. Looks up no user. */
struct config *config_parse(const char *what, const char *text, size_t len, struct error **err);
void config_free(struct config *config);

#endif
