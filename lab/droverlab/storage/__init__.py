"""File systems that a lab's pool can be on, each served by a place of the lab, and mounted by each
node for itself: what one client caches and locks is not the other's."""

from .cephfs import CephFS
from .glusterfs import GlusterFS
from .nfs import NFS3, NFS4

KINDS = {kind.name: kind for kind in (GlusterFS, CephFS, NFS3, NFS4)}
