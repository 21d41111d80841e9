"""A snapshot is what the volume was, for all kinds, whatever becomes of the volume."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dataplatform.base.errors import Exists, Invalid, NotFound, PlatformError
from dataplatform.core import compaction, files, orphans
from dataplatform.core.platform import IDLE_S
from dataplatform.core.volumes import LEASE_S, Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME
from tests.model.platform_driver import Driver, Handle, Place, at_work, engines

PART = 256 << 10


async def sizes(volume: Volume) -> dict[int, int]:
    return await volume.storage.segments.sizes()


@pytest.mark.parametrize("engine", engines())
async def test_a_snapshot_is_what_was_there(engine: str, tmp_path: Path) -> None:
    place = Place(engine, tmp_path)
    async with at_work(place) as (driver, _):
        small = await driver.write_file("/small", b"before")
        large = await driver.write_file("/large", b"x" * PART)
        gone = await driver.write_file("/gone", b"y" * PART)
        buffered = await driver.create("/buffered")
        await driver.write(buffered, 0, b"acknowledged, not synced")
        number = await driver.take_snapshot("/", "first")
        await driver.write(small, 0, b"after!")
        await driver.write(large, 100, b"after!")
        await driver.unlink("/gone")
        for _ in range(2):
            assert await driver.read(Handle(number, small.inode)) == b"before"
            assert await driver.read(Handle(number, large.inode)) == b"x" * PART
            assert await driver.read(Handle(number, gone.inode)) == b"y" * PART
            assert await driver.read(Handle(number, buffered.inode)) == b"acknowledged, not synced"
            assert await driver.read("/small") == b"after!"
            place.clock.advance(IDLE_S + 1)
            await driver.platform.close_idle()
            assert [v.id for v in driver.platform.volumes] == [ROOT_VOLUME]
    async with at_work(place) as (driver, _):
        assert await driver.read(Handle(number, gone.inode)) == b"y" * PART
        await driver.remove_snapshot("/", "first")
        with pytest.raises(NotFound):
            await driver.read(Handle(number, small.inode))
        assert await driver.read("/small") == b"after!"


async def test_nothing_in_a_snapshot_can_be_changed(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        file = await driver.write_file("/f", b"before")
        number = await driver.take_snapshot("/", "first")
        then = Handle(number, file.inode)
        snapshot = await driver.platform.acquire(number)
        for call in (
            driver.write(then, 0, b"after"),
            driver.append(then, b"after"),
            driver.truncate(then, 1),
            driver.chmod(then, 0o600),
        ):
            with pytest.raises(Invalid) as error:
                await call
            assert error.value.os_errno == errno.EROFS
        with pytest.raises(Invalid), driver.request() as request:
            await driver.platform.snapshots.create(request, snapshot, "again")
        driver.platform.release(snapshot)
        assert await driver.read(then) == b"before"


async def test_names(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.take_snapshot("/", "first")
        with pytest.raises(Exists):
            await driver.take_snapshot("/", "first")
        for name in ("", ".", "..", "a/b", "a@b", "-a", "ä", "x" * 129):
            with pytest.raises(Invalid):
                await driver.take_snapshot("/", name)
        with pytest.raises(NotFound):
            await driver.remove_snapshot("/", "second")
        assert [s.name for s in driver.platform.snapshots.of(ROOT_VOLUME)] == ["first"]


@pytest.mark.parametrize("engine", ["memory", "rocks"])
async def test_segments_stay_as_long_as_a_snapshot_needs_them(engine: str, tmp_path: Path) -> None:
    async with at_work(Place(engine, tmp_path, segment_bytes=PART)) as (driver, volume):
        before = await driver.write_file("/f", b"1" * PART)
        first = await driver.take_snapshot("/", "first")
        second = await driver.take_snapshot("/", "second")
        await driver.unlink("/f")
        after = await driver.write_file("/f", b"2" * PART)
        third = await driver.take_snapshot("/", "third")
        await driver.unlink("/f")
        await volume.storage.segments.seal()
        assert await compaction.run_once(volume) == 0
        assert len(await sizes(volume)) == 2
        await driver.remove_snapshot("/", "first")
        assert len(await sizes(volume)) == 2
        assert await driver.read(Handle(second, before.inode)) == b"1" * PART
        await driver.remove_snapshot("/", "second")
        assert len(await sizes(volume)) == 1
        assert await driver.read(Handle(third, after.inode)) == b"2" * PART
        await driver.remove_snapshot("/", "third")
        assert await sizes(volume) == {}
        assert await compaction.kept_dead(volume) == []
        with pytest.raises(PlatformError):
            await driver.read(Handle(first, before.inode))


async def test_the_volume_says_so_in_its_change_feed(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.create("/f")
        await driver.take_snapshot("/", "first")
        (taken,) = driver.platform.snapshots.of(ROOT_VOLUME)
        assert taken.record.commit < volume.state.commit
        snapshot = await driver.platform.acquire(taken.number)
        try:
            assert snapshot.state.commit == taken.record.commit
            assert await files.file_inode(snapshot, (await driver.stat("/f")).number)
            assert (await snapshot.find(ROOT_INODE)) is not None
        finally:
            driver.platform.release(snapshot)


async def test_snapshots_of_several_volumes(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)

    async def fill(driver: Driver) -> tuple[Handle, int]:
        await driver.create_volume("/v")
        file = await driver.write_file("/v/f", b"before")
        number = await driver.take_snapshot("/v", "first")
        await driver.take_snapshot("/", "first")
        await driver.write(file, 0, b"after!")
        return file, number

    async with at_work(place) as (driver, _):
        file, number = await fill(driver)
        assert await driver.read(Handle(number, file.inode)) == b"before"
        assert await driver.platform.catalog.mount_path(number) == "/v/.snapshot/first"
    async with at_work(place) as (driver, _):
        assert await driver.read(Handle(number, file.inode)) == b"before"


async def test_what_a_crash_left_of_a_snapshot_goes(tmp_path: Path) -> None:
    place = Place("rocks", tmp_path)
    async with at_work(place) as (driver, volume):
        await driver.create("/f")
        await driver.take_snapshot("/", "first")
        await volume.storage.engine.checkpoint("snapshot-0123456789abcdef")
        await volume.storage.engine.checkpoint("of-somebody-else")
    async with at_work(place) as (driver, volume):
        (taken,) = driver.platform.snapshots.of(ROOT_VOLUME)
        found = await volume.storage.engine.checkpoints()
        assert found == sorted([taken.record.checkpoint, "of-somebody-else"])


@pytest.mark.allow_warnings("snapshot.s record")
async def test_one_whose_record_is_damaged_keeps_everything_until_it_is_removed(
    tmp_path: Path,
) -> None:
    place = Place("memory", tmp_path, segment_bytes=PART)
    async with at_work(place) as (driver, _):
        await driver.write_file("/f", b"1" * PART)
        await driver.take_snapshot("/", "first")
    storage = await (storages := await place.storages()).open(ROOT_VOLUME)
    key = keys.snapshot(ROOT_VOLUME, "first")
    await storage.engine.durable(await storage.engine.commit({key: b"\xc1"}))
    await storages.close()
    async with at_work(place) as (driver, volume):
        await driver.unlink("/f")
        place.clock.advance(LEASE_S + 1)
        await orphans.run_once(volume)
        await volume.storage.segments.seal()
        await compaction.run_once(volume)
        assert len(await compaction.kept_dead(volume)) == 1
        await driver.remove_snapshot("/", "first")
        assert await sizes(volume) == {}
        assert await volume.storage.engine.checkpoints() == []
