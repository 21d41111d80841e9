"""What has no name any more lives until the last who has it open lets go, and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform.base.errors import NotFound
from dataplatform.core import orphans, tables, volumes
from dataplatform.core.namespace import DISPOSE_PIECES_MAX
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_VOLUME
from tests.model.platform_driver import Driver, Handle, Place, at_work


async def remains(volume: Volume, number: int) -> bool:
    """Whether there is any row of the inode."""
    for prefix in (keys.inode, keys.pieces, keys.xattrs, keys.orphan, keys.rows):
        start, end = keys.prefix_range(prefix(number))
        if await volume.storage.engine.scan(start, end, limit=1):
            return True
    return await volume.storage.engine.get(keys.statistics(number)) is not None


async def large_file(driver: Driver, path: str) -> Handle:
    """Of too many pieces to go with its name."""
    handle = await driver.create(path)
    for number in range(DISPOSE_PIECES_MAX * 3):
        await driver.write(handle, number * 10_000, b"x" * 100)
    await driver.set_xattr(path, "user.a", b"1")
    await driver.sync(handle)
    return handle


async def test_a_small_file_goes_with_its_name(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.write_file("/f", b"small")
        await driver.set_xattr("/f", "user.a", b"1")
        await driver.unlink("/f")
        assert not await remains(volume, handle.inode)
        assert volume.state.used_bytes == volume.state.entries == 0


async def test_a_large_file_is_swept(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await large_file(driver, "/f")
        await driver.unlink("/f")
        assert volume.state.used_bytes == volume.state.entries == 0  # counted no more, at once
        assert await remains(volume, handle.inode)
        assert await orphans.run_once(volume) == 1
        assert not await remains(volume, handle.inode)
        assert await orphans.run_once(volume) == 0


@pytest.mark.parametrize("how", ["unlink", "rename", "write_file"])
async def test_an_open_file_lives_until_the_last_close(how: str, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        other = Driver(driver.platform, b"o" * 16)
        handle = await driver.write_file("/f", b"data")
        await driver.open(handle)
        await driver.open(handle)
        await other.open(handle)
        if how == "unlink":
            await driver.unlink("/f")
        elif how == "rename":
            await driver.create("/new")
            await driver.rename("/new", "/f")
        else:
            await driver.write_file("/f", b"new")
        for client in (driver, driver, other):
            assert await orphans.run_once(volume) == 0
            await driver.write(handle, 4, b" and more", durable=True)
            assert await other.read(handle) == b"data and more"
            assert (await driver.stat(handle)).links == 0
            await client.close(handle)
        assert await orphans.run_once(volume) == 1
        assert not await remains(volume, handle.inode)
        with pytest.raises(NotFound):
            await driver.read(handle)
        with pytest.raises(NotFound):
            await driver.write(handle, 0, b"x")


async def test_closing_what_is_not_open_changes_nothing(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        other = Driver(driver.platform, b"o" * 16)
        handle = await driver.create("/f")
        await driver.open(handle)
        await other.close(handle)
        await driver.unlink("/f")
        assert await orphans.run_once(volume) == 0
        await driver.close(handle)
        await driver.close(handle)
        assert await orphans.run_once(volume) == 1


async def test_the_end_of_a_session_closes_its_files(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for name in "abc":
            await driver.create(f"/{name}")
            await driver.open(f"/{name}")
            await driver.unlink(f"/{name}")
        driver.platform.opens.close_session(driver.session)
        driver.platform.opens.close_session(driver.session)
        assert not volume.opens
        assert await orphans.run_once(volume) == 3


async def test_after_a_restart_orphans_wait_for_their_clients(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        kept = await driver.write_file("/kept", b"kept")
        left = await driver.write_file("/left", b"left")
        for path in ("/kept", "/left"):
            await driver.open(path)
            await driver.unlink(path)
    place.clock.advance(1)
    async with at_work(place) as (driver, volume):
        fresh = await driver.create("/fresh")
        await driver.open(fresh)
        await driver.unlink("/fresh")
        await driver.close(fresh)
        assert await orphans.run_once(volume) == 1  # of this life: nobody can come back for it
        await driver.open(kept)
        place.clock.advance(volumes.LEASE_S + 1)
        assert await orphans.run_once(volume) == 1
        assert await driver.read(kept) == b"kept"
        assert not await remains(volume, left.inode)
        await driver.close(kept)
        assert await orphans.run_once(volume) == 1


async def test_what_was_there_before_a_restart_waits_for_its_clients_too(tmp_path: Path) -> None:
    """Somebody may have it open who has not come back yet, and somebody else removes it now."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        node = await driver.write_file("/f", b"kept")
    async with at_work(place) as (driver, volume):
        await driver.unlink("/f")
        assert await orphans.run_once(volume) == 0
        assert await driver.read(node) == b"kept"
        place.clock.advance(volumes.LEASE_S + 1)
        assert await orphans.run_once(volume) == 1


async def test_a_sweep_that_is_cut_short_goes_on_after_the_crash(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    volume = await platform.acquire(ROOT_VOLUME)
    handle = await driver.create("/f")
    for number in range(2500):
        await driver.write(handle, number * 10_000, b"x")
        if number % 1000 == 0:
            await driver.sync(handle)
    await driver.unlink("/f", durable=True)
    await volume.run(SYSTEM, lambda unit: orphans._sweep_some(unit, handle.inode), durable=True)
    await place.crash()
    async with at_work(place) as (_, volume):
        assert await remains(volume, handle.inode)
        place.clock.advance(volumes.LEASE_S + 1)
        assert await orphans.run_once(volume) == 1
        assert not await remains(volume, handle.inode)


async def test_a_table_goes_with_all_its_rows(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        table = await driver.table("/t")

        async def work(unit: Unit) -> None:
            for number in range(orphans.ROWS_PER_UNIT * 2 + 1):
                await tables.put(unit, table.inode, b"%d" % number, b"\x81\xa1a\x01")

        await volume.run(SYSTEM, work, durable=False)
        await driver.unlink("/t")
        assert volume.state.used_bytes == volume.state.entries == 0
        assert await orphans.run_once(volume) == 1
        assert not await remains(volume, table.inode)


async def test_no_rows_are_left_of_anything(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await large_file(driver, "/large")
        await driver.link("/large", "/another")
        await driver.mkdir("/d")
        await driver.symlink("x", "/d/link")
        for path in ("/large", "/another", "/d/link"):
            await driver.unlink(path)
        await driver.rmdir("/d")
        await orphans.run_once(volume)
        left = {key[:1] async for key, _ in scan_all(volume.storage.engine, b"\0", b"\xff")}
        assert left == {keys.META, keys.INODE, keys.REPLY, keys.CHANGE}
