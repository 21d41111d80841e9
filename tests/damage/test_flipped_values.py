"""A bit flipped in a value after the engine's checksums, as bad memory does, in every kind of key.

Nothing can promise that each is noticed: rows and small pieces of files have no checksum of their
own above RocksDB's blocks (docs/reliability.md). What is promised: the check ends and blames this
volume alone, and no operation fails but by a `PlatformError`.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from dataplatform.base.errors import PlatformError
from dataplatform.core import compaction
from dataplatform.core.check import check_volume
from dataplatform.core.gathering.gathers import Source
from dataplatform.core.quota_directories import Limits, set_quota
from dataplatform.core.replication.links import Link, Schedule
from dataplatform.core.units import SYSTEM
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import VolumeSettings
from dataplatform_server.replication.connecting import connector
from tests.model.platform_driver import Driver, Place
from tests.unit.core.check_world import World
from tests.unit.core.publications.world import make_stream, publish

PREFIXES = {
    name: value
    for name, value in vars(keys).items()
    if name.isupper() and isinstance(value, bytes) and len(value) == 1
}

PATHS = ("/docs/small", "/docs/large", "/docs/packed", "/docs/deep/er/file")


async def _furnish(world: World, kind: str) -> None:
    """What the world has not by itself."""
    platform, volume = world.platform, world.volume
    if kind in ("USER", "GROUP", "TOKEN"):
        identities = platform.identities
        await identities.create_group(SYSTEM, "eng")
        await identities.create_user(SYSTEM, "ana", groups=["eng"])
        await identities.create_token(SYSTEM, "ana", ttl_s=60)
    elif kind == "GATHER":
        await _furnish(world, "CLUSTER")
        node = await platform.locate("/stream")
        await platform.gathers.begin(SYSTEM, node, "all", [Source("east", "/s", "t")])
        platform.release(node.volume)
    elif kind == "CLUSTER":
        await platform.clusters.add(SYSTEM, "east", "dp://east.example.org:7222", token="x.y.z")
    elif kind == "QUOTA":
        limits = Limits(quota_bytes=1 << 40)
        await set_quota(volume, SYSTEM, world.inodes["/docs"], limits)
    elif kind == "PUBLICATION":
        await make_stream(Driver(platform, b"p" * 16), "/published")
        await publish(platform, "/docs", "/published")
    elif kind in ("SNAPSHOT", "DEAD_SEGMENT"):
        driver = Driver(platform, b"t" * 16)
        await volume.storage.segments.seal()
        await driver.write_file("/victim", bytes(1 << 18))
        await platform.snapshots.create(SYSTEM, volume, "first")
        await driver.unlink("/victim")
        await volume.storage.segments.seal()
        await compaction.run_once(volume)
    elif kind == "AUDIT_CURSOR":
        settings = replace(volume.settings, audit="changes")
        await platform.catalog.set(SYSTEM, volume, settings)


async def _subject(world: World, kind: str) -> tuple[Volume, str]:
    """The volume to damage, and where it is mounted: it has such rows."""
    await _furnish(world, kind)
    if kind not in ("MIRROR", "MIRRORED"):
        return world.volume, ""
    platform = world.platform
    mirrors = platform.mirrors
    mirrors.connect = connector(platform)
    at = await platform.locate_name("/mirror")
    link = Link("/", cluster=platform.cluster)
    number = await mirrors.create(SYSTEM, at, link, Schedule(every_ms=1000), VolumeSettings())
    platform.release(at.volume)
    await mirrors.step(number)
    return await platform.acquire(number), "/mirror"


@pytest.mark.parametrize("kind", PREFIXES)
async def test_a_flipped_value(tmp_path: Path, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    world = World(Place("memory", tmp_path))
    await world.open()
    await world.build()
    volume, at = await _subject(world, kind)
    start, end = keys.prefix_range(PREFIXES[kind])
    engine = volume.storage.engine
    rows = [(k, v) async for k, v in scan_all(engine, start, end) if v]
    for _ in range(6 if rows else 0):
        key, value = rng.choice(rows)
        flipped = bytearray(value)
        flipped[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        await engine.durable(await engine.commit({key: bytes(flipped)}))
        driver = Driver(world.platform)
        for path in PATHS:
            try:
                await driver.read(at + path)
            except PlatformError:
                continue
        report = await check_volume(volume)
        assert all(f.path and f.problem for f in report.findings)
        await engine.durable(await engine.commit({key: value}))
    assert rows or kind in ("REFERENCE", "LINK", "VOLUME", "REPLY"), "no such row in the world"
    assert not (await check_volume(volume)).findings
    if volume is not world.volume:
        world.platform.release(volume)
    await world.close()
