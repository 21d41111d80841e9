"""Changes.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound
from dataplatform.core import change_texts, change_words, changes
from dataplatform.core.volumes import Volume

from ..dispatch import Call, rpc

WAIT_MS_MAX = 60_000


@rpc("Changes.Read")
async def read(call: Call, message: pb.ChangesRequest, data: Any) -> pb.ChangesReply:
    volume, number = await _followed(call, message)
    wanted = change_words.wanted(message.kinds, message.events)
    page = await changes.read_of(
        volume,
        number,
        message.since,
        message.limit,
        min(message.wait_ms, WAIT_MS_MAX) / 1000,
        call.ask,
        wanted,
    )
    above = await call.platform.catalog.mount_path(volume.id)
    return pb.ChangesReply(
        changes=[pb.Change(**change_texts.tell(c, above)._asdict()) for c in page.changes],
        next=page.next,
        volume=volume.id,
        inode=number,
        end=page.end,
        over=page.is_over,
    )


async def _followed(call: Call, message: pb.ChangesRequest) -> tuple[Volume, int]:
    """What the target names; or an inode that is gone, whose last changes are yet to be told."""
    target = message.target
    try:
        node = await call.node(target)
    except NotFound:
        if target.path or not target.inode:
            raise
        volume = await call.volume(target.volume)
        if not volume.places.knows(target.inode, message.since):
            raise
        return volume, target.inode
    return node.volume, node.inode.number
