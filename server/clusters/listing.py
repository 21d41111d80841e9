"""Clusters among the names of the platform's root: none is asked for that."""

from __future__ import annotations

from dataplatform.api import platform_pb2 as pb
from dataplatform.core.clusters import SLOT_SHIFT
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME

from ..calls import Call

MODE = 0o755
"""Until the cluster itself is asked."""


def with_clusters(call: Call, nodes: list[pb.Node], after: str, *, is_end: bool) -> list[pb.Node]:
    """A page of the root with the clusters that the caller may use, in the order of the names."""
    clusters = call.platform.clusters
    last = b"" if is_end or not nodes else nodes[-1].name.encode()
    found = [
        pb.Node(
            name=name,
            volume=clusters.get(name).slot << SLOT_SHIFT | ROOT_VOLUME,
            inode=ROOT_INODE,
            kind=pb.DIRECTORY,
            mode=MODE,
            links=2,
            volume_root=True,
            cluster=True,
        )
        for name in clusters.names
        if name.encode() > after.encode()
        and (not last or name.encode() <= last)
        and clusters.may_use(name, call.principal)
    ]
    return sorted([*nodes, *found], key=lambda node: node.name.encode()) if found else nodes
