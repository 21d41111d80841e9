"""A month of changes, with a fast clock: what is kept stays bounded.

Rows that expire, records that expire, files written over, made and removed, a published feed, and
what a server does in the background. From the fifth day on nothing grows: no kind of row in the
engine, and no bytes in segments.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from dataplatform.core import (
    change_trims,
    compaction,
    expiry,
    orphans,
    retention,
    streams,
    tables,
)
from dataplatform.core.namespace import Attributes
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import Kind
from tests.principals import admin
from tests.streaming import build_batch
from tests.unit.core.publications.world import make_stream, publish

from .platform_driver import Driver, Place, at_work

DAYS = 30
STEPS = 24 * 4  # of a day
STEP_S = 86_400 / STEPS
CHANGES_ROWS = 1000
SETTLED_DAY = 5
SLACK = 1.3
SEGMENTS_SLACK = 3
"""Segments go when they are mostly dead: what they hold swings."""

HOUR_MS = 3600 * 1000


async def change(driver: Driver, rng: random.Random, step: int) -> None:
    async def put(unit: Unit, table: int) -> None:
        await tables.put(unit, table, b"%d" % step, msgpack.packb({"n": step}))

    await driver.unit("/table", put)
    batch = bytes(build_batch([rng.randbytes(1000)]))
    await driver.append_records(
        "/stream", [streams.Part("t", 0, batch)], durable=False, extent_bytes_min=500
    )
    await driver.write_file(f"/files/{rng.randrange(20)}", rng.randbytes(rng.choice((10, 70_000))))
    await driver.write("/log", rng.randrange(500_000), rng.randbytes(70_000))
    await driver.mkdir("/made")
    await driver.rename("/made", "/gone")
    await driver.rmdir("/gone")


async def tidy(driver: Driver, volume: Volume) -> None:
    """What the server's tasks do."""
    await volume.sync()
    await driver.platform.publications.run_once()
    await volume.sync()
    for run in (orphans.run_once, expiry.run_once, retention.run_once, change_trims.run_once):
        await run(volume)
    await compaction.run_once(volume)
    await volume.replies.run_once(volume)
    await volume.sync()


async def kept(volume: Volume) -> Counter[str]:
    found: Counter[str] = Counter()
    async for key, _ in scan_all(volume.storage.engine, b"\x00", b"\xff"):
        found[f"rows {key[:1].decode()}"] += 1
    sizes = await volume.storage.segments.sizes()
    found["segments"], found["bytes"] = len(sizes), sum(sizes.values())
    return found


@pytest.mark.parametrize("engine", ["memory", "rocks"])
async def test_a_month_leaves_no_more_than_a_week(engine: str, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    place = Place(engine, tmp_path)
    most: Counter[str] = Counter()
    commits = 0
    async with at_work(place) as (driver, volume):
        settings = replace(volume.settings, changes_rows=CHANGES_ROWS, changes_ttl_ms=24 * HOUR_MS)
        await driver.platform.catalog.set(Request(admin("boss")), volume, settings)
        table = Attributes(Kind.TABLE, settings={"ttl_ms": 24 * HOUR_MS})
        await driver.make("/table", table)
        for path, ttl_ms in (("/stream", 24 * HOUR_MS), ("/feed", 48 * HOUR_MS)):
            await make_stream(driver, path)
            await driver.set_attributes(path, settings={"ttl_ms": ttl_ms})
        await driver.mkdir("/files")
        await driver.create("/log")
        await publish(driver.platform, "/", "/feed")
        for day in range(DAYS):
            for step in range(STEPS):
                await change(driver, rng, day * STEPS + step)
                place.clock.advance(STEP_S)
                if step % 4 == 3:
                    await tidy(driver, volume)
            found = await kept(volume)
            if day < SETTLED_DAY:
                most |= found
            else:
                grown = {
                    name: (count, most[name])
                    for name, count in found.items()
                    if count > most[name] * (SLACK if "rows" in name else SEGMENTS_SLACK) + 10
                }
                assert not grown, f"day {day}: (now, in the first days): {grown}"
        commits = volume.state.commit
        assert commits > DAYS * STEPS * 7
        assert found[f"rows {keys.CHANGE.decode()}"] <= CHANGES_ROWS * 1.3
        (published,) = await driver.platform.publications.listed(Request(admin("boss")))
        assert published.state == "running"
        assert published.records > DAYS * STEPS * 6
