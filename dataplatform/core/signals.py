"""Waiting for something to happen: a condition without a lock, for one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Signal:
    """`notify` wakes everybody who waits at that moment; a waiter checks its condition again."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def call_once(self, callback: Callable[[], None]) -> None:
        """At the next notification, soon after it."""
        waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(lambda _: callback())
        self._waiters.add(waiter)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """True if notified, False if the time ran out."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if timeout_s is None:
                await waiter
                return True
            done, _ = await asyncio.wait((waiter,), timeout=timeout_s)
            return bool(done)
        finally:
            self._waiters.discard(waiter)
