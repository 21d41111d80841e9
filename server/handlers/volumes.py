"""Volumes.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import VolumeSettings

from ..dispatch import Call, rpc
from ..packing import volume_message, volume_settings
from .namespace import done


async def _created(call: Call, message: Any, volume: Volume, stored: int) -> pb.VolumeInfo:
    """The new volume as it is now; its number if it has gone meanwhile."""
    try:
        return volume_message(await call.platform.catalog.describe(stored))
    except NotFound:
        return pb.VolumeInfo(volume=stored, state="removed")


async def _set(call: Call, message: Any, volume: Volume, stored: None) -> pb.VolumeInfo:
    return volume_message(await call.platform.catalog.describe(volume.id))


@rpc("Volumes.Create", answer=_created)
async def create(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    at = await call.new_name(message.target, parents=True, look=True)
    settings = volume_settings(message.settings, VolumeSettings())
    stored = await call.platform.catalog.create(call.request(message), at, settings)
    return await _created(call, message, at.volume, stored)


@rpc("Volumes.List")
async def list_(call: Call, message: pb.Empty, data: Any) -> pb.VolumesReply:
    found = await call.platform.catalog.list(call.asker)
    return pb.VolumesReply(volumes=[volume_message(v) for v in found])


@rpc("Volumes.Info")
async def info(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    node = await call.node(message.target)
    return volume_message(await call.platform.catalog.describe(node.volume.id))


@rpc("Volumes.Set", answer=_set)
async def set_(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    node = await call.node(message.target)
    settings = volume_settings(message.settings, node.volume.settings)
    await call.platform.catalog.set(call.request(message), node.volume, settings)
    return await _set(call, message, node.volume, None)


@rpc("Volumes.Remove", answer=done)
async def remove(call: Call, message: pb.VolumeRequest, data: Any) -> pb.Empty:
    node = await call.node(message.target)
    volume_id, inode = node.volume.id, node.inode
    if inode.parent:
        raise Invalid("this is not the root of a volume", path=message.target.path)
    call.release(node.volume)  # it cannot be removed while this call uses it
    await call.platform.catalog.remove(
        call.request(message), volume_id, recursive=message.recursive
    )
    return pb.Empty()
