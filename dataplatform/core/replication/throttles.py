"""How fast a mirror may ask its source for bytes."""

from __future__ import annotations

import asyncio

from ...base.clock import Clock

BURST_S = 0.25
"""Bytes of so long may go at once."""


class Throttle:
    """Waits so that no more than so many bytes per second are charged; 0: no limit."""

    def __init__(self, clock: Clock, bandwidth: int = 0) -> None:
        self._clock = clock
        self.bandwidth = bandwidth
        self._free_s = 0.0  # when all that was charged is paid

    async def charge(self, size_bytes: int) -> None:
        """So much was moved: wait until more may be."""
        if not self.bandwidth:
            return
        now_s = self._clock.monotonic()
        self._free_s = max(self._free_s, now_s - BURST_S) + size_bytes / self.bandwidth
        if self._free_s > now_s:
            await asyncio.sleep(self._free_s - now_s)
