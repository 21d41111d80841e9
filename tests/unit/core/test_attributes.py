"""What POSIX and Linux say about modes, owners, link counts and times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.platform_driver import Driver, Place, at_work


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0o6755, 0o755),
        (0o6644, 0o2644),  # without the group's execute bit it does not mean set-group-id
        (0o4600, 0o600),
        (0o2710, 0o710),
        (0o1777, 0o1777),
    ],
)
async def test_chown_clears_set_ids_of_files(before: int, after: int, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/f")
        await driver.mkdir("/d")
        for path in ("/f", "/d"):
            await driver.set_attributes(path, mode=before)
            await driver.set_attributes(path, uid=7)
        assert (await driver.stat("/f")).mode == after
        assert (await driver.stat("/d")).mode == before


async def test_mode_owner_and_times_at_once(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.create("/f")
        await driver.set_attributes("/f", mode=0o4755, uid=1, gid=2, atime_ns=3, mtime_ns=4)
        inode = await driver.stat("/f")
        assert (inode.mode, inode.uid, inode.gid) == (0o4755, 1, 2)
        assert (inode.atime_ns, inode.mtime_ns) == (3, 4)


async def _links(driver: Driver, *paths: str) -> list[int]:
    return [(await driver.stat(path)).links for path in paths]


async def test_a_moved_directory_counts_in_its_new_parent(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        for path in ("/a", "/b", "/a/d", "/b/old"):
            await driver.mkdir(path)
        moved = await driver.stat("/a/d")
        assert await _links(driver, "/a", "/b") == [3, 3]
        place.clock.advance(1.0)
        await driver.rename("/a/d", "/b/d")
        assert await _links(driver, "/a", "/b") == [2, 4]
        assert (await driver.stat("/b/d")).ctime_ns > moved.ctime_ns
        await driver.rename("/b/d", "/b/old")
        assert await _links(driver, "/a", "/b") == [2, 3]
        await driver.create("/a/f")
        await driver.rename("/a/f", "/b/old", exchange=True)
        assert await _links(driver, "/a", "/b") == [3, 2]
        for path in ("/a", "/b"):
            inode = await driver.stat(path)
            assert inode.mtime_ns == inode.ctime_ns == place.clock.now_ns()
