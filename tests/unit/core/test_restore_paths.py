"""One path of a snapshot takes its place again; a part of a clone goes back to where it is from."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dataplatform.base.errors import Conflict, Exhausted, Invalid, NotFound, PlatformError
from dataplatform.core import changes, compaction, orphans, streams, tables
from dataplatform.core.grafts import Growing
from dataplatform.core.namespace import Attributes
from dataplatform.core.volumes import LEASE_S, Volume
from dataplatform.keyspace.records import Kind, VolumeSettings
from tests.model.platform_driver import Driver, Place, assert_clean, at_work, engines
from tests.pictures import picture
from tests.streaming import build_batch

PART = 256 << 10


async def volume_of(driver: Driver, path: str) -> Volume:
    async with driver.node(path) as node:
        return node.volume


async def put(driver: Driver, path: str, key: bytes, **columns: object) -> None:
    packed = msgpack.packb(columns)
    await driver.unit(path, lambda unit, number: tables.put(unit, number, key, packed))


async def produce(driver: Driver, path: str, *values: bytes) -> None:
    part = streams.Part("t", 0, build_batch(values))
    await driver.append_records(path, [part], durable=True, extent_bytes_min=1000)


async def fill(driver: Driver, settings: VolumeSettings | None = None) -> int:
    """Something of each kind, below /a/d; the volume."""
    number = await driver.create_volume("/a", settings)
    await driver.mkdir("/a/d/e/f", 0o750, parents=True)
    await driver.write_file("/a/d/small", b"before")
    await driver.write_file("/a/d/e/large", b"x" * PART + b"y" * 1000)
    await driver.link("/a/d/e/large", "/a/d/again")
    await driver.symlink("e/large", "/a/d/symbolic")
    await driver.mkfifo("/a/d/e/fifo", 0o600)
    await driver.set_xattr("/a/d/e/large", "user.color", b"red")
    await driver.utime("/a/d/e", 5, 7)
    await driver.table("/a/d/table")
    for i in range(20):
        await put(driver, "/a/d/table", b"key-%d" % i, n=i)
    await driver.make("/a/d/stream", Attributes(Kind.STREAM), durable=True)
    await driver.unit("/a/d/stream", lambda u, n: streams.create_topic(u, n, "t", 2))
    await driver.unit("/a/d/stream", lambda u, n: streams.create_topic(u, n, "gone", 1))
    await driver.unit("/a/d/stream", lambda u, n: streams.delete_topic(u, n, "gone"))
    for i in range(5):
        await produce(driver, "/a/d/stream", b"%d" % i, b"z" * 300 * i)
    return number


async def settle(place: Place, volume: Volume) -> None:
    """Whatever can go has gone."""
    place.clock.advance(LEASE_S + 1)
    for _ in range(3):
        await orphans.run_once(volume)
    await compaction.run_once(volume)


@pytest.mark.parametrize("engine", engines())
async def test_a_directory_is_what_it_was(engine: str, tmp_path: Path) -> None:
    place = Place(engine, tmp_path)
    async with at_work(place) as (driver, _):
        await fill(driver)
        number = await driver.take_snapshot("/a", "one")
        then = await driver.platform.acquire(number)
        async with driver.node("/a/d") as node:
            inode = node.inode.number
        wanted = await picture(then, inode)
        await driver.unlink("/a/d/e/large")
        await driver.unlink("/a/d/again")
        await driver.write_file("/a/d/small", b"after!")
        await driver.write_file("/a/d/new", b"z" * PART)
        await put(driver, "/a/d/table", b"key-3", n=-3)
        await produce(driver, "/a/d/stream", b"later")
        await driver.rename("/a/d/e", "/a/d/g")
        volume = await volume_of(driver, "/a")
        await settle(place, volume)  # segments that only the snapshot needs are noted as dead
        for _ in range(2):
            made = await driver.restore_path("/a/d", "one")
            assert await picture(volume, made) == wanted
            assert await driver.read("/a/d/e/large") == b"x" * PART + b"y" * 1000
            await settle(place, volume)
            assert await driver.names("/a") == ["d"]
        await produce(driver, "/a/d/stream", b"goes on")
        await driver.restore_path("/a/d/stream", "one")
        made = (await driver.stat("/a/d")).number
        driver.platform.release(then)
        await driver.remove_snapshot("/a", "one")
        await settle(place, volume)
        assert await driver.read("/a/d/again") == b"x" * PART + b"y" * 1000
        assert await picture(volume, made) == wanted


async def test_single_things_and_what_is_gone(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        number = await fill(driver)
        await driver.take_snapshot("/a", "one")
        kept = await driver.open("/a/d/small")
        await driver.write(kept, 0, b"after!")
        before = await volume_of(driver, "/a")
        since = before.state.commit
        await driver.restore_path("/a/d/small", "one")
        assert await driver.read("/a/d/small") == b"before"
        told, _ = await changes.read(before, "/d/small", since, 10, 0)
        assert [(c.event.verb, c.event.path) for c in told] == [("restored", "/d/small")]
        assert await driver.read(kept) == b"after!"  # whoever has it open goes on
        await driver.close(kept)
        for path in ("/a/d/e/large", "/a/d/again", "/a/d/e/fifo"):
            await driver.unlink(path)
        await driver.rmdir("/a/d/e/f")
        await driver.rmdir("/a/d/e")
        await driver.restore_path("/a/d/e/large", "one")
        assert await driver.read("/a/d/e/large") == b"x" * PART + b"y" * 1000
        assert await driver.names("/a/d/e") == ["large"]
        with pytest.raises(NotFound):
            await driver.restore_path("/a/d/none", "one")
        with pytest.raises(NotFound):
            await driver.restore_path("/a/d/small", "none")
        inner = await driver.create_volume("/a/d/inner")
        with pytest.raises(Invalid, match="/a/d/inner"):
            await driver.restore_path("/a/d", "one")
        await driver.remove_volume(inner)
        await driver.unlink("/a/d/table")
        await driver.mkdir("/a/d/table")  # of another kind
        await driver.restore_path("/a/d/table", "one")
        assert (await driver.stat("/a/d/table")).size == 20
        await settle(place, before)
        assert number == before.id


async def test_a_quota_is_asked_and_kept(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        await fill(driver, VolumeSettings(quota_bytes=PART * 3))
        await driver.set_quota("/a/d", quota_bytes=PART * 2)
        await driver.take_snapshot("/a", "one")
        volume = await volume_of(driver, "/a")
        await driver.restore_path("/a/d", "one")
        await settle(place, volume)
        directory = (await driver.stat("/a/d")).number
        assert list(volume.quotas.directories) == [directory]
        await driver.write_file("/a/much", b"w" * PART)
        with pytest.raises(Exhausted):
            await driver.restore_path("/a/d", "one")
        await settle(place, volume)
        assert await driver.names("/a") == ["d", "much"]


@pytest.mark.allow_warnings
async def test_what_a_crash_left_goes(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    driver = Driver(await place.open())
    await fill(driver)
    await driver.take_snapshot("/a", "one")
    place.faults.fail("commit", Invalid("enough"), nth=4)
    with pytest.raises(Invalid):
        await driver.restore_path("/a/d", "one")
    place.faults.clear()
    driver.forget_last()
    await driver.platform.close()
    async with at_work(place) as (driver, _):
        volume = await volume_of(driver, "/a")
        assert len(await driver.names("/a")) == 2
        await assert_clean(driver.platform)
        await settle(place, volume)
        assert await driver.names("/a") == ["d"]


# ---------------------------------------------------------------- promoting


@pytest.mark.parametrize("engine", engines())
async def test_a_part_of_a_clone_goes_back(engine: str, tmp_path: Path) -> None:
    place = Place(engine, tmp_path)
    async with at_work(place) as (driver, _):
        await fill(driver)
        await driver.write_file("/a/other", b"1")
        await driver.take_snapshot("/a", "one")
        await driver.clone("/a", "one", "/b")
        await driver.write_file("/b/d/e/large", b"w" * PART)
        await driver.write_file("/b/d/e/new", b"v" * PART)
        await put(driver, "/b/d/table", b"more", n=1)
        await produce(driver, "/b/d/stream", b"m" * 3000)
        await driver.write_file("/a/other", b"2")  # beside it
        with refused(Conflict, "/a/other"):
            await driver.promote("/b/other")
        clone, source = await volume_of(driver, "/b"), await volume_of(driver, "/a")
        wanted = await picture(clone, (await driver.stat("/b/d")).number)
        made = await driver.promote("/b/d")
        assert await picture(source, made) == wanted
        assert await driver.read("/a/d/e/new") == b"v" * PART
        assert await driver.read("/a/other") == b"2"
        with refused(Conflict, "/a/d"):
            await driver.promote("/b/d")
        with refused(Invalid, ""):
            await driver.promote("/b")
        with refused(Invalid, ""):
            await driver.promote("/a/d")
        await driver.write_file("/b/fresh", b"3" * PART)
        await driver.promote("/b/fresh")
        assert await driver.read("/a/fresh") == b"3" * PART
        await driver.write_file("/b/late", b"4")
        await driver.write_file("/a/late", b"5")
        with refused(Conflict, "/a/late"):
            await driver.promote("/b/late")
        await settle(place, source)
        assert await driver.names("/a") == ["d", "fresh", "late", "other"]
        await driver.remove_volume(clone.id, recursive=True)
        await driver.remove_snapshot("/a", "one")
        await settle(place, source)
        assert await driver.read("/a/d/e/new") == b"v" * PART


async def test_conflicts(tmp_path: Path) -> None:
    """Whatever is done to it in the source, and whenever."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        await fill(driver)
        await driver.take_snapshot("/a", "0")
        changing: list[Callable[[], Awaitable[Any]]] = [
            lambda: driver.write("/a/d/e/large", 5, b"q"),
            lambda: driver.unlink("/a/d/again"),
            lambda: driver.write_file("/a/d/e/f/g", b"1"),
            lambda: driver.rename("/a/d/small", "/a/d/e/small"),
            lambda: driver.set_xattr("/a/d/e/large", "user.color", b"blue"),
            lambda: driver.chmod("/a/d/e/f", 0o700),
            lambda: put(driver, "/a/d/table", b"key-1", n=9),
            lambda: produce(driver, "/a/d/stream", b"1"),
            lambda: driver.rename("/a/d", "/a/g"),
        ]
        for number, change in enumerate(changing):
            name = f"{number}x"
            await driver.take_snapshot("/a", name)
            await driver.clone("/a", name, f"/{name}")
            if number % 2:
                await change()
                with refused(Conflict, "/"):
                    await driver.promote(f"/{name}/d")
            else:
                # While it grows: what was looked at before has changed by the end.
                grow = Growing.grow

                async def late(
                    self: Growing, inode: int, change: Any = change, grow: Any = grow
                ) -> int:
                    await change()
                    return int(await grow(self, inode))

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Growing, "grow", late)
                    with refused(Conflict, "/"):
                        await driver.promote(f"/{name}/d")
            assert len([n for n in await driver.names("/a") if n.startswith(".")]) == 0
        assert await driver.names("/a") == ["g"]


@contextlib.contextmanager
def refused(kind: type[PlatformError], path: str) -> Iterator[None]:
    with pytest.raises(kind) as raised:
        yield
    assert str(raised.value.facts.get("path", "")).startswith(path), raised.value.facts


async def test_in_the_root_volume(tmp_path: Path) -> None:
    """Where volumes are mounted beside it, and one of two links is outside."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, root):
        await driver.mkdir("/d")
        await driver.write_file("/d/f", b"before")
        await driver.link("/d/f", "/outside")
        await driver.symlink("f", "/d/symbolic")
        await driver.create_volume("/d/v")
        await driver.take_snapshot("/", "one")
        await driver.create_volume("/w")
        await driver.write_file("/d/f", b"after!")
        with pytest.raises(Invalid, match="/d/v"):
            await driver.restore_path("/d", "one")
        with pytest.raises(NotFound):
            await driver.restore_path("/w", "one")
        with pytest.raises(Invalid):
            await driver.restore_path("/d/v", "one")
        await driver.restore_path("/d/f", "one")
        assert (await driver.stat("/d/f")).links == 1
        assert await driver.read("/d/f") == b"before" == await driver.read("/outside")
        await driver.unlink("/d/symbolic")
        await driver.restore_path("/d/symbolic", "one")
        assert await driver.read("/d/symbolic") == b"before"
        await settle(place, root)
        assert await driver.names("/d") == ["f", "symbolic", "v"]
