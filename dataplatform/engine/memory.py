"""The engine in memory: the simple, right one, and the disk of the simulation tests (D12).

A `MemoryDisk` is what a power cut leaves alone. Everything else is lost with the process:
`MemoryStorages.crash()` drops what was not synced, and `open` then sees what survived. Given a
seeded `random.Random`, more than what was synced may survive, as on a real disk: any prefix of
the unsynced commits, any part of the unsynced segment bytes, torn or not.

Nothing here waits for time or threads, so one seed gives one run.
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..base.errors import Corrupt, Exists, Invalid, NotFound, Unavailable
from ..base.limits import MIB
from .base import (
    Batch,
    Encode,
    Engine,
    Location,
    Pair,
    SegmentStore,
    Storage,
    Storages,
    Stored,
    Ticket,
)
from .base import View as BaseView
from .checkpoints import check_checkpoint_name
from .groups import Group, at_once

T = TypeVar("T")

SEGMENT_BYTES = 64 * MIB

SORT_FROM = 32
"""New keys in one batch from which sorting everything beats inserting one by one."""


class MemoryDisk:
    """What outlives a process. Hand it to the next `MemoryStorages`."""

    def __init__(self) -> None:
        self.volumes: dict[int, _Volume] = {}
        self.owner: MemoryStorages | None = None


class _Volume:
    """One volume's durable rows, and the commits that were not synced yet."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.unsynced: list[Batch] = []
        self.checkpoints: dict[str, dict[bytes, bytes]] = {}
        self.segments: dict[int, _Segment] = {}
        self.segment_last = 0

    def clone(self, checkpoint: str) -> _Volume:
        """What a checkpoint and the segments' synced bytes are: KeyError if there is none."""
        copy = _Volume()
        copy.rows = dict(self.checkpoints[checkpoint])
        copy.segments = {
            number: segment.copy() for number, segment in self.segments.items() if segment.linked
        }
        copy.segment_last = self.segment_last
        return copy

    def replace(self, other: _Volume) -> None:
        """Take over everything of `other` but its checkpoints. INVALID, see `Storages.replace`."""
        for number in self.segments.keys() & other.segments.keys():
            if self.segments[number].data != other.segments[number].data:
                raise Invalid("segments of one number differ", segment=number)
        self.rows = other.rows
        self.unsynced = []
        self.segments.update(other.segments)
        self.segment_last = max(self.segment_last, other.segment_last)

    def sync(self, count: int | None = None) -> None:
        """Make the oldest `count` unsynced commits durable."""
        count = len(self.unsynced) if count is None else count
        for batch in self.unsynced[:count]:
            _apply(self.rows, batch)
        del self.unsynced[:count]

    def crash(self, rng: random.Random | None) -> None:
        if rng is not None:
            self.sync(rng.randint(0, len(self.unsynced)))
        self.unsynced.clear()
        for number, segment in list(self.segments.items()):
            segment.crash(rng)
            if not segment.data and not segment.linked:
                del self.segments[number]


class _Segment:
    def __init__(self) -> None:
        self.data = bytearray()
        self.synced_bytes = 0
        self.linked = False  # its name is synced in the directory

    def sync(self) -> None:
        self.synced_bytes = len(self.data)
        self.linked = True

    def copy(self) -> _Segment:
        """Of what is synced."""
        copy = _Segment()
        copy.data = self.data[: self.synced_bytes]
        copy.sync()
        return copy

    def crash(self, rng: random.Random | None) -> None:
        """Lose the unsynced bytes, or keep some of them, with zeros where a page was not out."""
        start = self.synced_bytes
        if rng is None:
            del self.data[start:]
            return
        del self.data[rng.randint(start, len(self.data)) :]
        end = len(self.data)
        if start < end and rng.random() < 0.5:
            hole = rng.randrange(start, end)
            hole_end = rng.randint(hole + 1, end)
            self.data[hole:hole_end] = bytes(hole_end - hole)
        self.synced_bytes = end


def _apply(rows: dict[bytes, bytes], batch: Batch) -> None:
    for key, value in batch.items():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


class _SortedRows:
    """A dict and its keys in order."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows
        self.keys = sorted(rows)

    def apply(self, batch: Batch) -> None:
        fresh = [k for k, v in batch.items() if v is not None and k not in self.rows]
        gone = [k for k, v in batch.items() if v is None and k in self.rows]
        _apply(self.rows, batch)
        for key in gone:
            del self.keys[bisect.bisect_left(self.keys, key)]
        if len(fresh) >= SORT_FROM:
            self.keys.extend(fresh)
            self.keys.sort()
        else:
            for key in fresh:
                bisect.insort(self.keys, key)

    def range(self, start: bytes, end: bytes, reverse: bool) -> Iterator[bytes]:
        low = bisect.bisect_left(self.keys, start)
        high = bisect.bisect_left(self.keys, end)
        positions = range(high - 1, low - 1, -1) if reverse else range(low, high)
        return map(self.keys.__getitem__, positions)


def _page(pairs: Iterable[Pair], limit: int, size_bytes: int) -> list[Pair]:
    assert limit > 0, limit
    assert size_bytes > 0, size_bytes
    page: list[Pair] = []
    size = 0
    for key, value in pairs:
        page.append((key, value))
        size += len(key) + len(value)
        if len(page) >= limit or size >= size_bytes:
            break
    return page


class MemoryView(BaseView):
    """The rows at one moment: the live rows, with what commits since have replaced on top."""

    def __init__(self, live: _SortedRows, opened: list[MemoryView]) -> None:
        """`opened` are the open views of the engine: this one joins them until it is closed."""
        self._live = live
        self._before: dict[bytes, bytes | None] = {}
        self._opened = opened
        self._closed = False
        opened.append(self)

    def preserve(self, batch: Batch) -> None:
        """Called before each commit: keep what it is about to replace."""
        for key in batch:
            if key not in self._before:
                self._before[key] = self._live.rows.get(key)

    async def get(self, key: bytes) -> bytes | None:
        self._check()
        return self._get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check()
        return [self._get(key) for key in keys]

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        self._check()
        return _page(self._pairs(start, end, reverse), limit, size_bytes)

    def close(self) -> None:
        if not self._closed:
            self._opened.remove(self)
        self._closed = True
        self._before = {}

    def _check(self) -> None:
        if self._closed:
            raise Unavailable("view is closed")

    def _get(self, key: bytes) -> bytes | None:
        if key in self._before:
            return self._before[key]
        return self._live.rows.get(key)

    def _pairs(self, start: bytes, end: bytes, reverse: bool) -> Iterator[Pair]:
        keys: Iterable[bytes] = self._live.range(start, end, reverse)
        gone = [k for k in self._before if start <= k < end and k not in self._live.rows]
        if gone:
            keys = heapq.merge(keys, sorted(gone, reverse=reverse), reverse=reverse)
        for key in keys:
            value = self._get(key)
            if value is not None:
                yield key, value


class MemoryEngine(Engine):
    """A sorted map in memory; its disk is a dict."""

    def __init__(self, volume: _Volume, subject: str) -> None:
        assert not volume.unsynced
        self._volume = volume
        self._live = _SortedRows(dict(volume.rows))
        self._views: list[MemoryView] = []
        self._checkpoints: list[MemoryView] = []
        self._group = Group(subject, at_once(volume.sync))

    @property
    def durable_ticket(self) -> Ticket:
        return self._group.durable

    @property
    def broken(self) -> bool:
        return self._group.broken

    @property
    def closed(self) -> bool:
        return self._group.closed

    async def get(self, key: bytes) -> bytes | None:
        self._group.check_open()
        return self._live.rows.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._group.check_open()
        return [self._live.rows.get(key) for key in keys]

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        self._group.check_open()
        rows = self._live.rows
        pairs = ((key, rows[key]) for key in self._live.range(start, end, reverse))
        return _page(pairs, limit, size_bytes)

    async def view(self) -> MemoryView:
        self._group.check_open()
        return MemoryView(self._live, self._views)

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        self._group.check()
        batch = dict(batch)
        for view in self._views:
            view.preserve(batch)
        self._live.apply(batch)
        self._volume.unsynced.append(batch)
        return self._group.add()

    async def durable(self, ticket: Ticket) -> None:
        await self._group.wait(ticket)

    async def checkpoint(self, name: str) -> None:
        check_checkpoint_name(name)
        if name in self._volume.checkpoints:
            raise Exists("checkpoint exists", name=name)
        await self._group.wait(self._group.last)
        self._volume.sync()
        self._volume.checkpoints[name] = dict(self._volume.rows)

    async def open_checkpoint(self, name: str) -> MemoryView:
        self._group.check_open()
        check_checkpoint_name(name)
        rows = self._volume.checkpoints.get(name)
        if rows is None:
            raise NotFound("checkpoint not found", name=name)
        return MemoryView(_SortedRows(rows), self._checkpoints)

    async def delete_checkpoint(self, name: str) -> None:
        self._group.check()
        check_checkpoint_name(name)
        self._volume.checkpoints.pop(name, None)

    async def checkpoints(self) -> list[str]:
        self._group.check_open()
        return sorted(self._volume.checkpoints)

    async def checkpoint_size(self, name: str) -> int:
        """Of the keys and values that nothing else has."""
        self._group.check_open()
        check_checkpoint_name(name)
        checkpoints = dict(self._volume.checkpoints)
        rows = checkpoints.pop(name, None)
        if rows is None:
            raise NotFound("checkpoint not found", name=name)
        others = [self._live.rows, *checkpoints.values()]
        return sum(
            len(key) + len(value)
            for key, value in rows.items()
            if not any(other.get(key) == value for other in others)
        )

    async def close(self) -> None:
        await self._group.close()
        self._close_views()

    def crash(self) -> None:
        """Be gone, as after a power cut."""
        self._group.abandon(Unavailable("power cut"))
        self._close_views()

    def _close_views(self) -> None:
        for view in self._views + self._checkpoints:
            view.close()


class MemorySegments(SegmentStore):
    """Segments as byte arrays of a `MemoryDisk`."""

    def __init__(self, volume: _Volume, subject: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._volume = volume
        self._segment_bytes = segment_bytes
        self._open: int | None = None
        self._unsynced: list[_Segment] = []
        self._group = Group(subject, at_once(self._sync))

    @property
    def open_segment(self) -> int | None:
        return self._open

    @property
    def broken(self) -> bool:
        return self._group.broken

    @property
    def closed(self) -> bool:
        return self._group.closed

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        self._group.check()
        number, segment = self._segment()
        offset = len(segment.data)
        for piece in encode(number, offset):
            segment.data += piece
        assert len(segment.data) == offset + length, (len(segment.data), offset, length)
        self._group.add(length)
        if segment not in self._unsynced:
            self._unsynced.append(segment)
        if len(segment.data) >= self._segment_bytes:
            self._open = None
        return Location(number, offset, length)

    async def sync(self) -> None:
        await self._group.wait(self._group.last)

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        self._group.check_open()
        segment = self._volume.segments.get(location.segment)
        end = location.offset + location.length
        if segment is None or len(segment.data) < end:
            raise Corrupt("segment is missing or short", **location._asdict())
        with memoryview(segment.data) as data:
            found = bytes(data[location.offset : end])
        return decode(found)

    async def seal(self) -> None:
        self._group.check()
        sealing = self._open
        await self.sync()
        if self._open == sealing:
            self._open = None

    async def sizes(self) -> dict[int, int]:
        self._group.check_open()
        return {number: len(s.data) for number, s in sorted(self._volume.segments.items())}

    async def delete(self, segment: int) -> None:
        self._group.check()
        if segment == self._open:
            raise Invalid("segment is open", segment=segment)
        self._volume.segments.pop(segment, None)

    async def skip(self, segment: int) -> None:
        await self.seal()
        self._volume.segment_last = max(self._volume.segment_last, segment)

    async def close(self) -> None:
        await self._group.close()
        self._open = None

    def crash(self) -> None:
        """Be gone, as after a power cut."""
        self._group.abandon(Unavailable("power cut"))

    def _segment(self) -> tuple[int, _Segment]:
        if self._open is None:
            self._volume.segment_last += 1
            self._open = self._volume.segment_last
            self._volume.segments[self._open] = _Segment()
        return self._open, self._volume.segments[self._open]

    def _sync(self) -> None:
        for segment in self._unsynced:
            segment.sync()
        self._unsynced.clear()


class MemoryStorages(Storages):
    """Volumes of a `MemoryDisk`; a new disk unless one is handed in."""

    kind = "memory"

    def __init__(self, disk: MemoryDisk | None = None, *, segment_bytes: int = SEGMENT_BYTES):
        """UNAVAILABLE if another `MemoryStorages` holds the disk."""
        self._disk = MemoryDisk() if disk is None else disk
        if self._disk.owner is not None:
            raise Unavailable("another server uses this memory disk")
        self._disk.owner = self
        self._segment_bytes = segment_bytes
        self._open: dict[int, tuple[MemoryEngine, MemorySegments]] = {}

    async def volumes(self) -> list[int]:
        self._check()
        return sorted(self._disk.volumes)

    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        self._check()
        self._check_closed(volume)
        state = self._disk.volumes.get(volume)
        if state is None and not create:
            raise NotFound("volume not found", volume=volume)
        if state is None:
            state = self._disk.volumes[volume] = _Volume()
        state.crash(None)  # drops what a broken engine left unsynced; else there is nothing to drop
        engine = MemoryEngine(state, f"volume {volume}")
        segments = MemorySegments(state, f"segments of volume {volume}", self._segment_bytes)
        self._open[volume] = engine, segments
        return Storage(engine, segments)

    async def remove(self, volume: int) -> None:
        self._check()
        self._check_closed(volume)
        self._disk.volumes.pop(volume, None)

    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        self._check()
        check_checkpoint_name(checkpoint)
        self._check_closed(target)
        if target in self._disk.volumes:
            return
        _, segments = self._open.get(source, (None, None))
        if segments is not None and not segments.broken:
            await segments.seal()
        volume = self._disk.volumes.get(source)
        if volume is None:
            raise NotFound("volume not found", volume=source)
        if checkpoint not in volume.checkpoints:
            raise NotFound("checkpoint not found", name=checkpoint, volume=source)
        self._disk.volumes[target] = volume.clone(checkpoint)

    async def replace(self, volume: int, other: int) -> None:
        self._check()
        self._check_closed(volume)
        self._check_closed(other)
        state, its = self._disk.volumes.get(volume), self._disk.volumes.get(other)
        if state is None:
            raise NotFound("volume not found", volume=volume)
        if its is not None:
            state.crash(None)
            its.crash(None)
            state.replace(its)
            del self._disk.volumes[other]

    async def close(self) -> None:
        if self._disk.owner is not self:
            return
        for engine, segments in self._open.values():
            await segments.close()
            await engine.close()
        self._open.clear()
        self._disk.owner = None

    def crash(self, rng: random.Random | None = None) -> None:
        """Cut the power: what is open breaks, what was not synced is gone, all can be reopened.

        With `rng`, some of what was not synced survives, as the disk pleases.
        """
        for engine, segments in self._open.values():
            engine.crash()
            segments.crash()
        self._open.clear()
        for _, volume in sorted(self._disk.volumes.items()):
            volume.crash(rng)

    def _check(self) -> None:
        if self._disk.owner is not self:
            raise Unavailable("storages are closed")

    def _check_closed(self, volume: int) -> None:
        engine, segments = self._open.get(volume, (None, None))
        if engine is None or segments is None:
            return
        if not (engine.closed and segments.closed):
            raise Unavailable("volume is open", volume=volume)
        del self._open[volume]
