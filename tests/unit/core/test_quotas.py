"""Quotas of volumes and directories: exact, refused where they are passed, free again at once."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import msgpack
import pytest

from dataplatform.base.errors import Denied, Exhausted, Invalid, NotFound
from dataplatform.core import check, files, namespace, quota_directories, streams, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.principals import SYSTEM_PRINCIPAL, Principal
from dataplatform.core.quota_directories import Limits
from dataplatform.core.quotas import VOLUME_ONLY
from dataplatform.core.units import Request
from dataplatform.core.usage import usage_of
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import DirectoryQuota, Kind, VolumeSettings
from tests.model.platform_driver import Driver, Place, at_work
from tests.streaming import build_batch

WHERE = {"durable": True, "extent_bytes_min": 1 << 16}


async def quota_of(driver: Driver, volume: Volume, path: str) -> tuple[int, int]:
    quota = volume.quotas.directories[(await driver.stat(path)).number]
    return quota.used_bytes, quota.entries


async def test_a_directory_counts_what_stands_below_it(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q/deep", parents=True)
        await driver.write_file("/q/deep/before", b"x" * 100)
        await driver.set_quota("/q", quota_bytes=10_000)
        assert await quota_of(driver, volume, "/q") == (100, 2)
        await driver.write_file("/q/f", b"y" * 50)
        await driver.write_file("/outside", b"z" * 1000)
        await driver.write("/q/f", 40, b"w" * 20)
        assert await quota_of(driver, volume, "/q") == (150, 3)
        await driver.sync("/q/f")
        assert await quota_of(driver, volume, "/q") == (160, 3)
        await driver.truncate("/q/f", 10)
        await driver.punch("/q/deep/before", 0, 30)
        assert await quota_of(driver, volume, "/q") == (80, 3)
        await driver.unlink("/q/f")
        assert await quota_of(driver, volume, "/q") == (70, 2)


async def test_tables_and_streams_count(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.set_quota("/q", quota_bytes=2000)
        await driver.table("/q/t")
        settings = {"partitions": 1, "ttl_ms": 0}
        await driver.make("/q/s", Attributes(Kind.STREAM, settings=settings))
        row = msgpack.packb({"a": "x" * 500})

        async def put(key: bytes) -> None:
            await driver.unit("/q/t", lambda u, n: tables.put(u, n, key, row), durable=True)

        await put(b"1")
        used, _ = await quota_of(driver, volume, "/q")
        assert used == (await driver.stat("/q/t")).used_bytes > 500
        batch = build_batch([b"v" * 500])
        await driver.append_records("/q/s", [streams.Part("a", 0, batch)], **WHERE)
        assert (await quota_of(driver, volume, "/q"))[0] == used + len(batch)
        await put(b"2")
        with pytest.raises(Exhausted, match="directory's quota") as caught:
            await put(b"3")
        assert caught.value.os_errno == errno.EDQUOT
        with pytest.raises(Exhausted):
            await driver.append_records("/q/s", [streams.Part("a", 0, batch)], **WHERE)
        number = (await driver.stat("/q/t")).number
        together = [volume.puts.put(Request(), number, b"%d" % key, row) for key in (5, 6)]
        with pytest.raises(Exhausted):
            await asyncio.gather(*together)
        await asyncio.gather(*together, return_exceptions=True)
        await driver.unlink("/q/s")
        await put(b"3")
        await driver.unlink("/q/t")
        assert await quota_of(driver, volume, "/q") == (0, 0)


async def test_nested_quotas_add_up(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/a/b", parents=True)
        await driver.set_quota("/a/b", quota_bytes=1000)
        await driver.set_quota("/a", quota_bytes=500)
        await driver.write_file("/a/b/f", b"x" * 400)
        assert await quota_of(driver, volume, "/a/b") == (400, 1)
        assert await quota_of(driver, volume, "/a") == (400, 2)
        with pytest.raises(Exhausted) as caught:
            await driver.write_file("/a/b/g", b"x" * 200)
        assert caught.value.facts["path"] == "/a"
        inode = await driver.stat("/a/b")
        usage = usage_of(volume, None, await volume.quotas.chain(inode.number))
        assert (usage.quota, usage.used, usage.available) == (500, 400, 100)
        found = await quota_directories.list_quotas(
            volume, SYSTEM_PRINCIPAL, (await driver.stat("/a")).number
        )
        assert [quota.quota_bytes for _, quota in found] == [500, 1000]
        await driver.remove_quota("/a")
        await driver.write_file("/a/b/g", b"x" * 200)
        with pytest.raises(NotFound):
            await driver.remove_quota("/a")


async def test_entries(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.set_quota("/q", quota_entries=2)
        await driver.create("/q/1")
        await driver.link("/q/1", "/q/link")  # no further inode
        await driver.mkdir("/q/2")
        for making in (driver.create("/q/3"), driver.symlink("1", "/q/4"), driver.mkdir("/q/5")):
            with pytest.raises(Exhausted, match="quota of entries") as caught:
                await making
            assert caught.value.os_errno == errno.EDQUOT
        await driver.rmdir("/q/2")
        await driver.create("/q/3")
        await driver.platform.catalog.set(
            Request(), volume, VolumeSettings(quota_entries=volume.state.entries)
        )
        with pytest.raises(Exhausted, match="volume's quota of entries"):
            await driver.create("/elsewhere")
        await driver.write_file("/q/3", b"x")  # the one in the way goes


async def test_what_is_moved_counts_where_it_is(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for path in ("/q/in/deep", "/r", "/free/tree/sub"):
            await driver.mkdir(path, parents=True)
        await driver.write_file("/free/tree/sub/f", b"x" * 300)
        await driver.write_file("/free/g", b"x" * 100)
        await driver.set_quota("/q", quota_bytes=1000)
        await driver.set_quota("/q/in", quota_bytes=900)
        await driver.set_quota("/r", quota_bytes=350, quota_entries=3)
        await driver.rename("/free/tree", "/q/in/tree")
        await driver.rename("/free/g", "/q/in/deep/g")
        assert await quota_of(driver, volume, "/q") == (400, 6)
        assert await quota_of(driver, volume, "/q/in") == (400, 5)
        with pytest.raises(Exhausted):
            await driver.rename("/q/in", "/r/in")  # 400 bytes
        await driver.unlink("/q/in/deep/g")
        with pytest.raises(Exhausted):
            await driver.rename("/q/in", "/r/in")  # 5 entries
        await driver.rename("/q/in/tree", "/r/tree")
        assert await quota_of(driver, volume, "/q") == (0, 2)
        assert await quota_of(driver, volume, "/r") == (300, 3)
        await driver.rename("/r/tree", "/q/in", exchange=True)
        assert await quota_of(driver, volume, "/q") == (300, 3)
        assert await quota_of(driver, volume, "/r") == (0, 2)
        await driver.rename("/r/tree", "/free/in")  # with its own quota
        assert await quota_of(driver, volume, "/free/in") == (0, 1)
        assert await quota_of(driver, volume, "/r") == (0, 0)


async def test_buffered_bytes_move_along(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.mkdir("/t")
        handle = await driver.create("/t/f")
        await driver.set_quota("/q", quota_bytes=1000)
        await driver.write(handle, 0, b"x" * 700)
        await driver.rename("/t/f", "/q/f")
        with pytest.raises(Exhausted):
            await driver.write_file("/q/g", b"y" * 400)
        with pytest.raises(Exhausted):
            await driver.write(handle, 700, b"x" * 400)
        await driver.write(handle, 700, b"x" * 300)
        other = await driver.create("/t/g")
        await driver.write(other, 0, b"z")
        places = [(await driver.stat(path)).number for path in ("/t", "/q")]
        with pytest.raises(Exhausted):  # by what nobody has flushed yet
            await volume.run(
                Request(),
                lambda unit: namespace.rename(unit, places[0], b"g", places[1], "g"),
                durable=False,
            )
        await volume.writeback.flush_all()
        assert await quota_of(driver, volume, "/q") == (1000, 1)


async def test_too_much_to_count_in_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_directories, "MOVED_MAX", 3)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.set_quota("/q", quota_bytes=1000)
        await driver.mkdir("/d")
        for number in range(4):
            await driver.create(f"/d/{number}")
        with pytest.raises(Invalid) as caught:
            await driver.rename("/d", "/q/d")
        assert caught.value.os_errno == errno.EXDEV
        await driver.rename("/d", "/e")  # crosses no border
        await driver.set_quota("/e", quota_bytes=1000)
        await driver.rename("/e", "/q/e")
        assert await quota_of(driver, volume, "/q") == (0, 5)


async def test_a_hard_link_counts_where_its_first_name_is(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for path in ("/q", "/r"):
            await driver.mkdir(path)
            await driver.set_quota(path, quota_bytes=100)
        await driver.write_file("/q/f", b"x" * 80)
        await driver.write_file("/r/full", b"x" * 90)
        await driver.link("/q/f", "/r/f")
        assert await quota_of(driver, volume, "/r") == (90, 1)
        await driver.unlink("/q/f")  # never refused
        assert await quota_of(driver, volume, "/q") == (0, 0)
        assert await quota_of(driver, volume, "/r") == (170, 2)
        await driver.unlink("/r/full")
        assert await quota_of(driver, volume, "/r") == (80, 1)


async def test_writes_at_once_do_not_pass_a_quota_together(tmp_path: Path) -> None:
    """Buffered writes of several files, rows, and whole files race for the last bytes."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q/in", parents=True)
        await driver.set_quota("/q", quota_bytes=100_000)
        await driver.table("/q/t")
        handles = [await driver.create(f"/q/in/{n}") for n in range(8)]
        clients = [Driver(driver.platform, b"client number %2d" % n) for n in range(8)]
        row = msgpack.packb({"a": "x" * 3000})

        async def write(n: int) -> int:
            taken = 0
            for at in range(10):
                try:
                    if n % 4 == 3:
                        key = b"%d %d" % (n, at)
                        await clients[n].unit(
                            "/q/t", lambda u, t, k=key: tables.put(u, t, k, row), durable=False
                        )
                    elif n % 4 == 2:
                        await clients[n].write_file(f"/q/{n} {at}", b"x" * 3000)
                    else:
                        await clients[n].write(handles[n], at * 3000, b"x" * 3000)
                    taken += 3000
                except Exhausted:
                    pass
            return taken

        taken = sum(await asyncio.gather(*(write(n) for n in range(8))))
        assert 90_000 < taken <= 100_000
        await volume.writeback.flush_all()
        used, _ = await quota_of(driver, volume, "/q")
        assert taken <= used <= 100_000
        for n in range(8):
            await driver.unlink(f"/q/in/{n}")
        await driver.write_file("/q/again", b"x" * 20_000)


async def test_what_is_overwritten_takes_nothing(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.set_quota("/q", quota_bytes=1000)
        handle = await driver.create("/q/f")
        await driver.write(handle, 0, b"x" * 1000)
        for _ in range(3):
            await driver.write(handle, 0, b"y" * 1000)
        await driver.set_quota("/q", quota_bytes=500)
        await driver.write(handle, 200, b"z" * 500)
        await driver.sync(handle)
        await driver.write_file("/q/f", b"w" * 900)  # shrinks
        with pytest.raises(Exhausted):
            await driver.append("/q/f", b"1")
        # Bytes that are buffered over what goes meanwhile grow again.
        handle = await driver.open("/q/f")
        await driver.set_quota("/q", quota_bytes=1000)
        await driver.write(handle, 0, b"v" * 900)
        await volume.run(Request(), lambda unit: files.resize(unit, handle.inode, 0), durable=False)
        with pytest.raises(Exhausted):
            await driver.write_file("/q/g", b"x" * 200)
        await volume.writeback.flush_all()
        assert (await quota_of(driver, volume, "/q"))[0] <= 1000
        await driver.close(handle)


@pytest.mark.allow_warnings
async def test_an_advisory_limit_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.set_quota("/q", advisory_bytes=1000)
        settings = VolumeSettings(advisory_entries=3)
        await driver.platform.catalog.set(Request(), volume, settings)
        await driver.create("/q/f")
        for size in (900, 101, -1, 1, -50, 50, -51, 51):  # kept again below 95 %
            if size > 0:
                await driver.append("/q/f", b"x" * size)
            else:
                await driver.truncate("/q/f", (await driver.stat("/q/f")).size + size)
        page = [
            pair
            for pair in await volume.storage.engine.scan(*keys.prefix_range(keys.CHANGE))
            if b"advisory limit" in pair[1]
        ]
        assert [b"passed" in value for _, value in page] == [True, False, True]
        await driver.create("/1")
        await driver.create("/2")
        assert volume.state.over == 2
        assert len([r for r in caplog.records if "advisory" in r.message]) == 3


async def test_what_is_held_while_it_is_counted(tmp_path: Path) -> None:
    """Everybody goes on while a quota's directory is counted."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q/sub", parents=True)
        for number in range(50):
            await driver.write_file(f"/q/sub/{number}", b"x" * 10)
        handle = await driver.create("/q/f")
        await driver.write(handle, 0, b"b" * 100)
        other = Driver(driver.platform, b"other client 123")

        async def go_on() -> None:
            for number in range(50):
                await other.write_file(f"/q/more{number}", b"y" * 5)
                await other.unlink(f"/q/sub/{number}")
            await other.rename("/q/sub", "/moved")

        await asyncio.gather(driver.set_quota("/q", quota_bytes=10_000), go_on())
        await volume.writeback.flush_all()
        assert await quota_of(driver, volume, "/q") == (350, 51)


async def test_quotas_survive(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        await driver.mkdir("/q")
        await driver.set_quota("/q", quota_bytes=1000, advisory_entries=5)
        await driver.write_file("/q/f", b"x" * 300)
    async with at_work(place) as (driver, volume):
        assert await quota_of(driver, volume, "/q") == (300, 1)
        with pytest.raises(Exhausted):
            await driver.write_file("/q/g", b"x" * 800)
        await driver.unlink("/q/f")
        await driver.rmdir("/q")
        assert not volume.quotas.directories
        assert await volume.quotas.chain(1) == VOLUME_ONLY


async def test_who_may_and_what_may_have_one(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/q")
        await driver.create("/f")
        for target, error in (("/f", Invalid), ("/", Invalid), ("/none", NotFound)):
            with pytest.raises(error):
                await driver.set_quota(target, quota_bytes=1)
        with pytest.raises(Invalid):
            await driver.set_quota("/q", quota_bytes=-1)
        number = (await driver.stat("/q")).number
        nobody = Request(Principal("bob"))
        with pytest.raises(Denied):
            await quota_directories.set_quota(volume, nobody, number, Limits(1))
        with pytest.raises(Denied):
            await quota_directories.remove_quota(volume, nobody, number)


@pytest.mark.parametrize("spoilt", [{"used_bytes": 7}, {"entries": 7}])
async def test_check_counts_again(spoilt: dict[str, int], tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        await driver.mkdir("/q/sub", parents=True)
        await driver.set_quota("/q", quota_bytes=1000)
        await driver.set_quota("/q/sub", quota_bytes=1000)
        await driver.write_file("/q/sub/f", b"x" * 300)
        number = (await driver.stat("/q")).number
        damaged = DirectoryQuota(1000, used_bytes=300, entries=2)
        for name, value in spoilt.items():
            setattr(damaged, name, value)
        ticket = await volume.storage.engine.commit({keys.quota(number): damaged.pack()})
        await volume.storage.engine.durable(ticket)
        volume.quotas.directories[number] = damaged
        found = await check.check_volume(volume)
        assert [(f.path, f.repairable) for f in found.findings] == [("/q", True)]
        assert all(f.repaired for f in (await check.check_volume(volume, repair=True)).findings)
        assert await quota_of(driver, volume, "/q") == (300, 2)
