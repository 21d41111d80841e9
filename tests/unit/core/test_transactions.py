"""Transactions: all of it in one commit, or none."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from pathlib import Path

import msgpack
import pytest

from dataplatform.base.errors import Conflict, Exhausted, Invalid, NotFound, PlatformError
from dataplatform.core import files, namespace, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.transactions import OPERATIONS_MAX, Operation, resolve, resolve_name
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, Kind
from tests.model.platform_driver import Driver, Place, at_work


def create(path: str, kind: Kind = Kind.FILE) -> Operation:
    async def run(unit: Unit) -> None:
        directory, name, missing = await resolve_name(unit, ROOT_INODE, path)
        new = Attributes(kind)
        directory = await namespace.make_parents(unit, directory, missing, new)
        await namespace.create(unit, directory, name, new)

    return run


def remove(path: str) -> Operation:
    async def run(unit: Unit) -> None:
        directory, name, _ = await resolve_name(unit, ROOT_INODE, path)
        await namespace.remove(unit, directory, name.encode())

    return run


def rename(old: str, new: str) -> Operation:
    async def run(unit: Unit) -> None:
        a, a_name, _ = await resolve_name(unit, ROOT_INODE, old)
        b, b_name, _ = await resolve_name(unit, ROOT_INODE, new)
        await namespace.rename(unit, a, a_name.encode(), b, b_name)

    return run


def resize(path: str, size: int) -> Operation:
    async def run(unit: Unit) -> None:
        await files.resize(unit, (await resolve(unit, ROOT_INODE, path)).number, size)

    return run


def put(path: str, key: bytes, value: int) -> Operation:
    async def run(unit: Unit) -> None:
        table = await resolve(unit, ROOT_INODE, path)
        await tables.put(unit, table.number, key, msgpack.packb({"v": value}))

    return run


def expect(path: str, version: int) -> Operation:
    async def run(unit: Unit) -> None:
        directory, name, missing = await resolve_name(unit, ROOT_INODE, path)
        found = None if missing else await namespace.find_entry(unit, directory, name.encode())
        await namespace.expect_version(unit, found.inode if found else None, version, path)

    return run


async def run(driver: Driver, *operations: Operation, durable: bool = True) -> int:
    async def prepare(volume: Volume) -> Sequence[Operation]:
        return operations

    return await driver.transaction("/", prepare, durable=durable)


async def test_all_operations_are_one_commit(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        table = await driver.table("/t")
        before = volume.state.commit
        commit = await run(
            driver,
            create("/a/b/c"),
            rename("/a/b", "/d"),
            create("/d/e", Kind.DIRECTORY),
            put("/t", b"k", 1),
            remove("/d/c"),
        )
        assert commit == volume.state.commit == before + 1
        assert volume.lane.durable_commit == commit
        assert await driver.names("/") == ["a", "d", "t"]
        assert await driver.names("/d") == ["e"]
        page = await tables.get_many(volume, table.inode, [b"k"])
        assert page


async def test_a_failed_operation_undoes_the_others(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.table("/t")
        await driver.mkdir("/full/x", parents=True)
        before, used = volume.state, volume.state.used_bytes
        for failing, number in [
            ([remove("/full/x"), create("/t")], errno.EEXIST),
            ([remove("/full/x"), remove("/missing")], errno.ENOENT),
            ([remove("/full")], errno.ENOTEMPTY),
            ([rename("/full", "/full/x/y")], errno.EINVAL),
        ]:
            with pytest.raises(PlatformError) as error:
                await run(driver, create("/new/f"), put("/t", b"k", 1), *failing)
            assert error.value.os_errno == number
        assert volume.state == before
        assert volume.state.used_bytes == used
        assert await driver.names("/") == ["full", "t"]
        await run(driver, create("/new/f"))  # numbers and paths were not used up wrongly
        assert await volume.path_of((await driver.stat("/new/f")).number) == "/new/f"


async def test_a_transaction_sees_what_was_buffered(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/f")
        await driver.write("/f", 0, b"0123456789")
        await run(driver, rename("/f", "/g"), resize("/g", 5), resize("/g", 8))
        assert await driver.read("/g") == b"01234\0\0\0"


async def test_preconditions(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/f")
        version = (await driver.stat("/f")).version
        await run(driver, expect("/f", version), expect("/g", 0), create("/g"))
        for wrong in (expect("/f", version + 1), expect("/f", 0), expect("/g", 0)):
            with pytest.raises(Conflict):
                await run(driver, create("/h"), wrong)
        assert await driver.names("/") == ["f", "g"]
        await driver.chmod("/f", 0o600)
        with pytest.raises(Conflict):
            await run(driver, expect("/f", version))


async def test_it_stays_within_one_volume(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create_volume("/v")
        await driver.create("/f")
        for outside in (create("/v/g"), rename("/f", "/v/f")):
            with pytest.raises(PlatformError) as error:
                await run(driver, create("/x"), outside)
            assert error.value.os_errno == errno.EXDEV
        assert await driver.names("/") == ["f", "v"]


async def test_links_lead_within_the_volume(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.mkdir("/d")
        await driver.symlink("/d", "/absolute")
        await driver.symlink("../../d", "/d/up")
        await driver.symlink("/loop", "/loop")
        await run(driver, create("/absolute/a"), create("/d/up/b"), create("/d/up/c"))
        assert await driver.names("/d") == ["a", "b", "c", "up"]
        with pytest.raises(PlatformError) as error:
            await run(driver, create("/loop/x"))
        assert error.value.os_errno == errno.ELOOP


async def test_a_link_leads_on_in_the_transaction_that_made_it(tmp_path: Path) -> None:
    async def link(unit: Unit) -> None:
        new = Attributes(Kind.SYMLINK, symlink="../a/b")
        a = (await resolve(unit, ROOT_INODE, "/a")).number
        await namespace.create(unit, a, "link", new)

    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await run(driver, create("/a/b", Kind.DIRECTORY), link, create("/a/link/c"))
        assert await driver.names("/a/b") == ["c"]


async def test_limits(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        with pytest.raises(Invalid):
            await run(driver, *[create("/f")] * (OPERATIONS_MAX + 1))
        table = (await driver.table("/t")).inode
        large = msgpack.packb({"v": b"x" * 1_000_000})

        async def put_large(unit: Unit) -> None:
            for number in range(40):
                await tables.put(unit, table, b"%d" % number, large)

        with pytest.raises(Exhausted):
            await run(driver, create("/f"), put_large)
        assert await driver.names("/") == ["t"]
        assert volume.lane.broken is None


async def test_nothing_is_no_commit(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.create("/f")
        before = volume.state.commit
        assert await run(driver) == before
        assert await run(driver, expect("/g", 0)) == before
        assert volume.state.commit == before


async def test_a_transaction_sent_twice_happens_once(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        first = await run(driver, create("/f"), rename("/f", "/g"))
        assert await driver.send_again() == first
    async with at_work(place) as (other, _):
        driver.reconnect(other.platform)
        assert await driver.send_again() == first
        assert await other.names("/") == ["g"]


@pytest.mark.allow_warnings("stopped after a failed write")
@pytest.mark.parametrize("operation", ["commit", "sync"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_disk_that_fails_leaves_all_or_nothing(
    operation: str, after: bool, tmp_path: Path
) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    await driver.create("/a", durable=True)
    place.faults.fail(operation, Exhausted("disk is full"), after=after)
    with pytest.raises(Exhausted):
        await run(driver, rename("/a", "/b"), create("/c"))
    await place.crash()
    async with at_work(place) as (driver, _):
        assert await driver.names("/") == (["b", "c"] if operation == "sync" and after else ["a"])


async def test_others_see_all_or_nothing(tmp_path: Path) -> None:
    """Readers in between, with a slow commit."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        await driver.create("/a")
        hold = place.faults.hold("commit")
        running = asyncio.create_task(run(driver, rename("/a", "/b"), create("/c")))
        await hold.reached.wait()
        other = Driver(driver.platform, b"o" * 16)
        assert await other.names("/") == ["a"]
        with pytest.raises(NotFound):
            await other.stat("/b")
        hold.release()
        await running
        assert await other.names("/") == ["b", "c"]


async def test_a_directory_keeps_its_path_when_its_rename_fails(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/d/e", parents=True)
        number = (await driver.stat("/d/e")).number
        with pytest.raises(NotFound):
            await run(driver, rename("/d", "/x"), create("/x/e/f"), remove("/missing"))
        assert await volume.path_of(number) == "/d/e"
        await run(driver, rename("/d", "/x"))
        assert await volume.path_of(number) == "/x/e"
