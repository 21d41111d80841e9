"""Coroutines that mostly finish without waiting, run without a task each.

Creating a task and waiting a turn of the loop for its first step costs more than many a request
does. So the first step is taken at once, in the name of a spare task; only a coroutine that
suspends takes that task over and goes on in it. `asyncio.current_task()`, timeouts and
cancellation therefore mean the same in every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Steps:
    """Runs coroutines in one event loop. Close it: it keeps a spare task."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._spare: _Carrier[Any] | None = None
        self._spare_task: asyncio.Task[Any] | None = None

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> T | asyncio.Task[T]:
        """Take the first step: the result (or exception) if it was the last, else the task."""
        if asyncio.current_task(self._loop) is not None:
            return self._loop.create_task(coroutine)  # called from a task
        carrier, task = self._spare, self._spare_task
        if carrier is None or task is None:
            carrier = self._spare = _Carrier(self._loop)
            task = self._spare_task = self._loop.create_task(carrier)
        asyncio.tasks._enter_task(self._loop, task)
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            asyncio.tasks._leave_task(self._loop, task)
        self._spare = self._spare_task = None
        carrier.take_over(coroutine, awaited)
        return task

    def close(self) -> None:
        if self._spare_task is not None:
            self._spare_task.cancel()
            self._spare = self._spare_task = None


class _Carrier(Coroutine[Any, Any, T]):
    """What a spare task runs: it waits for a coroutine that has begun, then takes its steps."""

    __slots__ = ("_awaited", "_coroutine", "_handed", "_is_running", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handed: asyncio.Future[None] | None = None
        self._coroutine: Coroutine[Any, Any, T] | None = None
        self._awaited: Any = None
        self._is_running = False

    def take_over(self, coroutine: Coroutine[Any, Any, T], awaited: Any) -> None:
        _mark(awaited, False)  # others may await the same future before we do
        self._coroutine = coroutine
        self._awaited = awaited
        if self._handed is not None:
            self._handed.set_result(None)

    def send(self, value: Any) -> Any:
        if self._coroutine is None:
            self._handed = self._loop.create_future()
            _mark(self._handed, True)
            return self._handed
        if self._is_running:
            return self._coroutine.send(value)
        self._is_running = True
        awaited, self._awaited = self._awaited, None
        _mark(awaited, True)
        return awaited

    def throw(self, *error: Any) -> Any:
        if self._coroutine is None:
            raise error[0]  # a spare that is no longer needed
        self._is_running = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("run by a task, not awaited")


def _mark(awaited: Any, blocking: bool) -> None:
    """A future says with this flag that it was yielded by `await`; a task checks and clears it."""
    if awaited is not None:
        awaited._asyncio_future_blocking = blocking
