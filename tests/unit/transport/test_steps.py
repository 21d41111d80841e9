"""First steps without a task: the same meaning as in a task, only sooner."""

import asyncio
from typing import Any

import pytest

from dataplatform.transport.steps import Steps


async def test_what_does_not_wait_is_done_at_once() -> None:
    steps = Steps(asyncio.get_running_loop())
    done: list[Any] = []

    async def work() -> int:
        return 5

    async def fail() -> int:
        raise KeyError("k")

    def callback() -> None:
        done.append(steps.begin(work()))
        with pytest.raises(KeyError):
            steps.begin(fail())
        done.append(steps.begin(work()))

    await _in_callback(callback)
    assert done == [5, 5]
    steps.close()


async def test_what_waits_goes_on_in_the_task_it_began_in() -> None:
    steps = Steps(asyncio.get_running_loop())
    event, tasks = asyncio.Event(), []

    async def work() -> str:
        tasks.append(asyncio.current_task())
        await event.wait()
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return "done"

    begun: list[Any] = []
    await _in_callback(lambda: begun.append(steps.begin(work())))
    assert isinstance(begun[0], asyncio.Task)
    event.set()
    assert await begun[0] == "done"
    assert tasks == [begun[0], begun[0]]
    steps.close()


async def test_many_may_wait_for_one_future() -> None:
    loop = asyncio.get_running_loop()
    steps = Steps(loop)
    future: asyncio.Future[int] = loop.create_future()

    async def work() -> int:
        return await future

    begun: list[Any] = []
    await _in_callback(lambda: begun.extend(steps.begin(work()) for _ in range(5)))
    begun.append(asyncio.create_task(work()))
    await _in_callback(lambda: begun.extend(steps.begin(work()) for _ in range(5)))
    future.set_result(3)
    await _in_callback(lambda: begun.append(steps.begin(work())))
    assert begun.pop() == 3
    assert await asyncio.gather(*begun) == [3] * 11
    steps.close()


async def test_a_timeout_may_begin_in_the_first_step() -> None:
    steps = Steps(asyncio.get_running_loop())

    async def work(seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "never"

    begun: list[Any] = []
    await _in_callback(lambda: begun.extend([steps.begin(work(0)), steps.begin(work(0.001))]))
    assert await asyncio.gather(*begun) == ["late", "late"]
    steps.close()


async def test_cancelling_reaches_the_coroutine() -> None:
    steps = Steps(asyncio.get_running_loop())
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    for turns in (0, 1, 2):
        begun: list[Any] = []
        await _in_callback(lambda begun=begun: begun.append(steps.begin(work())))  # type: ignore[misc]
        for _ in range(turns):
            await asyncio.sleep(0)
        begun[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun[0]
    assert seen == ["cancelled"] * 3
    steps.close()


async def test_from_within_a_task_it_is_a_task() -> None:
    steps = Steps(asyncio.get_running_loop())

    async def work() -> int:
        return 5

    task = steps.begin(work())
    assert isinstance(task, asyncio.Task)
    assert await task == 5
    steps.close()


async def _in_callback(callback: Any) -> None:
    """Outside of any task, as protocols are called."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        try:
            callback()
        except BaseException as e:
            done.set_exception(e)
        else:
            done.set_result(None)

    loop.call_soon(run)
    await done
