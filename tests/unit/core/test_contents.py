"""A read says which commit its bytes are of: only when nobody can ever see others under that."""

from __future__ import annotations

import random
from pathlib import Path

from dataplatform.core import files
from dataplatform.core.files import Found
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM
from dataplatform.core.volumes import Volume
from dataplatform.core.writeback import AGE_S
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.keyspace.records import VolumeSettings
from tests.model.platform_driver import Handle, Place, at_work


async def _read(volume: Volume, handle: Handle) -> Found:
    return await files.read(volume, handle.inode, 0, 1 << 20)


async def test_only_what_is_durable_has_a_version(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        await driver.write(handle, 0, b"one")
        assert (await _read(volume, handle)).version == 0  # buffered
        assert (await driver.stat(handle)).buffered
        await volume.writeback.flush(handle.inode)
        assert not (await driver.stat(handle)).buffered
        assert (await _read(volume, handle)).version == 0  # a power loss takes that commit along
        await volume.lane.durable()
        found = await _read(volume, handle)
        inode = await driver.stat(handle)
        assert (found.version, found.mtime_ns) == (inode.version, inode.mtime_ns)
        assert found.version

        await driver.write(handle, 0, b"two")  # as long, and perhaps with an older time
        assert (await _read(volume, handle)).version == 0
        seen = await driver.stat(handle)
        assert seen.buffered
        assert seen.version == found.version
        place.clock.advance(AGE_S * 1.2)
        await volume.writeback.run_once()
        await volume.lane.run_once()
        assert (await _read(volume, handle)).version > found.version


async def test_listings_tell_what_is_buffered(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        handle = await driver.create("/f")
        await driver.create("/g")
        await driver.write(handle, 0, b"x")
        assert [inode.buffered for inode in await driver.list("/")] == [True, False]


async def test_a_version_stands_for_the_same_bytes_for_ever(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    place = Place("memory", tmp_path)
    seen: dict[tuple[int, int], bytes] = {}
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        for _ in range(300):
            step = chosen.randrange(8)
            if step < 3:
                await driver.write(handle, chosen.randrange(20), chosen.randbytes(4))
            elif step == 3:
                await volume.writeback.flush(handle.inode)
            elif step == 4:
                await driver.sync(handle)
            elif step == 5:
                await driver.truncate(handle, chosen.randrange(24))
            elif step == 6:
                await volume.lane.run_once()
            found = await _read(volume, handle)
            if found.version:
                data = b"".join(found.parts)
                assert seen.setdefault((found.version, found.mtime_ns), data) == data
        assert len(seen) > 10


async def test_a_store_has_an_identity_of_its_own() -> None:
    disk = MemoryDisk()
    first = await Platform.start(MemoryStorages(disk))
    identity = first.identity
    assert len(identity) == 16
    root = await first.acquire(1)
    await first.catalog.set(SYSTEM, root, VolumeSettings(identity=root.settings.identity))
    first.release(root)
    await first.close()
    again = await Platform.start(MemoryStorages(disk))
    assert again.identity == identity
    await again.close()
    other = await Platform.start(MemoryStorages())
    assert other.identity != identity
    await other.close()
