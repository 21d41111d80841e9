"""What goes wrong with one thing keeps nobody from working on another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplatform.base.errors import Corrupt, Exhausted
from dataplatform.core.writeback import Batch, Writeback
from dataplatform.keyspace.records import VolumePhase
from tests.model.platform_driver import Driver, Place, assert_clean, at_work


async def test_a_file_that_cannot_be_flushed_stops_no_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        bad = await driver.create("/bad")
        await driver.write(bad, 0, b"kept")
        commit = Writeback._commit

        async def failing(self: Writeback, batch: Batch) -> None:
            if any(number == bad.inode for number, _ in batch):
                raise Corrupt("database is damaged")
            await commit(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Writeback, "_commit", failing)
            await driver.transaction("/", lambda _: _write(driver, volume, "good"), durable=True)
            assert await driver.read("/good") == b"new"
            with pytest.raises(Corrupt):  # the older write would come after the newer one
                await driver.transaction("/", lambda _: _write(driver, volume, "bad"), durable=True)
            assert await driver.read(bad) == b"kept"
        await driver.transaction("/", lambda _: _write(driver, volume, "bad"), durable=True)
        assert await driver.read("/bad") == b"new"


async def _write(driver: Driver, volume, name: str):  # type: ignore[no-untyped-def]
    from dataplatform.core import files
    from dataplatform.core.namespace import Attributes
    from dataplatform.core.units import Unit
    from dataplatform.keyspace.records import ROOT_INODE, Kind

    content = await files.prepare(volume, b"new")

    async def put(unit: Unit) -> None:
        await files.put(unit, ROOT_INODE, name, content, 3, Attributes(Kind.FILE))

    return [put]


@pytest.mark.allow_warnings("removed when there is room")
async def test_a_removal_that_a_full_disk_stopped_is_finished(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    volume_id = await driver.create_volume("/volume")
    hold = place.faults.hold("sync")
    removing = asyncio.create_task(driver.remove_volume(volume_id))
    await hold.reached.wait()
    place.faults.full()  # between the announcement and the unmounting
    hold.release()
    with pytest.raises(Exhausted):
        await removing
    place.faults.clear()
    assert [r.phase for r in await platform.catalog.records()] == [VolumePhase.REMOVING]
    await platform.catalog.run_once()
    assert await platform.catalog.records() == []
    assert len(await platform.storages.volumes()) == 1
    await assert_clean(platform)
    await platform.close()
