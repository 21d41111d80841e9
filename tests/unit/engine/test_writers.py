"""Large writes in a thread: in order, each with its own outcome."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplatform.engine.writers import Writer


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


async def test_writes_happen_in_order_and_one_at_a_time(threads: ThreadPoolExecutor) -> None:
    writer, written, busy = Writer(threads), [], threading.Lock()

    def write(number: int) -> None:
        assert busy.acquire(blocking=False)
        written.append(number)
        busy.release()

    for start in range(0, 1000, 100):  # the thread comes and goes
        await asyncio.gather(
            *(writer.submit(lambda n=n: write(n)) for n in range(start, start + 100))
        )
    assert written == list(range(1000))


async def test_an_error_is_its_own_writes(threads: ThreadPoolExecutor) -> None:
    writer, written = Writer(threads), []

    def fail() -> None:
        raise OSError("disk on fire")

    outcomes = await asyncio.gather(
        writer.submit(lambda: written.append(1)),
        writer.submit(fail),
        writer.submit(lambda: written.append(2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), OSError, type(None)]
    assert written == [1, 2]


async def test_who_gives_up_stops_nobody(threads: ThreadPoolExecutor) -> None:
    writer, go, written = Writer(threads), threading.Event(), []

    def write(number: int) -> None:
        go.wait()
        written.append(number)

    tasks = [asyncio.ensure_future(writer.submit(lambda n=n: write(n))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    go.set()
    await tasks[0]
    await tasks[2]
    assert written == [0, 1, 2]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_without_threads_nobody_waits_for_ever() -> None:
    pool = ThreadPoolExecutor(1)
    writer = Writer(pool)
    await writer.submit(lambda: None)
    pool.shutdown()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await writer.submit(lambda: None)
