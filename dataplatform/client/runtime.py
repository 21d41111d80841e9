"""How an operation waits: the only difference between `dataplatform` and `dataplatform.aio`.

Operations are coroutines that wait through a `Runtime`. Under `AsyncRuntime` they suspend, as usual
in an event loop. Under `BlockingRuntime` every wait blocks the thread instead, so that a coroutine
never suspends and `run` can drive it with a single `send(None)`: no event loop, no hand-over
between threads. Background work is a task in the one, a daemon thread in the other.

Between two waits a coroutine of the asynchronous runtime is alone. Under the blocking one it is
not: state that a producer or consumer shares with its background work is touched only inside
`async with condition`, and nothing but `condition.wait` is awaited in there.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from ..api import platform_pb2 as pb
from ..base.errors import Internal
from ..transport.addresses import Address
from ..transport.connections import AsyncConnection, BlockingConnection, Connection
from ..transport.tls import Trust

T = TypeVar("T")
BackgroundWork = Callable[[], Coroutine[Any, Any, None]]


# ------------------------------------------------------------------- driving a blocking coroutine


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise Internal("a blocking operation suspended: was it made for an event loop?")


async def _step(iterator: AsyncIterator[T]) -> T:
    return await anext(iterator)


def iterate(iterator: AsyncIterator[T]) -> Iterator[T]:
    """The items of an asynchronous iterator that never suspends."""
    try:
        while True:
            try:
                item = run(_step(iterator))
            except StopAsyncIteration:
                return
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            run(close())


# ---------------------------------------------------------------------------------- the seam


class Lock(Protocol):
    """Mutual exclusion over waits."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any: ...


class Condition(Lock, Protocol):
    """A lock whose holder can wait for a change of what it guards."""

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Let go, wait for a `notify_all`, take hold again. False when the time was up."""

    def notify_all(self) -> None: ...

    @property
    def acquire(self) -> Callable[[], object]:
        """Take hold without `async with`, which costs as much as ten such calls. For what awaits
        nothing, and lets go with `release` whatever happens."""

    @property
    def release(self) -> Callable[[], object]: ...


class Task(Protocol):
    """Background work."""

    async def join(self) -> None:
        """Wait for its end. Its exceptions stay with it: the work reports them by other means."""


class Holder:
    """Where a caller's connection is kept: one per event loop, or one per thread."""

    def __init__(self, lock: Lock) -> None:
        self.connection: Connection | None = None
        self.lock = lock


class Runtime(Protocol):
    blocking: bool

    def monotonic(self) -> float: ...
    def now_ms(self) -> int: ...
    def random(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...
    def lock(self) -> Lock: ...
    def condition(self) -> Condition: ...
    def spawn(self, work: BackgroundWork, name: str) -> Task: ...
    def holder(self) -> Holder:
        """The caller's, made at the first call."""

    def forget_connections(self) -> None:
        """After a fork, in the child."""

    async def open(self, address: Address, hello: pb.Hello, timeout_s: float) -> Connection: ...


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def random(self) -> float:
        return random.random()  # noqa: S311 - spreads retries


# ------------------------------------------------------------------------------ asynchronous


def _nothing() -> None:
    return


class _AsyncCondition:
    """A condition of one event loop. There is nothing to lock: see the module's docstring."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self.acquire = self.release = _nothing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    async def wait(self, timeout_s: float | None = None) -> bool:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return True

    def notify_all(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _AsyncTask:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    async def join(self) -> None:
        await asyncio.wait([self._task])


class AsyncRuntime(_Clock):
    """Waits suspend; one connection carries all calls."""

    blocking = False

    def __init__(self, trust: Trust | None = None) -> None:
        self._holder = Holder(asyncio.Lock())
        self._trust = trust

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def lock(self) -> Lock:
        return asyncio.Lock()

    def condition(self) -> Condition:
        return _AsyncCondition()

    def spawn(self, work: BackgroundWork, name: str) -> Task:
        return _AsyncTask(asyncio.create_task(work(), name=name))

    def holder(self) -> Holder:
        return self._holder

    def forget_connections(self) -> None:
        """An event loop does not outlive a fork, so neither does its client."""

    async def open(self, address: Address, hello: pb.Hello, timeout_s: float) -> Connection:
        context = _context(self._trust, address)
        return await AsyncConnection.open(address, hello, timeout_s=timeout_s, tls=context)


# ---------------------------------------------------------------------------------- blocking


class _BlockingLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


class _BlockingCondition:
    def __init__(self) -> None:
        lock = threading.Lock()
        self._condition = threading.Condition(lock)
        self.acquire, self.release = lock.acquire, lock.release

    async def __aenter__(self) -> None:
        self._condition.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._condition.release()

    async def wait(self, timeout_s: float | None = None) -> bool:
        return self._condition.wait(timeout_s)

    def notify_all(self) -> None:
        self._condition.notify_all()


class _ThreadTask:
    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    async def join(self) -> None:
        self._thread.join()


class _ThreadHolder(Holder):
    """A thread's connection. Closed with its thread: thread-local values die there."""

    def __init__(self, lock: Lock) -> None:
        super().__init__(lock)
        self._process = os.getpid()

    def __del__(self) -> None:
        connection = self.connection
        if connection is not None and not connection.closed and self._process == os.getpid():
            run(_close(connection))  # in a forked child it is still its parent's


async def _close(connection: Connection) -> None:
    await connection.close()


class BlockingRuntime(_Clock):
    """Waits block; every thread has a connection of its own."""

    blocking = True

    def __init__(self, trust: Trust | None = None) -> None:
        self._threads = threading.local()
        self._trust = trust

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - blocking is what it is for

    def lock(self) -> Lock:
        return _BlockingLock()

    def condition(self) -> Condition:
        return _BlockingCondition()

    def spawn(self, work: BackgroundWork, name: str) -> Task:
        thread = threading.Thread(target=lambda: run(work()), name=name, daemon=True)
        thread.start()
        return _ThreadTask(thread)

    def holder(self) -> Holder:
        try:
            holder: Holder = self._threads.holder
        except AttributeError:
            holder = self._threads.holder = _ThreadHolder(_BlockingLock())
        return holder

    def forget_connections(self) -> None:
        """They belong to the process that this one was forked from."""
        self._threads = threading.local()

    async def open(self, address: Address, hello: pb.Hello, timeout_s: float) -> Connection:
        context = _context(self._trust, address)
        return await BlockingConnection.open(address, hello, timeout_s=timeout_s, tls=context)


def _context(trust: Trust | None, address: Address) -> ssl.SSLContext | None:
    """Made for each connection: certificates that were renewed meanwhile are found."""
    return trust.context() if trust is not None and address.is_tls else None
