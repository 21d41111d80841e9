"""The source of a mirror, in the server that has the volume: a view of its database, held.

A pin keeps what its commit refers to: no segment goes meanwhile, and the database keeps what was
replaced. It does not keep the volume: one that is closed, locked or removed ends its pins.

What changed is found in the change rows of the view, as often as a page needs it: of all the keys
above the last page the lowest KEYS_MAX are gathered, so memory is bounded however much changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from ...base.errors import Corrupt, Invalid, Stale, Unavailable
from ...engine.base import Pair, SegmentStore, Stored, View
from ...keyspace import keys
from ...keyspace.records import ChangeRow, Extent, VolumeSettings, VolumeState
from .. import extents, histories
from ..platform import Platform
from ..volumes import Volume
from .seam import (
    PAGE_BYTES,
    PAGE_KEYS,
    REPLICABLE,
    Described,
    Pin,
    PinLost,
    Source,
    is_replicable,
    is_told,
    replica,
)

T = TypeVar("T")

KEYS_MAX = 1_000_000
"""Changed keys that a pin holds at once, some hundred bytes each; for more it reads again."""

VALUES_AT_ONCE = 500
SCAN_BYTES = 1 << 20
"""What is read without letting others have their turn."""

EXTENTS_AT_ONCE = 8
"""Reads of segments under way for one request."""

LOOKED_AGAIN_S = 0.5
"""So often it is looked whether a volume that is waited for is still there."""

PINS_MAX = 64
"""Of one volume."""

_TOLD = ("quota_bytes", "quota_entries", "advisory_bytes", "advisory_entries", "compression")
_TOLD_ALSO = ("created_ns", "audit", "audit_ttl_ms", "changes_ttl_ms", "changes_rows")


def told_settings(settings: VolumeSettings) -> VolumeSettings:
    """What of them means something to a mirror: no keys, no schedules, nobody's identity."""
    told = VolumeSettings()
    for name in (*_TOLD, *_TOLD_ALSO):
        setattr(told, name, getattr(settings, name))
    return told


class LocalSource(Source):
    """A volume of this server."""

    def __init__(self, platform: Platform, volume_id: int) -> None:
        self._platform = platform
        self._volume_id = volume_id
        self._pins: set[LocalPin] = set()

    async def describe(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Described:
        volume = await self._acquire(commit_at_least, wait_s)
        try:
            return await describe(self._platform, volume)
        finally:
            self._platform.release(volume)

    async def pin(self, commit_at_least: int = 0, wait_s: float = 0.0) -> LocalPin:
        volume = await self._acquire(commit_at_least, wait_s)
        try:
            pin = await take_pin(self._platform, volume)
        finally:
            self._platform.release(volume)
        if pin.commit < commit_at_least:
            await pin.close()
            raise Unavailable(
                "the source has not come so far yet", commit=pin.commit, wanted=commit_at_least
            )
        self._pins = {one for one in self._pins if not one.is_over} | {pin}
        return pin

    async def _acquire(self, commit: int, wait_s: float) -> Volume:
        """The volume in use, once that commit is durable or the wait is over. Whoever waits does
        not keep the volume: it may be closed or removed meanwhile. NOT_FOUND."""
        clock = self._platform.clock
        deadline_s = clock.monotonic() + wait_s
        while True:
            volume = await self._platform.acquire(self._volume_id)
            left_s = deadline_s - clock.monotonic()
            if volume.lane.durable_commit >= commit or left_s <= 0:
                return volume
            self._platform.release(volume)
            await volume.changed.wait(min(left_s, LOOKED_AGAIN_S))

    async def close(self) -> None:
        for pin in list(self._pins):
            await pin.close()


async def describe(platform: Platform, volume: Volume) -> Described:
    """As of the last durable commit, apart from its counters, which may be newer."""
    await histories.of(volume)
    state = replace(volume.state, commit=volume.lane.durable_commit)
    value = await volume.storage.engine.get(keys.change(state.commit))
    return await _described(platform, volume, state, volume.settings, value)


async def _described(
    platform: Platform,
    volume: Volume,
    state: VolumeState,
    settings: VolumeSettings,
    row: bytes | None,
) -> Described:
    return Described(
        cluster=platform.cluster,
        store=platform.identity,
        volume=volume.id,
        path=await platform.catalog.mount_path(volume.id),
        history=settings.history,
        lineage=[(bytes(history), int(commit)) for history, commit in settings.lineage],
        commit=state.commit,
        commit_ns=ChangeRow.unpack(row).time_ns if row is not None else 0,
        time_ns=platform.clock.now_ns(),
        oldest_change=state.oldest_change,
        state=state,
        settings=told_settings(settings),
    )


async def take_pin(platform: Platform, volume: Volume) -> LocalPin:
    """The newest commit of an open volume, durable when this returns. UNAVAILABLE."""
    if len(volume.views) >= PINS_MAX:
        raise Unavailable("too many mirrors read this volume at once", limit_pins=PINS_MAX)
    await histories.of(volume)
    with contextlib.ExitStack() as held:
        held.enter_context(volume.holds.pin())
        view = await volume.storage.engine.view()
        held.callback(view.close)
        packed, settings = await view.get_many([keys.STATE_KEY, keys.SETTINGS_KEY])
        if packed is None or settings is None:
            raise Corrupt("the volume has no state: run dp check", volume=volume.id)
        state = VolumeState.unpack(packed)
        await volume.lane.durable()  # of what the view shows, and perhaps of more
        described = await _described(
            platform,
            volume,
            state,
            VolumeSettings.unpack(settings),
            await view.get(keys.change(state.commit)),
        )
        return LocalPin(volume, described, view, held.pop_all())


class LocalPin(Pin):
    """See the module's text. Made by `take_pin`."""

    def __init__(
        self, volume: Volume, described: Described, view: View, held: contextlib.ExitStack
    ) -> None:
        self.described = described
        self.volume = volume
        self._view: View | None = view
        self._held = held
        self._changed: _Changed | None = None
        volume.views.add(self)

    @property
    def is_over(self) -> bool:
        return self._view is None

    def drop(self) -> None:
        """Let go at once."""
        if self._view is not None:
            self._view = self._changed = None
            self.volume.views.discard(self)
            self._held.close()

    async def close(self) -> None:
        self.drop()

    def _reader(self) -> View:
        if self._view is None:
            raise PinLost("the pin of the source is over")
        return self._view

    # ---- keys

    async def changed(
        self, since: int, after: bytes = b"", end: bytes = b"", limit: int = PAGE_KEYS
    ) -> list[bytes]:
        return (await self.changed_page(since, after, end, limit))[0]

    async def changed_page(
        self, since: int, after: bytes, end: bytes, limit: int
    ) -> tuple[list[bytes], bool]:
        """As `changed`, and whether nothing follows."""
        self._check_since(since)
        known = self._changed
        if known is None or not known.covers(since, after, end):
            known = self._changed = await self._gather(since, after, end)
        return known.page(after, end, limit)

    def _check_since(self, since: int) -> None:
        if since > self.commit:
            raise Invalid("the source has not come so far", since=since, commit=self.commit)
        oldest = self.described.oldest_change
        if since < self.commit and since + 1 < oldest:
            raise Stale("changes after this commit were trimmed", since=since, oldest=oldest)

    async def _gather(self, since: int, after: bytes, end: bytes) -> _Changed:
        """The lowest of the keys above `after` (and below `end`, if there is one)."""
        found: set[bytes] = set()
        rows = 0
        above = b""  # no key from here on is gathered, once there are too many
        at, last = keys.change(since + 1), keys.change(self.commit) + b"\x00"
        while page := await self._reader().scan(at, last, limit=1000):
            at = page[-1][0] + b"\x00"
            rows += len(page)
            for _, value in page:
                found.update(_touched(value))
            if len(found) > 2 * KEYS_MAX:
                ordered = sorted(_within(found, after, above or end))
                if len(ordered) > KEYS_MAX:
                    above = ordered[KEYS_MAX]
                found = set(ordered[:KEYS_MAX])
            await asyncio.sleep(0)
        if rows != self.commit - since:
            raise Stale("change rows are missing", since=since, commit=self.commit, rows=rows)
        ordered = sorted(_within(found, after, above or end))
        if len(ordered) > KEYS_MAX:
            above = ordered[KEYS_MAX]
            ordered = ordered[:KEYS_MAX]
        return _Changed(since, after, above, end, ordered)

    # ---- values

    async def values(self, wanted: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        while len(found) < len(wanted):
            found += await self.values_page(wanted[len(found) :], PAGE_BYTES)
        return found

    async def values_page(self, wanted: Sequence[bytes], size_bytes: int) -> list[bytes | None]:
        """Of the first keys: as many as come to about that size, at least one."""
        for key in wanted:
            if not is_replicable(key):
                raise Invalid("this key is not for mirrors", key=key)
        found: list[bytes | None] = []
        size = 0
        while len(found) < len(wanted) and size < size_bytes:
            some = wanted[len(found) : len(found) + VALUES_AT_ONCE]
            for key, value in zip(some, await self._reader().get_many(some), strict=True):
                if value is not None:
                    value = replica(key, value)
                    size += len(value)
                size += len(key)
                found.append(value)
                if size >= size_bytes:
                    break
            await asyncio.sleep(0)
        return found

    async def scan(
        self, start: bytes, end: bytes, limit: int = PAGE_KEYS, size_bytes: int = PAGE_BYTES
    ) -> list[Pair]:
        found: list[Pair] = []
        size = 0
        for low, high in _replicable_ranges(start, end):
            at = low
            while at < high and len(found) < limit and size < size_bytes:
                page = await self._reader().scan(
                    at,
                    high,
                    limit=limit - len(found),
                    size_bytes=min(SCAN_BYTES, size_bytes - size),
                )
                if not page:
                    break
                at = page[-1][0] + b"\x00"
                if low[:1] in _CHANGED_BY_REPLICA:
                    page = [(key, replica(key, value)) for key, value in page]
                found += page
                size += sum(len(key) + len(value) for key, value in page)
                await asyncio.sleep(0)
            if len(found) >= limit or size >= size_bytes:
                break
        return found

    # ---- bytes

    async def extents(self, wanted: Sequence[Extent]) -> list[bytes | memoryview]:
        return await self._read(wanted, extents.read_run)

    async def packed(self, wanted: Sequence[Extent]) -> list[tuple[Stored, int]]:
        """As `extents`, but compressed as the extents say, each with its crc32c: for a wire."""
        return await self._read(wanted, extents.read_run_packed)

    async def _read(
        self,
        wanted: Sequence[Extent],
        read_run: Callable[[SegmentStore, Sequence[Extent]], Awaitable[list[T]]],
    ) -> list[T]:
        self._reader()
        segments = self.volume.storage.segments
        slots = asyncio.Semaphore(EXTENTS_AT_ONCE)

        async def read(run: list[int]) -> None:
            async with slots:
                parts = await read_run(segments, [wanted[index] for index in run])
            found.update(zip(run, parts, strict=True))

        found: dict[int, T] = {}
        await asyncio.gather(*map(read, _runs(wanted)))
        return [found[index] for index in range(len(wanted))]


_CHANGED_BY_REPLICA = frozenset((keys.INODE, keys.ENTRY))

RUN_BYTES_MAX = 8 << 20


def _runs(wanted: Sequence[Extent]) -> list[list[int]]:
    """Indexes of extents that are read at once, because they lie one behind the other."""
    runs: list[list[int]] = []
    size = 0
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i][:2]):
        extent = wanted[index]
        if runs and size < RUN_BYTES_MAX and extents.follows(extent, wanted[runs[-1][-1]]):
            runs[-1].append(index)
            size += extent.stored_length
        else:
            runs.append([index])
            size = extent.stored_length
    return runs


def _touched(value: bytes) -> list[bytes]:
    """The keys that a mirror is told of, of one change row."""
    return [key for key in ChangeRow.unpack(value).keys if is_told(key)]


def _within(found: Iterable[bytes], after: bytes, end: bytes) -> Iterable[bytes]:
    return (key for key in found if key > after and (not end or key < end))


def _replicable_ranges(start: bytes, end: bytes) -> Iterable[tuple[bytes, bytes]]:
    for letter in sorted(REPLICABLE):
        low, high = keys.prefix_range(letter)
        low, high = max(low, start), min(high, end)
        if low < high:
            yield low, high


class _Changed:
    """The lowest keys above `after` that changed since a commit; from `above` on, if it is not
    empty, there may be more."""

    def __init__(
        self, since: int, after: bytes, above: bytes, end: bytes, ordered: list[bytes]
    ) -> None:
        self._since = since
        self._after = after
        self._above = above
        self._end = end
        self._ordered = ordered

    def covers(self, since: int, after: bytes, end: bytes) -> bool:
        if since != self._since or after < self._after:
            return False
        if self._end and (not end or end > self._end):
            return False
        return not self._above or (bool(self._ordered) and after < self._ordered[-1])

    def page(self, after: bytes, end: bytes, limit: int) -> tuple[list[bytes], bool]:
        ordered = self._ordered
        first = bisect_right(ordered, after)
        last = bisect_left(ordered, end) if end else len(ordered)
        is_all = first + limit >= last and (not self._above or last < len(ordered))
        return ordered[first : min(first + limit, last)], is_all
