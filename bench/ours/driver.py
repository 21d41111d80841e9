"""Our driver: the parts together."""

from __future__ import annotations

from collections.abc import Sequence

from ..sides import Driver, Way
from .concurrent import Concurrent
from .context import Context
from .directories import Directories
from .files import Files
from .rows import Rows
from .streams import Streams


class OurDriver(Driver):
    def __init__(self, address: str | None, token: str | None, base: str) -> None:
        self._context = Context(address, token, base)
        self._concurrent = Concurrent(self._context)
        self._parts = (
            Streams(self._context),
            Rows(self._context),
            self._concurrent,
            Files(self._context),
            Directories(self._context),
        )

    def ways(self) -> Sequence[Way]:
        return [way for part in self._parts for way in part.ways()]

    def close(self) -> None:
        self._concurrent.close()
        self._context.close()
