"""The write lane: what is refused leaves nothing behind, what fails stops the volume."""

from __future__ import annotations

import pytest

from dataplatform.base.errors import Exhausted, Internal, Unavailable
from dataplatform.core import namespace
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryStorages
from dataplatform.engine.wrappers import Faults, FaultyStorages
from dataplatform.keyspace.records import ROOT_VOLUME, Kind
from tests.checking import assert_clean
from tests.principals import admin

REQUEST = Request(admin("ana"), b"s" * 16, slot=1, sequence=1, method=12)


async def make(volume: Volume, name: str, request: Request = SYSTEM) -> int:
    async def work(unit: Unit) -> int:
        return await namespace.create(unit, 1, name, Attributes(Kind.DIRECTORY))

    return await volume.run(request, work, durable=True)


async def test_a_full_disk_refuses_and_goes_on() -> None:
    faults = Faults()
    platform = await Platform.start(FaultyStorages(MemoryStorages(), faults))
    volume = await platform.acquire(ROOT_VOLUME)
    first = await make(volume, "before")
    state = volume.state
    faults.full()
    with pytest.raises(Exhausted):
        await make(volume, "during", REQUEST)
    assert volume.lane.broken is None
    assert volume.state == state
    faults.clear()
    assert await make(volume, "during", REQUEST) == first + 1
    assert await make(volume, "during", REQUEST) == first + 1  # a retry changes nothing
    await assert_clean(platform)
    platform.release(volume)
    await platform.close()


@pytest.mark.allow_warnings
@pytest.mark.parametrize("operation", ["commit", "sync"])
async def test_a_failed_write_stops_the_volume(operation: str) -> None:
    faults = Faults()
    platform = await Platform.start(FaultyStorages(MemoryStorages(), faults))
    volume = await platform.acquire(ROOT_VOLUME)
    await make(volume, "before")
    faults.fail(operation, Internal("the disk failed"))
    with pytest.raises(Internal):
        await make(volume, "during")
    with pytest.raises(Unavailable, match="Look at the disk"):
        await make(volume, "after")
    assert await volume.find_entry(1, b"before") is not None  # reads go on
