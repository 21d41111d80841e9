"""Calls that share a request: what tasks of one event loop ask for at the same time.

A call goes out at once and alone while nothing of its kind is under way. While something is, calls
gather until the end of the turn of the loop, and longer while `UNDER_WAY_MAX` requests are on
their way, and go out as one request. So one caller has the latency of one call, and many callers
cost little more than one. Calls that must not share a request, because they are about the same
thing, go out each alone behind the first of them, in the order in which they came.

A request that the server refuses has done nothing, and nobody knows which of the calls is to
blame: each is then made alone, and gets its own answer. A call that nobody waits for any more
(cancelled) goes out or not, as any other that is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from .errors import PlatformError, Unavailable

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

UNDER_WAY_MAX = 2
"""Requests of one kind under way: while the server works on one, the next is on its way."""

ITEMS_MAX = 1000
"""Calls in one request."""


class Gatherer(Generic[I, R]):
    """Calls of one kind. `alone` makes one, `together` makes many and gives their results in
    order: a PlatformError of it says that none of them was made."""

    def __init__(
        self,
        alone: Callable[[I], Awaitable[R]],
        together: Callable[[Sequence[I]], Awaitable[Sequence[R]]],
        *,
        subject: Callable[[I], Hashable] | None = None,
    ) -> None:
        """`subject`: what a call is about, if two about the same must not share a request."""
        self._subject = subject
        self._alone = alone
        self._together = together
        self._gathered: list[tuple[I, asyncio.Future[R]]] = []
        self._under_way = 0
        self._is_scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        return not self._under_way and not self._gathered

    async def call(self, item: I) -> R:
        """The result of the call, or what it raises."""
        if self._under_way or self._gathered:
            return await self.start(item)
        self._under_way += 1
        try:
            return await self._alone(item)
        finally:
            self._ended()

    def start(self, item: I) -> asyncio.Future[R]:
        """The same without waiting; it gathers even if nothing is under way."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._gathered.append((item, answer))
        self._schedule(loop)
        return answer

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._gathered and not self._is_scheduled and self._under_way < UNDER_WAY_MAX:
            self._is_scheduled = True
            loop.call_soon(self._send)

    def _send(self) -> None:
        self._is_scheduled = False
        loop = asyncio.get_running_loop()
        calls = self._take()
        if calls:
            self._under_way += 1
            task = loop.create_task(self._make(calls))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._schedule(loop)

    def _take(self) -> list[tuple[I, asyncio.Future[R]]]:
        """The calls of the next request."""
        taken, self._gathered = self._gathered[:ITEMS_MAX], self._gathered[ITEMS_MAX:]
        return [call for call in taken if not call[1].done()]

    def _ended(self) -> None:
        self._under_way -= 1
        self._schedule(asyncio.get_running_loop())

    async def _make(self, calls: list[tuple[I, asyncio.Future[R]]]) -> None:
        try:
            first, repeats = self._split(calls)
            if len(first) == 1 or not await self._make_together(first):
                await asyncio.gather(*(self._make_alone(*call) for call in first))
            await asyncio.gather(*(self._make_alone(*call) for call in repeats))
        except BaseException as error:
            for _, answer in calls:
                if not answer.done():
                    if isinstance(error, asyncio.CancelledError):
                        answer.cancel()
                    else:
                        answer.set_exception(_copied(error))
            if not isinstance(error, Exception):
                raise
        finally:
            self._ended()

    def _split(
        self, calls: list[tuple[I, asyncio.Future[R]]]
    ) -> tuple[list[tuple[I, asyncio.Future[R]]], list[tuple[I, asyncio.Future[R]]]]:
        """The first about each subject, and the others."""
        if self._subject is None:
            return calls, []
        first: dict[Hashable, tuple[I, asyncio.Future[R]]] = {}
        repeats = [
            call for call in calls if first.setdefault(self._subject(call[0]), call) is not call
        ]
        return list(first.values()), repeats

    async def _make_together(self, calls: list[tuple[I, asyncio.Future[R]]]) -> bool:
        """False if they were refused, so that none of them was made."""
        try:
            results = await self._together([item for item, _ in calls])
        except Unavailable:
            raise  # the server is not there: not for one of them either
        except PlatformError:
            return False
        for (_, answer), result in zip(calls, results, strict=True):
            if not answer.done():
                answer.set_result(result)
        return True

    async def _make_alone(self, item: I, answer: asyncio.Future[R]) -> None:
        try:
            result = await self._alone(item)
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)


def _copied(error: BaseException) -> BaseException:
    """Its own for each who raises it, as raising writes into it; the same one where that cannot
    be."""
    with contextlib.suppress(Exception):
        return copy.copy(error)
    return error
