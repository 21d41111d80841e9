"""A bound on the memory that all connections together may make the server use.

A charge never fails: what has happened has to be counted. Before it takes on more, a connection
asks `has_room`, and if there is none waits to be woken. Everything charged is released in bounded
time (requests end, stalled readers and slow senders are closed), so nobody waits for ever.

A budget may have a reserve: what is small may go on into it when there is no room for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Budget:
    def __init__(
        self, size_bytes: int, loop: asyncio.AbstractEventLoop, *, reserve_bytes: int = 0
    ) -> None:
        self.size_bytes = size_bytes
        self.reserve_bytes = reserve_bytes
        self.used_bytes = 0
        self._loop = loop
        # In order of arrival, by whether what they have is small.
        self._waiting: dict[bool, dict[Callable[[], None], None]] = {True: {}, False: {}}

    @property
    def has_room(self) -> bool:
        return self.used_bytes < self.size_bytes

    def has_room_for(self, *, is_small: bool) -> bool:
        """`has_room`, or room in the reserve for what is small."""
        return self.used_bytes < self.size_bytes + (self.reserve_bytes if is_small else 0)

    def charge(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        assert self.used_bytes >= 0
        for is_small, waiting in self._waiting.items():
            if waiting and self.has_room_for(is_small=is_small):
                self._waiting[is_small] = {}
                for wake in waiting:
                    self._loop.call_soon(wake)

    def wake_when_roomy(self, wake: Callable[[], None], *, is_small: bool = False) -> None:
        """Call once when there is room again; asking twice is asking once."""
        self._waiting[is_small][wake] = None

    def forget(self, wake: Callable[[], None]) -> None:
        for waiting in self._waiting.values():
            waiting.pop(wake, None)
