"""Changes.*: unpack, one core call, pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, NotFound
from dataplatform.core import change_texts, change_words, changes
from dataplatform.core.publications.publishing import Listed
from dataplatform.core.volumes import Volume

from ..dispatch import Call, rpc
from .namespace import done
from .streams import stream_node

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


def _published(
    call: Call, message: pb.PublishRequest, volume: Volume, stored: Sequence[Any]
) -> pb.Publication:
    """The publication as it began."""
    return _publication(Listed(*stored))


@rpc("Changes.Publish", answer=_published)
async def publish(call: Call, message: pb.PublishRequest, data: Any) -> pb.Publication:
    source = await call.node(message.target)
    stream = await stream_node(call, message.stream)
    begun = await call.platform.publications.publish(
        call.request(message),
        source,
        stream,
        message.topic,
        change_words.wanted(message.kinds, message.events),
        message.since if message.HasField("since") else None,
        restart=message.restart,
    )
    return _publication(begun)


@rpc("Changes.Unpublish", answer=done)
async def unpublish(call: Call, message: pb.UnpublishRequest, data: Any) -> pb.Empty:
    stream = await stream_node(call, message.stream)
    path = await _path(call, message.target) if message.HasField("target") else ""
    await call.platform.publications.unpublish(call.request(message), stream, message.topic, path)
    return pb.Empty()


async def _path(call: Call, target: pb.Target) -> str:
    """Of what the target names; as it is written, of what is gone."""
    try:
        node = await call.node(target)
    except (NotFound, Denied):
        return str(target.path)
    return await call.platform.path_of(node.volume, node.inode.number)


@rpc("Changes.Publications")
async def publications(
    call: Call, message: pb.PublicationsRequest, data: Any
) -> pb.PublicationsReply:
    below = "/"
    if message.HasField("target"):
        node = await call.node(message.target)
        below = await call.platform.path_of(node.volume, node.inode.number)
    found = await call.platform.publications.listed(call.ask(), below)
    return pb.PublicationsReply(publications=map(_publication, found))


def _publication(listed: Listed) -> pb.Publication:
    return pb.Publication(**listed._asdict())
