"""Between API messages and what the core speaks of: only translation, no meaning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.base.limits import IO_BYTES_MAX, PARTITIONS_MAX
from dataplatform.core import change_trims
from dataplatform.core.audit.names import topic_of
from dataplatform.core.catalog import Description
from dataplatform.core.encryption import State
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Node
from dataplatform.core.quota_directories import Limits
from dataplatform.core.quotas import OVER_BYTES, OVER_ENTRIES
from dataplatform.core.replication.links import source_words
from dataplatform.core.replication.statuses import Status
from dataplatform.core.streams import Part
from dataplatform.keyspace.records import (
    DirectoryQuota,
    Inode,
    Kind,
    Piece,
    VolumeSettings,
    VolumeState,
)

from .areas import Area

KINDS = frozenset(Kind)
_DEFAULT_MODES = {int(Kind.DIRECTORY): 0o755}


def node_message(node: Node, *, name: str = "") -> pb.Node:
    inode: Inode = node.inode
    return pb.Node(
        volume=node.volume.id,
        inode=inode.number,
        kind=inode.kind,  # type: ignore[arg-type]
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        links=inode.links,
        size=inode.size,
        atime_ns=inode.atime_ns,
        mtime_ns=inode.mtime_ns,
        ctime_ns=inode.ctime_ns,
        birth_ns=inode.birth_ns,
        rdev=inode.rdev,
        symlink=inode.symlink.decode("utf-8", "surrogateescape"),
        version=inode.version,
        name=name,
        used_bytes=inode.used_bytes,
        volume_root=bool(inode.volume) or (inode.parent == 0 and inode.is_directory),
        buffered=inode.buffered,
        snapshot=node.volume.is_snapshot,
    )


def attributes_of(message: pb.CreateRequest | pb.WriteFileRequest) -> Attributes:
    """What a new inode starts with. Without a mode it is the customary one of its kind."""
    kind = message.kind if isinstance(message, pb.CreateRequest) else Kind.FILE
    if kind not in KINDS:
        raise Invalid("unknown kind of node", kind=kind)
    customary = _DEFAULT_MODES.get(kind, 0o644)
    new = Attributes(
        kind=kind,
        mode=message.mode if message.HasField("mode") else customary,
        uid=message.uid,
        gid=message.gid,
    )
    if isinstance(message, pb.CreateRequest):
        new.rdev = message.rdev
        new.symlink = message.symlink
        new.settings = settings_of(kind, message) or {}
    return new


def settings_of(
    kind: int, message: pb.CreateRequest | pb.SetAttributesRequest
) -> dict[str, Any] | None:
    """The stored settings that a message gives to a table or stream."""
    if kind != Kind.STREAM and kind != Kind.TABLE:
        return None
    if message.HasField("stream") and kind == Kind.STREAM:
        options = message.stream
        if options.partitions > PARTITIONS_MAX:
            raise Invalid("too many partitions", partitions_max=PARTITIONS_MAX)
        if options.ttl_ms < 0:
            raise Invalid("a ttl cannot be negative", ttl_ms=options.ttl_ms)
        if options.compression not in ("", "lz4", "none"):
            raise Invalid("unknown compression: lz4 or none", compression=options.compression)
        return {
            "partitions": options.partitions or 1,
            "ttl_ms": options.ttl_ms,
            "compression": options.compression or "lz4",
            "bytes_max": options.bytes_max,
        }
    if message.HasField("table") and kind == Kind.TABLE:
        if message.table.ttl_ms < 0:
            raise Invalid("a ttl cannot be negative", ttl_ms=message.table.ttl_ms)
        return {"ttl_ms": message.table.ttl_ms}
    if kind == Kind.STREAM and isinstance(message, pb.CreateRequest):
        return {"partitions": 1, "ttl_ms": 0, "compression": "lz4", "bytes_max": 0}
    return None


def stream_options(inode: Inode) -> pb.StreamOptions:
    settings = inode.settings
    return pb.StreamOptions(
        partitions=settings.get("partitions", 1),
        ttl_ms=settings.get("ttl_ms", 0),
        compression=settings.get("compression", "lz4"),
        bytes_max=settings.get("bytes_max", 0),
    )


def volume_settings(message: pb.VolumeSettings, old: VolumeSettings) -> VolumeSettings:
    """The old settings with what the message sets."""
    return replace(
        old,
        **_limits(message, old),
        compression=message.compression if message.HasField("compression") else old.compression,
        iops=message.iops if message.HasField("iops") else old.iops,
        bandwidth=message.bandwidth if message.HasField("bandwidth") else old.bandwidth,
        audit=_audit_mode(message.audit) if message.HasField("audit") else old.audit,
        **{name: getattr(_given(message, name, old), name) for name in KEPT},
    )


LIMITS = ("quota_bytes", "quota_entries", "advisory_bytes", "advisory_entries")


KEPT = ("audit_ttl_ms", "changes_ttl_ms", "changes_rows")
"""How long things are kept."""


def _given(message: pb.VolumeSettings, name: str, old: VolumeSettings) -> Any:
    return message if message.HasField(name) else old


def _limits(message: pb.VolumeSettings, old: VolumeSettings) -> dict[str, Any]:
    return {name: getattr(_given(message, name, old), name) for name in LIMITS}


def quota_limits(message: pb.QuotaLimits) -> Limits:
    return Limits(*(getattr(message, name) if message.HasField(name) else None for name in LIMITS))


def quota_message(
    path: str,
    limits: DirectoryQuota | VolumeSettings,
    usage: DirectoryQuota | VolumeState,
    *,
    is_volume: bool = False,
) -> pb.QuotaInfo:
    return pb.QuotaInfo(
        path=path,
        limits=pb.QuotaLimits(**{name: getattr(limits, name) for name in LIMITS}),
        used_bytes=usage.used_bytes,
        entries=usage.entries,
        volume=is_volume,
        over_bytes=bool(usage.over & OVER_BYTES),
        over_entries=bool(usage.over & OVER_ENTRIES),
    )


def _audit_mode(word: str) -> str:
    return "" if word == "off" else word or "?"


def volume_message(described: Description) -> pb.VolumeInfo:
    kept = change_trims.kept(described.settings)
    return pb.VolumeInfo(
        volume=described.id,
        path=described.path,
        commit=described.commit,
        used_bytes=described.used_bytes,
        entries=described.entries,
        settings=pb.VolumeSettings(
            **{name: getattr(described.settings, name) for name in LIMITS},
            compression=described.settings.compression,
            iops=described.settings.iops,
            bandwidth=described.settings.bandwidth,
            audit=described.settings.audit or "off",
            audit_ttl_ms=described.settings.audit_ttl_ms,
            changes_ttl_ms=kept[0] // 10**6,
            changes_rows=kept[1],
        ),
        created_ns=described.settings.created_ns,
        open=described.is_open,
        state=described.state,
        audit_topic=topic_of(described.path),
        encryption=_encryption(described.encrypted),
        snapshots=described.snapshots,
        mirror=source_words(described.settings),
    )


def mirror_message(status: Status) -> pb.Mirror:
    counts = status.shipped
    lag_ms = None if status.lag_s is None else int(status.lag_s * 1000)
    return pb.Mirror(
        volume=status.volume,
        path=status.path,
        source=status.source,
        cluster=status.cluster,
        state=status.state,
        commit=status.commit,
        source_commit=status.source_commit,
        lag_ms=lag_ms,
        copied_ns=status.copied_ns,
        schedule=pb.MirrorSchedule(every_ms=status.every_ms, bandwidth=status.bandwidth),
        rate=int(status.rate),
        rows=counts.rows,
        changes=counts.changes,
        extents=counts.extents,
        bytes=counts.size_bytes,
        error=status.error,
        error_ns=status.error_ns,
        copied_bytes=status.copied_bytes,
        total_bytes=status.total_bytes,
    )


def _encryption(state: State) -> pb.Encryption | None:
    return pb.Encryption(**state._asdict()) if state.cipher else None


def append_parts(message: pb.AppendRequest, data: bytes | memoryview) -> list[Part]:
    """The parts of an append, each with its bytes. INVALID if lengths and bytes do not agree."""
    view = memoryview(data)
    parts = []
    at = 0
    for part in message.parts:
        parts.append(Part(part.topic, part.partition, view[at : at + part.length]))
        at += part.length
    if at != len(view):
        raise Invalid("the lengths of the parts do not add up", lengths=at, bytes=len(view))
    return parts


def shared_bytes(
    area: Area, message: pb.WriteRequest, data: bytes | memoryview
) -> bytes | memoryview:
    """The bytes of a single write that are in a shared area."""
    if data:
        raise Invalid("the bytes of a write are in the request or in a shared area, not in both")
    _check_length(message.length)
    return area.part(message.at, message.length)


def _check_length(length: int) -> None:
    """What a frame's size sees to when the bytes are in it."""
    if length > IO_BYTES_MAX:
        raise Invalid("too much for one write", length=length, length_max=IO_BYTES_MAX)


def write_parts(
    message: pb.WriteRequest, data: bytes | memoryview, area: Area | None = None
) -> list[tuple[int, bytes | memoryview]]:
    """(offset, bytes) of each write in a request of several. INVALID if lengths and bytes do not
    agree."""
    if message.append or message.HasField("expected_size"):
        raise Invalid("several writes at once are neither appended nor conditional")
    if area is not None:
        _check_length(sum(part.length for part in message.parts))
        return [(part.offset, area.part(part.at, part.length)) for part in message.parts]
    view = memoryview(data)
    parts: list[tuple[int, bytes | memoryview]] = []
    at = 0
    for part in message.parts:
        parts.append((part.offset, view[at : at + part.length]))
        at += part.length
    if at != len(view):
        raise Invalid("the lengths of the parts do not add up", lengths=at, bytes=len(view))
    return parts


def located(
    pieces: list[Piece], size: int, directory: str
) -> tuple[pb.LocateReply, list[bytes | memoryview]]:
    """Where the bytes of a file are, and those that stand in no segment."""
    reply = pb.LocateReply(size=size, directory=directory)
    parts: list[bytes | memoryview] = []
    for piece in pieces:
        extent = piece.extent
        if extent is None:
            assert piece.data is not None
            reply.pieces.add(offset=piece.offset, length=piece.length)
            parts.append(piece.data)
        else:
            reply.pieces.add(
                offset=piece.offset,
                length=piece.length,
                stored=True,
                segment=extent.segment,
                at=extent.offset,
                stored_length=extent.stored_length,
                checksum=extent.checksum,
                skip=piece.skip,
                packed=bool(extent.flags),
            )
    return reply, parts
