"""Names that lead into snapshots, and back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dataplatform.base.errors import Invalid, NotFound, PlatformError
from dataplatform.core.snapshot_names import directory_of_snapshots
from dataplatform.keyspace.records import Kind
from tests.model.platform_driver import Handle, Place, at_work


async def test_every_directory_is_seen_as_it_was(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        directory = await driver.mkdir("/a/b", parents=True)
        await driver.write_file("/a/b/f", b"before")
        await driver.write_file("/a/b/gone", b"gone")
        await driver.symlink("b/f", "/a/link")
        await driver.take_snapshot("/", "first")
        await driver.write_file("/a/b/f", b"after")
        await driver.unlink("/a/b/gone")
        await driver.rename("/a/b", "/moved")
        await driver.mkdir("/new")
        await driver.write_file("/new/f", b"new")
        assert await driver.read("/.snapshot/first/a/b/f") == b"before"
        assert await driver.read("/moved/.snapshot/first/f") == b"before"
        assert await driver.read("/moved/.snapshot/first/gone") == b"gone"
        assert await driver.read("/a/.snapshot/first/link") == b"before"
        assert await driver.names("/moved/.snapshot/first") == ["f", "gone"]
        assert await driver.names("/.snapshot/first") == ["a"]
        assert (await driver.stat("/moved/.snapshot/first")).number == directory.inode
        assert await driver.names("/moved/.snapshot") == ["first"]
        assert await driver.names("/new/.snapshot") == []
        for path in (
            "/new/.snapshot/first",
            "/.snapshot/second",
            "/.snapshot/first/new",
            "/.snapshot/first/.snapshot",
            "/.snapshot/first/a@first",
            "/moved/f/.snapshot",
            "/missing/.snapshot",
        ):
            with pytest.raises(NotFound):
                await driver.stat(path)


async def test_the_directory_of_snapshots_is_found_and_not_listed(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        directory = await driver.mkdir("/a")
        await driver.take_snapshot("/", "one")
        await driver.take_snapshot("/", "two")
        assert await driver.names("/a") == []
        found = await driver.stat("/a/.snapshot")
        assert (found.kind, found.mode, found.size) == (Kind.DIRECTORY, 0o555, 2)
        assert directory_of_snapshots(found.number) == directory.inode
        by_number = await driver.stat(Handle(1, found.number))
        assert by_number == found
        assert await driver.names("/a/.snapshot") == ["one", "two"]
        node = await driver.platform.locate("two", 1, found.number)
        driver.platform.release(node.volume)
        assert (node.volume.is_snapshot, node.inode.number) == (True, directory.inode)
        node = await driver.platform.locate(".snapshot", 1, directory.inode)
        driver.platform.release(node.volume)
        assert node.inode == found


async def test_a_path_at_a_snapshot(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.mkdir("/a")
        await driver.write_file("/a/f", b"before")
        await driver.write_file("/a/gone", b"gone")
        await driver.create_volume("/a/v")
        await driver.write_file("/a/v/f", b"in a volume")
        await driver.take_snapshot("/", "first")
        await driver.take_snapshot("/a/v", "inner")
        await driver.unlink("/a/f")
        await driver.write_file("/a/f", b"another file")
        await driver.unlink("/a/gone")
        await driver.rename("/a", "/moved")
        await driver.mkdir("/a")
        assert await driver.read("/moved/f@first") == b"before"
        assert await driver.read("/moved/gone@first") == b"gone"
        assert await driver.read("/a@first/f") == b"before"  # what was called so then
        assert await driver.read("/moved@first/f") == b"before"  # what is called so now
        assert await driver.read("/moved/@first/f") == b"before"
        assert await driver.read("/@first/a/f") == b"before"
        assert await driver.names("/moved@first") == ["f", "gone", "v"]
        assert await driver.names("/moved@first/v") == []  # a volume has snapshots of its own
        await driver.write(await driver.open("/moved/v/f"), 0, b"changed")
        assert await driver.read("/moved/v@inner/f") == b"in a volume"
        assert await driver.read("/moved/v/f@inner") == b"in a volume"
        assert (await driver.stat("/moved@first/v")).volume == 0
        for path in ("/moved/f@second", "/moved/v@first", "/moved/none@first", "/none@first/f"):
            with pytest.raises(NotFound):
                await driver.stat(path)


async def test_a_name_that_is_there_wins(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.write_file("/f", b"before")
        await driver.take_snapshot("/", "first")
        await driver.write_file("/f@first", b"literally")
        assert await driver.read("/f@first") == b"literally"
        await driver.unlink("/f@first")
        assert await driver.read("/f@first") == b"before"
        with pytest.raises(NotFound):
            await driver.unlink("/f@first")


async def test_nothing_is_made_or_removed_there(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.mkdir("/a")
        await driver.write_file("/a/f", b"before")
        await driver.take_snapshot("/", "first")
        for call in (
            driver.mkdir("/a/.snapshot/second"),
            driver.create("/a/.snapshot/first/new"),
            driver.unlink("/a/.snapshot/first/f"),
            driver.rmdir("/a/.snapshot/first"),
            driver.rename("/a/.snapshot/first/f", "/a/.snapshot/first/g"),
            driver.chmod("/a/.snapshot", 0o777),
            driver.create("/a@first/new"),
        ):
            with pytest.raises(Invalid) as error:
                await call
            assert error.value.os_errno == errno.EROFS
        for call in (driver.mkdir("/a/.snapshot"), driver.rmdir("/a/.snapshot")):
            with pytest.raises(PlatformError):
                await call
        with pytest.raises(PlatformError) as crossing:
            await driver.rename("/a/.snapshot/first/f", "/a/g")
        assert crossing.value.os_errno == errno.EXDEV


async def test_above_a_snapshot_is_what_is_above_its_volume(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create_volume("/a/v")
        await driver.mkdir("/a/v/d")
        await driver.symlink("../../x", "/a/v/d/out")
        await driver.symlink("../y", "/a/v/d/in")
        await driver.write_file("/a/x", b"out of the volume")
        await driver.write_file("/a/v/y", b"before")
        await driver.take_snapshot("/a/v", "first")
        await driver.write_file("/a/v/y", b"after")
        assert await driver.read("/a/v/.snapshot/first/d/in") == b"before"
        assert await driver.read("/a/v/.snapshot/first/d/out") == b"out of the volume"
        node = await driver.platform.locate("/a/v/.snapshot/first/d/in", follow=False)
        path = await driver.platform.path_of(node.volume, node.inode.number)
        driver.platform.release(node.volume)
        assert path == "/a/v/.snapshot/first/d/in"
