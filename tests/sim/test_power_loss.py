"""Power loss at every point of every commit: hundreds of seeds here, thousands as a system test.

A failing seed is named; `--seed N` begins the campaigns there. The simulation is itself tested: it
finds bugs that are planted on purpose, and the same seed gives the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dataplatform.base.errors import PlatformError
from dataplatform.core import compaction, transactions
from dataplatform.core.lanes import Lane
from dataplatform.core.replies import Replies
from dataplatform.core.units import Unit
from dataplatform.core.writeback import Writeback
from dataplatform.engine.wrappers import FaultySegments

from .campaign import run

CAMPAIGNS = 150
CAMPAIGNS_SYSTEM = 5000
CAMPAIGNS_FOR_A_BUG = 150
CAMPAIGNS_FOR_A_RACE = 5000

pytestmark = pytest.mark.allow_warnings  # a failed write is logged as the error that it is


async def _run_many(seed: int, count: int) -> None:
    for number in range(seed, seed + count):
        await run(number)


async def test_what_was_acknowledged_survives_power_loss(seed: int) -> None:
    await _run_many(seed, CAMPAIGNS)


@pytest.mark.system
@pytest.mark.timeout(7200)
async def test_what_was_acknowledged_survives_thousands_of_power_losses(seed: int) -> None:
    await _run_many(seed, CAMPAIGNS_SYSTEM)


async def test_one_seed_gives_one_run(seed: int) -> None:
    traces = [await run(seed), await run(seed), await run(seed + 1)]
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


# ---------------------------------------------------------------- planted bugs


def commit_before_the_segment_sync(patch: pytest.MonkeyPatch) -> None:
    async def sync(self: FaultySegments) -> None:
        return

    patch.setattr(FaultySegments, "sync", sync)


def acknowledge_before_the_engine_sync(patch: pytest.MonkeyPatch) -> None:
    async def durable(self: Lane, ticket: int | None = None) -> None:
        return

    patch.setattr(Lane, "durable", durable)


def acknowledge_after_a_failed_sync(patch: pytest.MonkeyPatch) -> None:
    original = Lane.durable

    async def durable(self: Lane, ticket: int | None = None) -> None:
        try:
            await original(self, ticket)
        except PlatformError:
            return

    patch.setattr(Lane, "durable", durable)


def forget_the_replies(patch: pytest.MonkeyPatch) -> None:
    def record(self: Replies, *args: Any) -> None:
        return None

    patch.setattr(Replies, "record", record)


def commit_a_transaction_in_two(patch: pytest.MonkeyPatch) -> None:
    async def run_in_two(volume: Any, request: Any, operations: Any, *, durable: bool) -> int:
        await original(volume, request, operations[:1], durable=False)
        return await original(volume, request, operations[1:], durable=durable)

    original = transactions.run
    patch.setattr(transactions, "run", run_in_two)


def rename_before_the_bytes(patch: pytest.MonkeyPatch) -> None:
    original = Writeback.flush

    async def flush(self: Writeback, number: int) -> None:
        if number in self._pending and self._volume.clock.now_ns() % 3:
            return
        await original(self, number)

    patch.setattr(Writeback, "flush", flush)


def lose_count_of_the_segments(patch: pytest.MonkeyPatch) -> None:
    """A dead segment is deleted although a buffered write, or one under way, is in it."""
    patch.setattr(compaction, "held_from", lambda volume: None)


def leave_the_old_bytes_counted(patch: pytest.MonkeyPatch) -> None:
    async def unrefer(self: Unit, *args: Any) -> None:
        return

    patch.setattr(Unit, "unrefer", unrefer)


def read_past_a_flush(patch: pytest.MonkeyPatch) -> None:
    """What was flushed while a reader looked at the engine is in neither place that it looks at."""
    original = Writeback.overlay

    def overlay(self: Writeback, layers: list[Any], *args: Any) -> Any:
        buffered = [*self._pending.values(), *(layer for layer, _ in self._flushing.values())]
        return original(self, [layer for layer in layers if layer in buffered], *args)

    patch.setattr(Writeback, "still", lambda self, number, layers: True)
    patch.setattr(Writeback, "overlay", overlay)


PLANTED = [
    commit_before_the_segment_sync,
    acknowledge_before_the_engine_sync,
    acknowledge_after_a_failed_sync,
    forget_the_replies,
    commit_a_transaction_in_two,
    rename_before_the_bytes,
    lose_count_of_the_segments,
    leave_the_old_bytes_counted,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
async def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        await _run_many(seed, CAMPAIGNS_FOR_A_BUG)


@pytest.mark.system
@pytest.mark.timeout(3600)
async def test_a_planted_race_is_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that shows only when a read meets a flush at one point: it takes many campaigns."""
    read_past_a_flush(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        await _run_many(seed, CAMPAIGNS_FOR_A_RACE)
