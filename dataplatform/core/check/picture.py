"""One moment of a volume's rows, read so that damage stays where it is.

Where the engine cannot read (CORRUPT), the range is reported once and remembered, and reading goes
on behind it. Whoever misses a row asks `is_unreadable` before calling it missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from ...base.errors import Corrupt
from ...engine.base import Pair, View
from ...keyspace.records import Record

R = TypeVar("R", bound=Record)

PAGE_ROWS = 500
"""Rows between two turns of the loop: some milliseconds of work."""

_WIDTH = 40
"""Leading bytes of a key that the search for the end of a damage looks at."""

OnUnreadable = Callable[[bytes, Corrupt], None]
"""Called with the first key of an unreadable range, and why."""


class Picture:
    """Reads a view in pages."""

    def __init__(self, view: View, on_unreadable: OnUnreadable) -> None:
        self._view = view
        self._on_unreadable = on_unreadable
        self._unreadable: list[tuple[bytes, bytes]] = []

    # ---- what could not be read

    def is_unreadable(self, key: bytes) -> bool:
        return any(start <= key < end for start, end in self._unreadable)

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
            if not self.is_unreadable(key):
                self._unreadable.append((key, key + b"\x00"))
            return None

    async def pages(self, start: bytes, end: bytes) -> AsyncIterator[list[Pair]]:
        """All that can be read of the range; other tasks get their turn between pages."""
        limit = PAGE_ROWS
        while True:
            try:
                page = await self._view.scan(start, end, limit=limit)
            except Corrupt as error:
                if limit > 1:
                    limit //= 2  # what stands before the damage is still to be read
                    continue
                start = await self._skip(start, end, error)
                limit = PAGE_ROWS
                continue
            if not page:
                return
            yield page
            await asyncio.sleep(0)
            start = page[-1][0] + b"\x00"
            limit = min(PAGE_ROWS, limit * 2)

    async def first(self, start: bytes, end: bytes) -> bytes | None:
        """The first key of the range that can be read."""
        async for page in self.pages(start, end):
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
        behind = min(high.to_bytes(_WIDTH, "big"), end)
        self._unreadable.append((start, behind))
        self._on_unreadable(start, error)
        return behind


def _number(key: bytes) -> int:
    return int.from_bytes(key[:_WIDTH].ljust(_WIDTH, b"\x00"), "big")


# ---------------------------------------------------------------- records

_TYPES: dict[str, type] = {"int": int, "bytes": bytes, "str": str, "dict": dict, "list": list}
_expected: dict[type, list[type | None]] = {}


def read_record(cls: type[R], value: bytes) -> R:
    """The record, every field of its type. CORRUPT."""
    try:
        record = cls.unpack(value)
    except TypeError as error:  # a map whose keys cannot be keys
        raise Corrupt(f"a stored {cls.__name__} cannot be read", reason=error) from error
    expected = _expected.get(cls)
    if expected is None:
        expected = _expected[cls] = [
            _TYPES.get(str(f.type).split("[")[0])
            for f in fields(cls)  # type: ignore[arg-type]
        ]
    for wanted, found in zip(expected, _values(record), strict=True):
        if wanted is not None and type(found) is not wanted:
            raise Corrupt(f"a stored {cls.__name__} has a wrong field")
    return record


def _values(record: Any) -> list[Any]:
    return [getattr(record, f.name) for f in fields(record)]
