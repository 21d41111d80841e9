"""A bound on the memory that all connections together may make the server use.

A charge never fails: what has happened has to be counted. Before it takes on more, a connection
asks `has_room`, and if there is none waits to be woken. Everything charged is released in bounded
time (requests end, stalled readers and slow senders are closed), so nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Budget:
    def __init__(self, size_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = 0
        self._loop = loop
        self._waiting: dict[Callable[[], None], None] = {}  # in order of arrival

    @property
    def has_room(self) -> bool:
        return self.used_bytes < self.size_bytes

    def charge(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        assert self.used_bytes >= 0
        if self._waiting and self.has_room:
            waiting, self._waiting = self._waiting, {}
            for wake in waiting:
                self._loop.call_soon(wake)

    def wake_when_roomy(self, wake: Callable[[], None]) -> None:
        """Call once when there is room again; asking twice is asking once."""
        self._waiting[wake] = None

    def forget(self, wake: Callable[[], None]) -> None:
        self._waiting.pop(wake, None)
