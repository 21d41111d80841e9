"""Large writes of one segment store, handed to a thread one behind the other.

The kernel takes one write of a file at a time: threads that write side by side only spin while they
wait for each other. So one thread takes whatever is there, and goes when nothing is left, which
also saves waking one up for every write.

Invariant: while `_is_running`, a thread is in `_drain` or its end is about to be told to the loop.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from concurrent.futures import Executor

Write = Callable[[], None]


class Writer:
    """Belongs to the running loop. `submit` may be called any number of times at once."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._queue: collections.deque[tuple[Write, asyncio.Future[None]]] = collections.deque()
        self._is_running = False

    async def submit(self, write: Write) -> None:
        """Call `write` in the thread, after those submitted before; raises what it raised.

        It is called even when whoever awaits this is cancelled.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.append((write, done))
        if not self._is_running:
            self._begin(loop)
        await done

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._threads.submit(self._drain, loop)
        except RuntimeError as error:  # the threads were shut down
            while self._queue:
                _finish(self._queue.popleft()[1], error)
        else:
            self._is_running = True

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread."""
        while self._queue:
            write, done = self._queue.popleft()
            error: BaseException | None = None
            try:
                write()
            except BaseException as caught:
                error = caught
            loop.call_soon_threadsafe(_finish, done, error)
            del write, done  # and the memory they refer to
        loop.call_soon_threadsafe(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread has left; what came after its last look needs another."""
        self._is_running = False
        if self._queue:
            self._begin(loop)


def _finish(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.done():
        return  # nobody waits for it any more
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
