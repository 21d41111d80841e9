"""Space comes back: dead segments go, live bytes move, and what is still wanted stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplatform.base.errors import Exhausted
from dataplatform.core import compaction, files
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import Segment, VolumeSettings
from tests.model.platform_driver import Driver, Place, at_work

PART = 256 << 10


async def sizes(volume: Volume) -> dict[int, int]:
    return await volume.storage.segments.sizes()


async def account(volume: Volume, number: int) -> Segment | None:
    value = await volume.storage.engine.get(keys.segment(number))
    return Segment.unpack(value) if value is not None else None


async def fill(driver: Driver, *names: str) -> None:
    """Files of four parts each, one segment for all of them."""
    for name in names:
        await driver.write_file(f"/{name}", b"".join(bytes([i + 1]) * PART for i in range(4)))


async def test_a_dead_segment_goes(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path, segment_bytes=1 << 30)) as (driver, volume):
        await fill(driver, "a", "b")
        await volume.storage.segments.seal()
        (number,) = await sizes(volume)
        await driver.unlink("/a")
        assert await compaction.delete_dead(volume) == 0
        assert await account(volume, number) == Segment(8 * PART, 4 * PART)
        await driver.unlink("/b")
        assert await compaction.run_once(volume) == 1
        assert await sizes(volume) == {}
        assert await account(volume, number) is None


async def test_the_open_segment_stays(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.write_file("/a", b"x" * 100_000)
        await driver.unlink("/a")
        assert await compaction.run_once(volume) == 0
        assert len(await sizes(volume)) == 1


@pytest.mark.parametrize("compression", ["none", "lz4"])
async def test_the_live_bytes_of_a_mostly_dead_segment_move(
    compression: str, tmp_path: Path
) -> None:
    place = Place("memory", tmp_path, segment_bytes=1 << 30)
    async with at_work(place) as (driver, volume):
        volume.settings = VolumeSettings(compression=compression)
        await fill(driver, "a", "b")
        await volume.storage.segments.seal()
        (number,) = await sizes(volume)
        await driver.copy_range("/a", "/b", 0, 3 * PART, PART)
        await driver.punch("/a", PART, 2 * PART)
        await driver.punch("/b", 0, 3 * PART)
        a, b = await driver.read("/a"), await driver.read("/b")
        before = await account(volume, number)
        assert before == Segment(8 * PART, 3 * PART)
        assert await compaction.run_once(volume) == 1
        assert number not in await sizes(volume)
        assert (await driver.read("/a"), await driver.read("/b")) == (a, b)
    async with at_work(place) as (driver, volume):
        assert (await driver.read("/a"), await driver.read("/b")) == (a, b)


async def test_a_mostly_live_segment_stays(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path, segment_bytes=1 << 30)) as (driver, volume):
        await fill(driver, "a")
        await volume.storage.segments.seal()
        before = await sizes(volume)
        await driver.punch("/a", 0, 2 * PART)
        assert await compaction.run_once(volume) == 0
        assert await sizes(volume) == before


async def test_a_buffered_write_holds_its_segment(tmp_path: Path) -> None:
    """Its bytes are in a segment that no commit names yet."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.write_file("/dead", b"x" * 100_000)
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"y" * 100_000)
        await driver.unlink("/dead")
        await volume.storage.segments.seal()
        assert await compaction.run_once(volume) == 0
        await driver.sync(handle)
        assert await driver.read(handle) == b"y" * 100_000
        await driver.unlink("/f")
        assert await compaction.run_once(volume) == 1


async def test_a_write_under_way_holds_its_segment(tmp_path: Path) -> None:
    """Between the append of its bytes and the commit that names them."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        await driver.write_file("/dead", b"x" * 100_000)
        hold = place.faults.hold("segment_sync")
        writing = asyncio.create_task(driver.write_file("/f", b"y" * 100_000))
        await hold.reached.wait()
        await Driver(driver.platform, b"o" * 16).unlink("/dead")
        volume.storage.segments._segments._open = None  # type: ignore[attr-defined] # full now
        assert await compaction.run_once(volume) == 0
        hold.release()
        await writing
        assert await driver.read("/f") == b"y" * 100_000


async def test_what_was_never_named_goes(tmp_path: Path) -> None:
    """A buffered write that was overwritten before its flush, and one that was given up."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"a" * 100_000)
        await volume.storage.segments.seal()
        await driver.write(handle, 0, b"b" * 100_000)
        await volume.storage.segments.seal()
        with volume.holds.append():
            await files.prepare(volume, b"c" * 100_000)
        await volume.storage.segments.seal()
        assert len(await sizes(volume)) == 3
        await compaction.run_once(volume)
        assert list(await sizes(volume)) == [2, 3]  # the second is buffered still, and holds
        await driver.sync(handle)
        await compaction.run_once(volume)
        assert list(await sizes(volume)) == [2]
        assert await driver.read(handle) == b"b" * 100_000


async def test_a_reader_finds_what_moved_under_it(tmp_path: Path) -> None:
    place = Place("memory", tmp_path, segment_bytes=1 << 30)
    async with at_work(place) as (driver, volume):
        await fill(driver, "a")
        await volume.storage.segments.seal()
        await driver.punch("/a", PART, 3 * PART)
        hold = place.faults.hold("read")
        reading = asyncio.create_task(driver.read("/a", 0, PART))
        await hold.reached.wait()  # it has looked at the map
        assert await compaction.run_once(volume) == 1
        hold.release()
        assert await reading == b"\1" * PART


async def test_a_change_during_the_move_wins(tmp_path: Path) -> None:
    place = Place("memory", tmp_path, segment_bytes=1 << 30)
    async with at_work(place) as (driver, volume):
        await fill(driver, "a")
        await volume.storage.segments.seal()
        await driver.punch("/a", PART, 3 * PART)
        hold = place.faults.hold("segment_sync")
        moving = asyncio.create_task(compaction.run_once(volume))
        await hold.reached.wait()
        await driver.write("/a", 10, b"new")
        await volume.writeback.flush_all()
        hold.release()
        await moving
        assert (await driver.read("/a", 0, 20)).strip(b"\1") == b"new"
        await compaction.run_once(volume)


@pytest.mark.allow_warnings("damaged bytes", "damaged")
async def test_damaged_bytes_stay_where_they_are(tmp_path: Path) -> None:
    place = Place("memory", tmp_path, segment_bytes=1 << 30)
    platform = await place.open()
    driver = Driver(platform)
    await fill(driver, "a", "b")
    (volume,) = platform.volumes
    await volume.storage.segments.seal()
    await driver.punch("/a", PART, 3 * PART)
    await driver.punch("/b", PART, 3 * PART)
    place.faults.flip("read")
    assert await compaction.run_once(volume) == 0
    assert await driver.read("/a", 0, PART) == b"\1" * PART
    assert await driver.read("/b", 0, PART) == b"\1" * PART
    assert await compaction.run_once(volume) == 1  # it was the reading, not the disk
    await platform.close()


@pytest.mark.allow_warnings("stopped after a failed write")
async def test_a_crash_during_compaction_loses_nothing(tmp_path: Path) -> None:
    for operation, nth in [("append", 1), ("segment_sync", 1), ("commit", 1), ("commit", 2)]:
        place = Place("memory", tmp_path, segment_bytes=1 << 30)
        platform = await place.open()
        driver = Driver(platform)
        await fill(driver, "a")
        (volume,) = platform.volumes
        await volume.storage.segments.seal()
        await driver.punch("/a", PART, 3 * PART)
        await volume.sync()
        place.faults.fail(operation, Exhausted("disk is full"), nth=nth)
        with pytest.raises(Exhausted):
            await compaction.run_once(volume)
        await place.crash()
        async with at_work(place) as (driver, volume):
            assert await driver.read("/a") == b"\1" * PART + bytes(3 * PART)
            assert await compaction.run_once(volume) == 1
            assert await driver.read("/a") == b"\1" * PART + bytes(3 * PART)
