"""Mirrors.*: unpack, one core call, pack."""

from __future__ import annotations

import ipaddress
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.core.replication.links import Link, Schedule, parse_source
from dataplatform.core.replication.statuses import Status
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import VolumeSettings
from dataplatform.transport.addresses import parse

from ..dispatch import Call, rpc
from ..packing import mirror_message, volume_settings
from .namespace import done


def _schedule(message: pb.MirrorSchedule) -> Schedule:
    return Schedule(
        message.every_ms if message.HasField("every_ms") else None,
        message.bandwidth if message.HasField("bandwidth") else None,
    )


def _link(message: pb.CreateMirrorRequest, own_cluster: str) -> Link:
    """INVALID, also if a token would cross a network in the clear."""
    link = parse_source(message.source, own_cluster)
    if not link.address:
        if message.token or message.authority:
            raise Invalid("a cluster that is known has its token: dp cluster set")
        return link
    place = parse(link.address)
    near = place.is_tls or place.is_unix or _is_near(place.host)
    if message.token and not (near or message.insecure):
        raise Invalid(
            "the token would cross the network unencrypted: use dps:// or grpcs://, or say "
            "--insecure",
            address=link.address,
        )
    return Link(link.path, link.address, "", message.token, message.authority)


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _shown(call: Call, volume_id: int) -> pb.Mirror:
    try:
        volume = await call.volume(volume_id)
    except NotFound:
        return pb.Mirror(volume=volume_id, state="removed")
    if not volume.settings.mirror:
        return pb.Mirror(volume=volume_id, state="promoted")
    return mirror_message(await call.platform.mirrors.status(volume))


async def _created(call: Call, message: Any, volume: Volume, stored: int) -> pb.Mirror:
    return await _shown(call, stored)


async def _changed(call: Call, message: Any, volume: Volume, stored: None) -> pb.Mirror:
    return await _shown(call, volume.id)


def _promoted(call: Call, message: Any, volume: Volume, stored: int) -> pb.PromoteReply:
    return pb.PromoteReply(commit=stored)


@rpc("Mirrors.Create", answer=_created)
async def create(call: Call, message: pb.CreateMirrorRequest, data: Any) -> pb.Mirror:
    mirrors = call.platform.mirrors
    mirrors.check_may(call.principal)
    at = await call.new_name(message.target, parents=True, look=True)
    volume_id = await mirrors.create(
        call.request(message),
        at,
        _link(message, call.platform.cluster),
        _schedule(message.schedule),
        volume_settings(message.settings, VolumeSettings()),
        encrypt=message.settings.encrypt,
        discard=message.discard,
    )
    return await _shown(call, volume_id)


@rpc("Mirrors.List")
async def list_(call: Call, message: pb.Empty, data: Any) -> pb.MirrorsReply:
    found: list[Status] = await call.platform.mirrors.statuses(call.asker)
    return pb.MirrorsReply(mirrors=[mirror_message(status) for status in found])


@rpc("Mirrors.Info")
async def info(call: Call, message: pb.MirrorRequest, data: Any) -> pb.Mirror:
    volume = (await call.node(message.target)).volume
    return mirror_message(await call.platform.mirrors.status(volume))


@rpc("Mirrors.Set", answer=_changed)
async def set_(call: Call, message: pb.MirrorRequest, data: Any) -> pb.Mirror:
    volume = (await call.node(message.target)).volume
    await call.platform.mirrors.set(call.request(message), volume, _schedule(message.schedule))
    return await _shown(call, volume.id)


@rpc("Mirrors.Pause", answer=_changed)
async def pause(call: Call, message: pb.MirrorRequest, data: Any) -> pb.Mirror:
    volume = (await call.node(message.target)).volume
    await call.platform.mirrors.pause(call.request(message), volume)
    return await _shown(call, volume.id)


@rpc("Mirrors.Resume", answer=_changed)
async def resume(call: Call, message: pb.MirrorRequest, data: Any) -> pb.Mirror:
    volume = (await call.node(message.target)).volume
    await call.platform.mirrors.resume(call.request(message), volume, discard=message.discard)
    return await _shown(call, volume.id)


@rpc("Mirrors.Promote", answer=_promoted)
async def promote(call: Call, message: pb.MirrorRequest, data: Any) -> pb.PromoteReply:
    volume = (await call.node(message.target)).volume
    commit = await call.platform.mirrors.promote(call.request(message), volume)
    return pb.PromoteReply(commit=commit)


@rpc("Mirrors.Remove", answer=done)
async def remove(call: Call, message: pb.MirrorRequest, data: Any) -> pb.Empty:
    volume = (await call.node(message.target)).volume
    await call.platform.mirrors.check_removable(call.request(message), volume)
    volume_id = volume.id
    call.release(volume)  # it cannot be removed while this call uses it
    await call.platform.mirrors.remove(call.request(message), volume_id)
    return pb.Empty()
