"""The power may go at any point: of a commit, of the publication's own commit, of its beginning.

What stands in the stream afterwards is what the change feed says from where it began: each once.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Exists, PlatformError, Unavailable
from dataplatform.core import change_texts, changes
from dataplatform.core.platform import Platform
from dataplatform.core.publications import jobs
from dataplatform.core.publications.jobs import ORIGIN
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import FaultyStorages
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ChangeRow
from tests.checking import assert_clean
from tests.model.platform_driver import Driver
from tests.sim.power import Power, PowerCut

from .world import BOSS, copied, make_stream, publish, settle

pytestmark = pytest.mark.allow_warnings  # a write that is cut short is logged as an error

LIVES = 15
POINTS_MAX = 300


async def prepare(driver: Driver) -> None:
    """One within a volume, one from there to another."""
    with contextlib.suppress(Exists):
        await driver.create_volume("/v")
    for stream in ("/v/within", "/across"):
        with contextlib.suppress(Exists):
            await make_stream(driver, stream)
        with contextlib.suppress(Exists):
            await publish(driver.platform, "/v", stream, since=0)


async def live(driver: Driver, rng: random.Random, life: int) -> None:
    await prepare(driver)
    for step in range(60):
        name = f"/v/{life}-{step}"
        if rng.random() < 0.5:
            await driver.create(name, durable=rng.random() < 0.5)
        else:
            await driver.write_file(name, b"data", durable=rng.random() < 0.5)
        if rng.random() < 0.3:
            await driver.platform.publications.run_once()


async def test_each_change_is_published_once(seed: int) -> None:
    await _live_and_compare(seed)


async def test_a_cursor_of_its_own_commit_is_found(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: the records first, the cursor that stands for them in the next commit."""
    whole, put = jobs.Step._write, Unit.put
    left_out: set[bytes] = set()

    async def in_two(self: Any, request: Any, reading: Any, lines: Any) -> None:
        job = self._job
        left_out.add(job.key)
        try:
            await whole(self, request, reading, lines)
        finally:
            left_out.discard(job.key)
        home = await self._platform.acquire(job.home)

        async def work(unit: Unit) -> None:
            unit.put(job.key, job.record.pack())

        try:
            await home.run(SYSTEM, work, durable=True)
        finally:
            self._platform.release(home)

    def planted(self: Unit, key: bytes, value: bytes) -> None:
        if key not in left_out:
            put(self, key, value)

    monkeypatch.setattr(jobs.Step, "_write", in_two)
    monkeypatch.setattr(Unit, "put", planted)
    await _live_until_it_is_found(seed)


async def _live_until_it_is_found(seed: int) -> None:
    for number in range(seed, seed + 50):
        try:
            await _live_and_compare(number)
        except AssertionError:
            return
    raise AssertionError("nobody found it")


async def _live_and_compare(seed: int) -> None:
    rng = random.Random(seed)
    disk, clock = MemoryDisk(), ManualClock()
    for life in range(LIVES):
        storages = MemoryStorages(disk)
        power = Power(rng, storages, rng.randrange(POINTS_MAX), None)
        try:
            platform = await Platform.start(
                FaultyStorages(storages, power), clock=clock, entropy=SeededEntropy(life)
            )
            await live(Driver(platform, b"client %09d" % life), rng, life)
        except (PowerCut, Unavailable):
            assert power.off.is_set()
        finally:
            if not power.off.is_set():
                with contextlib.suppress(PowerCut):
                    power.cut("at the end")
            await storages.close()
    storages = MemoryStorages(disk)
    platform = await Platform.start(storages, clock=clock, entropy=SeededEntropy(99))
    driver = Driver(platform)
    with contextlib.suppress(PlatformError):
        await prepare(driver)
    await driver.create("/v/last", durable=True)
    await settle(platform)
    node = await platform.locate("/v")
    volume = node.volume
    feed, _ = await changes.read(volume, "/", 0, 0, 0)
    own = {keys.number_of(key) for key, _ in await _own_rows(volume)}
    platform.release(volume)
    expected = [change_texts.tell(c, "/v") for c in feed if c.commit not in own]
    for stream in ("/v/within", "/across"):
        found = [each.value for each in await copied(platform, stream)]
        assert [(f["commit"], f["event"], f["path"]) for f in found] == [
            (told.commit, told.event, told.path) for told in expected
        ]
    assert {each.state for each in await platform.publications.listed(BOSS)} == {"running"}
    await assert_clean(platform)
    await platform.close()


async def _own_rows(volume: Volume) -> list[tuple[bytes, bytes]]:
    start, end = keys.prefix_range(keys.CHANGE)
    found = []
    while page := await volume.storage.engine.scan(start, end):
        found += [pair for pair in page if ChangeRow.unpack(pair[1]).origin == ORIGIN]
        start = page[-1][0] + b"\x00"
    return found
