"""The seam between a mirror and its source: what a target may ask, wherever the source is.

A `Source` is one volume at one moment after another; a `Pin` is one such moment, held still:
commit M, durable, so that no power loss takes back what a mirror was told. Everything that a pin
answers is of that commit. `source.py` is the implementation in the same process,
`server/replication/remote.py` the one over a wire; `tests/contract/sources.py` holds what both
keep.

*Which keys are replicable is said here*, and nowhere else: see REPLICABLE. Values are the
source's, with one exception, made by `replica`: what was a junction is an empty directory. Change
rows are replicable, by scan and by value, but are not among the keys that `changed` gives: whoever
has applied commit N scans those of (N, M].

A target tells a source that was rewound or replaced by what it describes: `store` and `volume`
(was it recreated?), `history` and `lineage` (was its line cut?), `commit` (was it put back?), and,
against a copy of an older state that went on by itself, by comparing the change row of its own
commit: `pin.values([keys.change(N)])`.

Errors, apart from what is said at each: UNAVAILABLE when the source cannot be reached or answered
too late (try again), DENIED, NOT_FOUND when there is no such volume, INVALID for a source that
speaks of what this version does not know, CORRUPT for damage at the source (it names the bytes).
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from ...base.errors import Conflict
from ...engine.base import Pair
from ...keyspace import keys
from ...keyspace.records import Entry, Extent, Inode, VolumeSettings, VolumeState

FORMAT = 1
"""Of what is shipped. It grows when a key letter or a form of a value comes that an older target
would not know: such a target refuses, rather than being something else than its source."""

REPLICABLE = frozenset(
    (
        keys.INODE,
        keys.ENTRY,
        keys.LINK,
        keys.XATTR,
        keys.PIECE,
        keys.ORPHAN,
        keys.STATISTICS,
        keys.ROW,
        keys.TOPIC,
        keys.PARTITION,
        keys.BATCH,
        keys.PRODUCER,
        keys.GROUP_OFFSET,
        keys.QUOTA,
        keys.CHANGE,
    )
)
"""First bytes of the keys that a mirror has from its source. All others are the target's own (its
accounts of segments and references, replies, cursors), belong to a root volume, or are told with
`Described` (counters and settings)."""

RANGES: tuple[tuple[bytes, bytes], ...] = tuple(
    keys.prefix_range(letter) for letter in sorted(REPLICABLE)
)
"""The half-open ranges of all replicable keys, in order. Any of them may be scanned in any order,
also at once."""

REFERRING = frozenset((keys.PIECE, keys.BATCH))
"""Keys whose values may name an extent. It is one of the source's: see `Pin.extents`."""

LEASE_S = 60.0
"""A pin that nobody used for so long is released."""

PAGE_KEYS = 10_000
PAGE_BYTES = 4 << 20
"""What a page aims at if nothing else is said."""


def is_replicable(key: bytes) -> bool:
    return key[:1] in REPLICABLE


def is_told(key: bytes) -> bool:
    """Whether `changed` gives it: replicable, and no change row."""
    return key[:1] in REPLICABLE and key[:1] != keys.CHANGE


_NO_JUNCTION = b"\xc4\x00\x00\x80\x80"
"""How nearly every packed inode ends: no symbolic link, no volume, no settings, no expressions."""


def replica(key: bytes, value: bytes) -> bytes:
    """The value as a mirror has it: a junction is an empty directory."""
    letter = key[:1]
    if letter == keys.INODE:
        if not value.endswith(_NO_JUNCTION):
            inode = Inode.unpack(value)
            if inode.volume:
                inode.volume = 0
                return inode.pack()
    elif letter == keys.ENTRY and not value.endswith(b"\x00" * 8):
        return Entry.unpack(value)._replace(volume=0).pack()
    return value


class PinLost(Conflict):
    """The pin is over: its lease ran out, or the source's server was restarted. Take another one;
    what was copied under this one is of its commit and need not be copied again: see `delta`."""


@dataclass(frozen=True, slots=True)
class Described:
    """A source at one commit."""

    cluster: str
    store: bytes  # identity of the store: another one behind the same address is another source
    volume: int  # its number there; never used again after the volume was removed
    path: str  # where it is mounted there
    history: bytes  # of its line of commits, 16 bytes
    lineage: list[tuple[bytes, int]]  # (earlier history, up to which commit it is part of this one)
    commit: int  # durable
    commit_ns: int  # when that was, by the source's clock; 0 if its change row was trimmed
    time_ns: int  # now, by the source's clock
    oldest_change: int  # the oldest change row that is kept
    state: VolumeState = field(default_factory=VolumeState)  # the counters of that commit
    settings: VolumeSettings = field(default_factory=VolumeSettings)
    """Those that mean something elsewhere; no keys, no identity, no schedules, no mirror."""
    format: int = FORMAT


class Pin(abc.ABC):
    """A volume at one durable commit. Used by one task or by several at once. Close it: it holds
    memory, files and segments at the source. Any use renews its lease; PinLost if it is over."""

    described: Described

    @property
    def commit(self) -> int:
        return self.described.commit

    @abc.abstractmethod
    async def changed(
        self, since: int, after: bytes = b"", end: bytes = b"", limit: int = PAGE_KEYS
    ) -> list[bytes]:
        """The next replicable keys, in order and each once, that any commit of (since, M] wrote or
        deleted, change rows not counted: at most `limit`, those above `after`, and below `end`
        unless that is empty. An empty page is the end. STALE if change rows after `since` were
        trimmed, INVALID if `since` is above M."""

    @abc.abstractmethod
    async def values(self, wanted: Sequence[bytes]) -> list[bytes | None]:
        """Their values, in this order; None for what is not there. INVALID for a key that is not
        replicable."""

    @abc.abstractmethod
    async def scan(
        self, start: bytes, end: bytes, limit: int = PAGE_KEYS, size_bytes: int = PAGE_BYTES
    ) -> list[Pair]:
        """The next pairs of the half-open range, in order; an empty page is the end. What is not
        replicable is left out. Go on from the last key + NUL."""

    @abc.abstractmethod
    async def extents(self, wanted: Sequence[Extent]) -> list[bytes | memoryview]:
        """The uncompressed bytes of extents of the source, in this order, verified. Best asked for
        in the order of segment and offset; any number at once. CORRUPT."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go. Never raises for a source that cannot be reached: there the lease runs out."""

    async def delta(
        self, since: int, after: bytes = b"", end: bytes = b"", limit: int = PAGE_KEYS
    ) -> list[tuple[bytes, bytes | None]]:
        """`changed`, with the values. An empty page is the end.

        A base copy that was cut at key K under a pin of commit N goes on under one of commit M with
        `delta(N, end=K)` for what it has, and `scan(K, ...)` for what it has not."""
        page = await self.changed(since, after, end, limit)
        return list(zip(page, await self.values(page), strict=True))

    async def __aenter__(self) -> Pin:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class Source(abc.ABC):
    """A volume that can be mirrored."""

    @abc.abstractmethod
    async def describe(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Described:
        """As it is now: waits up to `wait_s` for a durable commit of at least this number, and
        describes what there is then, whether or not it came."""

    @abc.abstractmethod
    async def pin(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Pin:
        """The newest durable commit, held still. UNAVAILABLE if that is below `commit_at_least`
        after `wait_s`, or if there are too many pins."""

    def limit(self, bytes_per_s: int) -> None:
        """Ask for no more than so many bytes per second from now on; 0: as many as come. What is
        in the same process is not slowed down."""
        return

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of the connection and of all pins."""

    async def __aenter__(self) -> Source:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


async def scan_ranges(
    pin: Pin, ranges: Sequence[tuple[bytes, bytes]] = RANGES, start: bytes = b""
) -> AsyncIterator[list[Pair]]:
    """Pages of all pairs of the ranges, which are in order, from `start` on."""
    for low, high in ranges:
        at = max(low, start)
        while at < high:
            page = await pin.scan(at, high)
            if not page:
                break
            yield page
            at = page[-1][0] + b"\x00"


async def deltas(
    pin: Pin, since: int, end: bytes = b""
) -> AsyncIterator[list[tuple[bytes, bytes | None]]]:
    """Pages of all that changed since a commit, apart from change rows."""
    after = b""
    while page := await pin.delta(since, after, end):
        yield page
        after = page[-1][0]
