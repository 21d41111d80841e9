"""What a mirror is told is enough: the walk of the whole core, followed by a mirror in a dict.

After every few steps the mirror takes over what the change rows say has changed, and must then be
what the source is, byte for byte. It sees only what is durable, so no crash may undo it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from dataplatform.core import namespace
from dataplatform.core.replication.source import LocalSource
from dataplatform.core.units import Unit
from tests.replicas import Replica

from .core_steps import Steps, run

pytestmark = pytest.mark.allow_warnings  # a write that is cut short is logged as an error

SEEDS, STEPS = 40, 80


class Followed(Steps):
    """A walk with a mirror of each volume."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.replicas: dict[int, Replica] = {}

    async def run_step(self, step: Callable[[], Awaitable[None]]) -> None:
        await super().run_step(step)
        if self.steps % 5 == 0:
            await super().run_step(self.follow)

    async def follow(self) -> None:
        for number, line in self.lines.items():
            replica = self.replicas.setdefault(number, Replica())
            volume = await self.platform.acquire(number)
            async with LocalSource(self.platform, number) as source, await source.pin() as pin:
                await self._catch_up(volume, line)
                assert pin.commit >= replica.commit, "the source went back behind its mirror"
                line.acknowledge(pin.commit)
                self.counts["base copies"] -= replica.copies
                await replica.follow(pin)
                await replica.assert_is(pin)
                self.counts["base copies"] += replica.copies
                self.counts["followed"] += 1
            self.platform.release(volume)


async def _run_many(seed: int, count: int, steps: int) -> Counter[str]:
    total: Counter[str] = Counter()
    for number in range(seed, seed + count):
        walk = await run(number, steps, Followed)
        total += walk.counts
    return total


async def test_a_mirror_of_the_change_rows_is_the_source(seed: int) -> None:
    total = await _run_many(seed, SEEDS, STEPS)
    for what in ("followed", "crash", "commits lost", "compaction"):
        assert total[what], f"the walk never came to: {what}"


def a_write_that_no_row_tells(patch: pytest.MonkeyPatch) -> None:
    original = namespace.set_xattr

    async def set_xattr(unit: Unit, *args: object, **options: object) -> None:
        unit.quiet = True
        await original(unit, *args, **options)  # type: ignore[arg-type]

    patch.setattr(namespace, "set_xattr", set_xattr)


async def test_a_planted_bug_is_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a_write_that_no_row_tells(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        await _run_many(seed, SEEDS, STEPS)
