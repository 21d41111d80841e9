"""What operations give back: plain immutable values, the same for `dataplatform` and its `aio`.

Times are nanoseconds since the epoch where the name ends in `_ns`, milliseconds where it ends in
`_ms`, otherwise seconds or `datetime` in UTC. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

Key = str | bytes
"""A row key. Stored as bytes; given back as str when it is valid UTF-8, otherwise as bytes."""


def utc(time_ns: int) -> datetime:
    """The moment `time_ns` nanoseconds after the epoch (to the microsecond)."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC) + timedelta(
        microseconds=time_ns % 1_000_000_000 // 1000
    )


# ---------------------------------------------------------------------------------- namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What is known about one name: a file, directory, table, stream or symbolic link.

    `kind` is "file", "directory", "symlink", "table", "stream", "fifo", "socket",
    "character_device" or "block_device". `size` counts bytes of a file or symlink, entries of a
    directory, rows of a table, records of a stream. `version` is the commit that last changed it.
    """

    kind: str
    size: int
    mode: int  # permission bits, set-id and sticky: 0o7777
    uid: int
    gid: int
    links: int
    volume: int
    inode: int
    version: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    birth_ns: int
    rdev: int = 0
    symlink: str = ""  # where a symbolic link points
    used_bytes: int = 0
    volume_root: bool = False
    as_of_ns: int = 0  # not 0: read from a mirror, which is as its source was then

    @property
    def atime(self) -> float:
        """Last read, seconds since the epoch."""
        return self.atime_ns / 1e9

    @property
    def mtime(self) -> float:
        """Last change of the content, seconds since the epoch."""
        return self.mtime_ns / 1e9

    @property
    def ctime(self) -> float:
        """Last change of content or attributes, seconds since the epoch."""
        return self.ctime_ns / 1e9

    @property
    def birth(self) -> float:
        """Creation, seconds since the epoch."""
        return self.birth_ns / 1e9

    def is_file(self) -> bool:
        return self.kind == "file"

    def is_dir(self) -> bool:
        return self.kind == "directory"

    def is_symlink(self) -> bool:
        return self.kind == "symlink"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Stat):
    """One entry of a directory: a `Stat` (not following a symbolic link) with its name."""

    name: str
    path: str

    @property
    def is_cluster(self) -> bool:
        """Whether it is another cluster, seen in the root directory."""
        return self.volume >> 48 > 0 and self.path.lstrip("/") == self.name


@dataclass(frozen=True, slots=True)
class Usage:
    """Space for a path, by the tightest of the quotas that count there: those of the directories at
    and above it, and its volume's. `used_bytes` and `entries` are those of whatever that quota is
    of, else of the volume. `quota_bytes` and `quota_entries` are None where there is no quota,
    `capacity_bytes` is the quota, or else what the disk below holds; None if nobody knows."""

    used_bytes: int
    entries: int
    quota_bytes: int | None
    available_bytes: int
    capacity_bytes: int | None = None
    quota_entries: int | None = None
    available_entries: int | None = None


# ------------------------------------------------------------------------------------- tables


class Row(NamedTuple):
    """One row. `version` is what `put(if_version=…)` compares; `expires_ms` is 0 for never."""

    key: Key
    columns: dict[str, Any]
    version: int
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table's figures. `ttl` is None where rows live for ever."""

    path: str
    rows: int
    size_bytes: int
    ttl: timedelta | None
    stat: Stat


# ------------------------------------------------------------------------------------ streams


NO_HEADERS: Mapping[str, bytes | None] = MappingProxyType({})


class Record(NamedTuple):
    """One record of a stream. `timestamp` is in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes | None]


class Position(NamedTuple):
    """Where a record was stored."""

    topic: str
    partition: int
    offset: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One partition: records `start_offset` to before `end_offset` are kept."""

    partition: int
    start_offset: int
    end_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TopicInfo:
    name: str
    partitions: tuple[PartitionInfo, ...]

    @property
    def records(self) -> int:
        """Records kept, over all partitions."""
        return sum(p.end_offset - p.start_offset for p in self.partitions)

    @property
    def size_bytes(self) -> int:
        return sum(p.size_bytes for p in self.partitions)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream's settings and topics. `ttl` and `bytes_max` are None where there is no limit."""

    path: str
    partitions: int  # of topics created later
    ttl: timedelta | None
    compression: str
    bytes_max: int | None  # per partition
    topics: tuple[TopicInfo, ...]
    stat: Stat


@dataclass(frozen=True, slots=True)
class MemberInfo:
    member: str
    program: str
    assigned: tuple[tuple[str, int], ...]  # (topic, partition)


@dataclass(frozen=True, slots=True)
class GroupOffset:
    """The committed offset of a group: the next record it will read; `lag` records behind."""

    topic: str
    partition: int
    offset: int
    lag: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class GroupInfo:
    name: str
    epoch: int
    members: tuple[MemberInfo, ...]
    offsets: tuple[GroupOffset, ...]

    @property
    def lag(self) -> int:
        """Records between the committed offsets and the ends, over all partitions."""
        return sum(o.lag for o in self.offsets)


# ------------------------------------------------------------------------------------ changes


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a commit. `facts` depend on the event: from, to, key, rows, topic, …"""

    commit: int
    time_ns: int
    event: str  # "created", "removed", "renamed", "written", "row put", …
    kind: str
    path: str
    principal: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def time(self) -> datetime:
        return utc(self.time_ns)


@dataclass(frozen=True, slots=True)
class Publication:
    """A change feed that is copied to a topic. `state` is "running", "waiting" (it is tried again)
    or "stopped" (until it is restarted); `reason` says why."""

    path: str
    stream: str
    topic: str
    commit: int  # everything up to it was copied
    behind: int  # commits that were not looked at yet
    by: str  # by whose right
    created_ns: int
    state: str
    reason: str = ""
    kinds: tuple[str, ...] = ()  # empty: all
    events: tuple[str, ...] = ()
    records: int = 0  # written so far

    @property
    def created(self) -> datetime:
        return utc(self.created_ns)


# --------------------------------------------------------------------------------- identities


@dataclass(frozen=True, slots=True)
class UserInfo:
    name: str
    uid: int
    groups: tuple[str, ...]
    admin: bool
    disabled: bool
    created_ns: int

    @property
    def created(self) -> datetime:
        return utc(self.created_ns)


@dataclass(frozen=True, slots=True)
class UserGroupInfo:
    """A group of users."""

    name: str
    gid: int
    users: tuple[str, ...]
    created_ns: int

    @property
    def created(self) -> datetime:
        return utc(self.created_ns)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token; not the token itself. `state`: "good", "expired" or "revoked"."""

    id: str
    user: str
    issued_ns: int
    expires_ns: int
    revoked_ns: int  # 0: it is not
    read_only: bool
    speak: bool  # may name whom a request is for: a mount that many use
    paths: tuple[str, ...]  # of the subtrees it is good for; none: everything
    issuer: str
    state: str

    @property
    def expires(self) -> datetime:
        return utc(self.expires_ns)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made: nobody can ask for it again."""

    token: str = field(repr=False)
    info: TokenInfo


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection acts for, and `by` what: "token", "certificate", "socket" or "nothing"."""

    name: str
    uid: int
    gids: tuple[int, ...]
    groups: tuple[str, ...]
    admin: bool
    speak: bool
    read_only: bool
    paths: tuple[str, ...]
    token: str  # its id
    expires_ns: int  # 0: never
    by: str

    @property
    def expires(self) -> datetime | None:
        return utc(self.expires_ns) if self.expires_ns else None


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """Another cluster that is known here: its paths are `/NAME/…`. What follows `asked` is of this
    moment, and only if it was asked."""

    name: str
    address: str
    store: str  # identity of what it stores, in hex; empty: it has not answered yet
    added_ns: int
    has_token: bool  # by which this cluster comes to it
    has_authority: bool  # its certificate must be signed by a given one
    access: str  # who may use it: an expression; empty: administrators only
    asked: bool
    error: str  # why it cannot be used; empty: it can
    version: str
    user: str  # who this cluster is there
    speaks: bool  # and may say for which of its users it asks
    latency_s: float  # of a small request
    clock_s: float  # by how much its clock is ahead

    @property
    def added(self) -> datetime:
        return utc(self.added_ns)


@dataclass(frozen=True, slots=True)
class GatherSource:
    """A topic of another cluster that is gathered here, as far as it has come."""

    source: str  # /cluster/path:topic
    state: str  # following, waiting, stopped
    reason: str  # why it waits or was stopped; or empty
    records: int  # gathered so far
    behind: int  # records there that were not yet
    lost: int  # that were trimmed there before they were gathered
    time_ns: int  # when something came last; 0: never
    offsets: tuple[int, ...]  # there, of the next record, by partition


@dataclass(frozen=True, slots=True)
class GatherInfo:
    """A topic into which topics of other clusters flow, each record once."""

    path: str  # /path:topic
    by: str
    created_ns: int
    paused: bool
    sources: tuple[GatherSource, ...]


# --------------------------------------------------------------------------- volumes and system


@dataclass(frozen=True, slots=True)
class MirrorInfo:
    """A volume that follows one of another cluster. `state`: "copying" (the first copy, or a large
    one, is being made), "current", "behind", "paused", or "failing" (see `error`)."""

    path: str
    volume: int
    source: str
    cluster: str  # that the source says it is of
    state: str
    commit: int  # of the source, which the mirror is
    source_commit: int  # the last one of the source that is known here
    lag_commits: int
    lag_s: float | None  # how old what it shows is; None: nobody knows
    copied_ns: int
    every: timedelta | None  # None: continuously
    bandwidth: int | None
    rate: int  # bytes per second, lately
    rows: int  # shipped since the server was started
    changes: int  # change rows
    extents: int
    bytes: int
    error: str
    error_ns: int
    copied_bytes: int  # of a copy that is being made
    total_bytes: int  # 0: none is


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume. `state` is "ready", "creating", "removing", "locked" or "failed: …".

    `encryption` is the cipher, or "" if the volume is not encrypted; `key` the number of its key,
    `master` the fingerprint of the master key that wraps it, `rotating` how far a rotation is.
    """

    path: str
    volume: int
    commit: int
    used_bytes: int
    entries: int
    quota_bytes: int | None
    compression: str
    created_ns: int
    open: bool
    state: str
    quota_entries: int | None = None
    advisory_bytes: int | None = None
    advisory_entries: int | None = None
    iops: int | None = None  # requests per second
    bandwidth: int | None = None  # bytes per second
    audit: str = "off"  # or "changes", "all"
    audit_ttl: timedelta | None = None  # None: kept for ever
    audit_topic: str | None = None  # of the stream /.audit
    changes_keep: timedelta = timedelta()  # how long the change feed goes back,
    changes_rows: int = 0  # and how many commits at most
    encryption: str = ""
    key: int = 0
    master: str = ""
    rotating: str = ""
    snapshots: int = 0  # how many there are
    mirror: str = ""  # what it is a mirror of

    @property
    def created(self) -> datetime:
        return utc(self.created_ns)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What a volume was at one commit. Everything in it is read below `path`."""

    name: str
    path: str
    volume: int  # its own number
    commit: int
    time_ns: int
    used_bytes: int  # what the volume held then
    entries: int
    schedule: str | None  # which took it, and lets it go
    by: str
    clones: tuple[str, ...] = ()  # paths of volumes that need it
    frees_bytes: int | None = None  # what removing it alone would give back; None: nobody looked

    @property
    def time(self) -> datetime:
        return utc(self.time_ns)


@dataclass(frozen=True, slots=True)
class SnapshotSchedule:
    """Snapshots that are taken by the clock: one in each period, the last `keep` are there."""

    name: str
    every: timedelta
    keep: int
    since_ns: int

    @property
    def since(self) -> datetime:
        return utc(self.since_ns)


@dataclass(frozen=True, slots=True)
class Quota:
    """What a directory, or a volume, may hold below it, and holds. Limits are None where there is
    none. Above an advisory limit nothing is refused: `over_bytes` and `over_entries` tell."""

    path: str
    quota_bytes: int | None
    quota_entries: int | None
    advisory_bytes: int | None
    advisory_entries: int | None
    used_bytes: int
    entries: int
    volume: bool = False  # it is the volume's
    over_bytes: bool = False
    over_entries: bool = False


@dataclass(frozen=True, slots=True)
class AccessRule:
    """An access expression for a verb, and the path that it is set on."""

    verb: str
    expression: str
    path: str


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The expressions set on a path, by verb, and those that it inherits for other verbs."""

    path: str
    own: Mapping[str, str]
    inherited: tuple[AccessRule, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a user may, and why.

    `by` is what decided: "expression" (`expression`, set on `rule_path`), "mode", "administrator",
    "token" (its limits), or "reach" (the directory `rule_path` does not let pass).
    """

    user: str
    path: str
    verb: str
    allowed: bool
    by: str
    expression: str | None
    rule_path: str | None
    is_known: bool = True  # False: there is no user of this name, which is judged by the name alone


@dataclass(frozen=True, slots=True)
class MasterRotation:
    """What a rotation of the master key did: `volumes` and other `secrets` were wrapped anew by
    `master`, `left` (each with the reason) were not."""

    master: str
    volumes: int
    secrets: int
    unchanged: int
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MountInfo:
    """A mount that the server has heard of in the last seconds, as it last said of itself.

    `requests` of the kernel so far; `cache_hits` of these were answered without asking the server.
    `latency_us_median` and `latency_us_p99` are of the last ones that asked it.
    """

    mountpoint: str
    path: str  # what is mounted there
    host: str
    pid: int
    since_ns: int
    requests: int
    cache_hits: int
    dirty_bytes: int  # written by programs, not yet answered by the server
    unsynced_bytes: int  # answered, not yet durable
    open_files: int
    latency_us_median: int
    latency_us_p99: int
    read_bytes: int
    written_bytes: int
    memory_bytes: int
    session: str

    @property
    def since(self) -> datetime:
        return utc(self.since_ns)

    @property
    def hit_rate(self) -> float | None:
        """The part of the requests that the caches answered; None before the first request."""
        return self.cache_hits / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Status:
    """The server: who it is and how it is."""

    version: str
    cluster: str
    engine: str
    data: str
    pid: int
    started_ns: int
    connections: int
    memory_bytes: int
    volumes: tuple[VolumeInfo, ...]
    counters: Mapping[str, int]
    address: str  # where this client reached it
    mounts: tuple[MountInfo, ...] = ()
    audit_is_on: bool = False  # of any volume
    audit_failure: str | None = None  # why the audit cannot be written; None: it can
    audit_backlog: int = 0  # commits of audited volumes that are not in the stream yet
    audit_dropped: int = 0  # denials and reads that were lost because it could not be written

    @property
    def started(self) -> datetime:
        return utc(self.started_ns)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `check` found wrong."""

    path: str
    problem: str
    repairable: bool
    repaired: bool


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a check. `counts` says how many files, rows, records, … were looked at."""

    checked: int
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    warnings: tuple[Finding, ...] = ()
    """No damage, and probably not what was meant: a rule names somebody who does not exist."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong (any more)."""
        return all(finding.repaired for finding in self.findings)


@dataclass(frozen=True, slots=True)
class CheckProgress:
    """How far a running check is."""

    stage: str
    checked: int
