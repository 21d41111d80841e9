"""A mirror is some commit of its source, for all kinds, until it is promoted."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import (
    Conflict,
    Exhausted,
    Exists,
    Invalid,
    NotFound,
    PlatformError,
    Unavailable,
)
from dataplatform.core import compaction, streams, tables
from dataplatform.core.encryption import rotate_key
from dataplatform.core.namespace import Attributes
from dataplatform.core.replication import apply, copying
from dataplatform.core.replication.links import Link, Schedule
from dataplatform.core.replication.statuses import Status
from dataplatform.core.restore import restore
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.keyspace.records import Kind, VolumeSettings
from tests.masters import masters
from tests.mirroring import ADMIN, World
from tests.model.platform_driver import Driver, Handle, assert_clean, engines
from tests.streaming import build_batch

PART = 256 << 10


@contextlib.asynccontextmanager
async def a_world(engine: str, path: Path, *names: str) -> AsyncIterator[World]:
    """East with a volume /v, and west."""
    world = World(engine, path, *names)
    for name in world.places:
        await world.open(name)
    await world.driver("east").create_volume("/v")
    yield world
    for platform in world.platforms.values():
        await assert_clean(platform)
    await world.close()


async def put(driver: Driver, path: str, key: bytes, value: int) -> None:
    async def work(unit: Unit, table: int) -> int:
        return await tables.put(unit, table, key, b"\x81\xa1n" + value.to_bytes(1, "big"))

    await driver.unit(path, work)


async def furnish(driver: Driver) -> None:
    """All kinds of things below /v."""
    await driver.mkdir("/v/d")
    await driver.write_file("/v/d/small", b"small")
    await driver.write_file("/v/large", bytes(range(256)) * (PART // 256))
    await driver.symlink("d/small", "/v/link")
    await driver.link("/v/d/small", "/v/hard")
    await driver.set_xattr("/v/large", "user.a", b"x")
    await driver.table("/v/t")
    for n in range(20):
        await put(driver, "/v/t", b"%d" % n, n)
    await driver.sync()


@pytest.mark.parametrize("engine", engines())
async def test_a_mirror_is_its_source(engine: str, tmp_path: Path) -> None:
    async with a_world(engine, tmp_path) as world:
        east = world.driver("east")
        await furnish(east)
        number = await world.mirror("west", "/m", "east", "/v")
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        west = world.driver("west")
        assert await west.read("/m/d/small") == b"small"
        assert await west.read("/m/large") == bytes(range(256)) * (PART // 256)
        await east.write("/v/large", 1000, b"!" * 5000)
        await east.rename("/v/d", "/v/e")
        await east.unlink("/v/link")
        await put(east, "/v/t", b"3", 33)
        await east.sync()
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        assert await west.read("/m/e/small") == b"small"
        assert await west.read("/m/large", 999, 3) == b"\xe7!!"
        assert await west.names("/m") == ["e", "hard", "large", "t"]
        with pytest.raises(Invalid) as caught:
            await west.create("/m/new")
        assert caught.value.os_errno == errno.EROFS


async def a_mirror(world: World, **options: Any) -> int:
    await furnish(world.driver("east"))
    number = await world.mirror("west", "/m", "east", "/v", **options)
    await world.follow("west", number)
    return number


async def promote(world: World, name: str, volume: int | str) -> None:
    async with world.volume(name, volume) as held:
        await world.platforms[name].mirrors.promote(ADMIN, held)


async def status(world: World, number: int) -> Status:
    async with world.volume("west", number) as volume:
        return await world.platforms["west"].mirrors.status(volume)


async def test_behind_is_counted_from_when_the_source_was_last_heard(tmp_path: Path) -> None:
    """Not from its last commit, which may be days ago."""
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        mirrors = world.platforms["west"].mirrors
        world.places["east"].clock.advance(3600)
        world.places["west"].clock.advance(3600)
        await mirrors.step(number)  # nothing is new
        world.cut.add("east")
        with pytest.raises(Unavailable):
            await mirrors.step(number)
        async with world.volume("west", number) as volume:
            status = await mirrors.status(volume)
        assert status.state == "failing"
        assert status.lag_s < 60
        world.cut.clear()


# ---------------------------------------------------------------- promoted, and back


async def test_promoted_without_its_source(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        world.cut.add("east")
        await promote(world, "west", number)
        west = world.driver("west")
        await west.write_file("/m/new", b"written")
        await west.sync()
        world.cut.clear()
        assert await world.platforms["west"].mirrors.step(number) is None
        assert await west.read("/m/new") == b"written"
        await world.reopen("west")
        assert await world.driver("west").read("/m/new") == b"written"


async def test_promoted_written_failed_back_and_equal_again(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east, west = world.driver("east"), world.driver("west")
        await promote(world, "west", number)
        await west.write("/m/large", 5, b"from the west")
        await west.unlink("/m/link")
        await west.write_file("/m/d/another", b"z" * PART)
        await put(west, "/m/t", b"1", 111)
        await west.sync()
        async with world.volume("west", number) as volume:
            before = volume.state.commit
        back = await world.mirror("east", "/v", "west", "/m")
        await world.follow("east", back)
        await world.assert_mirrored("east", back, "west", "/m")
        shipped = world.platforms["east"].mirrors._of(back).counts
        assert 5 < shipped.rows < 40, shipped  # and not all
        with pytest.raises(Invalid):
            await east.create("/v/no")
        # And the other way round once more.
        await promote(world, "east", back)
        await east.write_file("/v/home", b"again")
        await east.sync()
        again = await world.mirror("west", "/m", "east", "/v")
        assert again == number
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        async with world.volume("west", number) as volume:
            assert volume.state.commit > before


async def test_what_only_the_old_source_has_is_discarded_when_told_so(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east, west = world.driver("east"), world.driver("west")
        await promote(world, "west", number)
        await east.write_file("/v/lost", b"a" * PART)
        await east.write("/v/large", 0, b"lost, too")
        await east.unlink("/v/hard")
        await put(east, "/v/t", b"1", 99)
        await east.sync()
        await west.write_file("/m/kept", b"b")
        await put(west, "/m/t", b"2", 22)
        await west.sync()
        with pytest.raises(Conflict) as caught:
            await world.mirror("east", "/v", "west", "/m")
        assert int(caught.value.facts["commits"]) > 3
        assert "--discard" in str(caught.value)
        await east.write_file("/v/still", b"writable")
        back = await world.mirror("east", "/v", "west", "/m", discard=True)
        await world.follow("east", back)
        await world.assert_mirrored("east", back, "west", "/m")
        assert "lost" not in await east.names("/v")
        assert await east.read("/v/kept") == b"b"


async def test_no_volume_becomes_the_mirror_of_what_it_has_nothing_in_common_with(
    tmp_path: Path,
) -> None:
    async with a_world("memory", tmp_path) as world:
        await world.driver("west").create_volume("/other")
        with pytest.raises(Exists, match="no past in common"):
            await world.mirror("west", "/other", "east", "/v", discard=True)
        await world.driver("west").mkdir("/dir")
        with pytest.raises(Exists, match="no volume"):
            await world.mirror("west", "/dir", "east", "/v")


async def test_a_circle_is_refused(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path, "east", "west", "south") as world:
        await a_mirror(world)
        far = await world.mirror("south", "/s", "west", "/m")
        await world.follow("south", far)
        await world.assert_mirrored("south", far, "east", "/v")
        for name, path in (("west", "/m"), ("south", "/s")):
            with pytest.raises(Invalid, match="circle"):
                await world.mirror("east", "/v", name, path, discard=True)


# ---------------------------------------------------------------- a source that is not what it was


async def failing(world: World, number: int, words: str) -> None:
    with pytest.raises(PlatformError, match=words):
        await world.platforms["west"].mirrors.step(number)
    found = await status(world, number)
    assert found.state == "failing"
    assert found.error


async def test_a_source_that_was_made_anew_is_not_followed(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        platform = world.platforms["east"]
        async with world.volume("east", "/v") as volume:
            old = volume.id
        await platform.catalog.remove(ADMIN, old, recursive=True)
        await failing(world, number, "no such volume")
        await east.create_volume("/v")
        await east.write_file("/v/other", b"x")
        await east.sync()
        await failing(world, number, "another one is at its path")
        assert await world.driver("west").read("/m/d/small") == b"small"


async def test_another_store_behind_the_address(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path, "east", "west", "south") as world:
        number = await a_mirror(world)
        await world.driver("south").create_volume("/v")
        world.platforms["east"], world.platforms["south"] = (
            world.platforms["south"],
            world.platforms["east"],
        )
        await failing(world, number, "another store")


async def test_the_wrong_cluster_behind_a_name_and_a_source_that_is_gone(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        platform = world.platforms["west"]
        at = await platform.locate_name("/m")
        link = Link("/v", "grpc://east", cluster="south")
        for wrong, kind in ((link, Invalid), (Link("/none", "grpc://east"), NotFound)):
            with pytest.raises(kind):
                await platform.mirrors.create(ADMIN, at, wrong, Schedule(), VolumeSettings())
        world.cut.add("east")
        with pytest.raises(Unavailable):
            await platform.mirrors.create(
                ADMIN, at, Link("/v", "grpc://east"), Schedule(), VolumeSettings()
            )
        platform.release(at.volume)
        assert await world.driver("west").names("/") == []


async def test_a_quota_that_is_too_small(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        await furnish(world.driver("east"))
        small = VolumeSettings(quota_bytes=1000)
        with pytest.raises(Exhausted, match="quota"):
            await world.mirror("west", "/m", "east", "/v", settings=small)
        assert await world.driver("west").names("/") == []
        enough = VolumeSettings(quota_bytes=2 * PART)
        number = await world.mirror("west", "/m", "east", "/v", settings=enough)
        await world.follow("west", number)
        await world.driver("east").write_file("/v/more", b"x" * 2 * PART)
        await world.driver("east").sync()
        await failing(world, number, "quota")
        async with world.volume("west", number) as volume:
            raised = replace(volume.settings, quota_bytes=8 * PART)
            await world.platforms["west"].catalog.set(ADMIN, volume, raised)
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")


# ---------------------------------------------------------------- what is shipped


async def test_overwrites_ship_only_the_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "CHANGES_MAX", 500)
    monkeypatch.setattr(apply, "CHANGES_KEPT", 10)
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        counts = world.platforms["west"].mirrors._of(number).counts
        rows, changes = counts.rows, counts.changes
        for n in range(2000):
            await put(east, "/v/t", b"%d" % (n % 20), n % 100)
        await east.sync()
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        assert counts.rows - rows < 25
        assert counts.changes - changes <= 10


@pytest.mark.system
@pytest.mark.timeout(900)
async def test_a_million_overwrites_ship_a_thousand_rows(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        rows = [(b"%03d" % n, b"\x81\xa1n\x05") for n in range(1000)]
        counts = world.platforms["west"].mirrors._of(number).counts
        async with east.node("/v/t") as node:
            table = node.inode.number
            for _ in range(1000):
                await node.volume.run(
                    SYSTEM, lambda unit: tables.put_each(unit, table, rows), durable=False
                )
            await node.volume.sync()
        before = replace(counts)
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        assert counts.rows - before.rows < 1010
        assert counts.size_bytes - before.size_bytes < 4_000_000


async def test_cut_pieces_are_not_fetched_again(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        fetched = world.platforms["west"].mirrors._of(number).counts
        before = fetched.extent_bytes
        await east.write("/v/large", 100_000, b"cut in two")
        await east.sync()
        await world.follow("west", number)
        await east.punch("/v/large", 8192, 4096)
        await east.sync()
        async with world.volume("west", number) as volume:
            await volume.storage.segments.seal()
            for segment in await volume.storage.segments.sizes():
                await compaction.rewrite(volume, segment)
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        await east.punch("/v/large", 120_000, 4096)  # within what has other bounds here now
        await east.sync()
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        assert fetched.extent_bytes == before


async def test_a_pause_and_a_schedule(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        mirrors = world.platforms["west"].mirrors
        async with world.volume("west", number) as volume:
            await mirrors.pause(ADMIN, volume)
            await mirrors.set(ADMIN, volume, Schedule(every_ms=5000, bandwidth=1 << 20))
        await world.driver("east").write_file("/v/x", b"x")
        await world.driver("east").sync()
        await mirrors.step(number)
        assert (await status(world, number)).state == "paused"
        assert "x" not in await world.driver("west").names("/m")
        await world.reopen("west")
        mirrors = world.platforms["west"].mirrors
        async with world.volume("west", number) as volume:
            await mirrors.resume(ADMIN, volume)
        await world.follow("west", number)
        found = await status(world, number)
        assert (found.every_ms, found.bandwidth) == (5000, 1 << 20)
        assert "x" in await world.driver("west").names("/m")


# ---------------------------------------------------------------- copies aside


@pytest.mark.parametrize("engine", engines())
async def test_a_catch_up_too_large_is_made_aside(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "ROWS_MAX", 30)
    async with a_world(engine, tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        for n in range(40):
            await put(east, "/v/t", b"new %d" % n, n)
        await east.write("/v/large", 0, b"!" * PART)
        await east.sync()
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        assert len(await world.platforms["west"].storages.volumes()) == 2


# ---------------------------------------------------------------- restored, snapshots, cascades


async def test_a_restored_source_is_followed_only_when_told_so(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        source = await east.take_snapshot("/v", "before")
        assert source
        await east.write_file("/v/after", b"after")
        await east.sync()
        await world.follow("west", number)
        async with world.volume("east", "/v") as volume:
            home = volume.id
        await restore(world.platforms["east"], ADMIN, home, "before")
        await failing(world, number, "put back to an earlier commit")
        assert "after" in await world.driver("west").names("/m")
        async with world.volume("west", number) as volume:
            await world.platforms["west"].mirrors.resume(ADMIN, volume, discard=True)
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        assert "after" not in await world.driver("west").names("/m")


async def test_snapshots_of_a_mirror_outlive_what_it_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east, west = world.driver("east"), world.driver("west")
        large = await west.stat("/m/large")
        snapshot = await west.take_snapshot("/m", "then")
        monkeypatch.setattr(apply, "EXTENT_BYTES_MAX", 1000)  # made aside
        await east.write("/v/large", 0, b"!" * PART)
        await east.sync()
        await world.follow("west", number)
        await east.unlink("/v/large")
        await east.sync()
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/v")
        async with world.volume("west", number) as volume:
            await compaction.run_once(volume)
        then = await west.read(Handle(snapshot, large.number))
        assert then == bytes(range(256)) * (PART // 256)


async def test_a_snapshot_of_what_is_discarded_stands_in_the_way(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        east = world.driver("east")
        await promote(world, "west", number)
        await east.write_file("/v/lost", b"x")
        await east.take_snapshot("/v", "lost")
        with pytest.raises(Conflict, match="snapshot"):
            await world.mirror("east", "/v", "west", "/m", discard=True)
        await east.remove_snapshot("/v", "lost")
        back = await world.mirror("east", "/v", "west", "/m", discard=True)
        await world.follow("east", back)
        await world.assert_mirrored("east", back, "west", "/m")


async def test_whoever_keeps_something_of_a_mirror_hears_of_it(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        number = await a_mirror(world)
        platform, session = world.platforms["west"], b"a mount........."
        await platform.promises.watch(session, begin=True, acknowledged=0, wait_s=0)
        keeper = platform.promises.find(session)
        assert keeper is not None
        node = await platform.locate("/m/large", keeper=keeper)
        platform.release(node.volume)
        node = await platform.locate("/m/d", keeper=keeper)
        platform.release(node.volume)
        east = world.driver("east")
        await east.write("/v/large", 7, b"new bytes")
        await east.create("/v/d/name")
        await east.sync()
        await world.follow("west", number)
        news = keeper.find_news()
        assert news is not None
        assert {(b.data, b.names) for b in news.broken} == {(True, ()), (False, (b"name",))}


async def test_records_of_the_source_wake_who_waits_at_the_mirror(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        east, west = world.driver("east"), world.driver("west")
        await east.make("/v/s", Attributes(Kind.STREAM, settings={"partitions": 1}))
        part = streams.Part("t", 0, bytes(build_batch([b"one"])))
        await east.append_records("/v/s", [part], durable=True, extent_bytes_min=1)
        number = await world.mirror("west", "/m", "east", "/v")
        await world.follow("west", number)
        stream = (await west.stat("/m/s")).number
        async with world.volume("west", number) as volume:
            waiter = volume.partitions.listen([(stream, 1, 0)])
            with waiter:
                await east.append_records("/v/s", [part], durable=True, extent_bytes_min=1)
                await world.follow("west", number)
                assert await waiter.wait(5.0)
            assert volume.partitions.find_end((stream, 1, 0)) == 2


@pytest.mark.parametrize("encrypt", [False, True])
async def test_compression_is_the_sources_and_encryption_its_own(
    tmp_path: Path, encrypt: bool
) -> None:
    async with a_world("memory", tmp_path) as world:
        for platform in world.platforms.values():
            platform.masters = masters(1)
        await world.driver("east").create_volume("/z", VolumeSettings(compression="lz4"))
        await world.driver("east").write_file("/z/f", b"zeros" * PART)
        await world.driver("east").sync()
        number = await world.mirror("west", "/m", "east", "/z", encrypt=encrypt)
        await world.follow("west", number)
        await world.assert_mirrored("west", number, "east", "/z")
        async with world.volume("west", number) as volume:
            assert volume.settings.compression == "lz4"
            assert bool(volume.settings.encryption) == encrypt
            assert sum((await volume.storage.segments.sizes()).values()) < PART
            if encrypt:
                await rotate_key(world.platforms["west"], ADMIN, volume)


async def test_a_copy_goes_on_where_the_link_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PART_BYTES", 2_000)
    async with a_world("memory", tmp_path) as world:
        east = world.driver("east")
        for n in range(60):
            await east.write_file(f"/v/f{n}", bytes([n]) * 1000)
        await east.sync()
        number = await world.mirror("west", "/m", "east", "/v")
        mirrors = world.platforms["west"].mirrors
        parts = 0
        original = copying.Copy._write

        async def write(self: Any, *args: Any) -> None:
            nonlocal parts
            await original(self, *args)
            parts += 1
            if parts % 10 == 0:
                raise Unavailable("the link is cut")

        monkeypatch.setattr(copying.Copy, "_write", write)
        cuts = 0
        for _ in range(40):
            try:
                await mirrors.step(number)
            except Unavailable:
                cuts += 1
                await east.write_file(f"/v/f{cuts}", b"changed meanwhile")
                await east.sync()
                await world.reopen("west")
                mirrors = world.platforms["west"].mirrors
            else:
                break
        monkeypatch.setattr(copying.Copy, "_write", original)
        await world.follow("west", number)
        assert cuts > 3
        assert parts < 80, "what was copied is not copied again"
        await world.assert_mirrored("west", number, "east", "/v")


async def test_a_mirror_is_given_another_source_with_the_same_past(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path, "east", "west", "south") as world:
        await a_mirror(world)
        far = await world.mirror("south", "/s", "west", "/m")
        await world.follow("south", far)
        before = world.platforms["south"].mirrors._of(far).counts.rows
        assert await world.mirror("south", "/s", "east", "/v") == far
        await world.driver("east").write_file("/v/more", b"x")
        await world.driver("east").sync()
        await world.follow("south", far)
        await world.assert_mirrored("south", far, "east", "/v")
        assert world.platforms["south"].mirrors._of(far).counts.rows < before
