"""A storage that is only read: a view as an engine, and the segments that another volume owns.

A view never changes, so neither does what is read here, whoever goes on writing behind it. Every
write is refused with EROFS. Closing lets go of the view; the segments belong to somebody else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from ..base.errors import Invalid, NotFound, Unavailable
from .base import (
    Batch,
    Encode,
    Engine,
    Location,
    Pair,
    SegmentStore,
    Storage,
    Stored,
    Ticket,
    View,
)

T = TypeVar("T")


def _refuse() -> NoReturn:
    raise Invalid("this can only be read", errno=errno.EROFS)


class _SharedView(View):
    """One of many readers of a view that is closed with its engine."""

    def __init__(self, view: View) -> None:
        self._view: View | None = view

    def _live(self) -> View:
        if self._view is None:
            raise Unavailable("view is closed")
        return self._view

    async def get(self, key: bytes) -> bytes | None:
        return await self._live().get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._live().get_many(keys)

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        return await self._live().scan(
            start, end, reverse=reverse, limit=limit, size_bytes=size_bytes
        )

    def close(self) -> None:
        self._view = None


class ReadOnlyEngine(Engine):
    """An engine over a view, which it owns."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.get = view.get  # type: ignore[method-assign]  # as fast as the view itself
        self.get_many = view.get_many  # type: ignore[method-assign]
        self.scan = view.scan  # type: ignore[method-assign]

    async def get(self, key: bytes) -> bytes | None:
        return await self._view.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._view.get_many(keys)

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        return await self._view.scan(
            start, end, reverse=reverse, limit=limit, size_bytes=size_bytes
        )

    async def view(self) -> View:
        return _SharedView(self._view)

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        _refuse()

    async def durable(self, ticket: Ticket) -> None:
        """Everything is."""

    @property
    def durable_ticket(self) -> Ticket:
        return 0

    @property
    def broken(self) -> bool:
        return False

    async def checkpoint(self, name: str) -> None:
        _refuse()

    async def open_checkpoint(self, name: str) -> View:
        raise NotFound("checkpoint not found", name=name)

    async def delete_checkpoint(self, name: str) -> None:
        _refuse()

    async def checkpoints(self) -> list[str]:
        return []

    async def checkpoint_size(self, name: str) -> int:
        raise NotFound("checkpoint not found", name=name)

    async def close(self) -> None:
        self._view.close()


class ReadOnlySegments(SegmentStore):
    """The segments of another volume."""

    def __init__(self, segments: SegmentStore) -> None:
        self._segments = segments
        self.directory = segments.directory
        self.overhead_bytes = segments.overhead_bytes
        self.read_decoded = segments.read_decoded  # type: ignore[method-assign]
        self.read_parts = segments.read_parts  # type: ignore[method-assign]

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        _refuse()

    async def sync(self) -> None:
        """Nothing was appended."""

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        return await self._segments.read_decoded(location, decode)

    async def read_parts(self, locations: Sequence[Location]) -> list[Stored]:
        return await self._segments.read_parts(locations)

    async def seal(self) -> None:
        """Nothing is open here."""

    async def sizes(self) -> dict[int, int]:
        return await self._segments.sizes()

    @property
    def open_segment(self) -> int | None:
        return None

    async def delete(self, segment: int) -> None:
        _refuse()

    async def skip(self, segment: int) -> None:
        _refuse()

    async def close(self) -> None:
        """They are their owner's."""


def read_only(view: View, segments: SegmentStore) -> Storage:
    """What stands in a view, with the segments that it refers to."""
    return Storage(ReadOnlyEngine(view), ReadOnlySegments(segments))
