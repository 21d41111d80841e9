"""The seam: what the core asks of a storage engine, and nothing more (D2).

An `Engine` is one ordered map from bytes to bytes, for one volume. The write lane above it gives
order, so there is no read-modify-write here, and there is exactly one writer at a time.

Invariants that every engine keeps, held by `tests/contract/engine.py`:

- A batch is applied whole or not at all, also across a crash.
- Batches become durable in the order in which they were committed: what survives a crash is a
  prefix of the commits.
- After `commit` returns, every later read sees the batch.
- After `durable(ticket)` returns, that batch and every earlier one survive SIGKILL and power loss.
  Many waiters cost one sync.
- After a failed commit or sync the engine is broken: it answers UNAVAILABLE to every further
  commit and durable until it is reopened, because nobody can know what the disk kept. Reads go on,
  so that a user can look and copy out; what they show beyond the last durable ticket may be gone
  after reopening. Only who was fenced reads nothing any more: that is STALE.
- A commit or append refused for lack of space before it began (EXHAUSTED, see space.py) has done
  nothing and breaks nothing: `broken` tells it from one that failed.

A `SegmentStore` keeps bulk bytes in append-only segments which are immutable once sealed (D3).
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from .checksums import sums

T = TypeVar("T")

Pair = tuple[bytes, bytes]
Batch = Mapping[bytes, bytes | None]
"""What to write: a value to put, None to delete. Keys are distinct by construction."""

Ticket = int
"""Grows with every commit of one open engine; `durable(t)` covers all tickets up to t."""


class Reader(abc.ABC):
    """Reads of an ordered map."""

    @abc.abstractmethod
    async def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    @abc.abstractmethod
    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in the order of the keys."""

    @abc.abstractmethod
    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        """One page of the half-open range [start, end), ascending, or descending from its end.

        At most `limit` pairs, and no further pair once keys and values reach `size_bytes` (a page
        of a non-empty range holds at least one pair). A page below both bounds is the last one.
        """


async def scan_all(
    reader: Reader, start: bytes, end: bytes, *, reverse: bool = False
) -> AsyncIterator[Pair]:
    """Every pair of the range, page by page. Not one moment unless `reader` is a `View`."""
    while True:
        page = await reader.scan(start, end, reverse=reverse)
        for pair in page:
            yield pair
        if not page:
            return
        if reverse:
            end = page[-1][0]
        else:
            start = page[-1][0] + b"\x00"


class View(Reader):
    """A consistent picture at one moment. Close it: it pins memory and files."""

    @abc.abstractmethod
    def close(self) -> None: ...


class Engine(Reader):
    """One open database with one writer. Opening and closing are the opener's: see `Engines`."""

    @abc.abstractmethod
    async def view(self) -> View: ...

    @abc.abstractmethod
    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        """Apply atomically and in order; visible at once, durable when the ticket is.

        `awaited`: nobody is told of this commit before its ticket is durable, so the engine may
        put off writing it until the sync, together with others. A failure then shows there.
        """

    @abc.abstractmethod
    async def durable(self, ticket: Ticket) -> None:
        """Wait until the commit is durable; concurrent waiters share one sync."""

    @property
    @abc.abstractmethod
    def durable_ticket(self) -> Ticket:
        """The highest ticket known to be durable."""

    @property
    @abc.abstractmethod
    def broken(self) -> bool:
        """Whether every write is refused, after a failed one or after `close`."""

    @abc.abstractmethod
    async def checkpoint(self, name: str) -> None:
        """Pin everything committed so far under a name; survives restarts.

        It holds a prefix of the commits, with all that were made before the call. Writers go on
        meanwhile. EXISTS.
        """

    @abc.abstractmethod
    async def open_checkpoint(self, name: str) -> View:
        """Read a checkpoint; NOT_FOUND if there is none of that name."""

    @abc.abstractmethod
    async def delete_checkpoint(self, name: str) -> None: ...

    @abc.abstractmethod
    async def checkpoints(self) -> list[str]:
        """The names of all checkpoints, in the order of the names."""

    @abc.abstractmethod
    async def checkpoint_size(self, name: str) -> int:
        """Stored bytes that deleting this checkpoint alone would free: what neither the database,
        nor another checkpoint, nor a clone has too. NOT_FOUND."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Make everything durable and let go. Further calls answer UNAVAILABLE.

        A broken engine only lets go, in bounded time.
        """


class Location(NamedTuple):
    """Where an appended piece of bytes lies."""

    segment: int
    offset: int
    length: int


Stored = bytes | memoryview

Encode = Callable[[int, int], Iterable[Stored]]
"""Makes the bytes that are stored, knowing the segment and the offset: in pieces, of which each is
good until the next is asked for."""


def joined(pieces: Iterable[Stored]) -> Stored:
    """What `Encode` gives, in one piece; not copied if it is one."""
    if isinstance(pieces, tuple) and len(pieces) == 1:
        return pieces[0]
    return b"".join(bytes(piece) for piece in pieces)


class SegmentStore(abc.ABC):
    """Append-only segments of one volume. Segment numbers grow and are never used again.

    One segment at a time is open for appending; it is sealed when it is full, on `seal`, and when
    the store is reopened (what a crash tore is never appended to again).
    """

    directory: str = ""
    """Where the segments are as local files, `%016x.seg` each; empty if they are none."""

    overhead_bytes: int = 0
    """By how much an append is longer where it is stored than what was given. If it is, only whole
    appends and whole parts can be read."""

    @abc.abstractmethod
    async def append_encoded(self, length: int, encode: Encode) -> Location:
        """Append the `length` bytes that `encode` returns, to the open segment. Readable at once,
        durable only after `sync`.

        `encode` is called once, with the segment and the offset at which its bytes are going to
        lie, by the thread that writes them: piece after piece, so that what it has in its
        processor's cache is written at once.
        """

    async def append(self, data: bytes | memoryview) -> Location:
        """As `append_encoded`. The memory may be reused when this returns; it must not be changed
        before, not even when the call is cancelled: a thread may still be writing from it."""
        return await self.append_encoded(len(data), lambda segment, offset: (data,))

    async def append_parts(self, data: memoryview, part_bytes: int) -> list[tuple[Location, int]]:
        """Append consecutive parts of `part_bytes` (the last may be shorter) in one go: where each
        is, one right behind the other, and the checksum of its bytes (0 where what is stored is
        authenticated anyway)."""
        checksums: list[int] = []

        def encode(segment: int, offset: int) -> Iterable[memoryview]:
            checksums.extend(sums(data, part_bytes))
            return (data,)

        segment, offset, length = await self.append_encoded(len(data), encode)
        return [
            (Location(segment, offset + start, min(part_bytes, length - start)), checksum)
            for start, checksum in zip(range(0, length, part_bytes), checksums, strict=True)
        ]

    @abc.abstractmethod
    async def sync(self) -> None:
        """Make every completed append durable; concurrent callers share one sync.

        After a failed sync the store is broken, as an engine is.
        """

    @abc.abstractmethod
    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        """What `decode` makes of exactly `length` bytes, by the thread that reads them; CORRUPT if
        the segment is missing or shorter."""

    async def read(self, location: Location) -> Stored:
        """The bytes of an append, or of a part of it. CORRUPT."""
        return await self.read_decoded(location, lambda stored: stored)

    async def read_parts(self, locations: Sequence[Location]) -> list[Stored]:
        """The bytes of appends that lie one right behind the other in one segment, in one read."""
        first, last = locations[0], locations[-1]
        length = last.offset + last.length - first.offset
        stored = memoryview(await self.read(first._replace(length=length)))
        parts: list[Stored] = []
        at = 0
        for location in locations:
            assert location.offset == first.offset + at, location
            parts.append(stored[at : at + location.length])
            at += location.length
        return parts

    @abc.abstractmethod
    async def seal(self) -> None:
        """Sync and end the open segment, if any."""

    @abc.abstractmethod
    async def sizes(self) -> dict[int, int]:
        """Stored bytes of every segment, the open one included."""

    @property
    @abc.abstractmethod
    def open_segment(self) -> int | None:
        """The segment that appends go to, if there is one."""

    @abc.abstractmethod
    async def delete(self, segment: int) -> None:
        """Remove a sealed segment; a missing one is no error."""

    @abc.abstractmethod
    async def skip(self, segment: int) -> None:
        """Seal; this open store numbers its later segments above `segment`.

        For who fills a storage that is to replace another one (`Storages.replace`).
        """

    @abc.abstractmethod
    async def close(self) -> None: ...


class Storage(NamedTuple):
    """What one open volume stands on."""

    engine: Engine
    segments: SegmentStore


class Room(NamedTuple):
    """Of the file system that all volumes share."""

    capacity_bytes: int
    available_bytes: int  # before writes are refused


class Storages(abc.ABC):
    """Where the databases of many volumes live: one data directory, or one bucket prefix.

    Opening one holds it exclusively: a second process is refused with UNAVAILABLE, or fences the
    first (object stores), and a newer format is refused with INVALID.
    """

    kind: str
    """"memory", "rocks" or "slate"."""

    @abc.abstractmethod
    async def volumes(self) -> list[int]:
        """The volumes that exist here, whole or half-made."""

    @abc.abstractmethod
    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        """NOT_FOUND without `create` if there is none. `briefly`: it is going to be closed soon, so
        nothing is begun that closing would have to wait for."""

    @abc.abstractmethod
    async def remove(self, volume: int) -> None:
        """Delete a closed volume's bytes for good."""

    @abc.abstractmethod
    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        """Make `target` a volume with what a checkpoint of `source` holds, and every segment that
        `source` has now. A target that exists is left as it is, so this can be repeated.

        The source may be open, and is written to meanwhile; it is neither removed nor replaced
        before this returns. The target has no checkpoints. It depends on the source afterwards
        where `clones_refer` says so, else on nothing. NOT_FOUND.
        """

    clones_refer: bool = False
    """Whether a clone reads what it shares where the source has it. Then the source, and those of
    its segments that the checkpoint needs, must be kept as long as the clone."""

    @abc.abstractmethod
    async def replace(self, volume: int, other: int) -> None:
        """Let the storage of `other` take the place of that of `volume`; both are closed.

        `volume` keeps its checkpoints and, for them, its segments beside those of `other`; then
        `other` is no volume any more. It happens at once or, after a crash, not: repeat it until
        it returns before `volume` is opened. INVALID if both have a segment of one number that is
        not the same: segments of `other` come from a clone of `volume` or are numbered higher
        (`SegmentStore.skip`). NOT_FOUND if there is neither.
        """

    def room(self) -> Room | None:
        """How much the file system below holds, if there is one that says so. It looks at once."""
        return None

    @abc.abstractmethod
    async def close(self) -> None:
        """Close whatever is open, then let go of the directory or prefix."""
