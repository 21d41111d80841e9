"""How much there is, and what may still be written: by the quotas, and by the disk below.

For a path below directories with quotas the tightest of all that count is shown: of those and the
volume's. Buffered writes are not counted before they are flushed.
"""

from __future__ import annotations

from typing import NamedTuple

from ..engine.base import Room
from ..keyspace.records import Kind
from .platform import Node
from .quotas import VOLUME, VOLUME_ONLY, Chain
from .volumes import Volume


class Usage(NamedTuple):
    """Bytes; `capacity` is 0 if nobody knows, and then `available` is, too.

    `used` is that of the account that limits the bytes, `entries` that of the one that limits the
    entries; where nothing does, of the one that limits the other, else of the volume.
    """

    used: int
    entries: int
    quota: int  # 0: none
    capacity: int
    available: int
    quota_entries: int = 0  # 0: none
    available_entries: int = 0  # meaningless without one


def usage_of(volume: Volume, room: Room | None, chain: Chain = VOLUME_ONLY) -> Usage:
    """`room`: of the disk below, if it is known. `chain`: see `quotas`."""
    quotas = volume.quotas
    of_bytes = of_entries = -1
    left = entries_left = 0
    for account in chain:
        limits, usage = quotas.limits_of(account), quotas.usage_of(account)
        if limits.quota_bytes:
            here = max(0, limits.quota_bytes - quotas.used_bytes(account))
            if of_bytes < 0 or here < left:
                of_bytes, left = account, here
        if limits.quota_entries:
            here = max(0, limits.quota_entries - usage.entries)
            if of_entries < 0 or here < entries_left:
                of_entries, entries_left = account, here
    shown = max(of_bytes, of_entries, VOLUME) if min(of_bytes, of_entries) < 0 else VOLUME
    used = quotas.usage_of(of_bytes if of_bytes >= 0 else shown).used_bytes
    entries = quotas.usage_of(of_entries if of_entries >= 0 else shown).entries
    quota = quotas.limits_of(of_bytes).quota_bytes if of_bytes >= 0 else 0
    quota_entries = quotas.limits_of(of_entries).quota_entries if of_entries >= 0 else 0
    if not quota:
        return Usage(used, entries, 0, *(room or (0, 0)), quota_entries, entries_left)
    available = min(left, room.available_bytes) if room else left
    return Usage(used, entries, quota, quota, available, quota_entries, entries_left)


async def usage_at(node: Node, room: Room | None) -> Usage:
    """Of a directory with what is above it, or of what anything else stands in."""
    inode = node.inode
    directory = inode.number if inode.kind == Kind.DIRECTORY else inode.parent
    return usage_of(node.volume, room, await node.volume.quotas.chain(directory))
