"""Volumes.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.keyspace.records import VolumeSettings

from ..dispatch import Call, rpc
from ..packing import volume_message, volume_settings


@rpc("Volumes.Create")
async def create(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    at = await call.new_name(message.target, parents=True)
    settings = volume_settings(message.settings, VolumeSettings())
    volume_id = await call.platform.catalog.create(call.request(message), at, settings)
    return volume_message(await call.platform.catalog.describe(volume_id))


@rpc("Volumes.List")
async def list_(call: Call, message: pb.Empty, data: Any) -> pb.VolumesReply:
    found = await call.platform.catalog.list()
    return pb.VolumesReply(volumes=[volume_message(v) for v in found])


@rpc("Volumes.Info")
async def info(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    node = await call.node(message.target)
    return volume_message(await call.platform.catalog.describe(node.volume.id))


@rpc("Volumes.Set")
async def set_(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    node = await call.node(message.target)
    settings = volume_settings(message.settings, node.volume.settings)
    await call.platform.catalog.set(call.request(message), node.volume, settings)
    return volume_message(await call.platform.catalog.describe(node.volume.id))


@rpc("Volumes.Remove")
async def remove(call: Call, message: pb.VolumeRequest, data: Any) -> pb.Empty:
    if await call.platform.catalog.is_done(call.request(message)):
        return pb.Empty()  # asked again: it is gone, and cannot be found any more
    node = await call.node(message.target)
    volume_id, inode = node.volume.id, node.inode
    if inode.parent:
        raise Invalid("this is not the root of a volume", path=message.target.path)
    call.release(node.volume)  # it cannot be removed while this call uses it
    await call.platform.catalog.remove(
        call.request(message), volume_id, recursive=message.recursive
    )
    return pb.Empty()
