"""Which segments may go: bytes are deleted only when nothing can come to refer to them any more.

Between the append of an extent and the commit that names it, nothing stored says that it is wanted.
`Holds` knows those: segment numbers only grow, so an operation holds every segment from the one
that was open when it began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from ..base.errors import Corrupt
from ..engine.base import SegmentStore, Storage, scan_all
from ..keyspace import keys

log = logging.getLogger(__name__)


class _Hold:
    """One operation's: from the segment that is the lowest it may need when it begins. (A class:
    every file write enters one, and a generator would cost twice as much.)"""

    __slots__ = ("_lowest", "_under_way")

    def __init__(self, under_way: dict[object, int], lowest: Callable[[], int]) -> None:
        self._under_way = under_way
        self._lowest = lowest

    def __enter__(self) -> None:
        self._under_way[self] = self._lowest()

    def __exit__(self, *error: object) -> None:
        del self._under_way[self]


class Holds:
    """Appends under way in one volume."""

    def __init__(self, segments: SegmentStore) -> None:
        self._segments = segments
        self._under_way: dict[object, int] = {}
        self._last_open = 0

    def _current(self) -> int:
        """The lowest segment that an append beginning now can go to."""
        number = self._segments.open_segment
        if number is not None:
            self._last_open = number
            return number
        return self._last_open

    def append(self) -> AbstractContextManager[object]:
        """Around an append and the commit that names it."""
        return _Hold(self._under_way, self._current)

    def pin(self) -> AbstractContextManager[object]:
        """Meanwhile no segment goes: for one who reads what a view of the past refers to."""
        return _Hold(self._under_way, int)

    def held_from(self) -> int | None:
        """Segments from here on may be named by a commit that is still to come."""
        return min(self._under_way.values(), default=None)


class Pin(NamedTuple):
    """What one snapshot needs."""

    number: int
    name: str
    commit: int
    segments_end: int  # above all of its segments
    checkpoint: str
    next_inode: int  # what has a lower number, and is there now, was there then


class Pins:
    """What the snapshots of one volume need: exact, changed with their records.

    A snapshot needs a segment that was there when it was taken and died later.
    """

    def __init__(self) -> None:
        self._taken: dict[int, Pin] = {}  # by the snapshot's number
        self.live_bytes: dict[tuple[int, int], int] = {}
        """Of a segment, as a snapshot counted them: by (snapshot, segment), for compaction."""

    def __bool__(self) -> bool:
        return bool(self._taken)

    def add(self, pin: Pin) -> None:
        """A snapshot was taken."""
        self._taken[pin.number] = pin

    def pin_all(self) -> None:
        """There is a snapshot of which nobody knows what it needs: its record is damaged."""
        self._taken[0] = Pin(0, "", 0, 1 << 64, "", 0)

    def discard(self, number: int) -> None:
        self._taken.pop(number, None)
        for place in [place for place in self.live_bytes if place[0] == number]:
            del self.live_bytes[place]

    def oldest_with(self, segment: int) -> Pin | None:
        """The first snapshot that may refer to it; rather one in which it was sealed."""
        found = [pin for pin in self._taken.values() if segment < pin.segments_end]
        sealed = [pin for pin in found if segment < pin.segments_end - 1]
        return min(sealed or found, key=lambda pin: pin.commit, default=None)

    def needed_by(self, segment: int, died: int | None) -> list[int]:
        """The snapshots that need a segment which died at this commit (None: it lives)."""
        return [
            number
            for number, pin in self._taken.items()
            if segment < pin.segments_end and (died is None or pin.commit < died)
        ]

    def checkpoints_with(self, segment: int) -> list[str]:
        """Those that may refer to it."""
        return [pin.checkpoint for pin in self._taken.values() if segment < pin.segments_end]

    def seen_from(self, directory: int) -> list[Pin]:
        """The snapshots in which a directory is that is there now, in the order of their names."""
        found = (pin for pin in self._taken.values() if directory < pin.next_inode)
        return sorted(found, key=lambda pin: pin.name)

    @property
    def segments_end(self) -> int:
        """No segment from here on is needed."""
        return max((pin.segments_end for pin in self._taken.values()), default=0)

    @property
    def oldest_commit(self) -> int | None:
        """Of the first snapshot."""
        return min((pin.commit for pin in self._taken.values()), default=None)


async def drop_unknown(storage: Storage, pins: Pins | None = None) -> int:
    """On opening a volume: segments that no commit names were cut short by a crash.

    One that a snapshot may need is left to compaction, which looks into the snapshot. One whose
    account is lost but that something refers to is left for `check` to repair. Where the accounts
    or references cannot be read nobody knows, and everything stays.
    """
    dropped = 0
    try:
        known = set()
        async for key, _ in scan_all(storage.engine, *keys.prefix_range(keys.SEGMENT)):
            known.add(keys.number_of(key))
        async for key, _ in scan_all(storage.engine, *keys.prefix_range(keys.DEAD_SEGMENT)):
            known.add(keys.number_of(key))
        pinned_end = pins.segments_end if pins is not None else 0
        for number in set(await storage.segments.sizes()) - known:
            if number < pinned_end:
                continue
            start, end = keys.prefix_range(keys.references(number))
            if await storage.engine.scan(start, end, limit=1):
                continue
            if number != storage.segments.open_segment:
                await storage.segments.delete(number)
                dropped += 1
    except Corrupt as error:
        log.error("segments that a crash cut short stay: run dp check: %s", error)
    return dropped
