"""Which segments may go: bytes are deleted only when nothing can come to refer to them any more.

Between the append of an extent and the commit that names it, nothing stored says that it is wanted.
`Holds` knows those: segment numbers only grow, so an operation holds every segment from the one
that was open when it began.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..engine.base import SegmentStore, Storage, scan_all
from ..keyspace import keys


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

    @contextmanager
    def append(self) -> Iterator[None]:
        """Around an append and the commit that names it."""
        token = object()
        self._under_way[token] = self._current()
        try:
            yield
        finally:
            del self._under_way[token]

    @contextmanager
    def pin(self) -> Iterator[None]:
        """Meanwhile no segment goes: for one who reads what a view of the past refers to."""
        token = object()
        self._under_way[token] = 0
        try:
            yield
        finally:
            del self._under_way[token]

    def held_from(self) -> int | None:
        """Segments from here on may be named by a commit that is still to come."""
        return min(self._under_way.values(), default=None)


async def drop_unknown(storage: Storage) -> int:
    """On opening a volume: segments that no commit names were cut short by a crash.

    One whose account is lost but that something refers to is left for `check` to repair.
    """
    known = set()
    async for key, _ in scan_all(storage.engine, *keys.prefix_range(keys.SEGMENT)):
        known.add(keys.number_of(key))
    unknown = set(await storage.segments.sizes()) - known
    dropped = 0
    for number in unknown:
        start, end = keys.prefix_range(keys.references(number))
        if await storage.engine.scan(start, end, limit=1):
            continue
        if number != storage.segments.open_segment:
            await storage.segments.delete(number)
            dropped += 1
    return dropped
