"""From what a mirror follows to a way there."""

from __future__ import annotations

from dataplatform.core.clusters import Access
from dataplatform.core.platform import Platform
from dataplatform.core.replication.links import Connect, Link
from dataplatform.core.replication.pins import require_root
from dataplatform.core.replication.seam import Source
from dataplatform.core.replication.source import LocalSource

from .remote import RemoteSource
from .wires import wire_to


def connector(platform: Platform) -> Connect:
    """A volume of a known cluster, of the server at an address, or of this cluster itself."""

    async def connect(link: Link) -> Source:
        if link.address:
            access = Access(link.cluster, link.address, link.token, link.authority, b"", 0)
        elif link.cluster and link.cluster != platform.cluster:
            access = await platform.clusters.access(link.cluster)
        else:
            return await _local(platform, link.path)
        wire = wire_to(access, platform.cluster)
        return RemoteSource(wire, link.path, store=access.identity)

    return connect


async def _local(platform: Platform, path: str) -> Source:
    node = await platform.locate(path)
    try:
        require_root(node.inode)
        return LocalSource(platform, node.volume.id)
    finally:
        platform.release(node.volume)
