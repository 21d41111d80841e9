"""Volumes come and go wholly, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Invalid, NotFound, PlatformError, Unavailable
from dataplatform.core.platform import IDLE_S, Platform
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import FaultyStorages
from dataplatform.keyspace.records import ROOT_VOLUME, VolumePhase, VolumeSettings
from tests.model.platform_driver import Driver, Place, assert_clean, at_work
from tests.sim.power import Power, PowerCut

NEVER = 1 << 60


async def test_a_volume_is_a_directory(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        volume_id = await driver.create_volume("/a/v")
        await driver.write_file("/a/v/f", b"data")
        await driver.mkdir("/a/v/d")
        assert await driver.names("/a") == ["v"]
        assert await driver.names("/a/v") == ["d", "f"]
        described = await driver.platform.catalog.describe(volume_id)
        assert (described.path, described.entries, described.state) == ("/a/v", 2, "ready")
        paths = {d.path for d in await driver.platform.catalog.list()}
        assert paths == {"/", "/a/v"}
        await driver.rename("/a", "/b")
        assert await driver.read("/b/v/f") == b"data"
        assert (await driver.platform.catalog.describe(volume_id)).path == "/b/v"
    async with at_work(place) as (driver, _):
        assert await driver.read("/b/v/f") == b"data"


@pytest.mark.parametrize("name", ["/taken", "/taken/x", "/v/../x"])
async def test_a_volume_needs_a_new_name(name: str, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/taken")
        with pytest.raises(PlatformError):
            await driver.create_volume(name)
        assert await driver.platform.storages.volumes() == [ROOT_VOLUME]


async def test_bad_settings_are_refused(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        for settings in (VolumeSettings(compression="zip"), VolumeSettings(quota_bytes=-1)):
            with pytest.raises(Invalid):
                await driver.create_volume("/v", settings)


async def test_nothing_goes_from_one_volume_to_another(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create_volume("/v")
        await driver.create("/f")
        await driver.create("/v/g")
        for call in (driver.rename("/f", "/v/f"), driver.link("/v/g", "/g")):
            with pytest.raises(PlatformError) as error:
                await call
            assert error.value.os_errno == errno.EXDEV


async def test_where_a_volume_is_mounted_nothing_else_can_be(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create_volume("/v")
        await driver.mkdir("/d")
        for call in (driver.rmdir("/v"), driver.rename("/d", "/v")):
            with pytest.raises(PlatformError) as error:
                await call
            assert error.value.os_errno == errno.EBUSY
        with pytest.raises(FileExistsError):
            await driver.mkdir("/v")


async def test_removing(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        outer = await driver.create_volume("/v")
        inner = await driver.create_volume("/v/d/w")
        await driver.create("/v/d/w/f")
        with pytest.raises(Invalid, match="another volume is mounted inside"):
            await driver.remove_volume(outer, recursive=True)
        with pytest.raises(PlatformError) as error:
            await driver.remove_volume(inner)
        assert error.value.os_errno == errno.ENOTEMPTY
        await driver.unlink("/v/d/w/f")
        await driver.remove_volume(inner)
        assert await driver.names("/v/d") == []
        await driver.remove_volume(outer, recursive=True)
        assert await driver.names("/") == []
        assert await driver.platform.storages.volumes() == [ROOT_VOLUME]
        for volume_id in (inner, 12345):
            with pytest.raises(NotFound):
                await driver.remove_volume(volume_id)
        with pytest.raises(Invalid):
            await driver.remove_volume(ROOT_VOLUME)
        assert volume.state.entries == 0


async def test_a_volume_in_use_is_not_removed(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        volume_id = await driver.create_volume("/v")
        handle = await driver.create("/v/f")
        async with driver.node("/v"):
            with pytest.raises(Unavailable):
                await driver.remove_volume(volume_id, recursive=True)
        await driver.open(handle)
        with pytest.raises(Unavailable):
            await driver.remove_volume(volume_id, recursive=True)
        await driver.close(handle)
        await driver.remove_volume(volume_id, recursive=True)


async def test_nobody_gets_into_a_volume_that_is_being_removed(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        volume_id = await driver.create_volume("/v")
        await driver.create("/v/f")
        hold = place.faults.hold("remove")
        removing = asyncio.create_task(driver.remove_volume(volume_id, recursive=True))
        await hold.reached.wait()
        other = Driver(driver.platform, b"o" * 16)
        with pytest.raises(NotFound):
            await other.read("/v/f")
        with pytest.raises(NotFound):
            await driver.platform.acquire(volume_id)
        hold.release()
        await removing
        assert await driver.platform.storages.volumes() == [ROOT_VOLUME]


async def test_who_is_cancelled_while_a_volume_opens_takes_nobody_along(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        volume_id = await driver.create_volume("/v")
        await driver.write_file("/v/f", b"data")
        place.clock.advance(IDLE_S + 1)
        await driver.platform.close_idle()
        hold = place.faults.hold("open", after=True)  # it is open by then
        first = asyncio.create_task(driver.platform.acquire(volume_id))
        await hold.reached.wait()
        second = asyncio.create_task(driver.read("/v/f"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        hold.release()
        assert await second == b"data"


async def test_closing_waits_for_a_volume_that_opens(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    volume_id = await driver.create_volume("/v")
    place.clock.advance(IDLE_S + 1)
    await platform.close_idle()
    hold = place.faults.hold("open", after=True)
    first = asyncio.create_task(platform.acquire(volume_id))
    await hold.reached.wait()
    closing = asyncio.create_task(platform.close())
    await asyncio.sleep(0)
    hold.release()
    with pytest.raises(Unavailable, match="shutting down"):
        await first
    await closing
    async with at_work(place) as (driver, _):
        await driver.write_file("/v/f", b"data")


async def test_an_idle_volume_is_closed_and_opened_again(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        volume_id = await driver.create_volume("/v")
        await driver.create("/v/f")
        await driver.write("/v/f", 0, b"buffered")
        assert await driver.platform.close_idle() == 0
        place.clock.advance(IDLE_S + 1)
        closing = asyncio.create_task(driver.platform.close_idle())
        await asyncio.sleep(0)
        assert volume_id not in {v.id for v in driver.platform.volumes}
        assert await driver.read("/v/f") == b"buffered"  # waits for the close, then opens it
        assert await closing == 1


@pytest.mark.allow_warnings("stopped after a failed write")
async def test_one_volume_that_cannot_be_closed_keeps_no_other_open(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    await driver.create_volume("/bad")
    await driver.create_volume("/other")
    await driver.create("/bad/f")
    await driver.write("/bad/f", 0, b"lost")
    await driver.create("/other/f")
    await driver.write("/other/f", 0, b"kept")
    place.faults.fail("commit", Unavailable("the disk failed"))  # of the first that is flushed
    with pytest.raises(Unavailable, match="the disk failed"):
        await platform.close()
    async with at_work(place) as (driver, _):
        assert await driver.read("/other/f") == b"kept"


async def test_a_quota_is_noticed_by_the_writer(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create_volume("/v", VolumeSettings(quota_bytes=1_000_000))
        await driver.create("/v/f")
        await driver.write("/v/f", 0, b"x" * 900_000)
        for _ in range(3):
            await driver.write("/v/f", 0, b"y" * 900_000)  # again the same bytes
        for size in (200_000, 100_001):
            with pytest.raises(PlatformError) as error:
                await driver.write("/v/f", 900_000, b"x" * size)
            assert error.value.os_errno == errno.EDQUOT
        await driver.write("/v/f", 900_000, b"x" * 100_000, durable=True)
        for call in (driver.append("/v/f", b"x"), driver.write_file("/v/g", b"x")):
            with pytest.raises(PlatformError) as error:
                await call
            assert error.value.os_errno == errno.EDQUOT
        await driver.truncate("/v/f", 0)
        await driver.write("/v/f", 0, b"x" * 1_000_000, durable=True)


# ---------------------------------------------------------------- crashes


class Life:
    """One life of a platform after another on a disk in memory; each may end at some point."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.clock = ManualClock()
        self.lives = 0

    async def run(
        self, rng: random.Random, cut_at: int, call: Callable[[Driver], Awaitable[object]]
    ) -> bool:
        """Start, call, and crash at a point; whether the call was through before."""
        storages = MemoryStorages(self.disk)
        power = Power(rng, storages, cut_at, None)
        try:
            platform = await Platform.start(
                FaultyStorages(storages, power), clock=self.clock, entropy=SeededEntropy(1)
            )
            self.lives += 1
            await call(Driver(platform, b"client %09d" % self.lives))
            return True
        except (PowerCut, Unavailable):
            assert power.off.is_set()
            return False
        finally:
            if not power.off.is_set():
                with contextlib.suppress(PowerCut):
                    power.cut("at the end")
            await storages.close()

    async def verify(self, check: Callable[[Driver], Awaitable[bool]]) -> bool:
        storages = MemoryStorages(self.disk)
        platform = await Platform.start(storages, clock=self.clock, entropy=SeededEntropy(1))
        records = await platform.catalog.records()
        assert all(r.phase == VolumePhase.READY for r in records)
        assert await storages.volumes() == [ROOT_VOLUME, *(r.volume for r in records)]
        found = await check(Driver(platform))
        await assert_clean(platform)
        await platform.close()
        return found


async def prepare(driver: Driver) -> None:
    await driver.create_volume("/outer")
    await driver.write_file("/outer/f", b"kept", durable=True)


async def exists(driver: Driver) -> bool:
    """Whether the inner volume is there, and is whole."""
    assert await driver.read("/outer/f") == b"kept"
    if "inner" not in [i.name.decode() for i in await driver.list("/outer")]:
        return False
    await driver.create("/outer/inner/g")
    assert await driver.names("/outer/inner") == ["g"]
    return True


async def create(driver: Driver) -> None:
    await driver.create_volume("/outer/inner")


async def remove(driver: Driver) -> None:
    async with driver.node("/outer/inner") as node:
        volume_id = node.volume.id
    await driver.remove_volume(volume_id, recursive=True)


@pytest.mark.allow_warnings
async def test_a_volume_is_made_wholly_or_not_at_all(seed: int) -> None:
    """Cut the power at each point in turn, until the call gets through."""
    rng = random.Random(seed)
    outcomes = []
    for cut_at in range(1, 1000):
        life = Life()
        await life.run(rng, NEVER, prepare)
        done = await life.run(rng, cut_at, create)
        outcomes.append(await life.verify(exists))
        assert outcomes[-1] or not done
        if done:
            break
    assert outcomes[-1]
    assert len(outcomes) > 15
    assert outcomes.count(False) > 5 < outcomes.count(True)


@pytest.mark.allow_warnings
async def test_a_volume_is_removed_wholly_or_not_at_all(seed: int) -> None:
    rng = random.Random(seed)
    outcomes = []
    for cut_at in range(1, 1000):
        life = Life()
        await life.run(rng, NEVER, prepare)
        assert await life.run(rng, NEVER, create)
        done = await life.run(rng, cut_at, remove)
        outcomes.append(await life.verify(exists))
        assert not (outcomes[-1] and done)
        if done:
            break
    assert not outcomes[-1]
    assert outcomes.count(False) > 5 < outcomes.count(True)


@pytest.mark.allow_warnings
async def test_the_first_start_may_be_cut_short(seed: int) -> None:
    rng = random.Random(seed)
    done = False
    for cut_at in range(1, 100):
        life = Life()
        done = await life.run(rng, cut_at, lambda driver: driver.stat("/"))

        async def nothing(driver: Driver) -> bool:
            return await driver.names("/") == []

        assert await life.verify(nothing)
        if done:
            break
    assert done


async def test_a_junction_that_moved_while_the_volume_was_made(tmp_path: Path) -> None:
    """It is mounted already, and renamed, when the crash comes before the list says so."""
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver, other = Driver(platform), Driver(platform, b"o" * 16)
    await driver.mkdir("/a", parents=True)
    creating = asyncio.create_task(driver.create_volume("/a/v"))
    for _ in range(1000):
        await asyncio.sleep(0)
        if await other.names("/a"):
            break
    await other.rename("/a/v", "/moved", durable=True)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    await place.crash()
    async with at_work(place) as (driver, _):
        await driver.create("/moved/f")
        assert [d.path for d in await driver.platform.catalog.list()] == ["/", "/moved"]
