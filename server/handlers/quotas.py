"""Quotas.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.core import quota_directories
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, DirectoryQuota

from ..dispatch import Call, rpc
from ..packing import quota_limits, quota_message
from .namespace import done


async def _as_left(
    call: Call, message: pb.QuotaRequest, volume: Volume, stored: quota_directories.Stored
) -> pb.QuotaInfo:
    """As the request left it, whatever became of it since."""
    below, packed = stored
    quota = DirectoryQuota.unpack(packed)
    above = await call.platform.catalog.mount_path(volume.id)
    return quota_message(above.rstrip("/") + below, quota, quota)


async def _info(call: Call, volume: Volume, number: int) -> pb.QuotaInfo:
    path = await call.platform.path_of(volume, number)
    if number == ROOT_INODE:
        return quota_message(path, volume.settings, volume.state, is_volume=True)
    quota = quota_directories.get_quota(volume, number)
    return quota_message(path, quota, quota)


@rpc("Quotas.Set", answer=_as_left)
async def set_(call: Call, message: pb.QuotaRequest, data: Any) -> pb.QuotaInfo:
    node = await call.node(message.target)
    limits = quota_limits(message.limits)
    stored = await quota_directories.set_quota(
        node.volume, call.request(message), node.inode.number, limits
    )
    return await _as_left(call, message, node.volume, stored)


@rpc("Quotas.Get")
async def get(call: Call, message: pb.QuotaRequest, data: Any) -> pb.QuotaInfo:
    node = await call.node(message.target)
    return await _info(call, node.volume, node.inode.number)


@rpc("Quotas.List")
async def list_(call: Call, message: pb.QuotaRequest, data: Any) -> pb.QuotasReply:
    node = await call.node(message.target)
    volume = node.volume
    reply = pb.QuotasReply()
    for number, quota in await quota_directories.list_quotas(
        volume, call.principal, node.inode.number
    ):
        path = await call.platform.path_of(volume, number)
        reply.quotas.append(quota_message(path, quota, quota))
    return reply


@rpc("Quotas.Remove", answer=done)
async def remove(call: Call, message: pb.QuotaRequest, data: Any) -> pb.Empty:
    node = await call.node(message.target)
    await quota_directories.remove_quota(node.volume, call.request(message), node.inode.number)
    return pb.Empty()


@rpc("Quotas.Over")
async def over(call: Call, message: pb.Empty, data: Any) -> pb.QuotasReply:
    """Of the volumes that are open: where nobody writes, nothing passes a limit."""
    reply = pb.QuotasReply()
    for volume in list(call.platform.volumes):
        for number in await quota_directories.list_over(volume, call.principal):
            reply.quotas.append(await _info(call, volume, number))
    return reply
