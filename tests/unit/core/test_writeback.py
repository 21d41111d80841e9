"""Buffered writes: seen at once, flushed together, never lost while the server lives."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from dataplatform.base.errors import Exhausted, PlatformError, Unavailable
from dataplatform.core import writeback
from dataplatform.core.units import SYSTEM
from dataplatform.core.writeback import AGE_S
from dataplatform.keyspace.records import VolumeSettings
from tests.model.platform_driver import Driver, Place, at_work


async def test_a_buffered_write_is_seen_by_everybody(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        before, commit = await driver.stat(handle), volume.state.commit
        assert await driver.write(handle, 100_000, b"end") == 100_003
        assert await driver.write(handle, 5, b"begin") == 100_003
        assert volume.state.commit == commit
        other = Driver(driver.platform, b"o" * 16)
        found = await other.stat("/f")
        assert found.size == 100_003
        assert found.mtime_ns >= before.mtime_ns
        assert [i.size for i in await other.list("/")] == [100_003]
        data = await other.read("/f")
        assert data.strip(b"\0") == b"begin" + bytes(100_000 - 10) + b"end"


async def test_a_flush_is_one_commit_of_many_writes(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        commit = volume.state.commit
        for at in range(0, 100_000, 100):
            await driver.write(handle, at, b"x" * 100)
        await driver.sync(handle)
        assert volume.state.commit == commit + 1
        assert not volume.writeback
        assert volume.writeback.memory_bytes == volume.writeback.segment_bytes == 0
        inode = await driver.stat(handle)
        assert (inode.size, inode.used_bytes) == (100_000, 100_000)


async def test_old_writes_are_flushed_by_themselves(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        await driver.create("/old")
        await driver.create("/young")
        await driver.write("/old", 0, b"old")
        place.clock.advance(AGE_S * 0.6)
        await driver.write("/young", 0, b"young")
        await volume.writeback.run_once()
        assert volume.writeback
        place.clock.advance(AGE_S * 0.6)
        await volume.writeback.run_once()
        assert (await volume.find_inode((await driver.stat("/old")).number)).size == 3  # type: ignore[union-attr]
        assert (await volume.find_inode((await driver.stat("/young")).number)).size == 0  # type: ignore[union-attr]


async def test_what_was_not_flushed_is_lost_with_the_power_only(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    await driver.write_file("/f", b"old", durable=True)
    await driver.write("/f", 0, b"new")
    await place.crash()
    async with at_work(place) as (driver, _):
        assert await driver.read("/f") == b"old"
        await driver.write("/f", 0, b"new")
    async with at_work(place) as (driver, _):
        assert await driver.read("/f") == b"new"


async def test_a_failed_flush_loses_nothing(tmp_path: Path) -> None:
    """The commit is refused for lack of space; newer writes come; there is room again."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"a" * 1000)
        await driver.write(handle, 100_000, b"b" * 100_000)
        place.faults.full()
        for _ in range(2):
            with pytest.raises(Exhausted):
                await driver.sync(handle)
        expected = b"a" * 1000 + bytes(99_000) + b"b" * 100_000
        assert await driver.read(handle) == expected
        place.faults.clear()
        await driver.write(handle, 500, b"c" * 10)
        await driver.sync(handle)
        assert not volume.writeback
        assert volume.writeback.memory_bytes == volume.writeback.segment_bytes == 0
        assert await driver.read(handle) == expected[:500] + b"c" * 10 + expected[510:]


async def test_writes_during_a_failing_flush_go_over_it(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"a" * 100_000)
        hold = place.faults.hold("segment_sync")
        flushing = asyncio.create_task(volume.writeback.flush(handle.inode))
        await hold.reached.wait()
        await driver.write(handle, 10, b"newer")
        await driver.write(handle, 200_000, b"c" * 70_000)
        expected = b"a" * 10 + b"newer" + b"a" * 99_985 + bytes(100_000) + b"c" * 70_000
        assert await driver.read(handle) == expected
        place.faults.full()
        hold.release()
        with pytest.raises(Exhausted):
            await flushing
        assert await driver.read(handle) == expected
        place.faults.clear()
        await driver.sync(handle)
        assert await driver.read(handle) == expected
        assert volume.writeback.memory_bytes == volume.writeback.segment_bytes == 0


async def test_a_quota_cut_below_what_is_buffered_loses_nothing(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"a" * 100_000)
        volume.settings = VolumeSettings(quota_bytes=500)
        with pytest.raises(PlatformError) as error:
            await driver.write(handle, 100_000, b"b")
        assert error.value.os_errno == errno.EDQUOT
        await driver.sync(handle)
        assert not volume.writeback
        assert await driver.read(handle) == b"a" * 100_000


async def test_writes_at_once_do_not_pass_the_quota_together(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        volume.settings = VolumeSettings(quota_bytes=250_000)
        outcomes = await asyncio.gather(
            *(driver.write(handle, n * 100_000, b"x" * 100_000) for n in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 2
        assert sum(isinstance(outcome, Exhausted) for outcome in outcomes) == 6
        await driver.sync(handle)
        assert volume.state.used_bytes == 200_000
        await driver.write(handle, 0, b"y" * 100_000)  # what grows nothing is never refused
        await asyncio.gather(*(driver.write(handle, 0, b"z" * 100_000) for _ in range(8)))
        await driver.sync(handle)
        assert volume.state.used_bytes == 200_000
        await driver.write(handle, 800_000, b"x" * 50_000)
        with pytest.raises(Exhausted):
            await driver.write(handle, 900_000, b"x")


@pytest.mark.allow_warnings("stopped after a failed write")
async def test_after_a_failed_sync_nothing_is_acknowledged(tmp_path: Path) -> None:
    for operation in ("segment_sync", "commit", "sync"):
        place = Place("memory", tmp_path)
        platform = await place.open()
        driver = Driver(platform)
        await driver.create("/f", durable=True)
        await driver.write("/f", 0, b"x" * 100_000)
        place.faults.fail(operation, Exhausted("disk is full"))
        with pytest.raises(Exhausted):
            await driver.sync("/f")
        for _ in range(2):
            with pytest.raises(PlatformError):
                await driver.sync("/f")
        if operation != "segment_sync":
            with pytest.raises(Unavailable):
                await driver.create("/g", durable=True)
        await place.crash()
        async with at_work(place) as (driver, _):
            assert await driver.read("/f") in (b"", b"x" * 100_000)


async def test_writers_wait_when_too_much_is_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "PENDING_BYTES_MAX", 100_000)
    monkeypatch.setattr(writeback, "UNSYNCED_BYTES_MAX", 500_000)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handles = [await driver.create(f"/{number}") for number in range(5)]
        for at in range(0, 200_000, 1000):
            for handle in handles:
                await driver.write(handle, at, b"x" * 1000)
                assert volume.writeback.memory_bytes <= 100_000
        for at in range(0, 2_000_000, 100_000):
            await driver.write(handles[0], at, b"y" * 100_000)
            assert volume.writeback.segment_bytes <= 500_000


async def test_many_pieces_of_one_file_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writeback, "FLUSH_PIECES_MAX", 50)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        commit = volume.state.commit
        for at in range(500):
            await driver.write(handle, at * 10_000, b"x")
        assert volume.state.commit >= commit + 8


async def test_a_file_that_went_takes_its_buffered_writes_along(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"x" * 100_000)
        await driver.unlink("/f")
        await volume.writeback.flush_all()
        assert not volume.writeback
        assert volume.writeback.lowest_segment() is None


@pytest.mark.parametrize("length", [10, 100_000])
async def test_a_read_or_stat_never_misses_a_write_that_is_being_flushed(
    length: int, tmp_path: Path
) -> None:
    """On an engine that waits, the flush may end between the two places that a reader looks at."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        for look in ("get", "scan"):
            data = look[:1].encode() * length
            await driver.write(handle, 0, data)
            hold = place.faults.hold(look)
            reading = asyncio.create_task(driver.read(handle))
            await hold.reached.wait()
            flushing = asyncio.create_task(volume.writeback.flush_all())
            for _ in range(20):
                await asyncio.sleep(0)
            hold.release()
            assert await reading == data
            await flushing


@pytest.mark.parametrize("operation", ["get", "scan"])
async def test_a_flush_that_ends_at_the_last_look_of_a_read_hides_nothing(
    operation: str, tmp_path: Path
) -> None:
    """What the engine said is old by the time that the reader looks at what is buffered."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"old" * 100)
        before = place.faults.calls.get(operation, 0)
        assert await driver.read(handle) == b"old" * 100
        looks = place.faults.calls[operation] - before
        for nth in range(1, looks + 1):
            data = b"%03d" % nth * 100
            await driver.write(handle, 0, data)
            hold = place.faults.hold(operation, nth=nth, after=True)
            reading = asyncio.create_task(driver.read(handle))
            await hold.reached.wait()
            await volume.writeback.flush_all()
            hold.release()
            assert await reading == data


async def test_a_read_sees_no_write_without_those_before_it(tmp_path: Path) -> None:
    """Writes that come while it looks are seen in their order, or not at all."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"0000")
        await driver.sync(handle)
        before = place.faults.calls["get"]
        assert await driver.read(handle) == b"0000"
        looks = place.faults.calls["get"] - before
        for nth in range(1, looks + 1):
            await driver.write(handle, 0, b"0000")
            await driver.sync(handle)
            hold = place.faults.hold("get", nth=nth, after=True)
            reading = asyncio.create_task(driver.read(handle))
            await hold.reached.wait()
            await driver.write(handle, 0, b"11")
            await volume.writeback.flush_all()
            await driver.write(handle, 2, b"22")
            hold.release()
            assert await reading in (b"0000", b"1100", b"1122")


async def test_a_write_tells_the_size_even_during_a_flush(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 500_000, b"end")
        hold = place.faults.hold("append")
        writing = asyncio.create_task(driver.write(handle, 0, b"x" * 100_000))
        await hold.reached.wait()
        await volume.writeback.flush_all()
        hold.release()
        assert await writing == 500_003


async def test_a_write_tells_the_size_when_its_quota_made_it_flush(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.platform.catalog.set(SYSTEM, volume, VolumeSettings(quota_bytes=100_000))
        handle = await driver.create("/f")
        await driver.write(handle, 50_000, b"x" * 40_000)
        assert await driver.write(handle, 0, b"y" * 40_000) == 90_000
        assert await driver.write(handle, 0, b"z" * 40_000) == 90_000
