"""Names and paths: everything bad is refused, with the errno that a POSIX caller expects."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.base.limits import PATH_BYTES_MAX, PATH_DEPTH_MAX, SYMLINK_FOLLOW_MAX
from dataplatform.core.paths import SNAPSHOT_NAME, check_name, check_new_name, split_path
from tests.model.platform_driver import Driver, Place, at_work

BAD_NAMES = [
    ("", errno.ENOENT),
    (".", errno.EINVAL),
    ("..", errno.EINVAL),
    ("a/b", errno.EINVAL),
    ("a\0b", errno.EINVAL),
    ("a" * 256, errno.ENAMETOOLONG),
    ("ä" * 128, errno.ENAMETOOLONG),
    ("\udcff", errno.EILSEQ),
]

BAD_PATHS = [
    ("/a/../b", errno.EINVAL),
    ("/./a", errno.EINVAL),
    ("/a\0", errno.EINVAL),
    ("/a/\udcff/b", errno.EILSEQ),
    ("/" + "a" * 256, errno.ENAMETOOLONG),
    ("/a" * (PATH_DEPTH_MAX + 1), errno.ENAMETOOLONG),
    (("/" + "a" * 250) * 17, errno.ENAMETOOLONG),
    ("/" * (PATH_BYTES_MAX + 1), errno.ENAMETOOLONG),
]


@pytest.mark.parametrize(("name", "number"), BAD_NAMES)
def test_a_bad_name_is_refused(name: str, number: int) -> None:
    with pytest.raises(PlatformError) as error:
        check_name(name)
    assert error.value.kind == ErrorKind.INVALID
    assert error.value.os_errno == number


@pytest.mark.parametrize("name", ["a", "ä" * 127, "a" * 255, " ", "...", "-", "\n", "a:b", "\\"])
def test_a_good_name_is_kept(name: str) -> None:
    assert check_new_name(name).decode() == name


def test_the_name_of_snapshots_is_reserved() -> None:
    check_name(SNAPSHOT_NAME)
    with pytest.raises(PlatformError) as error:
        check_new_name(SNAPSHOT_NAME)
    assert error.value.os_errno == errno.EPERM


@pytest.mark.parametrize(("path", "number"), BAD_PATHS)
def test_a_bad_path_is_refused(path: str, number: int) -> None:
    with pytest.raises(PlatformError) as error:
        split_path(path)
    assert error.value.kind == ErrorKind.INVALID
    assert error.value.os_errno == number
    assert len(str(error.value)) < 1000


def test_empty_names_of_a_path_say_nothing() -> None:
    assert split_path("//a///b/") == ["a", "b"]
    assert split_path("/") == split_path("") == []
    assert len(split_path("/a" * PATH_DEPTH_MAX)) == PATH_DEPTH_MAX


@pytest.mark.parametrize(("path", "number"), BAD_PATHS[:-1])
async def test_no_call_takes_a_bad_path(path: str, number: int, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        for call in (driver.create, driver.mkdir, driver.stat, driver.unlink, driver.names):
            with pytest.raises(PlatformError) as error:
                await call(path)  # type: ignore[operator]
            assert error.value.os_errno == number
        with pytest.raises(PlatformError) as error:
            await driver.rename("/a", path)
        assert error.value.os_errno == number


async def fails(driver: Driver, path: str) -> int:
    with pytest.raises(PlatformError) as error:
        await driver.stat(path)
    return error.value.os_errno


async def test_walking(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.mkdir("/d")
        await driver.create("/d/f")
        await driver.symlink("d", "/relative")
        await driver.symlink("/d/f", "/absolute")
        await driver.symlink("../d/../../d/./f", "/d/up")  # above the root is the root
        await driver.symlink("missing", "/dangling")
        number = (await driver.stat("/d/f")).number
        for path in ("/relative/f", "/absolute", "/d/up", "/relative/up"):
            assert (await driver.stat(path)).number == number
        assert await fails(driver, "/d/f/x") == errno.ENOTDIR
        assert await fails(driver, "/absolute/x") == errno.ENOTDIR
        assert await fails(driver, "/missing/x") == errno.ENOENT
        assert await fails(driver, "/dangling") == errno.ENOENT
        assert (await driver.stat("/dangling", follow=False)).symlink == b"missing"


@pytest.mark.parametrize("target", ["loop", "/loop", "d/../loop", "/d/../loop"])
async def test_a_loop_of_links_ends(target: str, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.mkdir("/d")
        await driver.symlink(target, "/loop")
        assert await fails(driver, "/loop") == errno.ELOOP
        assert await fails(driver, "/loop/x") == errno.ELOOP


async def test_a_chain_of_links_is_followed_so_far(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/0")
        for number in range(1, SYMLINK_FOLLOW_MAX + 2):
            await driver.symlink(str(number - 1), f"/{number}")
        await driver.stat(f"/{SYMLINK_FOLLOW_MAX}")
        assert await fails(driver, f"/{SYMLINK_FOLLOW_MAX + 1}") == errno.ELOOP


async def test_walking_through_volumes(tmp_path: Path) -> None:
    """Links lead in and out of a volume as they do through a mount."""
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/outside")
        await driver.create_volume("/a/v")
        await driver.create_volume("/a/v/w")
        await driver.create("/a/v/w/inside")
        await driver.symlink("../../../outside", "/a/v/w/relative")
        await driver.symlink("/outside", "/a/v/w/absolute")
        await driver.symlink("a/v/w/inside", "/in")
        await driver.symlink("../w/../w/inside", "/a/v/w/around")
        outside = await driver.stat("/outside")
        assert await driver.stat("/a/v/w/relative") == outside
        assert await driver.stat("/a/v/w/absolute") == outside
        inside = await driver.stat("/a/v/w/inside")
        assert await driver.stat("/in") == inside
        assert await driver.stat("/a/v/w/around") == inside
