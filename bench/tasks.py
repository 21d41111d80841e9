"""Many at a time: tasks of one event loop, or connections spread over processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from .timing import timed

CLIENTS = 64
PROCESSES = 2
CONNECT_S = 3.0
"""Processes that work together begin together, after so long: each connects meanwhile."""

Call = Callable[[int], Awaitable[object]]


async def rate_together(calls: Sequence[Call], count: int) -> float:
    """Calls per second: each of `calls` is called again and again, one after the other, all of
    them at the same time, `count` calls in all with the numbers 0 to count - 1."""

    async def client(first: int) -> None:
        call = calls[first]
        for number in range(first, count, len(calls)):
            await call(number)

    with timed() as watch:
        async with asyncio.TaskGroup() as group:
            for first in range(len(calls)):
                group.create_task(client(first))
    return count / watch.seconds


Share = Callable[[float, int, int], tuple[float, float]]
"""A process's share: (when to begin, first number, count) to (begun, ended), all in
time.monotonic(), which processes of one machine have in common."""


class Crowd:
    """Processes that do a work together."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(
            PROCESSES, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
        )

    def rate(self, share: Share, count: int) -> float:
        """Calls per second of all, from the first one's begin to the last one's end."""
        each = count // PROCESSES
        # They are there, and have imported everything, before the time is set.
        list(self._pool.map(_arrive, range(PROCESSES)))
        begin = time.monotonic() + CONNECT_S
        shares = [
            self._pool.submit(share, begin, number * each, each) for number in range(PROCESSES)
        ]
        spans = [each_share.result() for each_share in shares]
        return each * PROCESSES / (max(end for _, end in spans) - min(first for first, _ in spans))

    def close(self) -> None:
        self._pool.shutdown()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _arrive(number: int) -> int:
    time.sleep(0.1)  # so that one process does not answer for all
    return os.getpid()


async def until(begin: float) -> None:
    """Sleep until a time of time.monotonic()."""
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
