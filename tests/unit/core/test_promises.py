"""Whoever keeps something in a cache hears of a change before anybody is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Conflict, NotFound, Unavailable
from dataplatform.core import compaction, files, namespace, orphans, promises
from dataplatform.core.platform import Node
from dataplatform.core.promises import LEASE_S, Broken, Keeper, News
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME
from tests.model.platform_driver import Driver, Handle, Place, at_work

A, B = b"a" * 16, b"b" * 16


class Cache:
    """A client that keeps what it was answered."""

    def __init__(self, driver: Driver, session: bytes = A) -> None:
        self.platform = driver.platform
        self.session = session
        self.driver = Driver(driver.platform, session)
        self.acknowledged = 0

    async def watch(self, *, begin: bool = False, wait_s: float = 0.0) -> News:
        return await self.platform.promises.watch(
            self.session, begin=begin, acknowledged=self.acknowledged, wait_s=wait_s
        )

    async def begin(self) -> Cache:
        self.acknowledged = (await self.watch(begin=True)).sequence
        return self

    async def hear(self, wait_s: float = 0.0) -> list[Broken]:
        """What there is to hear, acknowledged."""
        news = await self.watch(wait_s=wait_s)
        self.acknowledged = news.sequence
        await self.watch()
        return list(news.broken)

    @property
    def keeper(self) -> Keeper:
        keeper = self.platform.promises.find(self.session)
        assert keeper is not None
        return keeper

    async def stat(self, path: str = "", inode: int = 0) -> Node:
        node = await self.platform.locate(
            path, ROOT_VOLUME if inode else 0, inode, follow=False, keeper=self.keeper
        )
        self.platform.release(node.volume)
        return node


@contextlib.asynccontextmanager
async def caching(path: Path) -> AsyncIterator[tuple[Driver, Volume, Cache]]:
    async with at_work(Place("memory", path)) as (driver, volume):
        yield driver, volume, await Cache(driver).begin()


async def under_way(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """The work, as far as it gets without waiting for anybody outside."""
    task = asyncio.create_task(work)
    for _ in range(50):
        await asyncio.sleep(0)
    return task


async def test_a_change_is_answered_when_it_was_acknowledged(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        handle = await driver.create("/f")
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o600))
        assert (await driver.stat("/f")).mode == 0o600  # it is done, but nobody was told so
        news = await cache.watch()
        assert [(b.inode, b.data, b.entries) for b in news.broken] == [(handle.inode, False, False)]
        assert not change.done()
        cache.acknowledged = news.sequence
        await cache.watch()
        await change


async def test_a_broken_promise_is_over(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        await driver.create("/f")
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o600))
        assert len(await cache.hear()) == 1
        await change
        await driver.chmod("/f", 0o644)
        assert not await cache.hear()
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o600))
        assert len(await cache.hear()) == 1
        await change


async def test_nobody_is_told_of_his_own_changes(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        handle = await driver.create("/f")
        await cache.stat("/f")
        await cache.driver.chmod("/f", 0o600)
        await cache.driver.write("/f", 0, b"mine")
        await cache.driver.sync("/f")
        assert not await cache.hear()
        assert cache.keeper.keeps(ROOT_VOLUME, handle.inode)


async def test_names_in_a_directory(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        directory = await driver.mkdir("/d")
        for change, names in (
            (driver.create("/d/x"), [b"x"]),
            (driver.link("/d/x", "/d/y"), [b"y"]),
            (driver.rename("/d/x", "/d/z"), [b"x", b"z"]),
            (driver.rename("/d/y", "/y"), [b"y"]),
            (driver.unlink("/d/z"), [b"z"]),
        ):
            with contextlib.suppress(NotFound):
                await cache.stat("nothing", directory.inode)
            assert cache.keeper.keeps(ROOT_VOLUME, directory.inode)
            task = await under_way(change)
            (broken,) = await cache.hear()
            assert (broken.inode, broken.entries) == (directory.inode, True)
            assert sorted(broken.names) == names
            await task


async def test_a_missing_name_is_promised(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        with pytest.raises(NotFound):
            await cache.stat("f", ROOT_INODE)
        task = await under_way(driver.create("/f"))
        assert [b.names for b in await cache.hear()] == [(b"f",)]
        await task


@pytest.mark.parametrize("how", ["write", "append", "shrink", "extend", "punch", "copy", "replace"])
async def test_bytes(how: str, tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, volume, cache):
        handle = await driver.write_file("/f", b"x" * 1000)
        await driver.write_file("/g", b"y" * 2000)
        work = {
            "write": lambda: driver.write("/f", 10, b"z"),
            "append": lambda: driver.append("/f", b"z"),
            "shrink": lambda: driver.truncate("/f", 10),
            "extend": lambda: driver.truncate("/f", 5000),
            "punch": lambda: driver.punch("/f", 0, 100),
            "copy": lambda: driver.copy_range("/g", "/f", 0, 0, 1500),
            "replace": lambda: driver.write_file("/f", b"new"),
        }
        await cache.stat("/f")
        task = await under_way(work[how]())
        (broken,) = await cache.hear()
        assert broken.inode == handle.inode
        assert (broken.data, broken.unlinked) == (how != "replace", how == "replace")
        await task
        await volume.writeback.flush_all()


async def test_a_flush_tells_nobody(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, volume, cache):
        await driver.create("/f")
        await cache.stat("/f")
        task = await under_way(driver.write("/f", 0, b"x" * 100_000))
        assert len(await cache.hear()) == 1
        await task
        assert (await cache.stat("/f")).inode.size == 100_000
        await volume.writeback.flush_all()
        assert not await cache.hear()
        assert (await cache.stat("/f")).inode.size == 100_000


async def test_bytes_that_move_tell_nobody(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, volume, cache):
        part = 256 << 10
        await driver.write_file("/f", bytes(4 * part))
        await volume.storage.segments.seal()
        before = await volume.storage.segments.sizes()
        await driver.punch("/f", part, 3 * part)
        await cache.stat("/f")
        assert await compaction.run_once(volume) == 1
        assert before.keys().isdisjoint(await volume.storage.segments.sizes())
        assert not await cache.hear()


async def test_what_was_not_acknowledged_is_told_again(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        for name in ("/f", "/g"):
            await driver.create(name)
            await cache.stat(name)
        first = await under_way(driver.chmod("/f", 0o600))
        told = await cache.watch()
        assert await cache.watch() == told
        second = await under_way(driver.chmod("/g", 0o600))
        both = await cache.watch()
        assert [*both.broken[:1]] == [*told.broken]
        assert len(both.broken) == 2
        cache.acknowledged = told.sequence
        assert (await cache.watch()).broken == both.broken[1:]
        await first
        assert not second.done()
        assert len(await cache.hear()) == 1
        await second


async def test_a_poll_ends_when_there_is_something_to_hear(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        await driver.create("/f")
        await cache.stat("/f")
        polls = [await under_way(cache.watch(wait_s=1000.0)) for _ in range(2)]
        assert not any(poll.done() for poll in polls)
        change = await under_way(driver.chmod("/f", 0o600))
        for poll in polls:
            assert len((await poll).broken) == 1
        assert not change.done()
        await cache.hear()
        await change


async def test_nobody_waits_longer_than_the_lease(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        cache = await Cache(driver).begin()
        kept = driver.platform.promises
        for name in ("/f", "/g"):
            await driver.create(name)
            await cache.stat(name)
        place.clock.advance(5.0)
        await cache.watch()
        change = await under_way(driver.chmod("/f", 0o600))
        place.clock.advance(LEASE_S - 0.5)
        assert kept.run_once() == 0
        place.clock.advance(0.5)
        assert kept.run_once() == 1
        await change
        await driver.chmod("/g", 0o600)  # it is late: nothing is promised to it any more
        for _ in range(2):
            news = await cache.watch()
            assert news.everything
        cache.acknowledged = news.sequence
        assert not (await cache.watch()).everything
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o644))
        assert not change.done()
        await cache.hear()
        await change


async def test_who_asks_and_does_not_acknowledge_is_late(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        cache = await Cache(driver).begin()
        await driver.create("/f")
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o600))
        for _ in range(3):
            assert not change.done()
            place.clock.advance(LEASE_S - 1.0)
            assert (await cache.watch()).broken or cache.keeper.everything
        driver.platform.promises.run_once()
        await change
        assert (await cache.watch()).everything


async def test_a_late_one_is_not_waited_for_at_all(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        cache = await Cache(driver).begin()
        await driver.create("/f")
        await cache.stat("/f")
        place.clock.advance(LEASE_S)
        await driver.chmod("/f", 0o600)
        assert (await cache.watch()).everything


async def test_who_is_not_known_hears_that_everything_is_over(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        cache = Cache(driver)
        cache.acknowledged = 12
        news = await cache.watch()
        assert news.everything
        cache.acknowledged = news.sequence
        assert not (await cache.watch()).everything
        cache.acknowledged += 1  # of another life
        assert (await cache.watch()).everything


async def test_beginning_anew_forgets(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        await driver.create("/f")
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o600))
        await cache.begin()
        await change
        assert not await cache.hear()
        await driver.chmod("/f", 0o644)


async def test_one_who_leaves_is_not_waited_for(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        await driver.create("/f")
        await cache.stat("/f")
        change = await under_way(driver.chmod("/f", 0o600))
        await cache.driver.create("/g")
        driver.platform.end_session(cache.session)
        await change
        assert not driver.platform.promises
        assert (await cache.watch()).everything


async def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        await driver.create("/f")
        await cache.stat("/f")
        poll = await under_way(cache.watch(wait_s=1000.0))
        change = await under_way(driver.chmod("/f", 0o600))
        driver.platform.promises.close()
        with pytest.raises(Unavailable):
            await change
        await poll
        driver.platform.end_session(cache.session)
        assert (await driver.stat("/f")).mode == 0o600


async def test_two_wait_for_each_other(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, one):
        other = await Cache(driver, B).begin()
        for cache, path in ((one, "/f"), (other, "/g")):
            await driver.create(path)
            await cache.stat(path)
        first = await under_way(one.driver.chmod("/g", 0o600))
        second = await under_way(other.driver.chmod("/f", 0o600))
        assert not first.done()
        assert not second.done()
        assert len(await one.hear()) == len(await other.hear()) == 1
        await asyncio.gather(first, second)


async def test_a_retry_waits_as_the_first_did(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        await driver.create("/f")
        await cache.stat("/f")
        first = await under_way(driver.chmod("/f", 0o600))
        again = await under_way(driver.send_again())
        assert not again.done()
        assert len(await cache.hear()) == 1
        await asyncio.gather(first, again)


# ---------------------------------------------------------------- races


@pytest.mark.parametrize("after", [False, True])
async def test_a_read_beside_a_commit(after: bool, tmp_path: Path) -> None:
    """Whichever of the two is first: it has the new value, or it is told."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        cache = await Cache(driver).begin()
        handle = await driver.create("/f")
        hold = place.faults.hold("commit", after=after)
        change = await under_way(driver.chmod("/f", 0o600))
        await hold.reached.wait()
        assert (await cache.stat("/f")).inode.mode == (0o600 if after else 0o644)
        hold.release()
        assert [b.inode for b in await cache.hear(5.0)] == [handle.inode]
        await change


async def test_a_read_that_takes_long(tmp_path: Path) -> None:
    """What it found is old by the time that it is answered: it was told so meanwhile."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        cache = await Cache(driver).begin()
        handle = await driver.create("/f")
        hold = place.faults.hold("get", nth=2, after=True)  # the entry, then the inode
        read = await under_way(cache.stat("/f"))
        await hold.reached.wait()
        change = await under_way(driver.chmod("/f", 0o600))
        assert [b.inode for b in (await cache.watch()).broken] == [handle.inode]
        hold.release()
        assert (await read).inode.mode == 0o644
        await cache.hear()
        await change


async def test_nobody_begins_to_keep_what_goes(tmp_path: Path) -> None:
    """The unit has looked whether anybody keeps the file, and has not committed yet."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        cache = await Cache(driver).begin()
        handle = await driver.create("/f")
        hold = place.faults.hold("commit")
        removal = await under_way(driver.unlink("/f"))
        await hold.reached.wait()
        look = await under_way(cache.stat(inode=handle.inode))
        opening = await under_way(files.open_file(driver.platform.opens, A, volume, handle.inode))
        assert not look.done()
        assert not opening.done()
        hold.release()
        with pytest.raises(NotFound):
            await look
        with pytest.raises(NotFound):
            await opening
        await cache.hear(5.0)
        await removal
        assert not volume.opens


async def test_a_name_that_is_replaced_is_never_missing(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        await driver.create("/f")
        await driver.create("/new")
        hold = place.faults.hold("get", after=True)  # of the entry
        look = await under_way(driver.stat("/f"))
        await hold.reached.wait()
        await driver.rename("/new", "/f")
        number = (await driver.stat("/f")).number
        hold.release()
        assert (await look).number == number


# ---------------------------------------------------------------- what loses its last name


@pytest.mark.parametrize("in_use", [False, True])
async def test_a_file_lives_until_its_keepers_know(in_use: bool, tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, volume, cache):
        handle = await driver.write_file("/f", b"bytes")
        await cache.stat("/f")
        removal = await under_way(driver.unlink("/f"))
        (broken,) = (await cache.watch()).broken
        assert broken.unlinked
        assert await orphans.run_once(volume) == 0
        assert await driver.read(Handle(ROOT_VOLUME, handle.inode)) == b"bytes"
        if in_use:
            await cache.driver.open(handle)
        await cache.hear()
        await removal
        assert await orphans.run_once(volume) == (not in_use)
        if in_use:
            assert await driver.read(handle) == b"bytes"
            await cache.driver.close(handle)
            assert await orphans.run_once(volume) == 1


async def test_a_file_does_not_live_for_one_who_is_late(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        cache = await Cache(driver).begin()
        await driver.write_file("/f", b"bytes")
        await cache.stat("/f")
        removal = await under_way(driver.unlink("/f"))
        assert await orphans.run_once(volume) == 0
        place.clock.advance(LEASE_S)
        driver.platform.promises.run_once()
        await removal
        assert await orphans.run_once(volume) == 1


async def test_what_the_remover_keeps_goes_at_once(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, volume, cache):
        handle = await driver.write_file("/f", b"bytes")
        await cache.stat("/f")
        await cache.driver.unlink("/f")
        assert await volume.find_inode(handle.inode) is None


@pytest.mark.parametrize("how", ["remove", "replace"])
async def test_what_the_remover_has_open_stays(how: str, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.write_file("/f", b"bytes")
        await driver.create("/new")
        await driver.link("/f", "/second")
        opens = driver.platform.opens

        async def drop(name: bytes) -> int:
            async def work(unit: Unit) -> int:
                if how == "remove":
                    number = await namespace.remove(unit, ROOT_INODE, name, keep_open=True)
                else:
                    number = await namespace.rename(
                        unit, ROOT_INODE, b"new", ROOT_INODE, name.decode(), keep_open=True
                    )
                if number:
                    unit.on_commit(lambda _: opens.ensure(A, volume, number))
                return number

            return await driver.unit("/", lambda unit, _: work(unit))

        assert await drop(b"second") == 0
        if how == "replace":
            await driver.create("/new")
        assert await drop(b"f") == handle.inode
        assert await orphans.run_once(volume) == 0
        assert await driver.read(handle) == b"bytes"
        opens.ensure(A, volume, handle.inode)
        opens.close(A, volume, handle.inode)
        assert await orphans.run_once(volume) == 1


# ---------------------------------------------------------------- bounds


async def test_promises_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "PROMISES_MAX", 10)
    monkeypatch.setattr(promises, "BREAK_OLDEST", 3)
    async with caching(tmp_path) as (driver, _, cache):
        handles = [await driver.create(f"/f{n}") for n in range(12)]
        for n in range(12):
            await cache.stat(f"/f{n}")
        assert [b.inode for b in await cache.hear()] == [h.inode for h in handles[:3]]
        await driver.chmod("/f0", 0o600)
        change = await under_way(driver.chmod("/f3", 0o600))
        assert len(await cache.hear()) == 1
        await change


async def test_too_much_to_tell_is_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "TOLD_MAX", 3)
    async with caching(tmp_path) as (driver, _, cache):
        changes = []
        for n in range(5):
            await driver.create(f"/f{n}")
            await cache.stat(f"/f{n}")
        for n in range(5):
            changes.append(await under_way(driver.chmod(f"/f{n}", 0o600)))
        news = await cache.watch()
        assert news.everything
        assert not changes[0].done()
        await cache.hear()
        await asyncio.gather(*changes)
        assert not (await cache.watch()).everything


async def test_much_is_told_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "NEWS_MAX", 2)
    async with caching(tmp_path) as (driver, _, cache):
        handles = [await driver.create(f"/f{n}") for n in range(5)]
        for n in range(5):
            await cache.stat(f"/f{n}")
        changes = [await under_way(driver.chmod(f"/f{n}", 0o600)) for n in range(5)]
        told: list[int] = []
        while len(told) < 5:
            news = await cache.watch()
            assert 0 < len(news.broken) <= 2
            told += [b.inode for b in news.broken]
            cache.acknowledged = news.sequence
        await cache.watch()
        await asyncio.gather(*changes)
        assert told == [h.inode for h in handles]


async def test_a_removed_volume_is_told_of(tmp_path: Path) -> None:
    async with caching(tmp_path) as (driver, _, cache):
        volume_id = await driver.create_volume("/v")
        handle = await driver.create("/v/f")
        await cache.stat("/v/f")
        removal = await under_way(driver.remove_volume(volume_id, recursive=True))
        assert (volume_id, handle.inode) in {(b.volume, b.inode) for b in await cache.hear()}
        await removal


# ---------------------------------------------------------------- writes that expect a size


async def test_a_write_that_expects_a_size(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")

        async def write(offset: int, data: bytes, size: int) -> int:
            with driver.request() as request:
                return await files.write(
                    volume, request, handle.inode, offset, data, durable=False, expected_size=size
                )

        assert await write(0, b"abc", 0) == 3
        with pytest.raises(Conflict) as error:
            await write(0, b"def", 0)
        assert error.value.facts["size"] == 3
        assert await driver.read("/f") == b"abc"
        outcomes = await asyncio.gather(
            *(write(3, bytes([n]) * 100_000, 3) for n in range(5)), return_exceptions=True
        )
        assert sum(outcome == 100_003 for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4


async def test_a_write_that_expects_a_size_beside_an_append(tmp_path: Path) -> None:
    """The append has chosen its place, and has not committed yet."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        hold = place.faults.hold("commit")
        append = await under_way(driver.append("/f", b"appended"))
        await hold.reached.wait()
        with driver.request() as request:
            write = await under_way(
                files.write(volume, request, handle.inode, 0, b"x", durable=False, expected_size=0)
            )
        assert not write.done()
        hold.release()
        await append
        with pytest.raises(Conflict):
            await write
        assert await driver.read("/f") == b"appended"


async def test_a_write_that_expects_a_size_may_be_repeated(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        with driver.request() as request:
            for _ in range(2):
                size = await files.write(
                    volume, request, handle.inode, 0, b"abc", durable=False, expected_size=0
                )
                assert size == 3


async def test_a_write_brings_its_time(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        handle = await driver.create("/f")
        now_ns = place.clock.now_ns()
        for given_ns, seen_ns in ((now_ns + 5, now_ns + 5), (now_ns + 3, now_ns + 5)):
            with driver.request() as request:
                await files.write(
                    volume, request, handle.inode, 0, b"x", durable=False, mtime_ns=given_ns
                )
            inode = await driver.stat("/f")
            assert (inode.mtime_ns, inode.ctime_ns) == (seen_ns, seen_ns)
        await driver.sync("/f")
        assert (await driver.stat("/f")).mtime_ns == now_ns + 5
