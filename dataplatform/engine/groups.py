"""One sync at a time, everything before it is covered, a failure breaks it.

Whoever writes takes a ticket (`Group.add`), whoever needs it durable waits for the ticket. The
first waiter starts a sync one turn of the loop later, so that all who are ready by then join it;
who comes while it runs waits for the next one. Used by every engine and every segment store.

Invariants:
- A sync covers exactly the tickets given out before it started.
- After a failed sync, or `fail`, every waiter gets an error, and every later `add`, `wait` and
  `check` answers UNAVAILABLE (STALE after STALE). Nothing is ever acknowledged on the strength of a
  retry: after a failed fsync the kernel may have dropped the pages and report success next time.
- Reads, which ask `check_open`, go on until `close`, or until somebody else owns the data.
- A waiter that is cancelled takes nobody with it: the sync belongs to the group, not to a waiter.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NamedTuple

from ..base.errors import ErrorKind, PlatformError, Unavailable
from ..base.limits import KIB

INLINE_WAITERS_MAX = 4
"""With more waiters the thread's latency is spread thin, and a free loop is worth more. Measured,
syncs of 200 µs: 2 waiters take 330 µs on the loop and 490 in a thread, 8 waiters 650 and 700."""

INLINE_SECONDS_MAX = 0.001
"""A sync that lately took longer than this never blocks the loop."""

INLINE_BYTES_MAX = 256 * KIB
"""Nor does one with more to write than this: it takes longer than the average tells."""

LAG_SECONDS_MAX = 0.0005
"""A turn of the loop that took longer than this means that others want the loop."""

AVERAGE_WEIGHT = 0.125
"""Weight of the newest sync in the moving average, as in TCP's smoothed round-trip time."""


class Load(NamedTuple):
    """What is known when a sync starts, for choosing how to run it."""

    waiters: int
    size_bytes: int
    lag_s: float


Sync = Callable[[Load], "asyncio.Future[None] | None"]
"""Starts one sync. None: it is done. A future: it is under way. Raises or fails: it failed."""


class Group:
    """Tickets, those who wait for them, and the sync they share."""

    def __init__(self, subject: str, sync: Sync) -> None:
        """`subject` names the thing in messages, for example ``volume 3``."""
        self._subject = subject
        self._sync = sync
        self._last = 0
        self._durable = 0
        self._size_bytes = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._busy = False
        self._scheduled_at = 0.0
        self._failure: PlatformError | None = None
        self._closed = False

    @property
    def last(self) -> int:
        """The newest ticket."""
        return self._last

    @property
    def durable(self) -> int:
        """The newest durable ticket."""
        return self._durable

    @property
    def broken(self) -> bool:
        """Whether every write is refused, after a failure or after `close`."""
        return self._failure is not None or self._closed

    @property
    def failed(self) -> bool:
        """Whether something went wrong: a sync, or what `fail` was told."""
        return self._failure is not None

    @property
    def fenced(self) -> bool:
        """Whether it failed because somebody else owns the data now."""
        return self._failure is not None and self._failure.kind is ErrorKind.STALE

    @property
    def closed(self) -> bool:
        """Whether everything is refused, reads as well."""
        return self._closed

    def add(self, size_bytes: int = 0) -> int:
        """A ticket for something just written."""
        self.check()
        self._last += 1
        self._size_bytes += size_bytes
        return self._last

    def check(self) -> None:
        """Raise UNAVAILABLE if broken or closed, STALE if fenced."""
        if self._failure is not None:
            # Who was fenced stays so: reopening would only fence the new owner in turn.
            kind = ErrorKind.STALE if self.fenced else ErrorKind.UNAVAILABLE
            why, cause = "broken by an earlier error, reopen", self._failure.message
            raise PlatformError(kind, why, subject=self._subject, cause=cause)
        if self._closed:
            raise Unavailable("closed", subject=self._subject)

    def check_open(self) -> None:
        """Raise UNAVAILABLE if closed, STALE if fenced: what a read asks."""
        if self._closed or (self._failure is not None and self.fenced):
            self.check()

    async def wait(self, ticket: int) -> None:
        """Return when `ticket` and all before it are durable."""
        self.check()
        assert ticket <= self._last, f"ticket {ticket} was never given out, last={self._last}"
        if ticket <= self._durable:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append((ticket, waiter))
        if not self._busy:
            self._schedule(loop)
        await waiter

    def fail(self, error: PlatformError) -> None:
        """Break: give `error` to all who wait, refuse every write from here on."""
        if not self.broken:
            self._failure = error
            self._refuse(error)

    async def close(self) -> None:
        """Make everything durable, unless broken, then refuse everything. Raises what the sync
        raised."""
        try:
            if not self.broken:
                await self.wait(self._last)
        finally:
            self.abandon(Unavailable("closed", subject=self._subject))

    def abandon(self, error: PlatformError) -> None:
        """Give `error` to all who wait, refuse everything from here on, reads as well."""
        self._closed = True
        self._refuse(error)

    def _refuse(self, error: PlatformError) -> None:
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            if not waiter.done():
                waiter.set_exception(copy.copy(error))

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._busy = True
        self._scheduled_at = time.perf_counter()
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._waiters = [pair for pair in self._waiters if not pair[1].done()]
        if self.broken or not self._waiters:
            self._busy = False
            return
        lag_s = time.perf_counter() - self._scheduled_at
        load = Load(len(self._waiters), self._size_bytes, lag_s)
        target, self._size_bytes = self._last, 0
        try:
            running = self._sync(load)
        except Exception as error:
            self._failed(error)
            return
        if running is None:
            self._covered(target)
        else:
            running.add_done_callback(lambda future: self._ended(target, future))

    def _ended(self, target: int, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            self._failed(Unavailable("sync was cancelled", subject=self._subject))
        elif (error := future.exception()) is not None:
            self._failed(error)
        else:
            self._covered(target)

    def _failed(self, error: BaseException) -> None:
        self._busy = False
        if not isinstance(error, PlatformError):
            error = Unavailable("sync failed", subject=self._subject, cause=error)
        self.fail(error)

    def _covered(self, target: int) -> None:
        self._busy = False
        if self.broken:
            return
        self._durable = target
        left = []
        for ticket, waiter in self._waiters:
            if ticket > target:
                left.append((ticket, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = left
        if left:
            self._schedule(asyncio.get_running_loop())


def at_once(sync: Callable[[], None]) -> Sync:
    """For a sync that costs nothing: always on the loop, hence the same in every run."""

    def start(_load: Load) -> None:
        sync()

    return start


def awaiting(sync: Callable[[], Coroutine[Any, Any, None]]) -> Sync:
    """For a sync that is a coroutine."""

    def start(_load: Load) -> asyncio.Future[None]:
        return asyncio.ensure_future(sync())

    return start


class Blocking:
    """For a sync that blocks and releases the GIL: on the loop, or in a thread.

    On the loop it costs least latency (a thread adds about 140 µs), in a thread the loop is free
    meanwhile. So it stays on the loop only if few wait for it, the disk was fast lately, there is
    little to write, and the loop is not late for others.
    """

    def __init__(self, sync: Callable[[], None], executor: Executor) -> None:
        self._call = sync
        self._executor = executor
        self._average_s = 0.0

    def __call__(self, load: Load) -> asyncio.Future[None] | None:
        if self._inline(load):
            self._timed()
            return None
        return asyncio.get_running_loop().run_in_executor(self._executor, self._timed)

    def _inline(self, load: Load) -> bool:
        return (
            load.waiters <= INLINE_WAITERS_MAX
            and load.size_bytes <= INLINE_BYTES_MAX
            and load.lag_s < LAG_SECONDS_MAX
            and self._average_s < INLINE_SECONDS_MAX
        )

    def _timed(self) -> None:
        start = time.perf_counter()
        self._call()
        self._average_s += AVERAGE_WEIGHT * (time.perf_counter() - start - self._average_s)
