"""Replication.* as messages, packed and unpacked at both ends.

A value that would make a reply too large is cut: only its beginning stands there, its index in
`cut`, and the rest is asked for by offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from struct import Struct
from typing import Any, TypeVar

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core.replication.seam import FORMAT, Described
from dataplatform.keyspace.records import Extent, Record, VolumeSettings, VolumeState, unpack

R = TypeVar("R", bound=Record)

PAGE_BYTES_MAX = 6 << 20
"""What a page may aim at: with one more value of PART_BYTES it is well below a frame."""

PART_BYTES = 4 << 20
"""A longer value is cut there."""

_EXTENT = Struct(">QQIIIB")


def pack_described(described: Described) -> pb.SourceInfo:
    return pb.SourceInfo(
        cluster=described.cluster,
        store=described.store,
        volume=described.volume,
        path=described.path,
        history=described.history,
        lineage=[pb.Lineage(history=h, commit=c) for h, c in described.lineage],
        commit=described.commit,
        commit_ns=described.commit_ns,
        time_ns=described.time_ns,
        oldest_change=described.oldest_change,
        state=described.state.pack(),
        settings=described.settings.pack(),
        format=described.format,
    )


def unpack_described(info: pb.SourceInfo) -> Described:
    """INVALID if the source ships what this version does not know."""
    if info.format > FORMAT:
        raise Invalid(
            "the source has a newer format: update this server first",
            format=info.format,
            known=FORMAT,
        )
    return Described(
        cluster=info.cluster,
        store=info.store,
        volume=info.volume,
        path=info.path,
        history=info.history,
        lineage=[(one.history, one.commit) for one in info.lineage],
        commit=info.commit,
        commit_ns=info.commit_ns,
        time_ns=info.time_ns,
        oldest_change=info.oldest_change,
        state=_record(VolumeState, info.state),
        settings=_record(VolumeSettings, info.settings),
        format=info.format,
    )


def _record(kind: type[R], data: bytes) -> R:
    """Fields that a newer source has added last are left out: they change no format."""
    known: Any = kind
    values = unpack(data, kind.__name__)
    return kind(*values[: len(fields(known))])


def pack_keys(keys: Sequence[bytes], size_bytes: int) -> pb.PairsReply:
    """As many as there is room for."""
    size = 0
    for count, key in enumerate(keys):
        size += len(key)
        if size >= size_bytes:
            keys = keys[: count + 1]
            break
    return pb.PairsReply(keys=keys)


def pack_pairs(keys: Sequence[bytes], values: Sequence[bytes | None]) -> pb.PairsReply:
    absent = [index for index, value in enumerate(values) if value is None]
    cut = [
        index for index, value in enumerate(values) if value is not None and len(value) > PART_BYTES
    ]
    shipped = [value or b"" for value in values]
    for index in cut:
        shipped[index] = shipped[index][:PART_BYTES]
    return pb.PairsReply(keys=keys, values=shipped, absent=absent, cut=cut)


def pack_part(value: bytes | None, offset: int) -> pb.PairsReply:
    """The bytes of one value from an offset on."""
    if value is None or offset > len(value):
        raise Invalid("the value is not that long", offset=offset)
    part = value[offset : offset + PART_BYTES]
    return pb.PairsReply(values=[part], end=offset + len(part) == len(value))


def unpack_values(reply: pb.PairsReply) -> list[bytes | None]:
    """Those in `cut` are only the beginning."""
    values: list[bytes | None] = list(reply.values)
    for index in reply.absent:
        values[index] = None
    return values


def pack_extents(wanted: Sequence[Extent]) -> bytes:
    return b"".join([_EXTENT.pack(*extent) for extent in wanted])


def unpack_extents(data: bytes) -> list[Extent]:
    if len(data) % _EXTENT.size:
        raise Invalid("these are no extents", length=len(data))
    return [Extent._make(values) for values in _EXTENT.iter_unpack(data)]
