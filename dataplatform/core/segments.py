"""Which segments may go: bytes are deleted only when nothing can come to refer to them any more.

Between the append of an extent and the commit that names it, nothing stored says that it is wanted.
`Holds` knows those: segment numbers only grow, so an operation holds every segment from the one
that was open when it began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

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


async def drop_unknown(storage: Storage) -> int:
    """On opening a volume: segments that no commit names were cut short by a crash.

    One whose account is lost but that something refers to is left for `check` to repair. Where the
    accounts or references cannot be read nobody knows, and everything stays.
    """
    dropped = 0
    try:
        known = set()
        async for key, _ in scan_all(storage.engine, *keys.prefix_range(keys.SEGMENT)):
            known.add(keys.number_of(key))
        for number in set(await storage.segments.sizes()) - known:
            start, end = keys.prefix_range(keys.references(number))
            if await storage.engine.scan(start, end, limit=1):
                continue
            if number != storage.segments.open_segment:
                await storage.segments.delete(number)
                dropped += 1
    except Corrupt as error:
        log.error("segments that a crash cut short stay: run dp check: %s", error)
    return dropped
