"""Limits of volumes: operations per second and bytes per second, by token buckets.

An operation is a request; its bytes are those of the request and of the reply, messages included.
Whoever is over the limit waits, first come first served, before anything is done for him: he holds
no lock, and may be cancelled. What a reply will cost is not known before, so it is charged after it
and the next ones wait for it. A volume that was idle may use what one second gives at once.

Administrators are limited too. What is not: changing a volume's settings (or nobody could lift a
limit that is too low), giving up what one holds, and hearing of changes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from dataplatform.base.clock import Clock
from dataplatform.base.errors import Unavailable

BURST_S = 1.0
"""How long a volume must have been idle to have all of its burst, which is what that time gives."""

WAITING_MAX = 100_000
"""Requests that wait for one volume; connections bound them before."""

FREE_METHODS = frozenset(
    {
        "Files.Close",
        "Files.Share",
        "Namespace.Watch",
        "Volumes.Create",
        "Volumes.Info",
        "Volumes.List",
        "Volumes.Remove",
        "Volumes.Set",
    }
)


class Bucket:
    """Tokens that come at a rate, up to a burst. It may owe: then it gives none until it has paid.

    Times are seconds of a monotonic clock.
    """

    __slots__ = ("_at_s", "_tokens", "burst", "rate")

    def __init__(self, rate: int, now_s: float) -> None:
        self.rate = rate
        self.burst = max(rate * BURST_S, 1.0)
        self._tokens = self.burst
        self._at_s = now_s

    def set_rate(self, rate: int, now_s: float) -> None:
        """From now on. What is owed stays owed, and is paid at the new rate."""
        self._refill(now_s)
        was_limited = self.rate > 0
        self.rate, self.burst = rate, max(rate * BURST_S, 1.0)
        self._tokens = min(self._tokens, self.burst) if was_limited else self.burst

    def ready_in(self, cost: float, now_s: float) -> float:
        """Seconds until `cost` may be taken; 0: now. What costs more than the burst waits for
        all of it, and is owed for the rest."""
        if not self.rate:
            return 0.0
        self._refill(now_s)
        missing = min(cost, self.burst) - self._tokens
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, cost: float) -> None:
        if self.rate:
            self._tokens -= cost

    def _refill(self, now_s: float) -> None:
        self._tokens = min(self.burst, self._tokens + (now_s - self._at_s) * self.rate)
        self._at_s = now_s


@dataclass(slots=True, eq=False)
class _Waiting:
    admitted: asyncio.Future[None]
    size_bytes: int


class Limiter:
    """Of one volume. `iops` and `bandwidth`: 0 for no limit."""

    def __init__(self, clock: Clock, iops: int, bandwidth: int) -> None:
        self._clock = clock
        now_s = clock.monotonic()
        self._operations = Bucket(iops, now_s)
        self._bytes = Bucket(bandwidth, now_s)
        self._waiting: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def set(self, iops: int, bandwidth: int) -> None:
        """New limits: who waits is looked at again."""
        if (iops, bandwidth) == (self._operations.rate, self._bytes.rate):
            return
        now_s = self._clock.monotonic()
        self._operations.set_rate(iops, now_s)
        self._bytes.set_rate(bandwidth, now_s)
        self.run_once()

    async def admit(self, size_bytes: int) -> None:
        """Wait until an operation of so many bytes may begin."""
        if not self._waiting and self._ready_in(size_bytes) <= 0:
            self._take(size_bytes)
            return
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("too many requests wait for this volume")
        waiting = _Waiting(asyncio.get_running_loop().create_future(), size_bytes)
        self._waiting.append(waiting)
        self.run_once()
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self.run_once()
            raise

    def charge(self, size_bytes: int) -> None:
        """Bytes that have been moved already."""
        self._bytes.take(size_bytes)

    def run_once(self) -> None:
        """Admit whose time has come, and come again for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            first = self._waiting[0]
            wait_s = self._ready_in(first.size_bytes)
            if wait_s > 0:
                loop = first.admitted.get_loop()
                self._timer = loop.call_later(wait_s, self.run_once)
                return
            self._waiting.popleft()
            self._take(first.size_bytes)
            if not first.admitted.done():
                first.admitted.set_result(None)

    def close(self) -> None:
        """The server stops: who waits hears so, and may come to another."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if not one.admitted.done():
                one.admitted.set_exception(Unavailable("the server is stopping"))

    def _ready_in(self, size_bytes: int) -> float:
        now_s = self._clock.monotonic()
        return max(self._operations.ready_in(1, now_s), self._bytes.ready_in(size_bytes, now_s))

    def _take(self, size_bytes: int) -> None:
        self._operations.take(1)
        self._bytes.take(size_bytes)


class Limits:
    """Of all volumes of a server, by their settings as they are at each request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.limiters: dict[int, Limiter] = {}

    def of(self, volume: int, iops: int, bandwidth: int) -> Limiter | None:
        """The volume's; None if it has no limits."""
        limiter = self.limiters.get(volume)
        if limiter is None:
            if not iops and not bandwidth:
                return None
            limiter = self.limiters[volume] = Limiter(self._clock, iops, bandwidth)
        else:
            limiter.set(iops, bandwidth)
            if not iops and not bandwidth:
                del self.limiters[volume]  # nobody waits any more
                return None
        return limiter

    @property
    def waiting(self) -> dict[int, int]:
        """Requests that wait, by volume."""
        return {volume: limiter.waiting for volume, limiter in self.limiters.items()}

    def close(self) -> None:
        for limiter in self.limiters.values():
            limiter.close()
