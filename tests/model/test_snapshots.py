"""Snapshots beside deep copies of the model: the walk of the whole core, with snapshots that come
and go, and power loss at any point of that.

A snapshot is some commit of its volume, and then it equals, to the byte, what the model was after
that commit; whatever happens later, compaction, crashes and the going of other snapshots included.
What was acknowledged is there after a crash, and what was removed is not.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import pytest

from dataplatform.base.clock import StoppedClock
from dataplatform.core import compaction
from dataplatform.core.snapshots import Snapshots
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ChangeRow, Event

from .core_comparison import Comparison
from .core_model import Draft, Line
from .core_state import ROOT, State
from .core_steps import Steps, run
from .core_walk import _explain_silent
from .platform_driver import Handle

log = logging.getLogger(__name__)

SEEDS, STEPS = 40, 100
SEEDS_SYSTEM = 1500
SEEDS_FOR_A_BUG = 60
SNAPSHOTS_MAX = 5

pytestmark = pytest.mark.allow_warnings  # a write that is cut short is logged as an error


class Taken(NamedTuple):
    volume: int
    name: str
    state: State
    time_ns: int


class Walk(Steps):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.taken: dict[int, Taken] = {}  # by number: what must be there
        self.going: int = 0  # is being removed
        self.is_taking = False
        self.names = 0
        self.weighted |= {
            self.take_snapshot: 5,
            self.remove_snapshot: 4,
            self.look_at_snapshot: 4,
        }

    async def take_snapshot(self) -> None:
        if len(self.taken) >= SNAPSHOTS_MAX:
            await self.remove_snapshot()
            return
        volume_id = self.rng.choice(list(self.lines))
        self.names += 1
        self.last = None, None, None
        self.is_taking = True
        root = Handle(volume_id, ROOT)
        number = await self.driver.take_snapshot(root, f"s{self.names}")
        await self._follow()
        assert number in self.taken
        self.is_taking = False
        line = self.lines[volume_id]
        line.acknowledge(self.taken[number].state.commit)
        await self.compare(number)

    async def remove_snapshot(self) -> None:
        if not self.taken:
            return
        number = self.going = self.rng.choice(list(self.taken))
        taken = self.taken[number]
        self.last = None, None, None
        await self.driver.remove_snapshot(Handle(taken.volume, ROOT), taken.name)
        await self._follow()
        del self.taken[number]
        self.going = 0

    async def look_at_snapshot(self) -> None:
        if self.taken:
            await self.compare(self.rng.choice(list(self.taken)))
        if self.chance(0.3):
            await self.platform.close_idle()

    async def _follow(self) -> None:
        for number, line in self.lines.items():
            volume = await self.platform.acquire(number)
            await self._catch_up(volume, line)
            self.platform.release(volume)
        await self._look_for_ghosts()

    async def compare(self, number: int) -> None:
        """What is in a snapshot, with the model of its commit."""
        taken = self.taken[number]
        volume = await self.platform.acquire(number)
        try:
            clock = StoppedClock(self.clock, taken.time_ns)
            await Comparison(self.driver, clock).volume(volume, Line(taken.state))
        except AssertionError as error:
            error.args = (f"snapshot {taken.name} of {taken.volume}: {error}",)
            raise
        finally:
            self.platform.release(volume)

    async def verify(self) -> None:
        await super().verify()
        there = {
            snapshot.number
            for volume in self.lines
            for snapshot in self.platform.snapshots.of(volume)
        }
        if self.going:  # the power was cut meanwhile: it is there, or it is not
            if self.going not in there:
                del self.taken[self.going]
            self.going = 0
        assert there == self.taken.keys(), f"{there}, not {set(self.taken)}"
        self.is_taking = False
        for number in self.taken:
            await self.compare(number)

    async def _catch_up(self, volume: Volume, line: Line) -> None:
        for commit in range(line.state.commit + 1, volume.state.commit + 1):
            value = await volume.storage.engine.get(keys.change(commit))
            assert value is not None, f"commit {commit} has no change row"
            row = ChangeRow.unpack(value)
            draft = Draft(line.state, row.time_ns)
            for event in row.events:
                if not event[0].startswith(("advisory limit", "snapshot ")):
                    self._explain(Event(*event), line, draft)
            if not row.events:
                _explain_silent(row, draft)
                if self.is_taking and any(key[:1] == keys.SNAPSHOT for key in row.keys):
                    draft.next_node += 1  # the snapshot's number
            draft.changed = True
            line.add(draft)
        for snapshot in self.platform.snapshots.of(volume.id):
            if snapshot.number not in self.taken:
                assert self.is_taking, "a snapshot that nobody took"
                record = snapshot.record
                state = line.states[record.commit]
                self.taken[snapshot.number] = Taken(volume.id, snapshot.name, state, record.time_ns)


async def _run_many(seed: int, count: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for number in range(seed, seed + count):
        total += (await run(number, STEPS, Walk)).counts
    return total


async def test_a_snapshot_equals_a_copy_of_the_model(seed: int) -> None:
    total = await _run_many(seed, SEEDS)
    for what in ("crash", "reopen", "cut in a call", "compaction", "remove_snapshot"):
        assert total[what], f"the walk never came to: {what}"


@pytest.mark.system
@pytest.mark.timeout(7200)
async def test_the_same_in_thousands_of_seeds(seed: int) -> None:
    total = await _run_many(seed, SEEDS_SYSTEM)
    log.info("%d seeds: %s", SEEDS_SYSTEM, dict(total.most_common()))


# ---------------------------------------------------------------- planted bugs


def delete_segments_that_snapshots_need(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compaction, "_pinned", lambda volume, number, died: False)


def forget_a_snapshot_before_its_record_is_gone(patch: pytest.MonkeyPatch) -> None:
    async def sweep(self: Snapshots, volume: Volume) -> None:
        for name in (await volume.storage.engine.checkpoints())[:1]:
            await volume.storage.engine.delete_checkpoint(name)

    patch.setattr(Snapshots, "sweep", sweep)


@pytest.mark.parametrize(
    "bug", [delete_segments_that_snapshots_need, forget_a_snapshot_before_its_record_is_gone]
)
async def test_planted_bugs_are_found(
    bug: object, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        await _run_many(seed, SEEDS_FOR_A_BUG)
