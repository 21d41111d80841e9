"""The power may go at any point: of a commit, of the audit's own commit, of a volume's making.

What the audit says afterwards is what the change feed says: each event once, in order.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.core import changes
from dataplatform.core.platform import Platform
from dataplatform.core.units import Request
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import FaultyStorages
from dataplatform.keyspace.records import VolumeSettings
from tests.checking import assert_clean
from tests.model.platform_driver import Driver
from tests.principals import admin
from tests.sim.power import Power, PowerCut

from .reading import audited

pytestmark = pytest.mark.allow_warnings  # a write that is cut short is logged as an error

LIVES = 12
POINTS_MAX = 400


async def live(driver: Driver, rng: random.Random, life: int) -> None:
    """Change things, and let the audit run now and then."""
    platform = driver.platform
    with contextlib.suppress(PlatformError):
        await driver.create_volume("/v", VolumeSettings(audit="changes"))
    for step in range(60):
        name = f"/v/{life}-{step}"
        if rng.random() < 0.5:
            await driver.create(name, durable=rng.random() < 0.5)
        else:
            await driver.write_file(name, b"data", durable=rng.random() < 0.5)
        if rng.random() < 0.3:
            await platform.audit.run_once()


async def test_the_audit_says_what_the_feed_says(seed: int) -> None:
    rng = random.Random(seed)
    disk, clock = MemoryDisk(), ManualClock()
    for life in range(LIVES):
        storages = MemoryStorages(disk)
        power = Power(rng, storages, rng.randrange(POINTS_MAX), None)
        try:
            platform = await Platform.start(
                FaultyStorages(storages, power), clock=clock, entropy=SeededEntropy(life)
            )
            await live(Driver(platform, b"client %09d" % life), rng, life)
        except (PowerCut, Unavailable):
            assert power.off.is_set()
        finally:
            if not power.off.is_set():
                with contextlib.suppress(PowerCut):
                    power.cut("at the end")
            await storages.close()
    storages = MemoryStorages(disk)
    platform = await Platform.start(storages, clock=clock, entropy=SeededEntropy(99))
    driver = Driver(platform)
    with contextlib.suppress(PlatformError):
        await driver.create_volume("/v", VolumeSettings(audit="changes"))
    await driver.create("/v/last", durable=True)
    await platform.audit.run_once()
    node = await platform.locate("/v")
    feed, _ = await changes.read(node.volume, "/", 0, 0, 0)
    platform.release(node.volume)
    expected = [(c.commit, c.event.verb, "/v" + c.event.path) for c in feed]
    told = await audited(platform, "v")
    assert [(r["commit"], r["op"], r["path"]) for r in told if "commit" in r] == expected
    await assert_clean(platform)
    await platform.catalog.remove(Request(admin("boss")), node.volume.id, recursive=True)
    assert (await audited(platform, "v"))[-1]["op"] == "volume removed"
    await platform.close()
