"""A clone is what the snapshot was, and goes its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform.base.errors import Exists, Invalid, NotFound
from dataplatform.core import compaction, orphans
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import VolumeSettings
from tests.model.platform_driver import Driver, Place, at_work, engines

PART = 256 << 10


async def volume_of(driver: Driver, path: str) -> Volume:
    async with driver.node(path) as node:
        return node.volume


@pytest.mark.parametrize("engine", engines())
async def test_a_clone_is_what_the_snapshot_was(engine: str, tmp_path: Path) -> None:
    place = Place(engine, tmp_path)
    async with at_work(place) as (driver, _):
        await driver.create_volume("/a", VolumeSettings(quota_bytes=1 << 30, compression="lz4"))
        small = await driver.write_file("/a/small", b"before")
        await driver.write_file("/a/large", b"x" * PART)
        await driver.create_volume("/a/inner")
        await driver.write_file("/a/inner/f", b"1")
        await driver.take_snapshot("/a", "one")
        await driver.write(small, 0, b"after!")
        await driver.unlink("/a/large")
        with pytest.raises(NotFound):
            await driver.clone("/a", "none", "/b")
        with pytest.raises(Exists):
            await driver.clone("/a", "one", "/a")
        number = await driver.clone("/a", "one", "/b")
        assert await driver.read("/b/small") == b"before"
        assert await driver.read("/b/large") == b"x" * PART
        assert await driver.names("/b/inner") == []
        await driver.write_file("/b/inner/mine", b"2")
        assert await driver.read("/a/inner/f") == b"1"
        await driver.write_file("/b/more", b"y" * PART)
        source, clone = await volume_of(driver, "/a"), await volume_of(driver, "/b")
        assert clone.id == number
        assert clone.settings.quota_bytes == 1 << 30
        assert clone.settings.compression == "lz4"
        assert clone.settings.history != source.settings.history
        record = driver.platform.snapshots.get(source.id, "one").record
        assert clone.settings.lineage == [[source.settings.history, record.commit]]
        assert record.users == ([number] if driver.platform.storages.clones_refer else [])
    async with at_work(place) as (driver, _):
        assert await driver.read("/b/large") == b"x" * PART
        assert await driver.read("/b/more") == b"y" * PART
        assert await driver.read("/b/small") == b"before"
        assert await driver.read("/a/small") == b"after!"
        if driver.platform.storages.clones_refer:
            with pytest.raises(Invalid):
                await driver.remove_snapshot("/a", "one")
        await driver.unlink("/b/large")
        clone = await volume_of(driver, "/b")
        place.clock.advance(100)
        await orphans.run_once(clone)
        await compaction.run_once(clone)
        await driver.take_snapshot("/b", "two")
        await driver.clone("/b", "two", "/c")
        assert await driver.read("/c/more") == b"y" * PART
        await driver.remove_volume((await volume_of(driver, "/c")).id, recursive=True)
        await driver.remove_snapshot("/b", "two")
        await driver.remove_volume(clone.id, recursive=True)
        await driver.remove_snapshot("/a", "one")
        assert await driver.read("/a/small") == b"after!"


@pytest.mark.parametrize("engine", engines())
async def test_what_is_removed_from_the_source_stays_in_the_clone(
    engine: str, tmp_path: Path
) -> None:
    async with at_work(Place(engine, tmp_path)) as (driver, _):
        await driver.create_volume("/a")
        await driver.write_file("/a/large", b"x" * PART)
        await driver.take_snapshot("/a", "one")
        await driver.clone("/a", "one", "/b")
        await driver.unlink("/a/large")
        source = await volume_of(driver, "/a")
        if not driver.platform.storages.clones_refer:
            await driver.remove_snapshot("/a", "one")
        await compaction.run_once(source)
        assert await driver.read("/b/large") == b"x" * PART


async def test_the_root_volume_is_not_cloned(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.take_snapshot("/", "one")
        with pytest.raises(Invalid, match="root volume"):
            await driver.clone("/", "one", "/b")


async def test_a_junction_that_has_gone_since(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create_volume("/a")
        inner = await driver.create_volume("/a/inner")
        await driver.take_snapshot("/a", "one")
        await driver.remove_volume(inner)
        await driver.clone("/a", "one", "/b")
        assert await driver.names("/b/inner") == []
        assert await driver.names("/b") == ["inner"]
