"""The change feed: what happened, in order, below a path, and only what is durable."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplatform.base.errors import Stale
from dataplatform.core import changes
from dataplatform.core.changes import KEEP_NS, TRIM_ROWS, Change, concerns
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import Event
from tests.model.platform_driver import Place, at_work


async def read(
    volume: Volume, path: str = "/", since: int = 0, limit: int = 0
) -> tuple[list[Change], int]:
    return await changes.read(volume, path, since, limit, 0)


def said(found: list[Change]) -> list[str]:
    return [f"{c.event.verb} {c.event.path}" for c in found]


async def test_what_happened_is_told_in_order(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/d")
        await driver.write_file("/d/f", b"data")
        await driver.link("/d/f", "/g")
        await driver.rename("/d", "/e")
        await driver.chmod("/e/f", 0o600)
        await driver.set_xattr("/e/f", "user.a", b"")
        await driver.truncate("/e/f", 1)
        await driver.unlink("/e/f")
        await volume.sync()
        found, after = await read(volume)
        assert said(found) == [
            "created /d",
            "created /d/f",
            "written /d/f",
            "linked /g",
            "renamed /e",
            "attributes set /e/f",
            "attribute set /e/f",
            "truncated /e/f",
            "removed /e/f",
        ]
        assert after == volume.state.commit == found[-1].commit
        assert {c.principal for c in found} == {"tester"}
        assert found[4].event.facts == {"from": "/d", "to": "/e"}
        assert await read(volume, since=after) == ([], after)


async def test_a_table_that_a_file_is_exchanged_with_has_its_new_name(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        table = await driver.table("/table")
        await driver.create("/file")
        await driver.set_xattr("/table", "user.a", b"")  # its path is known from now on
        await driver.rename("/file", "/table", exchange=True)
        await driver.set_xattr("/file", "user.b", b"")
        assert (await driver.stat("/file")).number == table.inode
        await volume.sync()
        found, _ = await read(volume)
        assert said(found)[-3:] == [
            "attribute set /table",
            "exchanged /table",
            "attribute set /file",
        ]


async def test_only_what_is_durable_is_told(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.create("/f")
        assert (await read(volume))[0] == []
        await driver.sync("/f")
        assert said((await read(volume))[0]) == ["created /f"]


async def test_a_path_hears_of_what_is_below_and_what_left(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for path in ("/a", "/ab", "/b"):
            await driver.mkdir(path)
        await driver.create("/a/f")
        await driver.create("/ab/f")
        await driver.rename("/a/f", "/b/f")
        await driver.rename("/b/f", "/b/g")
        await volume.sync()
        assert said((await read(volume, "/a"))[0]) == ["created /a", "created /a/f", "renamed /b/f"]
        below_b = ["created /b", "renamed /b/f", "renamed /b/g"]
        assert said((await read(volume, "/b"))[0]) == below_b
        assert said((await read(volume, "/b/g"))[0]) == ["renamed /b/g"]


def test_what_concerns_a_path() -> None:
    event = Event("renamed", "/b/new", "file", {"from": "/a/old", "to": "/b/new"})
    told = ["/", "/a", "/a/old", "/b", "/b/new"]
    assert [p for p in [*told, "/a/ol", "/c", "/b/new/x"] if concerns(event, p)] == told


async def test_pages_miss_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for number in range(50):
            await driver.write_file(f"/{number}", b"")  # two events in one commit
        await volume.sync()
        whole, _ = await read(volume)
        for limit in (1, 3, 100):
            found: list[Change] = []
            after = 0
            while True:
                page, after = await read(volume, since=after, limit=limit)
                if not page:
                    break
                assert len(page) <= limit + 1  # a commit's changes come together
                found += page
            assert found == whole


async def test_a_reader_waits_for_the_next_change(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        waiting = asyncio.create_task(changes.read(volume, "/d", 0, 0, 1000))
        await driver.create("/f", durable=True)
        await asyncio.sleep(0)
        assert not waiting.done()
        await driver.mkdir("/d")
        await driver.create("/d/f", durable=True)
        found, after = await waiting
        assert said(found) == ["created /d", "created /d/f"]
        assert after == 3


async def test_old_changes_are_trimmed(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        for number in range(10):
            await driver.create(f"/{number}")
        await volume.sync()
        assert await changes.trim(volume) == 0
        place.clock.advance(KEEP_NS / 1e9 + 1)
        await driver.create("/new", durable=True)
        assert await changes.trim(volume) == 10
        assert await changes.trim(volume) == 0
        await volume.sync()
        assert said((await read(volume))[0]) == ["created /new"]
        assert said((await read(volume, since=10))[0]) == ["created /new"]
        with pytest.raises(Stale) as error:
            await read(volume, since=5)
        assert error.value.facts["oldest"] == 11
    async with at_work(place) as (_, volume):
        assert said((await read(volume))[0]) == ["created /new"]


async def test_a_trim_is_bounded_and_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the clock went back in between."""
    monkeypatch.setattr(changes, "TRIM_ROWS", 7)
    assert TRIM_ROWS > 7
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        for number in range(10):
            await driver.create(f"/{number}")
        place.clock.advance(KEEP_NS / 1e9 + 1)
        await driver.create("/new")
        place.clock._ns -= KEEP_NS
        for number in range(10, 20):
            await driver.create(f"/{number}")
        place.clock._ns += KEEP_NS
        await volume.sync()
        assert await changes.trim(volume) == 7
        assert await changes.trim(volume) == 3
        assert await changes.trim(volume) == 0
        assert volume.state.oldest_change == 11
        assert len((await read(volume))[0]) == 11


async def test_at_most_so_many_changes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEEP_ROWS_MAX", 5)
    monkeypatch.setattr(changes, "TRIM_ROWS", 5)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for number in range(20):
            await driver.create(f"/{number}")
        await volume.sync()
        while await changes.trim(volume):
            await volume.sync()
        assert 5 <= len((await read(volume))[0]) <= 10
