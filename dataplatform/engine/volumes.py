"""Which volumes of one `Storages` are open: each at most once, all closed at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from ..base.errors import PlatformError, Unavailable
from .base import Storage


class _Closes(Protocol):
    @property
    def closed(self) -> bool:
        """Whether it has let go of everything."""


class OpenVolumes:
    """Remembers what was opened, by volume number."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Storage, tuple[_Closes, ...]]] = {}
        self._busy: set[int] = set()
        self._closed = False

    @contextlib.contextmanager
    def alone(self, volume: int) -> Iterator[None]:
        """Hold a volume that is not open, while it is being opened or removed.

        UNAVAILABLE if it is open, or if somebody else is at it.
        """
        self.check()
        _, parts = self._open.get(volume, (None, ()))
        if volume in self._busy or not all(part.closed for part in parts):
            raise Unavailable("volume is open", volume=volume)
        self._open.pop(volume, None)
        self._busy.add(volume)
        try:
            yield
        finally:
            self._busy.discard(volume)

    async def seal(self, volume: int) -> None:
        """Seal the open segment of a volume, if it is open and not broken: then all segments that
        anything durable refers to are sealed."""
        storage, parts = self._open.get(volume, (None, ()))
        if storage is not None and not all(part.closed for part in parts):
            with contextlib.suppress(PlatformError):
                await storage.segments.seal()

    def put(self, volume: int, storage: Storage, *parts: _Closes) -> Storage:
        """Remember `storage` as open until all its `parts` are closed."""
        self._open[volume] = storage, parts
        return storage

    def check(self) -> None:
        """UNAVAILABLE after `close`."""
        if self._closed:
            raise Unavailable("storages are closed")

    async def close(self) -> None:
        """Close whatever is open; the first error is raised when all are closed."""
        self._closed = True
        first: PlatformError | None = None
        for storage, _ in self._open.values():
            for part in (storage.segments, storage.engine):
                try:
                    await part.close()
                except PlatformError as error:
                    first = first or error
        self._open.clear()
        if first is not None:
            raise first
