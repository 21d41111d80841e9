"""The whole core beside plain dicts and lists, with power loss: all kinds, two volumes, one walk.

Files, directories, links, attributes, tables, streams, group offsets, transactions over all of
them, renames, buffered writes, retries, restarts, and what the server does by itself: after every
crash everything must equal the model's state of the commit that survived (see `core_walk`). The
walk is itself tested: it finds bugs that are planted on purpose. A failing seed is named; `--seed
N` begins there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dataplatform.core import (
    expiry,
    group_offsets,
    namespace,
    retention,
    rows,
    tables,
    transactions,
)
from dataplatform.core.appends import _Append
from dataplatform.core.lanes import Lane
from dataplatform.core.partitions import Partitions
from dataplatform.core.quotas import Quotas
from dataplatform.core.replies import Replies
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Paths
from dataplatform.core.writeback import Writeback
from dataplatform.engine.wrappers import FaultySegments
from dataplatform.keyspace import keys

from .core_steps import run

log = logging.getLogger(__name__)

SEEDS, STEPS = 120, 100
SEEDS_SYSTEM, STEPS_SYSTEM = 3000, 100
SEEDS_FOR_A_BUG = 250
"""Most are found in the first few, the rarest in some twenty."""

pytestmark = pytest.mark.allow_warnings  # a write that is cut short is logged as an error


async def _run_many(seed: int, count: int, steps: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for number in range(seed, seed + count):
        walk = await run(number, steps)
        total += walk.counts
    return total


async def test_the_core_equals_its_model(seed: int) -> None:
    total = await _run_many(seed, SEEDS, STEPS)
    for what in ("crash", "reopen", "sent again", "commits lost", "cut in a call", "compaction"):
        assert total[what], f"the walk never came to: {what}"


@pytest.mark.system
@pytest.mark.timeout(7200)
async def test_the_core_equals_its_model_in_thousands_of_seeds(seed: int) -> None:
    total = await _run_many(seed, SEEDS_SYSTEM, STEPS_SYSTEM)
    log.info("%d seeds: %s", SEEDS_SYSTEM, dict(total.most_common()))


async def test_one_seed_gives_one_run(seed: int) -> None:
    logs = [(await run(number, STEPS)).log for number in (seed, seed, seed + 1)]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


# ---------------------------------------------------------------- planted bugs


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    async def durable(self: Lane, ticket: int | None = None) -> None:
        return

    patch.setattr(Lane, "durable", durable)


def commit_before_the_segment_sync(patch: pytest.MonkeyPatch) -> None:
    async def sync(self: FaultySegments) -> None:
        return

    patch.setattr(FaultySegments, "sync", sync)


class _Counted(tuple[int, float]):
    """The result of an increment, for the bug that forgets it."""

    __slots__ = ()


def increment_again_for_a_retry(patch: pytest.MonkeyPatch) -> None:
    increment, record = tables.increment, Replies.record

    async def counted(*args: Any) -> _Counted:
        return _Counted(await increment(*args))

    def forget(self: Replies, request: Any, now_ns: int, result: Any, batch: Any) -> Any:
        return (
            None if isinstance(result, _Counted) else record(self, request, now_ns, result, batch)
        )

    patch.setattr(tables, "increment", counted)
    patch.setattr(Replies, "record", forget)


def forget_the_replies_of_puts_that_share_a_unit(patch: pytest.MonkeyPatch) -> None:
    original = Replies.record

    def record(self: Replies, request: Any, *args: Any) -> Any:
        return None if request.method else original(self, request, *args)

    patch.setattr(Replies, "record", record)


def leave_the_old_name_of_what_is_renamed(patch: pytest.MonkeyPatch) -> None:
    original = namespace._move

    async def move(unit: Unit, moved: Any, directory: int, name: bytes, *to: Any) -> None:
        await original(unit, moved, directory, name, *to)
        if moved.kind in (4, 5):  # of tables and streams only
            unit.put(keys.entry(directory, name), moved.pack())

    patch.setattr(namespace, "_move", move)


def use_an_offset_again_after_a_restart(patch: pytest.MonkeyPatch) -> None:
    original = _Append._load_rows

    async def load(self: _Append, parts: Any) -> None:
        known = set(self._unit.volume.partitions._ends)
        await original(self, parts)
        for partition, row in self._partitions.items():
            if partition not in known and row.next_offset > row.start_offset:
                row.next_offset -= 1

    patch.setattr(_Append, "_load_rows", load)


def show_records_before_they_are_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Partitions, "find_end", lambda self, partition: None)


def expire_rows_too_early(patch: pytest.MonkeyPatch) -> None:
    def soon(now_ns: int) -> bytes:
        return rows.moment(now_ns + 30_000_000_000)

    patch.setattr(expiry, "rows", SimpleNamespace(moment=soon, is_alive=rows.is_alive))


def keep_no_batch_for_its_whole_time(patch: pytest.MonkeyPatch) -> None:
    original = retention.Limits.__init__

    def make(self: retention.Limits, inode: Any, topic: str, now_ms: int) -> None:
        original(self, inode, topic, now_ms)
        if self.oldest_ms is not None:
            self.oldest_ms = now_ms

    patch.setattr(retention.Limits, "__init__", make)


def leave_group_offsets_out_of_transactions(patch: pytest.MonkeyPatch) -> None:
    original = group_offsets.commit_offsets

    async def commit(unit: Unit, *args: Any, **options: Any) -> None:
        if not unit.writes:
            await original(unit, *args, **options)

    patch.setattr(group_offsets, "commit_offsets", commit)


def commit_a_transaction_in_two(patch: pytest.MonkeyPatch) -> None:
    original = transactions.run

    async def run_in_two(volume: Any, request: Any, operations: Any, *, durable: bool) -> int:
        await original(volume, request, operations[:1], durable=False)
        return await original(volume, request, operations[1:], durable=durable)

    patch.setattr(transactions, "run", run_in_two)


def spoil_the_counts_by_refused_units(patch: pytest.MonkeyPatch) -> None:
    original = Unit.statistics

    async def statistics(self: Unit, number: int) -> Any:
        known = self.volume.statistics.get(number)
        if known is not None:
            self._statistics[number] = known  # and not a copy
        return await original(self, number)

    patch.setattr(Unit, "statistics", statistics)


def remember_paths_after_a_rename(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Paths, "clear", lambda self: None)


def lose_a_buffered_write_at_a_rename(patch: pytest.MonkeyPatch) -> None:
    original = Writeback.flush

    async def flush(self: Writeback, number: int) -> None:
        pending = self._pending.get(number)
        if pending is not None and len(pending.pieces) > 1:
            pending.pieces.pop()
        await original(self, number)

    patch.setattr(Writeback, "flush", flush)


def leave_what_is_moved_to_its_old_quota(patch: pytest.MonkeyPatch) -> None:
    async def relocate(self: Quotas, *args: Any, **options: Any) -> None:
        return

    patch.setattr(Quotas, "relocate", relocate)


PLANTED = [
    acknowledge_before_the_sync,
    commit_before_the_segment_sync,
    increment_again_for_a_retry,
    forget_the_replies_of_puts_that_share_a_unit,
    leave_the_old_name_of_what_is_renamed,
    use_an_offset_again_after_a_restart,
    show_records_before_they_are_durable,
    expire_rows_too_early,
    keep_no_batch_for_its_whole_time,
    leave_group_offsets_out_of_transactions,
    commit_a_transaction_in_two,
    spoil_the_counts_by_refused_units,
    remember_paths_after_a_rename,
    lose_a_buffered_write_at_a_rename,
    leave_what_is_moved_to_its_old_quota,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
async def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        await _run_many(seed, SEEDS_FOR_A_BUG, STEPS)
