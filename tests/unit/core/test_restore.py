"""Restoring: the volume is what it was, and has lost nothing that it must keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform.base.errors import Invalid, NotFound, Stale
from dataplatform.core import change_log, changes, compaction
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import VolumeSettings
from tests.model.platform_driver import Driver, Handle, Place, at_work, engines

PART = 256 << 10


async def volume_of(driver: Driver, path: str) -> Volume:
    async with driver.node(path) as node:
        return node.volume


@pytest.mark.parametrize("engine", engines())
async def test_a_volume_is_what_it_was(engine: str, tmp_path: Path) -> None:
    place = Place(engine, tmp_path)
    async with at_work(place) as (driver, _):
        number = await driver.create_volume("/a", VolumeSettings(compression="lz4"))
        small = await driver.write_file("/a/small", b"before")
        await driver.write_file("/a/large", b"x" * PART)
        inner = await driver.create_volume("/a/inner")
        first = await driver.take_snapshot("/a", "first")
        await driver.write(small, 0, b"after!")
        await driver.unlink("/a/large")
        later = await driver.write_file("/a/later", b"y" * PART)
        second = await driver.take_snapshot("/a", "second")
        await driver.unlink("/a/later")
        await driver.write_file("/a/last", b"z" * PART)
        assert await driver.read(Handle(second, later.inode)) == b"y" * PART
        before = await volume_of(driver, "/a")
        seen = before.state.commit
        held = await driver.open("/a/last")
        assert await driver.restore(number, "first") == number
        after = await volume_of(driver, "/a")
        assert after is not before
        assert await driver.names("/a") == ["inner", "large", "small"]
        assert await driver.read("/a/small") == b"before"
        assert await driver.read("/a/large") == b"x" * PART
        assert after.state.commit == seen + 1 == after.state.oldest_change
        assert after.state.next_inode >= before.state.next_inode
        with pytest.raises(NotFound):
            await driver.read(held)
        with pytest.raises(Stale):
            await changes.read(after, "/", seen - 1, 10, 0)
        (told,), _ = await changes.read(after, "/", seen, 10, 0)
        assert (told.event.verb, told.event.facts["name"]) == ("volume restored", "first")
        await compaction.run_once(after)
        assert await driver.read(Handle(second, later.inode)) == b"y" * PART
        assert await driver.read(Handle(first, small.inode)) == b"before"
        fresh = await driver.write_file("/a/fresh", b"w" * PART)
        assert fresh.inode >= before.state.next_inode
        await driver.write_file("/a/inner/f", b"1")
        assert (await driver.stat("/a/inner/f")).size == 1
        assert (await volume_of(driver, "/a/inner")).id == inner
    async with at_work(place) as (driver, _):
        assert await driver.read("/a/fresh") == b"w" * PART
        assert await driver.read(Handle(second, later.inode)) == b"y" * PART
        await driver.restore(number, "second")
        assert await driver.read("/a/later") == b"y" * PART
        assert await driver.names("/a") == ["inner", "later", "small"]
        volume = await volume_of(driver, "/a")
        while await change_log.drop_cut(volume):
            pass
        await driver.remove_snapshot("/a", "first")
        await driver.remove_snapshot("/a", "second")
        await compaction.run_once(volume)
        assert await driver.read("/a/later") == b"y" * PART
        await driver.remove_volume(inner, recursive=True)
        await driver.remove_volume(number, recursive=True)


async def test_a_mounted_volume_keeps_its_place(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        number = await driver.create_volume("/a")
        gone = await driver.create_volume("/a/gone")
        await driver.take_snapshot("/a", "first")
        await driver.remove_volume(gone)
        new = await driver.create_volume("/a/new")
        with pytest.raises(Invalid, match="/a/new"):
            await driver.restore(number, "first")
        assert await driver.names("/a") == ["new"]
        await driver.write_file("/a/still", b"works")
        await driver.remove_volume(new)
        await driver.restore(number, "first")
        assert await driver.names("/a") == ["gone"]
        assert await driver.names("/a/gone") == []


async def test_what_cannot_be_restored(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, root):
        await driver.take_snapshot("/", "first")
        with pytest.raises(Invalid, match="root volume"):
            await driver.restore(root.id, "first")
        number = await driver.create_volume("/a")
        with pytest.raises(NotFound):
            await driver.restore(number, "first")
