"""Volumes.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, Invalid, NotFound
from dataplatform.core import encryption
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
    stored = await call.platform.catalog.create(
        call.request(message), at, settings, encrypt=message.settings.encrypt
    )
    return await _created(call, message, at.volume, stored)


@rpc("Volumes.List")
async def list_(call: Call, message: pb.Empty, data: Any) -> pb.VolumesReply:
    found = await call.platform.catalog.list(call.asker)
    return pb.VolumesReply(volumes=[volume_message(v) for v in found])


@rpc("Volumes.Info")
async def info(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    try:
        node = await call.node(message.target)
    except Denied as error:
        closed = await call.platform.catalog.find_closed(message.target.path, error)
        if closed is None:
            raise
        return volume_message(closed)
    return volume_message(await call.platform.catalog.describe(node.volume.id))


@rpc("Volumes.Set", answer=_set)
async def set_(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    node = await call.node(message.target)
    settings = volume_settings(message.settings, node.volume.settings)
    await call.platform.catalog.set(call.request(message), node.volume, settings)
    call.server.limits_changed(node.volume)
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


@rpc("Volumes.RotateKey", answer=_set)
async def rotate_key(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    volume = (await call.node(message.target)).volume
    await encryption.rotate_key(call.platform, call.request(message), volume)
    return await _set(call, message, volume, None)


async def _locked(call: Call, message: pb.VolumeRequest, volume: Any, stored: int) -> pb.VolumeInfo:
    return volume_message(await call.platform.catalog.describe_any(stored))


@rpc("Volumes.Lock", answer=_locked)
async def lock(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    volume_id = await call.platform.catalog.find_id(message.target.path, call.request(message))
    await encryption.lock(call.platform, call.request(message), volume_id)
    return await _locked(call, message, None, volume_id)


@rpc("Volumes.Unlock", answer=_locked)
async def unlock(call: Call, message: pb.VolumeRequest, data: Any) -> pb.VolumeInfo:
    volume_id = await call.platform.catalog.find_id(message.target.path, call.request(message))
    await encryption.unlock(call.platform, call.request(message), volume_id)
    return await _locked(call, message, None, volume_id)
