"""Snapshots by the clock: one per period, so many are kept, whatever server and clock do."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform.base.errors import Corrupt, Invalid, NotFound
from dataplatform.core import compaction, snapshot_schedules
from dataplatform.core.platform import IDLE_S, Platform
from dataplatform.core.snapshot_schedules import default_name, schedules_of
from dataplatform.core.units import SYSTEM
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_VOLUME
from tests.model.platform_driver import Driver, Place, at_work

HOUR_S = 3600
DAY_NS = 86_400 * 10**9


def names(platform: Platform, volume: int = ROOT_VOLUME) -> list[str]:
    return [snapshot.name for snapshot in platform.snapshots.of(volume)]


async def hourly(volume: Volume, keep: int = 3) -> None:
    await snapshot_schedules.set_schedule(SYSTEM, volume, HOUR_S, keep)


def at(place: Place, text: str) -> None:
    """Set the clock, of the day on which it starts: 22:13:20."""
    hours, minutes = map(int, text.split(":"))
    midnight_ns = place.clock.now_ns() // DAY_NS * DAY_NS
    place.clock._ns = midnight_ns + (hours * 60 + minutes) * 60 * 10**9


async def test_one_per_period_and_no_more_than_are_kept(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    at(place, "10:20")
    async with at_work(place) as (driver, volume):
        run = driver.platform.schedules.run_once
        await hourly(volume)
        assert await run() == 0  # this hour began before
        at(place, "11:00")
        assert (await run(), await run()) == (1, 0)
        at(place, "11:59")
        assert await run() == 0
        for hour in range(12, 20):
            at(place, f"{hour}:07")
            assert (await run(), await run()) == (1, 0)
        found = names(driver.platform)
        assert found == [f"hourly-2023-11-14T{hour}-00" for hour in (17, 18, 19)]
        record = driver.platform.snapshots.of(ROOT_VOLUME)[0].record
        assert (record.schedule, record.by) == ("hourly", "system")


async def test_over_restarts_and_a_clock_that_goes_back(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    at(place, "10:20")
    async with at_work(place) as (driver, volume):
        await hourly(volume)
        at(place, "11:30")
        assert await driver.platform.schedules.run_once() == 1
    async with at_work(place) as (driver, volume):
        assert await driver.platform.schedules.run_once() == 0
    at(place, "14:30")  # it was away
    async with at_work(place) as (driver, volume):
        run = driver.platform.schedules.run_once
        assert await run() == 1
        assert [name[-5:] for name in names(driver.platform)] == ["11-00", "14-00"]
        at(place, "11:45")
        assert await run() == 0
        at(place, "14:50")
        assert await run() == 0
        await driver.platform.snapshots.remove(SYSTEM, volume, names(driver.platform)[-1])
        assert await run() == 0  # what somebody removed does not come back


async def test_closed_volumes_too(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    at(place, "10:20")
    async with at_work(place) as (driver, _):
        volumes = [await driver.create_volume(f"/v{i}") for i in range(6)]
        for number in volumes:
            volume = await driver.platform.acquire(number)
            await hourly(volume, keep=1)
            driver.platform.release(volume)
    at(place, "11:20")
    async with at_work(place) as (driver, _):
        run = driver.platform.schedules.run_once
        assert [await run() for _ in range(3)] == [2, 3, 1]  # the root volume is looked at, too
        place.clock.advance(IDLE_S + 1)
        await driver.platform.close_idle()
        assert await run() == 0
        assert [v.id for v in driver.platform.volumes] == [ROOT_VOLUME]
        at(place, "12:00")
        assert await run() == 6
        for number in volumes:
            assert len(names(driver.platform, number)) == 1


async def test_a_schedule_is_changed_and_removed(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    at(place, "10:20")
    async with at_work(place) as (driver, volume):
        run = driver.platform.schedules.run_once
        await hourly(volume, keep=5)
        for hour in range(11, 15):
            at(place, f"{hour}:00")
            await run()
        await driver.take_snapshot("/", "mine")
        await hourly(volume, keep=2)
        await run()
        assert [name[-5:] for name in names(driver.platform)] == ["13-00", "14-00", "mine"]
        await snapshot_schedules.remove_schedule(SYSTEM, volume, "hourly")
        at(place, "16:00")
        assert await run() == 0
        assert len(names(driver.platform)) == 3
        with pytest.raises(NotFound):
            await snapshot_schedules.remove_schedule(SYSTEM, volume, "hourly")


async def test_bad_schedules(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (_, volume):
        for every_s, keep, name in (
            (0, 1, ""),
            (-1, 1, ""),
            (1 << 40, 1, ""),
            (60, 0, ""),
            (60, 1 << 20, ""),
            (60, 1, "a/b"),
            (60, 1, "x" * 100),
        ):
            with pytest.raises(Invalid):
                await snapshot_schedules.set_schedule(SYSTEM, volume, every_s, keep, name)
        assert volume.settings.snapshots == []
    with pytest.raises(Corrupt):
        schedules_of([["hourly", "x", 1]])


def test_names() -> None:
    every = (1, 60, 900, 3600, 7200, 86_400, 604_800, 3 * 86_400, 90)
    assert [default_name(one) for one in every] == [
        "every-1s",
        "minutely",
        "every-15m",
        "hourly",
        "every-2h",
        "daily",
        "weekly",
        "every-3d",
        "every-90s",
    ]


async def test_nothing_leaks_when_thousands_come_and_go(tmp_path: Path) -> None:
    """Two thousand snapshots over changing files: what is left is what the last ones need."""
    place = Place("memory", tmp_path, segment_bytes=1 << 16)
    at(place, "10:00")
    async with at_work(place) as (driver, volume):
        await snapshot_schedules.set_schedule(SYSTEM, volume, 60, 5)
        await keep_changing(place, driver, volume, 2000)
        assert len(names(driver.platform)) == 5
        assert len(await volume.storage.engine.checkpoints()) == 5
        sizes = await volume.storage.segments.sizes()
        assert len(sizes) < 60, sizes  # some 10 files of a segment each, in six states
        for snapshot in driver.platform.snapshots.of(ROOT_VOLUME):
            await driver.remove_snapshot("/", snapshot.name)
        await compaction.run_once(volume)
        await compaction.run_once(volume)
        assert await compaction.kept_dead(volume) == []
        assert len(await volume.storage.segments.sizes()) <= 25


async def keep_changing(place: Place, driver: Driver, volume: Volume, rounds: int) -> None:
    for round_ in range(rounds):
        place.clock.advance(60)
        await driver.write_file(f"/f{round_ % 10}", bytes([round_ % 251]) * (40_000 + round_ % 7))
        if round_ % 3 == 0:
            await driver.write_file(f"/g{round_ % 7}", bytes([round_ % 13]) * 9_000)
        assert await driver.platform.schedules.run_once() == 1
        if round_ % 4 == 0:
            await volume.writeback.run_once()
            await compaction.run_once(volume)
