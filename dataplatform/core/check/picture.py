"""One moment of a volume's rows, read so that damage stays where it is.

Where the engine cannot read (CORRUPT), the range is reported once and remembered, and reading goes
on behind it. Whoever misses a row asks `is_unreadable` before calling it missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, TypeVar

from ...base.errors import Corrupt
from ...engine.base import Pair, View
from ...keyspace.records import Record

R = TypeVar("R", bound=Record)

PAGE_ROWS = 500
"""Rows between two turns of the loop: some milliseconds of work."""

_WIDTH = 40
"""Leading bytes of a key that the search for the end of a damage looks at."""

OnUnreadable = Callable[[bytes, bytes, Corrupt], Awaitable[None]]
"""Called with the first and the last key of an unreadable range, as far as they are known, and why:
the first is the start of the range that was asked for, or right behind a key that was read; where
nothing could be read behind it, the last is the first."""


class Picture:
    """Reads a view in pages."""

    def __init__(self, view: View, on_unreadable: OnUnreadable) -> None:
        self._view = view
        self._on_unreadable = on_unreadable
        self._unreadable: list[tuple[bytes, bytes]] = []  # found by scans, and reported
        self._missed: set[bytes] = set()  # found by looking for a row: a scan reports them

    # ---- what could not be read

    def is_unreadable(self, key: bytes) -> bool:
        return key in self._missed or any(s <= key < e for s, e in self._unreadable)

    def touches_unreadable(self, start: bytes, end: bytes) -> bool:
        """Whether a part of the range could not be read."""
        return any(s < end and start < e for s, e in self._unreadable)

    # ---- reading

    async def find(self, key: bytes) -> bytes | None:
        return (await self.find_many([key]))[0]

    async def find_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values, None also for those that are unreadable (which the scan reports)."""
        if not keys:
            return []
        try:
            return await self._view.get_many(keys)
        except Corrupt:
            return [await self._find_one(key) for key in keys]

    async def _find_one(self, key: bytes) -> bytes | None:
        try:
            return await self._view.get(key)
        except Corrupt:
            self._missed.add(key)
            return None

    async def pages(
        self, start: bytes, end: bytes, *, rows: int = PAGE_ROWS
    ) -> AsyncIterator[list[Pair]]:
        """All that can be read of the range; other tasks get their turn between pages."""
        limit = rows
        while True:
            try:
                page = await self._view.scan(start, end, limit=limit)
            except Corrupt as error:
                if limit > 1:
                    limit //= 2  # what stands before the damage is still to be read
                    continue
                start = await self._skip(start, end, error)
                limit = rows
                continue
            if not page:
                return
            yield page
            await asyncio.sleep(0)
            start = page[-1][0] + b"\x00"
            limit = min(rows, limit * 2)

    async def first(self, start: bytes, end: bytes) -> bytes | None:
        """The first key of the range that can be read."""
        async for page in self.pages(start, end, rows=1):
            return page[0][0]
        return None

    async def _skip(self, start: bytes, end: bytes, error: Corrupt) -> bytes:
        """Remember the damage at `start`; where reading can go on."""
        low, high = _number(start), _number(end)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                await self._view.scan(middle.to_bytes(_WIDTH, "big"), end, limit=1)
                high = middle
            except Corrupt:
                low = middle
        # Reading goes on right behind the last damaged key, which is this one but for zeros.
        behind = min(high.to_bytes(_WIDTH, "big"), end)
        if not any(s < behind <= e for s, e in self._unreadable):
            self._unreadable.append((start, behind))
            await self._on_unreadable(start, start if behind == end else behind, error)
        return behind


def _number(key: bytes) -> int:
    return int.from_bytes(key[:_WIDTH].ljust(_WIDTH, b"\x00"), "big")


# ---------------------------------------------------------------- records

_TYPES: dict[str, type] = {"int": int, "bytes": bytes, "str": str, "dict": dict, "list": list}
_shapes: dict[type, tuple[Callable[[Any], tuple[Any, ...]], tuple[type | None, ...]]] = {}
"""Of a record class: what gets its fields, and their types; None where anything goes."""


def read_record(cls: type[R], value: bytes) -> R:
    """The record, every field of its type. CORRUPT."""
    try:
        record = cls.unpack(value)
    except TypeError as error:  # a map whose keys cannot be keys
        raise Corrupt(f"a stored {cls.__name__} cannot be read", reason=error) from error
    shape = _shapes.get(cls)
    if shape is None:
        shape = _shapes[cls] = _shape(cls)
    values_of, wanted = shape
    found = tuple(map(type, values_of(record)))
    if found != wanted and any(w not in (None, f) for w, f in zip(wanted, found, strict=True)):
        raise Corrupt(f"a stored {cls.__name__} has a wrong field")
    return record


def _shape(cls: type) -> tuple[Callable[[Any], tuple[Any, ...]], tuple[type | None, ...]]:
    names = [field.name for field in fields(cls)]
    types = [_TYPES.get(str(field.type).split("[")[0]) for field in fields(cls)]
    return attrgetter(*names), tuple(types)
