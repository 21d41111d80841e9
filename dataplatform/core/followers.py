"""Who waits for the next change of a volume, and how they hear of it soon.

Only what is durable is shown. What nobody waits for would be synced within half a second; while
somebody follows the feed it is synced within LATENCY_S, unless the disk needs long for a sync: then
it is not asked more often than leaves it most of its time. Nobody follows: nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from ..base.errors import PlatformError

if TYPE_CHECKING:
    from .volumes import Volume

LATENCY_S = 0.02
LATENCY_S_MAX = 0.5
"""By then it is synced anyway."""

REST = 4
"""Times of its duration that pass between two syncs for followers."""


class Followers:
    """Of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._took_s = 0.0

    async def wait(self, timeout_s: float) -> None:
        """Until a commit became durable, or the time ran out."""
        lane = self._volume.lane
        self._waiting += 1
        lane.on_lazy_commit = self._begin
        try:
            if self._volume.state.commit > lane.durable_commit:
                self._begin()
            await self._volume.changed.wait(timeout_s)
        finally:
            self._waiting -= 1
            if not self._waiting:
                lane.on_lazy_commit = None

    def _begin(self) -> None:
        if self._timer is None and self._syncing is None:
            delay_s = min(max(LATENCY_S, REST * self._took_s), LATENCY_S_MAX)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._start)

    def _start(self) -> None:
        self._timer = None
        self._syncing = asyncio.create_task(self._sync())

    async def _sync(self) -> None:
        volume = self._volume
        started_s = time.monotonic()
        try:
            if volume.lane.broken is None and volume.state.commit > volume.lane.durable_commit:
                with contextlib.suppress(PlatformError):  # the lane has logged it
                    await volume.lane.durable()
        finally:
            self._took_s = time.monotonic() - started_s
            self._syncing = None
        if self._waiting and volume.state.commit > volume.lane.durable_commit:
            self._begin()

    async def close(self) -> None:
        """The volume is going to be closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._syncing is not None:
            await asyncio.wait((self._syncing,))
