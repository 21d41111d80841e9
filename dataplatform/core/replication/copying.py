"""Copies made aside: a base copy of a source, and a catch-up that is too large for one batch.

What is going to be the mirror is made in a storage of its own, which the mirror's record names. A
base copy begins empty; a catch-up begins with a clone of what the mirror is. Each batch holds a
`CopyCursor`, so that the copy goes on where it was, whatever happens:

- pairs are copied in the order of their keys, under whatever pin of the source there is;
- when all are, what changed since the first of those pins is applied as of the last one. If that
  pin is lost, too, it is applied again from its beginning under the next one.

Then the copy is one commit of the source, and takes the mirror's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from ...base.errors import Stale
from ...base.limits import MIB
from ...engine.base import Storage
from ...keyspace import keys
from ...keyspace.records import CopyCursor, VolumeSettings, VolumeState
from ..restore import dead_segments
from ..units import Unit
from ..volumes import Volume
from . import incoming
from .apply import arrive, log_of, whole
from .incoming import Counts, Incoming, Rows, named, source_of
from .seam import RANGES, REFERRING, Described, Pin, scan_ranges

PART_BYTES = 32 * MIB
"""Of values and extents that one batch holds: what is fetched again after a crash at most."""

SEGMENTS_APART = 1 << 24
"""So far above those of the mirror are the numbers of a copy's segments: both go on meanwhile."""

COPIED = tuple(bounds for bounds in RANGES if bounds[0] != keys.CHANGE)

Progress = Callable[[CopyCursor, Counts], None]


async def begin(storage: Storage, settings: VolumeSettings, described: Described) -> None:
    """Make an empty storage a copy to which nothing was copied yet, durably."""
    cursor = CopyCursor(
        described.history,
        described.store,
        described.volume,
        described.commit,
        described.commit,
        total_bytes=described.state.used_bytes,
    )
    ticket = await storage.engine.commit(
        {
            keys.STATE_KEY: VolumeState().pack(),
            keys.SETTINGS_KEY: settings.pack(),
            keys.MIRROR_COPY_KEY: cursor.pack(),
        }
    )
    await storage.engine.durable(ticket)


async def begin_clone(storage: Storage, described: Described, since: int) -> None:
    """Make a clone of the mirror, which is commit `since`, a copy that is to be brought up to
    date."""
    engine = storage.engine
    cursor = CopyCursor(
        described.history,
        described.store,
        described.volume,
        since,
        since,
        total_bytes=described.state.used_bytes,
        is_whole=True,
        is_clone=True,
    )
    await engine.durable(await engine.commit({keys.MIRROR_COPY_KEY: cursor.pack()}))


async def find_cursor(storage: Storage) -> CopyCursor | None:
    """None: nothing was begun, or it is done."""
    value = await storage.engine.get(keys.MIRROR_COPY_KEY)
    return CopyCursor.unpack(value) if value is not None else None


class Copy:
    """A copy under way: `volume` stands on the storage aside, and nobody else knows it."""

    def __init__(self, volume: Volume, pin: Pin, progress: Progress) -> None:
        self._volume = volume
        self._pin = pin
        self._progress = progress
        self._source = source_of(pin.described)
        self.counts = Counts()

    async def run(self) -> None:
        """Copy what is left, as of the pin, and make it a commit of the source.

        PinLost, UNAVAILABLE: go on with another pin. STALE: begin again, with nothing.
        """
        cursor = await find_cursor(self._volume.storage)
        if cursor is None:
            return
        described = self._pin.described
        whose = (described.history, described.store, described.volume)
        if whose != (cursor.history, cursor.store, cursor.volume) or self._pin.commit < cursor.last:
            raise Stale("the copy was begun from another source, or another past of it")
        cursor.last = self._pin.commit
        cursor.total_bytes = described.state.used_bytes
        if not cursor.is_whole:
            await self._copy(cursor)
        if cursor.first < self._pin.commit:
            await self._apply_changes(cursor)
        await self._finish()

    async def _copy(self, cursor: CopyCursor) -> None:
        start = cursor.key + b"\x00" if cursor.key else b""

        async def pages() -> AsyncIterator[Rows]:
            async for page in scan_ranges(self._pin, COPIED, start):
                yield dict(page)

        def written(last: bytes) -> None:
            cursor.key = last

        await self._write_all(pages(), cursor, written)
        cursor.is_whole = True

    async def _apply_changes(self, cursor: CopyCursor) -> None:
        if cursor.until != self._pin.commit:
            cursor.until, cursor.after = self._pin.commit, b""

        async def pages() -> AsyncIterator[Rows]:
            after = cursor.after
            while page := await self._pin.delta(cursor.first, after):
                yield dict(page)
                after = page[-1][0]

        def written(last: bytes) -> None:
            cursor.after = last

        await self._write_all(pages(), cursor, written)

    async def _write_all(
        self, pages: AsyncIterator[Rows], cursor: CopyCursor, written: Callable[[bytes], None]
    ) -> None:
        """While one part is written the next one is fetched."""
        writing: asyncio.Task[None] | None = None
        with self._volume.holds.pin():
            try:
                async for page in pages:
                    for part in _parts(page):
                        coming = Incoming(self._volume, self._source, self.counts)
                        local = await coming.localize(self._pin, part)
                        if writing is not None:
                            await writing
                        writing = asyncio.create_task(self._write(local, coming, cursor, written))
                if writing is not None:
                    await writing
            finally:
                if writing is not None and not writing.done():
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)

    async def _write(
        self,
        rows: Rows,
        coming: Incoming,
        cursor: CopyCursor,
        written: Callable[[bytes], None],
    ) -> None:
        await coming.sync()

        async def work(unit: Unit) -> None:
            await incoming.write(unit, rows, coming)
            cursor.rows += len(rows)
            cursor.size_bytes = self.counts.size_bytes
            written(max(rows))
            unit.put(keys.MIRROR_COPY_KEY, cursor.pack())

        await whole(self._volume.lane.apply(work, durable=True))
        self._progress(cursor, self.counts)

    async def _finish(self) -> None:
        """From now on the copy is a commit of the source, and no copy any more."""
        volume, described = self._volume, self._pin.described
        log = await log_of(self._pin, described.commit, self.counts, kept_only=True)

        async def work(unit: Unit) -> VolumeState:
            async for key in _all(unit, keys.CHANGE):
                unit.delete(key)
            unit.writes.update(log.rows)
            unit.delete(keys.MIRROR_COPY_KEY)
            oldest = described.commit + 1 if log.oldest is None else log.oldest
            return arrive(unit, described, oldest)

        await whole(volume.lane.apply(work, durable=True))


async def settle(aside: Volume, mirror: Volume) -> None:
    """What was set of the mirror meanwhile holds for the copy that takes its place. Segments that
    only the mirror has are there for its snapshots from then on."""
    died = max(aside.state.commit, mirror.state.commit + 1)
    dead = await dead_segments(aside.storage.engine, mirror.storage.engine, died)

    async def work(unit: Unit) -> None:
        own, settings = aside.settings, mirror.settings
        keys_now, keys_then = settings.encryption, own.encryption
        is_same = all(
            keys_now.get(part) == keys_then.get(part) for part in ("id", "current", "below")
        ) and list(keys_now.get("keys", ())) == list(keys_then.get("keys", ()))
        made = replace(
            settings,
            compression=own.compression,
            history=own.history,
            lineage=own.lineage,
            mirror={name: value for name, value in settings.mirror.items() if name != "since"},
            encryption=keys_now if is_same else keys_then,
        )
        unit.writes.update(dead)
        unit.put(keys.SETTINGS_KEY, made.pack())

    await aside.lane.apply(work, durable=True)


async def _all(unit: Unit, letter: bytes) -> AsyncIterator[bytes]:
    start, end = keys.prefix_range(letter)
    while page := await unit.engine.scan(start, end):
        for key, _ in page:
            yield key
        start = page[-1][0] + b"\x00"


def _parts(page: Rows) -> list[dict[bytes, bytes | None]]:
    parts: list[dict[bytes, bytes | None]] = [{}]
    size_bytes = 0
    for key, value in page.items():
        size = len(key)
        if value is not None:
            size += len(value)
            place = named(key, value) if key[:1] in REFERRING else None
            size += place[2] if place is not None else 0
        if size_bytes and size_bytes + size > PART_BYTES:
            parts.append({})
            size_bytes = 0
        parts[-1][key] = value
        size_bytes += size
    return [part for part in parts if part]
