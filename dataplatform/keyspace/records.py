"""Stored records: what the values of the key table are. On disk: fields are only ever added last.

Small records are MessagePack arrays in the order of their fields; a shorter array, written before
a field was added, is filled up with the defaults. Values read millions of times (entries, pieces,
rows, batches) have a fixed binary head instead.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from struct import Struct
from typing import Any, NamedTuple, TypeVar

import msgpack

from ..base.errors import Corrupt

R = TypeVar("R", bound="Record")

ROOT_INODE = 1
"""Every volume's root directory."""

ROOT_VOLUME = 1


class Kind(enum.IntEnum):
    """What an inode is. Values are stored, and equal those of the API."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    TABLE = 4
    STREAM = 5
    FIFO = 6
    SOCKET = 7
    CHARACTER_DEVICE = 8
    BLOCK_DEVICE = 9

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", " ")

    @classmethod
    def _missing_(cls, value: object) -> Kind:
        raise Corrupt("something is stored of a kind that there is not: run dp check", kind=value)


_pack = msgpack.Packer().pack
"""One packer for all: making one costs more than packing a record. The event loop alone packs."""


def unpack(data: bytes, what: str) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corrupt(f"a stored {what} cannot be read", reason=error) from error


UNSTORED = {"stored": False}
"""Metadata of a field that is only known in memory. It comes behind all that are stored."""


class Record:
    """A dataclass stored as a MessagePack array of its fields."""

    __slots__ = ()

    def pack(self) -> bytes:
        cls = type(self)
        return _pack((cls.__dict__.get("_values") or cls._prepare())(self))  # type: ignore[no-any-return]

    @classmethod
    def unpack(cls: type[R], data: bytes) -> R:
        values = unpack(data, cls.__name__)
        try:
            return cls(*values)
        except TypeError as error:
            raise Corrupt(f"a stored {cls.__name__} cannot be read", reason=error) from error

    def fields(self) -> tuple[Any, ...]:
        cls = type(self)
        return tuple((cls.__dict__.get("_values") or cls._prepare())(self))

    @classmethod
    def _prepare(cls) -> Any:
        """One C call that takes all fields, in order; made once per class."""
        stored = [f.name for f in fields(cls) if f.metadata.get("stored", True)]  # type: ignore[arg-type]
        values = attrgetter(*stored)
        cls._values = values  # type: ignore[attr-defined]
        return values


@dataclass(slots=True)
class Inode(Record):
    """One file, directory, symbolic link, table, stream or special node."""

    number: int
    kind: int
    mode: int  # 07777
    uid: int
    gid: int
    links: int = 1  # names that point here; a directory: 2 + its subdirectories; 0: orphan
    size: int = 0  # bytes of a file or link target; entries of a directory
    used_bytes: int = 0  # bytes of a file's pieces: what it takes, without holes
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    birth_ns: int = 0
    rdev: int = 0
    parent: int = 0  # the directory of its first name; 0 for a volume's root
    name: bytes = b""  # its first name there: path_of() walks these
    version: int = 0  # commit that last changed it
    symlink: bytes = b""  # target of a symbolic link
    volume: int = 0  # not 0: a junction, where this volume is mounted
    settings: dict[str, Any] = field(default_factory=dict)  # of a table or stream
    access: dict[str, str] = field(default_factory=dict)  # expressions, by verb: see core/access
    buffered: bool = field(default=False, metadata=UNSTORED)
    """There are bytes that no commit has yet: size and times are theirs, `version` is not."""

    @property
    def is_directory(self) -> bool:
        return self.kind == Kind.DIRECTORY


class Entry(NamedTuple):
    """What a name in a directory points at."""

    inode: int
    kind: int
    volume: int = 0  # not 0: a junction to that volume's root

    def pack(self) -> bytes:
        return _ENTRY.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Entry:
        try:
            return cls._make(_ENTRY.unpack(data))
        except struct.error as error:
            raise Corrupt("a stored directory entry cannot be read") from error


_ENTRY = Struct(">QBQ")


@dataclass(slots=True)
class VolumeState(Record):
    """Counters of a volume; rewritten by every commit."""

    commit: int = 0  # the last commit
    next_inode: int = ROOT_INODE + 1
    next_producer: int = 1
    used_bytes: int = 0  # of everything that has a name
    entries: int = 0  # inodes that have a name, the root not counted
    oldest_change: int = 1  # change rows before this commit were trimmed
    over: int = 0  # advisory limits that are passed: see core/quotas


@dataclass(slots=True)
class VolumeSettings(Record):
    quota_bytes: int = 0  # 0: none
    compression: str = "none"  # of file extents: lz4 or none
    created_ns: int = 0
    identity: bytes = b""  # of the root: what tells this store from every other one
    quota_entries: int = 0  # 0: none
    advisory_bytes: int = 0  # over it one is warned; 0: none
    advisory_entries: int = 0
    iops: int = 0  # operations per second; 0: no limit
    bandwidth: int = 0  # bytes per second; 0: no limit
    encryption: dict[str, Any] = field(default_factory=dict)  # wrapped keys; empty: not encrypted
    audit: str = ""  # what the audit stream is told: "" nothing, "changes", "all"
    audit_ttl_ms: int = 0  # how long the audit stream keeps it; 0: for ever
    history: bytes = b""  # of its line of commits: changes where that is cut. 16 bytes, or none yet
    lineage: list[list[Any]] = field(default_factory=list)  # [history, last commit of it here]
    mirror: dict[str, Any] = field(default_factory=dict)  # source and schedule; empty: no mirror
    snapshots: list[list[Any]] = field(default_factory=list)  # schedules: [name, every_s, keep]
    changes_ttl_ms: int = 0  # how long change rows are kept; 0: the customary time
    changes_rows: int = 0  # how many at most; 0: the customary number


@dataclass(slots=True)
class DirectoryQuota(Record):
    """What a directory may hold below it, and holds: rewritten by every commit that changes it."""

    quota_bytes: int = 0  # 0: none
    quota_entries: int = 0
    advisory_bytes: int = 0  # over it one is warned; 0: none
    advisory_entries: int = 0
    used_bytes: int = 0  # of everything below that has its first name there
    entries: int = 0  # inodes below, the directory itself not counted
    over: int = 0  # advisory limits that are passed: see core/quotas
    is_counting: bool = field(default=False, metadata=UNSTORED)
    """What it held before is still being counted."""

    def copy(self) -> DirectoryQuota:
        return replace(self)


class VolumePhase(enum.IntEnum):
    """A volume spans two databases, so making and removing one takes steps. Stored."""

    CREATING = 1
    READY = 2
    REMOVING = 3


@dataclass(slots=True)
class VolumeRecord(Record):
    """The root volume's list of volumes."""

    volume: int
    phase: int
    parent_volume: int  # where it is mounted: volume, directory, name, and the junction's inode
    directory: int
    name: bytes
    junction: int = 0
    created_ns: int = 0
    request: list[Any] = field(default_factory=list)  # session, slot, sequence: who waits for it
    locked: bool = False  # nobody may open it
    is_mirror: bool = False  # it has a source, which is asked for what is new
    copy: int = 0  # storage aside, in which what is going to take its place is made; 0: none
    is_placing: bool = False  # which it does right now
    origin: list[int] = field(default_factory=list)
    """Of a clone: the volume and commit that it was made of, above which number its segments are
    its own, and the snapshot's number."""
    publishes: bool = False  # there may be publications in it


@dataclass(slots=True)
class SnapshotRecord(Record):
    """A snapshot of a volume: a volume of its own that cannot be written. The name stands in the
    key."""

    number: int  # as a volume's: from the same counter
    checkpoint: str  # of the source's engine
    commit: int = 0  # of the source, which the snapshot is
    time_ns: int = 0
    segments_end: int = 0  # above every segment that it may need
    schedule: str = ""  # the schedule that made it and lets it go; empty: a person
    used_bytes: int = 0  # of the volume, at that commit
    entries: int = 0
    by: str = ""  # who took it
    users: list[int] = field(default_factory=list)  # volumes that need it: clones
    next_inode: int = 0  # of the volume: what has a lower number, and is there now, was there then
    junctions: list[int] = field(default_factory=list)  # inodes where volumes may have been mounted


@dataclass(slots=True)
class UserRecord(Record):
    """Somebody who may be named in expressions and own things. The name stands in the key."""

    uid: int
    groups: list[str] = field(default_factory=list)
    is_admin: bool = False
    is_disabled: bool = False
    created_ns: int = 0


@dataclass(slots=True)
class GroupRecord(Record):
    """A group of users; who belongs to it stands in the users' records."""

    gid: int
    created_ns: int = 0


@dataclass(slots=True)
class TokenRecord(Record):
    """What a token is good for. The token itself is not stored: it is signed anew for a retry."""

    user: str
    issued_ns: int
    expires_ns: int
    revoked_ns: int = 0  # 0: it is not
    is_read_only: bool = False
    may_speak: bool = False
    roots: list[list[int]] = field(default_factory=list)  # [volume, inode]; empty: everything
    paths: list[str] = field(default_factory=list)  # the same as they were named
    issuer: str = ""  # who made it
    key: str = ""  # the id of the key that signed it


@dataclass(slots=True)
class SigningKeyRecord(Record):
    """An Ed25519 key (RFC 8032) that signs tokens."""

    secret: bytes = field(repr=False)  # 32 bytes; longer: under a master key (core/keys.py)
    created_ns: int = 0


class Extent(NamedTuple):
    """Bytes in a segment. `flags`: EXTENT_LZ4."""

    segment: int
    offset: int
    stored_length: int
    length: int  # before compression
    checksum: int  # crc32c of the stored bytes; 0: they authenticate themselves
    flags: int = 0


EXTENT_LZ4 = 1
_EXTENT = Struct(">QQIIIB")
EXTENT_BYTES = _EXTENT.size


class SourceExtent(NamedTuple):
    """Which extent of a mirror's source the extent of a value here stands for, from which of its
    uncompressed bytes on. `source` tells whose extent it is, so that nothing is taken for that of
    another source."""

    extent: Extent
    source: bytes  # 8 bytes
    start: int = 0

    def pack(self) -> bytes:
        return _EXTENT.pack(*self.extent) + _OF_SOURCE.pack(self.source, self.start)

    @classmethod
    def unpack(cls, value: bytes) -> SourceExtent:
        try:
            extent = Extent._make(_EXTENT.unpack_from(value))
            return cls(extent, *_OF_SOURCE.unpack_from(value, EXTENT_BYTES))
        except struct.error as error:
            raise Corrupt("a stored extent of a mirror's source cannot be read") from error


_OF_SOURCE = Struct(">8sI")


class Piece(NamedTuple):
    """A range of a file: either bytes, or a part of an extent. Pieces never overlap."""

    offset: int  # in the file (from the key)
    length: int
    data: bytes | None = None
    extent: Extent | None = None
    skip: int = 0  # where in the extent's uncompressed bytes the range starts

    @property
    def end(self) -> int:
        return self.offset + self.length

    def cut(self, start: int, end: int) -> Piece:
        """The part within [start, end) of the file; the piece itself if it lies inside."""
        start, end = max(start, self.offset), min(end, self.end)
        assert start < end
        if start == self.offset and end == self.end:
            return self
        skip = start - self.offset
        if self.data is not None:
            return Piece(start, end - start, self.data[skip : end - self.offset])
        return Piece(start, end - start, None, self.extent, self.skip + skip)

    def pack(self) -> bytes:
        if self.data is not None:
            return b"\x00" + self.data
        assert self.extent is not None
        return _PIECE_HEAD.pack(1, self.length, self.skip) + _EXTENT.pack(*self.extent)

    @classmethod
    def unpack(cls, offset: int, value: bytes) -> Piece:
        if value[:1] == b"\x00":
            return cls(offset, len(value) - 1, value[1:])
        try:
            tag, length, skip = _PIECE_HEAD.unpack_from(value)
            extent = Extent._make(_EXTENT.unpack_from(value, _PIECE_HEAD.size))
        except struct.error as error:
            raise Corrupt("a stored piece of a file cannot be read", offset=offset) from error
        if tag != 1:
            raise Corrupt("a stored piece of a file has an unknown form", offset=offset)
        return cls(offset, length, None, extent, skip)


_PIECE_HEAD = Struct(">BII")


@dataclass(slots=True)
class Statistics(Record):
    """Of a table: rows and their bytes. Of a stream: records and their stored bytes."""

    count: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    version: int = 0


ROW_HEAD = Struct(">BBQBQ")
"""The head of a stored row: MessagePack's marks for an array of three, an unsigned 64-bit version
and an unsigned 64-bit expiry in ms (0: never); the map of columns follows as MessagePack. So a
stored row is itself one MessagePack object, and goes to clients as it is."""


def pack_row(version: int, expires_ms: int, columns: bytes) -> bytes:
    """`columns` is a packed MessagePack map."""
    return ROW_HEAD.pack(0x93, 0xCF, version, 0xCF, expires_ms) + columns


def row_head(value: bytes) -> tuple[int, int]:
    """(version, expires_ms) of a stored row."""
    try:
        _, _, version, _, expires_ms = ROW_HEAD.unpack_from(value)
    except struct.error as error:
        raise Corrupt("a stored row cannot be read") from error
    return version, expires_ms


def row_columns(value: bytes) -> bytes:
    """The packed map of columns."""
    return value[ROW_HEAD.size :]


@dataclass(slots=True)
class Topic(Record):
    """A topic of a stream. Its id, not its name, stands in keys."""

    id: int
    partitions: int
    created_ns: int = 0


@dataclass(slots=True)
class Partition(Record):
    """The ends of a partition."""

    start_offset: int = 0  # the oldest record kept
    next_offset: int = 0
    size_bytes: int = 0  # of the stored batches
    max_timestamp_ms: int = -1  # of all records ever appended


class StoredBatch(NamedTuple):
    """A Kafka RecordBatch v2, as its producer sent it apart from the base offset (D7)."""

    records: int
    length: int  # bytes of the batch
    max_timestamp_ms: int  # of this and all earlier batches: grows, so time can be searched
    append_time_ms: int
    data: bytes | None = None
    extent: Extent | None = None

    def pack(self) -> bytes:
        head = _BATCH_HEAD.pack(
            0 if self.data is not None else 1,
            self.records,
            self.length,
            self.max_timestamp_ms,
            self.append_time_ms,
        )
        if self.data is not None:
            return head + self.data
        assert self.extent is not None
        return head + _EXTENT.pack(*self.extent)

    @classmethod
    def unpack(cls, value: bytes) -> StoredBatch:
        try:
            tag, records, length, max_timestamp_ms, append_time_ms = _BATCH_HEAD.unpack_from(value)
            if tag == 0:
                return cls(
                    records, length, max_timestamp_ms, append_time_ms, value[_BATCH_HEAD.size :]
                )
            extent = Extent._make(_EXTENT.unpack_from(value, _BATCH_HEAD.size))
        except struct.error as error:
            raise Corrupt("a stored record batch cannot be read") from error
        return cls(records, length, max_timestamp_ms, append_time_ms, None, extent)


_BATCH_HEAD = Struct(">BIIqq")


@dataclass(slots=True)
class Producer(Record):
    """What a partition remembers of an idempotent producer (KIP-98): its last five batches."""

    epoch: int
    batches: list[list[int]]  # [first sequence, last sequence, base offset, append_time_ms]
    time_ns: int = 0


@dataclass(slots=True)
class GroupOffset(Record):
    offset: int  # of the next record to read
    metadata: str = ""
    time_ns: int = 0


@dataclass(slots=True)
class Segment(Record):
    """What refers to a segment, counted in uncompressed bytes."""

    total_bytes: int = 0  # of every extent ever committed in it
    live_bytes: int = 0  # of what pieces and batches refer to now
    died: int = 0  # the commit that left nothing alive; 0: not yet, or before this was noted


@dataclass(slots=True)
class StoredReply(Record):
    """The last write of a client's slot, kept so that a retry changes nothing."""

    sequence: int
    time_ns: int
    result: Any = None
    method: int = 0  # number of the method that was asked for
    owner: str = ""  # `Principal.owner`, of who asked; empty: stored before there were any


class Event(NamedTuple):
    """Something that happened, in words a user understands."""

    verb: str  # created, removed, renamed, written, row put, records appended, …
    path: str  # from the volume's root
    kind: str
    facts: dict[str, Any]


@dataclass(slots=True)
class ChangeRow(Record):
    """One commit (D4): who, when, what in words, and which keys."""

    time_ns: int
    principal: str
    events: list[Any]  # of Event, as arrays
    keys: list[bytes]
    origin: str = ""  # from where: "unix pid 4711", "tcp 10.1.2.3"
    right: str = ""  # by which special right: "admin"; empty: by a rule or the mode
    token: str = ""  # the id of the token that the principal came with
    others: dict[int, list[str]] = field(default_factory=dict)
    """Of events that somebody else caused, by index: [principal, origin, right, token, by]."""
    by: str = ""  # who spoke for the principal: a mount

    @staticmethod
    def time_of(data: bytes) -> int:
        """Its time alone, which stands first: as a number of 8 bytes (0xcf), in any real row."""
        if len(data) > 9 and data[0] & 0xF0 == 0x90 and data[1] == 0xCF:
            return int.from_bytes(data[2:10], "big")
        return ChangeRow.unpack(data).time_ns


Author = tuple[str, str, str, str, str]
"""Of a change row: principal, origin, right, token, by."""


def pack_change(
    time_ns: int,
    events: list[Event],
    touched: list[bytes],
    author: Author,
    others: dict[int, list[str]],
) -> bytes:
    """A packed ChangeRow. Every commit writes one: nothing is made for it, and defaults at its end
    are left out, which `unpack` fills up."""
    principal, origin, right, token, by = author
    if others or by:
        return _pack((time_ns, principal, events, touched, origin, right, token, others, by))  # type: ignore[no-any-return]
    if token:
        return _pack((time_ns, principal, events, touched, origin, right, token))  # type: ignore[no-any-return]
    return _pack((time_ns, principal, events, touched, origin, right))  # type: ignore[no-any-return]


@dataclass(slots=True)
class AuditCursor(Record):
    """How far the audit of a volume has come; written with the records that it stands for."""

    commit: int = 0  # everything up to it was told
    path: str = ""  # where the volume was mounted then: names the topic
    is_on: bool = False  # whether the audit was on at that commit
    ttl_ms: int = 0  # as the topic's retention was set


@dataclass(slots=True)
class MirrorCursor(Record):
    """Which commit of its source a mirror is; written with what it stands for."""

    history: bytes = b""  # of the source's line of commits
    commit: int = 0
    time_ns: int = 0  # of that commit, by the source's clock
    copied_ns: int = 0  # when it was applied, by this server's clock
    asked_ns: int = 0  # when it was the source's last commit, by the source's clock


@dataclass(slots=True)
class CopyCursor(Record):
    """How far a storage that is going to take a mirror's place has come; written with what it
    holds, and no more there when that is whole."""

    history: bytes  # of the source's line of commits
    store: bytes  # the source's
    volume: int  # the source's
    first: int  # everything that changed since this commit is to be brought up to date at the end
    last: int  # what was copied is no newer than this commit
    key: bytes = b""  # what is up to this key was copied; empty: nothing
    rows: int = 0  # copied so far
    size_bytes: int = 0
    total_bytes: int = 0  # about as much it is going to be
    is_whole: bool = False  # all was copied once: what changed meanwhile is being applied
    after: bytes = b""  # of what changed since `first`, what is up to this key was applied
    until: int = 0  # as of this commit
    is_clone: bool = False  # it began as what the mirror was


@dataclass(slots=True)
class ClusterRecord(Record):
    """Another cluster, known by the name in the key; without a name, the highest slot so far."""

    address: str  # dp://, dps://, dp+unix://
    slot: int = 0  # its number in the upper bits of volumes' numbers; never used again
    identity: bytes = b""  # of its store, as first seen: another one behind the address is refused
    token: bytes = field(default=b"", repr=False)  # protected: see core/keys.py
    authority: str = ""  # PEM of the CA that its certificate is to be signed by
    added_ns: int = 0
    is_secure: bool = False  # TLS is wanted
    access: str = ""  # who may use it: an expression
    grpc_port: int = 0  # where it said that it speaks gRPC; 0: it does not, or was not asked


@dataclass(slots=True)
class Publication(Record):
    """A change feed that is copied to an ordinary stream, exactly once: the record is rewritten
    with what is appended, in the stream's volume."""

    volume: int  # what is published: a directory of this volume
    inode: int
    stream: int  # where to
    topic: str
    commit: int = 0  # everything up to it was published
    by: str = ""  # by whose right
    created_ns: int = 0
    place: str = "/"  # where it stood at that commit, from the root of its volume
    home: bytes = b""  # store and volume that the record was written for: it sleeps in copies
    grant: dict[str, Any] = field(default_factory=dict)  # see Identities.stand_in
    kinds: list[str] = field(default_factory=list)  # only of these; empty: of all
    events: list[str] = field(default_factory=list)  # only these; empty: all
    records: int = 0  # written so far
    stopped: str = ""  # why it goes no further until it is restarted
    lost: list[int] = field(default_factory=list)  # [first, last] commit that is yet to be said


@dataclass(slots=True)
class GatherRecord(Record):
    """A stream into which those of other clusters are gathered."""

    stream: int
    topic: str
    sources: list[list[Any]] = field(default_factory=list)  # [cluster, path, topic]
    by: str = ""
    created_ns: int = 0
    is_paused: bool = False
    volume: int = 0  # the stream's


@dataclass(slots=True)
class GatherCursor(Record):
    """How far one source of a gathering has come; written with the records that it stands for, in
    the volume of the stream that they flow into."""

    volume: int = 0  # of the source's stream, at its cluster; 0: not looked at yet
    inode: int = 0
    topic: int = 0  # its id there
    offsets: list[int] = field(default_factory=list)  # the next one, by partition
    records: int = 0  # gathered so far
    lost: int = 0  # that were trimmed there before they were gathered
    stopped: str = ""  # why it is not followed any more; empty: it is
    time_ns: int = 0  # when something came last
    history: bytes = b""  # of the source's volume; empty: not known
