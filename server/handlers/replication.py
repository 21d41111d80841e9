"""Replication.*: unpack, one core call, pack. See docs/mirrors.md, "On the wire"."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core.replication.pins import require_right, require_root
from dataplatform.core.replication.seam import LEASE_S, PAGE_BYTES, PAGE_KEYS
from dataplatform.core.replication.source import LocalPin, LocalSource

from ..dispatch import Call, rpc
from ..replication import messages

WAIT_MS_MAX = 60_000

EXTENTS_BYTES_MAX = 12 << 20
"""Of one request. A single extent is smaller, by far (BATCH_BYTES_MAX)."""

KEYS_MAX = 10_000


async def _source(call: Call, message: pb.SourceRequest) -> LocalSource:
    require_right(call.principal)
    node = await call.node(message.target)
    require_root(node.inode)
    call.release(node.volume)  # whoever waits here keeps nobody from removing it
    return LocalSource(call.platform, node.volume.id)


def _wait_s(message: pb.SourceRequest) -> float:
    return min(message.wait_ms, WAIT_MS_MAX) / 1000


@rpc("Replication.Describe")
async def describe(call: Call, message: pb.SourceRequest, data: Any) -> pb.SourceInfo:
    source = await _source(call, message)
    return messages.pack_described(await source.describe(message.commit_at_least, _wait_s(message)))


@rpc("Replication.Pin")
async def pin(call: Call, message: pb.SourceRequest, data: Any) -> pb.SourceInfo:
    source = await _source(call, message)
    taken = await source.pin(message.commit_at_least, _wait_s(message))
    info = messages.pack_described(taken.described)
    info.pin = call.platform.pins.add(taken, call.session.id, call.principal)
    info.lease_ms = int(LEASE_S * 1000)
    return info


@rpc("Replication.Unpin")
async def unpin(call: Call, message: pb.PinRequest, data: Any) -> pb.Empty:
    call.platform.pins.remove(message.pin, call.principal)
    return pb.Empty()


async def _pin(call: Call, number: int) -> LocalPin:
    """Its volume stays open until the call ends, and its limits hold."""
    found = call.platform.pins.get(number, call.principal)
    await call.volume(found.volume.id)
    return found


def _size(wanted: int) -> int:
    return min(wanted or PAGE_BYTES, messages.PAGE_BYTES_MAX)


@rpc("Replication.Changed")
async def changed(call: Call, message: pb.ChangedRequest, data: Any) -> pb.PairsReply:
    held = await _pin(call, message.pin)
    limit = min(message.limit or PAGE_KEYS, KEYS_MAX)
    keys, is_last = await held.changed_page(message.since, message.after, message.end, limit)
    size_bytes = _size(message.size_bytes)
    if message.values:
        values = await held.values_page(keys, size_bytes) if keys else []
        reply = messages.pack_pairs(keys[: len(values)], values)
    else:
        reply = messages.pack_keys(keys, size_bytes)
    reply.end = is_last and len(reply.keys) == len(keys)
    return reply


@rpc("Replication.Values")
async def values(call: Call, message: pb.ValuesRequest, data: Any) -> pb.PairsReply:
    held = await _pin(call, message.pin)
    if len(message.keys) > KEYS_MAX:
        raise Invalid("too many keys in one request", limit_keys=KEYS_MAX)
    if message.offset and len(message.keys) != 1:
        raise Invalid("an offset needs exactly one key")
    found = await held.values_page(message.keys, _size(message.size_bytes))
    if message.offset:
        return messages.pack_part(found[0], message.offset)
    return messages.pack_pairs((), found)


@rpc("Replication.Scan")
async def scan(call: Call, message: pb.PairsRequest, data: Any) -> pb.PairsReply:
    held = await _pin(call, message.pin)
    limit = min(message.limit or PAGE_KEYS, KEYS_MAX)
    size_bytes = _size(message.size_bytes)
    page = await held.scan(message.start, message.end, limit, size_bytes)
    reply = messages.pack_pairs([key for key, _ in page], [value for _, value in page])
    is_full = sum(len(key) + len(value) for key, value in page) >= size_bytes
    reply.end = len(page) < limit and not is_full
    return reply


@rpc("Replication.Extents")
async def extents(
    call: Call, message: pb.ExtentsRequest, data: Any
) -> tuple[pb.ExtentsReply, list[bytes | memoryview]]:
    held = await _pin(call, message.pin)
    wanted = messages.unpack_extents(message.extents)
    if sum(extent.stored_length for extent in wanted) > EXTENTS_BYTES_MAX:
        raise Invalid("too much for one request", limit_bytes=EXTENTS_BYTES_MAX)
    found = await held.packed(wanted)
    reply = pb.ExtentsReply(
        lengths=[len(part) for part, _ in found], checksums=[checksum for _, checksum in found]
    )
    return reply, [part for part, _ in found]
