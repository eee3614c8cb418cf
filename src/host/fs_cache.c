/*
 * Which file systems keep a host's page cache right while another host writes: then a disk image
 * that is opened through the cache can be taken over from another node.
 */
#include "host/host.h"

#include <string.h>

static const struct {
	const char *type;
	enum host_fs_cache cache;
} types[] = {
	/* One kernel has them mounted: who sees the same files has the same cache. */
	{"ext2", HOST_FS_LOCAL},
	{"ext3", HOST_FS_LOCAL},
	{"ext4", HOST_FS_LOCAL},
	{"xfs", HOST_FS_LOCAL},
	{"btrfs", HOST_FS_LOCAL},
	{"bcachefs", HOST_FS_LOCAL},
	{"f2fs", HOST_FS_LOCAL},
	{"zfs", HOST_FS_LOCAL},
	{"tmpfs", HOST_FS_LOCAL},
	{"overlay", HOST_FS_LOCAL},
	{"ufs", HOST_FS_LOCAL},
	/* A lock manager takes pages out of a host's cache when another writes them: gfs2(5);
	 * Documentation/filesystems/ocfs2.rst; CephFS' client capabilities ("Fc", docs.ceph.com,
	 * "Capabilities in CephFS"); Lustre's LDLM extent locks; GPFS' byte-range tokens. */
	{"gfs2", HOST_FS_COHERENT},
	{"ocfs2", HOST_FS_COHERENT},
	{"ceph", HOST_FS_COHERENT},
	{"lustre", HOST_FS_COHERENT},
	{"gpfs", HOST_FS_COHERENT},
	/* Looked at again when a file is opened, or after a time: nfs(5), "Data and metadata
	 * coherence"; the FUSE daemon decides, and none promises it; mount.cifs(8), "cache". */
	{"nfs", HOST_FS_APART},
	{"nfs4", HOST_FS_APART},
	{"cifs", HOST_FS_APART},
	{"smb3", HOST_FS_APART},
	{"9p", HOST_FS_APART},
	{"virtiofs", HOST_FS_APART},
	{"fuse", HOST_FS_APART},
};

enum host_fs_cache host_fs_cache(const char *type)
{
	/* Linux, FreeBSD. */
	if (!strncmp(type, "fuse.", 5) || !strncmp(type, "fusefs", 6))
		return HOST_FS_APART;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(type, types[i].type))
			return types[i].cache;
	return HOST_FS_UNKNOWN;
}
