"""Background work goes on behind what is damaged, and says so in the end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgpack
import pytest

from dataplatform.base.errors import Corrupt
from dataplatform.core import compaction, expiry, namespace, orphans, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.replies import SESSION_AGE_NS
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import Kind
from tests.model.platform_driver import Place, at_work

GARBAGE = b"\xc1\xff"


async def damage(volume: Volume, key: bytes) -> bytes:
    """Put garbage there; what was there before."""
    before = await volume.storage.engine.get(key)
    assert before is not None
    await volume.storage.engine.commit({key: GARBAGE})
    return before


async def mend(volume: Volume, key: bytes, value: bytes) -> None:
    await volume.storage.engine.commit({key: value})


async def test_orphans(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handles = [await driver.create(f"/{name}") for name in "abc"]
        for handle in handles:
            await driver.open(handle)
        for name in "abc":
            await driver.unlink(f"/{name}")
        driver.platform.opens.close_session(driver.session)
        key = keys.inode(handles[0].inode)
        before = await damage(volume, key)
        with pytest.raises(Corrupt):
            await orphans.run_once(volume)
        left = [await volume.storage.engine.get(keys.inode(h.inode)) for h in handles]
        assert left == [GARBAGE, None, None]
        await mend(volume, key, before)
        assert await orphans.run_once(volume) == 1


async def test_expiry(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (_, volume):
        made = []
        for name in "ab":

            async def make(unit: Unit, name: str = name) -> int:
                number = await namespace.create(unit, 1, name, Attributes(Kind.TABLE))
                inode = await unit.inode(number)
                inode.settings["ttl_ms"] = 1000
                unit.save(inode)
                return number

            table = await volume.run(SYSTEM, make, durable=True)
            made.append(table)

            async def put(unit: Unit, table: int = table) -> int:
                return await tables.put(unit, table, b"k", msgpack.packb({"n": 1}))

            await volume.run(SYSTEM, put, durable=True)
        place.clock.advance(timedelta(minutes=1).total_seconds())
        key = keys.row(made[0], b"k")
        before = await damage(volume, key)
        with pytest.raises(Corrupt):
            await expiry.run_once(volume)
        engine = volume.storage.engine
        assert [await engine.get(keys.row(t, b"k")) for t in made] == [GARBAGE, None]
        await mend(volume, key, before)
        place.clock.advance(timedelta(minutes=1).total_seconds())
        assert await expiry.run_once(volume) == 1


async def test_replies(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        await driver.create("/f")
        other = keys.reply(b"o" * 16, 0)
        await volume.storage.engine.commit({other: GARBAGE})
        place.clock.advance(SESSION_AGE_NS / 1e9 + 1)
        with pytest.raises(Corrupt):
            await volume.replies.run_once(volume)
        start, end = keys.prefix_range(keys.REPLY)
        assert await volume.storage.engine.scan(start, end) == [(other, GARBAGE)]
        await volume.storage.engine.commit({other: None})


async def test_compaction(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for name in "ab":
            await driver.write_file(f"/{name}", b"x" * 200_000, durable=True)
            await volume.storage.segments.seal()
        await driver.unlink("/b")
        assert await orphans.run_once(volume) in (0, 1)
        first, second = [
            key for key, _ in await volume.storage.engine.scan(*keys.prefix_range(keys.SEGMENT))
        ]
        before = await damage(volume, first)
        with pytest.raises(Corrupt):
            await compaction.run_once(volume)
        assert await volume.storage.engine.get(second) is None
        await mend(volume, first, before)
        assert await driver.read("/a") == b"x" * 200_000


async def test_a_damaged_inode_is_listed_and_named(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handles = {name: await driver.write_file(f"/{name}", name.encode()) for name in "abc"}
        key = keys.inode(handles["b"].inode)
        before = await damage(volume, key)
        nodes = await driver.list("/")
        assert [(node.name, node.size) for node in nodes] == [(b"a", 1), (b"b", 0), (b"c", 1)]
        with pytest.raises(Corrupt):
            await driver.read("/b")
        await mend(volume, key, before)
