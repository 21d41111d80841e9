"""Grafts: something with all below it, taken from one picture of a volume and put into another
place: a path of a snapshot back into its volume, a part of a clone back into its source.

It grows aside, in bounded units, in a directory beside the place where it is going to be. That
directory is marked as the orphans are, so what a crash leaves of it goes with the next sweep. In
the end one unit exchanges it with what is in its place, and that goes the same way.

Bytes are not copied where the target has the segment, see `Sharing`: the new values refer to the
same extents. While it grows no segment goes (`Holds.pin`).

What grows has inodes of its own. It keeps owners, modes, times, expressions, attributes, rows with
their versions and expiry, batches with their offsets, producers, group offsets, and links within.
What was a junction is an empty directory. Quotas of directories below are not taken along.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple

from ..base.errors import Invalid, NotFound, PlatformError
from ..engine.base import Reader, SegmentStore, scan_all
from ..keyspace import keys
from ..keyspace.records import (
    Entry,
    Extent,
    Inode,
    Kind,
    Partition,
    Segment,
    Statistics,
    StoredBatch,
    Topic,
)
from . import extents, namespace, orphans
from .audit import protection
from .namespace import Attributes
from .quota_directories import Limits, set_quota
from .replication.incoming import named, naming
from .tables import stored_bytes
from .topics import DROPPED
from .units import SYSTEM, Request, Unit
from .volumes import Volume

STEM = ".restoring-"
"""What the directory in which a graft grows is called, and something random behind it."""

NEW = b"new"

UNIT_ROWS = 400
UNIT_BYTES = 2 << 20
"""What one unit writes, about."""

NUMBERS = 1000
"""Inodes' numbers that are taken at a time."""

_NUMBER = slice(1, 9)

SWEPT_UNITS = 20
"""Units in which what was replaced goes at once; more of it goes bit by bit."""

Act = Callable[[Unit], Awaitable[None]]


class Sharing(NamedTuple):
    """Which segments mean the same in the volume that something is taken from and in the other."""

    segments: SegmentStore  # of the one that it is taken from
    below: int | None  # those numbered below this, if they are still there; None: all


class Growing:
    """A graft, while it grows in the volume where it is going to be."""

    def __init__(self, volume: Volume, source: Reader, sharing: Sharing, path: str) -> None:
        """`path`: of its place, for what people are told."""
        self._volume = volume
        self._source = source
        self._sharing = sharing
        self._path = path
        self._shared: dict[int, int] = {}  # total bytes, by segment
        self._acts: list[Act] = []
        self._rows = 0
        self._bytes = 0
        self._numbers: list[int] = []
        self._linked: dict[int, int] = {}  # new inodes, by old, of what has further names
        self._fresh = False
        self.stem = 0
        self.name = ""

    async def begin(self, directory: int) -> None:
        """Make the directory in which it grows. Whoever calls gives it to `end` in any case."""
        volume = self._volume
        self.name = STEM + volume.entropy.token(8).hex()
        self._shared = await self._find_shared()

        async def work(unit: Unit) -> int:
            parent = await namespace.directory_of(unit, directory)
            new = Attributes(Kind.DIRECTORY, 0o700)
            inode, _ = await namespace.add_unasked(unit, parent, self.name.encode(), new)
            unit.put(keys.orphan(inode.number), unit.now_ns.to_bytes(8, "big"))
            unit.events.clear()
            return inode.number

        number = await volume.run(SYSTEM, work, durable=False)
        volume.opens[number] = volume.opens.get(number, 0) + 1  # nobody sweeps it meanwhile
        self.stem = number

    async def end(self) -> None:
        """What is there goes: now if it is not much, or with the next sweeps."""
        opens = self._volume.opens
        if self.stem and self.stem in opens:
            opens[self.stem] -= 1
            if not opens[self.stem]:
                del opens[self.stem]
            with contextlib.suppress(PlatformError):
                await orphans.sweep(self._volume, self.stem, units_max=SWEPT_UNITS)

    async def grow(self, number: int) -> int:
        """All of an inode of the source; the number of the new one."""
        inode = await self._inode(number)
        if protection.is_audit(inode):
            raise Invalid("the audit stays as it is", path=self._path, errno=errno.EPERM)
        made = await self._add(inode, self.stem, NEW)
        directories = [(number, made)] if inode.is_directory and not inode.volume else []
        while directories:
            old, new = directories.pop()
            async for key, value in scan_all(self._source, *keys.prefix_range(keys.entries(old))):
                entry = Entry.unpack(value)
                child = await self._inode(entry.inode)
                if protection.is_audit(child):
                    continue
                name = keys.name_of(key)
                if child.number in self._linked:
                    self._act(self._link(self._linked[child.number], new, name), 4, 0)
                    await self._flush_full()
                    continue
                grown = await self._add(child, new, name)
                if child.is_directory and not child.volume:
                    directories.append((child.number, grown))
        await self._flush()
        return made

    # ---- one inode

    async def _inode(self, number: int) -> Inode:
        value = await self._source.get(keys.inode(number))
        if value is None:
            raise NotFound("no such inode", inode=number)
        return Inode.unpack(value)

    async def _add(self, old: Inode, directory: int, name: bytes) -> int:
        number = await self._new_number()
        if old.links > 1 and not old.is_directory:
            self._linked[old.number] = number
        self._act(self._create(old, number, directory, name), 5, 300)
        await self._attributes(old.number, number)
        if old.kind == Kind.FILE:
            await self._pieces(old, number, directory)
        elif old.kind == Kind.TABLE:
            await self._table(old.number, number)
        elif old.kind == Kind.STREAM:
            await self._stream(old.number, number)
        if old.is_directory or old.kind in (Kind.TABLE, Kind.STREAM, Kind.FILE):
            self._act(self._times(old, number), 1, 0)
        await self._flush_full()
        return number

    def _create(self, old: Inode, number: int, directory: int, name: bytes) -> Act:
        async def act(unit: Unit) -> None:
            is_directory = old.is_directory
            settings = {k: v for k, v in old.settings.items() if k != DROPPED}
            inode = replace(
                old,
                number=number,
                links=2 if is_directory else 1,
                size=0 if is_directory else old.size,
                used_bytes=0,
                ctime_ns=unit.now_ns,
                parent=directory,
                name=name,
                volume=0,
                settings=settings,
                access=dict(old.access),
            )
            unit.save(inode)
            unit.put(keys.entry(directory, name), Entry(number, inode.kind).pack())
            unit.used(0, 1, directory)
            await self._grow(unit, directory, subdirectories=1 if is_directory else 0)

        return act

    def _link(self, number: int, directory: int, name: bytes) -> Act:
        """A further name of what has grown already."""

        async def act(unit: Unit) -> None:
            inode = await unit.inode(number)
            inode.links += 1
            unit.save(inode)
            unit.put(keys.entry(directory, name), Entry(number, inode.kind).pack())
            unit.put(keys.link(number, directory, name), b"")
            await self._grow(unit, directory, subdirectories=0)

        return act

    async def _grow(self, unit: Unit, directory: int, *, subdirectories: int) -> None:
        parent = await unit.inode(directory)
        parent.size += 1
        parent.links += subdirectories
        unit.save(parent)

    def _times(self, old: Inode, number: int) -> Act:
        """As they were: what came into it has changed them."""

        async def act(unit: Unit) -> None:
            inode = await unit.inode(number)
            inode.atime_ns, inode.mtime_ns = old.atime_ns, old.mtime_ns
            unit.save(inode)

        return act

    async def _attributes(self, old: int, number: int) -> None:
        async for page in self._pages(keys.xattrs(old)):
            self._put([(_renumbered(key, number), value) for key, value in page])
            await self._flush_full()

    # ---- files

    async def _pieces(self, old: Inode, number: int, directory: int) -> None:
        async for page in self._pages(keys.pieces(old.number)):
            rows, lengths = [], 0
            for key, value in page:
                new = _renumbered(key, number)
                found = named(key, value)
                if found is not None:
                    value = await self._refer(new, value, *found)
                    lengths += found[2]
                else:
                    lengths += len(value) - 1
                rows.append((new, value))
            self._put(rows)
            self._act(self._hold(number, directory, lengths), 1, 0)
            await self._flush_full()

    def _hold(self, number: int, directory: int, size_bytes: int) -> Act:
        async def act(unit: Unit) -> None:
            inode = await unit.inode(number)
            inode.used_bytes += size_bytes
            unit.save(inode)
            unit.used(size_bytes, 0, directory)

        return act

    async def _refer(
        self, key: bytes, value: bytes, extent: Extent, skip: int, length: int
    ) -> bytes:
        """The value as it names an extent of the target: the same one, or a copy."""
        total_bytes = self._shared.get(extent.segment)
        if total_bytes is None:
            data = memoryview(await extents.read(self._sharing.segments, extent))
            whole = key[:1] == keys.BATCH
            extent = await extents.append(
                self._volume.storage.segments,
                data if whole else data[skip : skip + length],
                compression=self._volume.settings.compression,
            )
            skip, self._fresh = 0, True
            self._bytes += len(data)
            value = naming(key, value, extent, skip)

        async def act(unit: Unit) -> None:
            if total_bytes is not None:
                await unit.revive(extent.segment, total_bytes)
            await unit.refer(extent, key, length, fresh=total_bytes is None)

        self._act(act, 2, 0)
        return value

    # ---- tables and streams

    async def _table(self, old: int, number: int) -> None:
        async for page in self._pages(keys.rows(old)):
            rows = [(_renumbered(key, number), value) for key, value in page]
            size = sum(stored_bytes(keys.name_of(key), value) for key, value in rows)
            self._put(rows)
            self._act(_count(number, len(rows), size), 1, 0)
            await self._flush_full()
        await self._statistics(old, number)

    async def _stream(self, old: int, number: int) -> None:
        """Partitions end where the batches that have come end, until all have."""
        topics: set[int] = set()
        rows = []
        async for key, value in scan_all(self._source, *keys.prefix_range(keys.topics(old))):
            topics.add(Topic.unpack(value).id)
            rows.append((_renumbered(key, number), value))
        ends: list[tuple[bytes, bytes]] = []
        async for key, value in scan_all(self._source, *keys.prefix_range(keys.partitions(old))):
            if keys.topic_and_partition_of(key)[0] in topics:
                ends.append((_renumbered(key, number), value))
        grown: dict[bytes, Partition] = {}
        for key, value in ends:
            partition = Partition.unpack(value)
            partition.next_offset, partition.size_bytes = partition.start_offset, 0
            grown[key] = partition
        self._put(rows + [(key, partition.pack()) for key, partition in grown.items()])
        self._act(_count(number, 0, 0), 1, 0)
        async for page in self._pages(keys.BATCH + old.to_bytes(8, "big")):
            await self._batches(number, page, grown)
        self._put(ends)
        for letter in (keys.PRODUCER, keys.GROUP_OFFSET):
            async for page in self._pages(letter + old.to_bytes(8, "big")):
                self._put([(_renumbered(key, number), value) for key, value in page])
                await self._flush_full()
        await self._statistics(old, number)

    async def _batches(
        self, number: int, page: list[tuple[bytes, bytes]], grown: dict[bytes, Partition]
    ) -> None:
        rows, records, size, touched = [], 0, 0, set()
        for key, value in page:
            end = keys.partition(number, *keys.topic_and_partition_of(key))
            if end not in grown:
                continue  # of a topic that was dropped
            new, stored = _renumbered(key, number), StoredBatch.unpack(value)
            if stored.extent is not None:
                value = await self._refer(new, value, stored.extent, 0, stored.extent.length)
            rows.append((new, value))
            partition = grown[end]
            partition.next_offset = keys.last_number_of(key) + stored.records
            partition.size_bytes += stored.length
            touched.add(end)
            records, size = records + stored.records, size + stored.length
        self._put(rows + [(end, grown[end].pack()) for end in touched])
        self._act(_count(number, records, size), 1, 0)
        await self._flush_full()

    async def _statistics(self, old: int, number: int) -> None:
        value = await self._source.get(keys.statistics(old))
        then = Statistics.unpack(value) if value is not None else Statistics()

        async def act(unit: Unit) -> None:
            statistics = await unit.statistics(number)
            statistics.mtime_ns = then.mtime_ns

        self._act(_count(number, 0, 0), 1, 0)
        self._act(act, 0, 0)

    # ---- units

    def _act(self, act: Act, rows: int, size_bytes: int) -> None:
        self._acts.append(act)
        self._rows += rows
        self._bytes += size_bytes

    def _put(self, rows: list[tuple[bytes, bytes]]) -> None:
        async def act(unit: Unit) -> None:
            for key, value in rows:
                unit.put(key, value)

        self._act(act, len(rows), sum(len(key) + len(value) for key, value in rows))

    async def _flush_full(self) -> None:
        await asyncio.sleep(0)  # an engine that answers at once lets nobody else have a turn
        if self._rows >= UNIT_ROWS or self._bytes >= UNIT_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        acts, self._acts = self._acts, []
        self._rows = self._bytes = 0
        if not acts:
            return
        if self._fresh:
            await self._volume.storage.segments.sync()
            self._fresh = False

        async def work(unit: Unit) -> None:
            for act in acts:
                await act(unit)

        await self._volume.run(SYSTEM, work, durable=False)

    async def _new_number(self) -> int:
        if not self._numbers:

            async def work(unit: Unit) -> int:
                first, _ = unit.counters()
                unit.raise_counters(first + NUMBERS, 0)
                unit.put(keys.STATE_KEY, b"")  # written by the lane
                unit.quiet = True
                return first

            first = await self._volume.run(SYSTEM, work, durable=False)
            self._numbers = list(range(first + NUMBERS - 1, first - 1, -1))
        return self._numbers.pop()

    async def _pages(self, prefix: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        start, end = keys.prefix_range(prefix)
        while page := await self._source.scan(start, end, limit=UNIT_ROWS, size_bytes=UNIT_BYTES):
            yield page
            start = page[-1][0] + b"\x00"

    async def _find_shared(self) -> dict[int, int]:
        """Segments that need not be copied, with what the source counts in them. None while there
        are older keys: those that only snapshots need go with the snapshots."""
        if len(self._volume.settings.encryption.get("keys", ())) > 1:
            return {}
        below = self._sharing.below
        here = await self._volume.storage.segments.sizes()
        found: dict[int, int] = {}
        async for key, value in scan_all(self._source, *keys.prefix_range(keys.SEGMENT)):
            number = keys.number_of(key)
            if number in here and (below is None or number < below):
                found[number] = Segment.unpack(value).total_bytes
        return found


def _renumbered(key: bytes, number: int) -> bytes:
    """The key of another inode."""
    return key[:1] + number.to_bytes(8, "big") + key[9:]


def _count(number: int, count: int, size_bytes: int) -> Act:
    async def act(unit: Unit) -> None:
        await unit.account(number, count=count, size_bytes=size_bytes)

    return act


async def put_in_place(
    unit: Unit, growing: Growing, directory: int, name: bytes, *, expected: int
) -> Inode:
    """The graft takes its place, and what is there goes. CONFLICT-free by what the caller looked
    at: `expected` is the inode that has the name, 0 if none has. The inode in its place."""
    found = await namespace.find_entry(unit, directory, name)
    if (found.inode if found is not None else 0) != expected:
        raise NotFound("what is to be replaced has changed meanwhile: try again")
    protection.check_name(unit, directory, name)
    if found is not None and found.volume:
        raise Invalid("a volume is mounted here", errno=errno.EBUSY)
    return await namespace.swap(unit, growing.stem, NEW, directory, name)


def limits_of(volume: Volume, directory: int) -> Limits | None:
    """What the quota of a directory says, if it has one: for what takes its place."""
    quota = volume.quotas.directories.get(directory)
    if quota is None:
        return None
    return Limits(
        quota.quota_bytes, quota.quota_entries, quota.advisory_bytes, quota.advisory_entries
    )


async def limit(volume: Volume, request: Request, directory: int, limits: Limits | None) -> None:
    inode = await volume.find_inode(directory)
    if limits is not None and inode is not None and inode.is_directory:
        await set_quota(volume, request, directory, limits)
