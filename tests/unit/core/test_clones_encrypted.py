"""Encrypted volumes: a clone and a restored volume are read with the keys of the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform.base.clock import SeededEntropy
from dataplatform.core import compaction, encryption
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import VolumeSettings
from tests.masters import masters
from tests.model.platform_driver import Driver, Handle, Place, assert_clean, engines
from tests.pictures import picture

PART = 256 << 10


class EncryptedPlace(Place):
    async def open(self) -> Platform:
        self.opened += 1
        return await Platform.start(
            await self.storages(),
            clock=self.clock,
            entropy=SeededEntropy(self.opened),
            masters=masters(self.opened),
        )


async def volume_of(driver: Driver, path: str) -> Volume:
    async with driver.node(path) as node:
        return node.volume


async def finish(volume: Volume) -> None:
    for _ in range(20):
        if not await encryption.run_once(volume):
            return
    raise AssertionError("the rotation does not end")


async def rotate(driver: Driver, path: str) -> None:
    volume = await driver.platform.acquire((await volume_of(driver, path)).id)
    await finish(volume)  # a clone of an earlier time begins with what was not done then
    await encryption.rotate_key(driver.platform, SYSTEM, volume)
    await finish(volume)
    driver.platform.release(volume)


@pytest.mark.parametrize("engine", engines())
@pytest.mark.parametrize("rotated", [False, True])
async def test_all_of_it(engine: str, rotated: bool, tmp_path: Path) -> None:
    place = EncryptedPlace(engine, tmp_path)
    driver = Driver(await place.open())
    async with driver.new_name("/a") as at:
        number = await driver.platform.catalog.create(SYSTEM, at, VolumeSettings(), encrypt=True)
    await driver.mkdir("/a/d")
    small = await driver.write_file("/a/d/small", b"before")
    await driver.write_file("/a/d/large", b"x" * PART)
    taken = await driver.take_snapshot("/a", "one")
    then = await driver.platform.acquire(taken)
    wanted = await picture(then)
    driver.platform.release(then)
    if rotated:
        await rotate(driver, "/a")
    await driver.write(small, 0, b"after!")
    await driver.write_file("/a/d/large", b"y" * PART)
    await driver.clone("/a", "one", "/b")
    await driver.restore_path("/a/d/large", "one")
    assert await driver.read("/a/d/large") == b"x" * PART
    await driver.write_file("/b/d/new", b"n" * PART)
    await driver.take_snapshot("/a", "two")
    await driver.clone("/a", "two", "/c")
    await driver.write_file("/c/d/more", b"m" * PART)
    await driver.promote("/c/d")
    assert await driver.read("/a/d/more") == b"m" * PART
    assert await driver.read("/a/d/small") == b"after!"
    await assert_clean(driver.platform)
    if rotated:
        await rotate(driver, "/b")
    await driver.restore(number, "one")
    await driver.platform.close()
    driver.reconnect(await place.open())
    assert await picture(await volume_of(driver, "/a")) == wanted
    assert await driver.read("/b/d/new") == b"n" * PART
    assert await driver.read("/b/d/large") == b"x" * PART
    assert await driver.read(Handle(taken, small.inode)) == b"before"
    if rotated:
        volume = await volume_of(driver, "/a")
        assert volume.settings.encryption["current"] == 2
        await finish(volume)
    await driver.write_file("/a/d/last", b"z" * PART)
    await compaction.run_once(await volume_of(driver, "/a"))
    assert await driver.read("/a/d/large") == b"x" * PART
    assert await driver.read("/a/d/last") == b"z" * PART
    await assert_clean(driver.platform)
    await driver.platform.close()
