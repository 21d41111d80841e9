"""The shared sync: who is covered by what, and that a failure is final."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplatform.base.errors import Exhausted, PlatformError, Unavailable
from dataplatform.engine.groups import INLINE_SECONDS_MAX, Blocking, Group, Load, at_once, awaiting


class ManualSync:
    """Syncs that end when the test says so."""

    def __init__(self) -> None:
        self.running: list[asyncio.Future[None]] = []
        self.loads: list[Load] = []

    def __call__(self, load: Load) -> asyncio.Future[None]:
        self.loads.append(load)
        self.running.append(asyncio.get_running_loop().create_future())
        return self.running[-1]


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def outcome(task: asyncio.Future[None]) -> str:
    if not task.done():
        return "waits"
    error = task.exception()
    if error is None:
        return "ok"
    assert isinstance(error, PlatformError)
    return error.kind.name


async def test_one_sync_covers_all_who_are_ready() -> None:
    sync = ManualSync()
    group = Group("test", sync)
    waiting = [asyncio.ensure_future(group.wait(group.add(10))) for _ in range(5)]
    await turn()
    assert [load[:2] for load in sync.loads] == [(5, 50)]
    sync.running[0].set_result(None)
    await asyncio.gather(*waiting)
    assert group.durable == group.last == 5


async def test_who_comes_during_a_sync_waits_for_the_next() -> None:
    sync = ManualSync()
    group = Group("test", sync)
    early = asyncio.ensure_future(group.wait(group.add()))
    await turn()
    late = [asyncio.ensure_future(group.wait(group.add())) for _ in range(3)]
    await turn()
    assert len(sync.running) == 1  # one at a time
    sync.running[0].set_result(None)
    await turn()
    assert outcome(early) == "ok"
    assert [outcome(task) for task in late] == ["waits"] * 3
    assert group.durable == 1
    assert len(sync.running) == 2
    sync.running[1].set_result(None)
    await asyncio.gather(*late)


async def test_an_earlier_ticket_needs_no_second_sync() -> None:
    sync = ManualSync()
    group = Group("test", sync)
    first, second = group.add(), group.add()
    waiting = asyncio.ensure_future(group.wait(second))
    await turn()
    sync.running[0].set_result(None)
    await waiting
    await group.wait(first)
    assert len(sync.running) == 1


async def test_a_failed_sync_fails_all_and_is_never_tried_again() -> None:
    sync = ManualSync()
    group = Group("test", sync)
    early = asyncio.ensure_future(group.wait(group.add()))
    await turn()
    late = asyncio.ensure_future(group.wait(group.add()))
    await turn()
    sync.running[0].set_exception(Exhausted("disk is full"))
    await turn()
    assert [outcome(early), outcome(late)] == ["EXHAUSTED"] * 2
    assert early.exception() is not late.exception()
    assert len(sync.running) == 1
    with pytest.raises(Unavailable):
        group.add()
    with pytest.raises(Unavailable):
        await group.wait(1)
    assert group.durable == 0
    assert group.broken
    group.check_open()  # reads go on
    await group.close()
    assert len(sync.running) == 1
    with pytest.raises(Unavailable, match="disk is full"):
        group.check_open()


async def test_a_foreign_error_is_unavailable() -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    group = Group("test", at_once(fail))
    with pytest.raises(Unavailable):
        await group.wait(group.add())


async def test_a_failure_elsewhere_beats_a_sync_under_way() -> None:
    """A failed commit: a sync that ends well afterwards acknowledges nothing."""
    sync = ManualSync()
    group = Group("test", sync)
    waiting = asyncio.ensure_future(group.wait(group.add()))
    await turn()
    group.fail(Unavailable("commit failed"))
    sync.running[0].set_result(None)
    await turn()
    assert outcome(waiting) == "UNAVAILABLE"
    assert group.durable == 0


async def test_a_cancelled_waiter_does_not_cancel_the_sync() -> None:
    sync = ManualSync()
    group = Group("test", sync)
    leader = asyncio.ensure_future(group.wait(group.add()))
    follower = asyncio.ensure_future(group.wait(group.add()))
    await turn()
    leader.cancel()
    await turn()
    sync.running[0].set_result(None)
    await follower
    assert leader.cancelled()
    assert group.durable == 2


async def test_all_waiters_cancelled_before_the_sync_begins() -> None:
    sync = ManualSync()
    group = Group("test", sync)
    waiting = asyncio.ensure_future(group.wait(group.add()))
    asyncio.get_running_loop().call_soon(waiting.cancel)
    await turn()
    again = asyncio.ensure_future(group.wait(group.last))
    await turn()
    for running in sync.running:
        if not running.done():
            running.set_result(None)
    await again


async def test_close_makes_everything_durable_then_refuses() -> None:
    syncs = []

    async def sync() -> None:
        await asyncio.sleep(0)
        syncs.append(1)

    group = Group("test", awaiting(sync))
    group.add()
    group.add()
    await group.close()
    assert group.durable == 2
    assert syncs == [1]
    with pytest.raises(Unavailable):
        group.add()
    await group.close()


async def test_blocking_syncs_run_on_the_loop_only_when_that_is_cheap() -> None:
    calls: list[None] = []
    with ThreadPoolExecutor(1) as threads:
        sync = Blocking(lambda: calls.append(None), threads)
        alone = Load(waiters=1, size_bytes=100, lag_s=0.0)
        assert sync(alone) is None
        assert len(calls) == 1
        for load in (
            alone._replace(waiters=20),
            alone._replace(size_bytes=1 << 20),
            alone._replace(lag_s=0.1),
        ):
            running = sync(load)
            assert running is not None
            await running
        sync._average_s = INLINE_SECONDS_MAX * 2
        running = sync(alone)
        assert running is not None
        await running
        while sync._average_s > INLINE_SECONDS_MAX:  # a disk that is fast again is trusted again
            running = sync(alone)
            assert running is not None
            await running
        assert sync(alone) is None
