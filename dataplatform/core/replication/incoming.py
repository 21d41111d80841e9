"""What a mirror gets from its source, made local: the bytes of extents that are not here yet are
fetched into this store's segments, and the values name those.

A value that names an extent has a second row beside it (`keys.mirrored`): which extent of the
source that stands for. So a piece that was only cut, or moved, names what is here already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ...base.errors import Corrupt
from ...base.limits import MIB
from ...engine.base import Reader
from ...keyspace import keys
from ...keyspace.records import Extent, Piece, SourceExtent, StoredBatch
from .. import extents
from ..units import Unit
from ..volumes import Volume
from .seam import REFERRING, Described, Pin

FETCH_BYTES = 2 * MIB
"""Bytes of extents that one request asks for."""

FETCHES = 6
"""Requests under way: while one is on its way, others are written."""

Rows = Mapping[bytes, bytes | None]


def source_of(described: Described) -> bytes:
    """Whose extents those of a source are: 8 bytes. They may mean something else once it is another
    volume, or its line of commits was cut; its segments have numbers that are never used again."""
    return source_id(described.store, described.volume, described.history)


def source_id(store: bytes, volume: int, history: bytes) -> bytes:
    parts = store, volume.to_bytes(8, "big"), history
    return blake2b(b"/".join(parts), digest_size=8).digest()


@dataclass(slots=True)
class Counts:
    """What was shipped."""

    rows: int = 0  # values, and keys of what was deleted
    changes: int = 0  # change rows
    extents: int = 0
    value_bytes: int = 0
    extent_bytes: int = 0
    change_bytes: int = 0  # of change rows, those included that were given up as too many

    def add(self, other: Counts) -> None:
        self.rows += other.rows
        self.changes += other.changes
        self.extents += other.extents
        self.value_bytes += other.value_bytes
        self.extent_bytes += other.extent_bytes
        self.change_bytes += other.change_bytes

    @property
    def size_bytes(self) -> int:
        return self.value_bytes + self.extent_bytes + self.change_bytes


@dataclass(frozen=True, slots=True)
class Local:
    """An extent here, and what of the source's it has: its bytes from `start` on."""

    extent: Extent
    start: int = 0

    def has(self, skip: int, length: int) -> bool:
        return self.start <= skip and skip + length <= self.start + self.extent.length


def named(key: bytes, value: bytes) -> tuple[Extent, int, int] | None:
    """The extent that a value names: it, where in it, how many bytes. CORRUPT."""
    if key[:1] == keys.PIECE:
        piece = Piece.unpack(keys.last_number_of(key), value)
        return None if piece.extent is None else (piece.extent, piece.skip, piece.length)
    batch = StoredBatch.unpack(value)
    return None if batch.extent is None else (batch.extent, 0, batch.extent.length)


def naming(key: bytes, value: bytes, extent: Extent, skip: int) -> bytes:
    """The value with another extent in the place of the one it names."""
    if key[:1] == keys.PIECE:
        piece = Piece.unpack(keys.last_number_of(key), value)
        return piece._replace(extent=extent, skip=skip).pack()
    return StoredBatch.unpack(value)._replace(extent=extent).pack()


class Incoming:
    """Values of the source on their way into this store. The volume's segments are held (`Holds`)
    from its making until what it made is committed: whoever makes it sees to that."""

    def __init__(self, volume: Volume, source: bytes, counts: Counts) -> None:
        """`source`: see `source_of`."""
        self._volume = volume
        self._source = source
        self._known: dict[Extent, list[Local]] = {}
        self._fresh: set[tuple[int, int]] = set()  # appended here, in no commit yet
        self.sources: dict[bytes, SourceExtent] = {}  # by key, of the values that were made local
        self.counts = counts

    async def localize(self, pin: Pin, rows: Rows) -> dict[bytes, bytes | None]:
        """The rows with extents of this store: no commit may name them before `sync`. CORRUPT."""
        self.counts.rows += len(rows)
        for key, value in rows.items():
            self.counts.value_bytes += len(key) + (len(value) if value is not None else 0)
        referring = [key for key in rows if key[:1] in REFERRING]
        if not referring:
            return dict(rows)
        wanted = {
            key: place
            for key in referring
            if (value := rows[key]) is not None and (place := named(key, value)) is not None
        }
        if wanted:
            await self._look_up(referring)
            await self._fetch(pin, wanted.values())
        made = dict(rows)
        for key, (source, skip, length) in wanted.items():
            value, local = rows[key], self._find(source, skip, length)
            assert value is not None, key
            assert local is not None, key
            made[key] = naming(key, value, local.extent, skip - local.start)
            self.sources[key] = SourceExtent(source, self._source, local.start)
        return made

    async def sync(self) -> None:
        """From now on a commit may name what was made local."""
        await self._volume.storage.segments.sync()

    def is_fresh(self, extent: Extent) -> bool:
        """Whether it was never committed before; once asked, it counts as that."""
        place = (extent.segment, extent.offset)
        if place not in self._fresh:
            return False
        self._fresh.discard(place)
        return True

    async def _look_up(self, referring: Sequence[bytes]) -> None:
        """What is here of extents of the source, by what the same keys name now."""
        engine = self._volume.storage.engine
        marks = await engine.get_many([keys.mirrored(key) for key in referring])
        marked = [
            (key, mark) for key, mark in zip(referring, marks, strict=True) if mark is not None
        ]
        values = await engine.get_many([key for key, _ in marked])
        for (key, mark), value in zip(marked, values, strict=True):
            place = named(key, value) if value is not None else None
            known = SourceExtent.unpack(mark)
            if place is not None and known.source == self._source:
                self._remember(known.extent, Local(place[0], known.start))

    def _remember(self, source: Extent, local: Local) -> None:
        known = self._known.setdefault(source, [])
        if local not in known:
            known.append(local)

    def _find(self, source: Extent, skip: int, length: int) -> Local | None:
        for local in self._known.get(source, ()):
            if local.has(skip, length):
                return local
        return None

    async def _fetch(self, pin: Pin, wanted: Iterable[tuple[Extent, int, int]]) -> None:
        """Those that are not here, in their order at the source."""
        missing = sorted({place[0] for place in wanted if self._find(*place) is None})
        if not missing:
            return
        limit = asyncio.Semaphore(FETCHES)

        async def fetch(part: list[Extent]) -> None:
            async with limit:
                await self._fetch_part(pin, part)

        await _together([asyncio.ensure_future(fetch(part)) for part in _parts(missing)])

    async def _fetch_part(self, pin: Pin, part: list[Extent]) -> None:
        volume = self._volume
        found = await pin.extents(part)
        for source, data in zip(part, found, strict=True):
            if len(data) != source.length:
                raise Corrupt("the source sent other bytes than it names", **source._asdict())
        appended = await extents.append_each(
            volume.storage.segments, found, compression=volume.settings.compression
        )
        for source, data, extent in zip(part, found, appended, strict=True):
            self._fresh.add((extent.segment, extent.offset))
            self._remember(source, Local(extent))
            self.counts.extents += 1
            self.counts.extent_bytes += len(data)


async def _together(tasks: list[asyncio.Future[None]]) -> None:
    """Wait for all; the first that fails ends the others, and its error is raised as it is."""
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _parts(wanted: list[Extent]) -> list[list[Extent]]:
    parts: list[list[Extent]] = [[]]
    size_bytes = 0
    for extent in wanted:
        if size_bytes and size_bytes + extent.length > FETCH_BYTES:
            parts.append([])
            size_bytes = 0
        parts[-1].append(extent)
        size_bytes += extent.length
    return parts


async def write(unit: Unit, rows: Rows, incoming: Incoming) -> None:
    """Put rows that are local into a unit, with the accounts of segments and what the rows stand
    for. The old ones are read here, in the lane: a compaction may have moved them meanwhile."""
    referring = [key for key in rows if key[:1] in REFERRING]
    old = await unit.get_many(referring)
    marked = await unit.get_many([keys.mirrored(key) for key in referring])
    for key, before in zip(referring, old, strict=True):
        place = named(key, before) if before is not None else None
        if place is not None:
            await unit.unrefer(place[0], key, place[2])
    unit.writes.update(rows)
    for key, mark in zip(referring, marked, strict=True):
        value = rows[key]
        place = named(key, value) if value is not None else None
        if place is None:
            if mark is not None:
                unit.writes[keys.mirrored(key)] = None
            continue
        extent, _, length = place
        await unit.refer(extent, key, length, fresh=incoming.is_fresh(extent))
        unit.writes[keys.mirrored(key)] = incoming.sources[key].pack()


async def rows_of(reader: Reader, wanted: Sequence[bytes]) -> dict[bytes, bytes | None]:
    return dict(zip(wanted, await reader.get_many(wanted), strict=True))
