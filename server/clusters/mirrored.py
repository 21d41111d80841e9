"""Reading from a mirror here what cannot be asked of its owner, for whoever allows it.

A target with `stale_ok` says so. Found by the store and the volume that a mirror follows: an inode
is the same in both, and a path goes on below where the mirror is mounted. The reply's nodes say as
of when they are. What stands in a volume mounted inside the mirrored one is not in the mirror.
"""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.core.platform import Platform
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import MirrorCursor

from .mapping import plan_of

_OPEN = METHODS["Files.Open"]
_WRITE_VERB = 2


def only_reads(method: Method, message: Any) -> bool:
    """Whether the request changes nothing, so that any mirror can answer it."""
    if method is _OPEN:
        return not message.truncate and not message.access & _WRITE_VERB
    return method.read_only


async def turn(platform: Platform, identity: bytes, target: pb.Target) -> int | None:
    """Have a target that is good at the store with this identity name the same in a mirror; as of
    when that is (ns since the epoch). None, and nothing is changed, if there is no such mirror."""
    best: tuple[int, str] | None = None
    longest = ""
    for record in await platform.mirrors.records():
        volume = await platform.acquire(record.volume)
        try:
            mirror = volume.settings.mirror
        finally:
            platform.release(volume)
        if not mirror or mirror.get("store") != identity:
            continue
        if target.inode:
            if mirror.get("volume") == target.volume:
                best = record.volume, ""
                break
            continue
        source = str(mirror["path"]).rstrip("/")
        rest = target.path[len(source) :]
        is_below = target.path.startswith(source) and rest[:1] in ("", "/")
        if is_below and (best is None or len(source) > len(longest)):
            best, longest = (record.volume, rest), source
    if best is None:
        return None
    volume_id, rest = best
    as_of_ns = await _as_of(platform, volume_id)
    if as_of_ns is None:
        return None
    if target.inode:
        target.volume = volume_id
    else:
        target.path = (await platform.catalog.mount_path(volume_id)).rstrip("/") + rest
    return as_of_ns


async def _as_of(platform: Platform, volume_id: int) -> int | None:
    """When the mirror was what its source was; None before it was anything."""
    volume = await platform.acquire(volume_id)
    try:
        stored = await volume.storage.engine.get(keys.MIRROR_CURSOR_KEY)
    finally:
        platform.release(volume)
    if stored is None:
        return None
    cursor = MirrorCursor.unpack(stored)
    return cursor.asked_ns or cursor.time_ns


def mark(reply: Any, as_of_ns: int) -> None:
    """Say in every node of a reply as of when it is."""
    if type(reply) is pb.Node:
        reply.as_of_ns = as_of_ns
        return
    plan = plan_of(reply.DESCRIPTOR)
    for name, is_repeated, _ in plan.below if plan is not None else ():
        for node in getattr(reply, name) if is_repeated else (getattr(reply, name),):
            if type(node) is pb.Node:
                node.as_of_ns = as_of_ns
