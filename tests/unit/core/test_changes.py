"""The change feed: what happened, in order, below a path, and only what is durable."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Corrupt, Invalid, NotFound, Stale
from dataplatform.core import change_log, change_trims, changes, followers
from dataplatform.core.change_trims import KEEP_NS, TRIM_ROWS
from dataplatform.core.change_words import EVENTS, Wanted, wanted
from dataplatform.core.changes import Change, concerns
from dataplatform.core.units import Request
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, Event
from tests.model.platform_driver import Place, at_work
from tests.principals import admin


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
        assert await change_trims.trim(volume) == 0
        place.clock.advance(KEEP_NS / 1e9 + 1)
        await driver.create("/new", durable=True)
        assert await change_trims.trim(volume) == 10
        assert await change_trims.trim(volume) == 0
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
    monkeypatch.setattr(change_trims, "TRIM_ROWS", 7)
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
        assert await change_trims.trim(volume) == 7
        assert await change_trims.trim(volume) == 3
        assert await change_trims.trim(volume) == 0
        assert volume.state.oldest_change == 11
        assert len((await read(volume))[0]) == 11


async def test_settings_say_how_long_and_how_many(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        boss = Request(admin("boss"))
        short = replace(volume.settings, changes_ttl_ms=60_000, changes_rows=100)
        await driver.platform.catalog.set(boss, volume, short)
        for number in range(300):
            await driver.create(f"/{number}")
        await volume.sync()
        assert await change_trims.run_once(volume) > 150
        await volume.sync()
        assert len((await read(volume))[0]) <= 126
        place.clock.advance(61)
        assert await change_trims.run_once(volume) > 90
        await volume.sync()
        place.clock.advance(61)
        assert await change_trims.run_once(volume) == 0  # its own row is no reason
        for wrong in ({"changes_ttl_ms": 1}, {"changes_rows": 5}, {"changes_ttl_ms": 1 << 60}):
            with pytest.raises(Invalid):
                await driver.platform.catalog.set(boss, volume, replace(short, **wrong))


async def test_who_copies_changes_holds_them_within_bounds(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        boss = Request(admin("boss"))
        short = replace(volume.settings, changes_ttl_ms=60_000, changes_rows=100)
        await driver.platform.catalog.set(boss, volume, short)
        volume.change_holds["reader"] = 10
        for number in range(150):
            await driver.create(f"/{number}")
        await volume.sync()
        place.clock.advance(61)
        assert await change_trims.run_once(volume) == 10
        await volume.sync()
        assert await change_trims.run_once(volume) == 0
        volume.change_holds["reader"] = 20
        assert await change_trims.run_once(volume) == 10
        for number in range(150, 300):
            await driver.create(f"/{number}")
        await volume.sync()
        assert await change_trims.run_once(volume) > 50  # more than twice as many
        await volume.sync()
        assert volume.state.commit - volume.state.oldest_change <= 200
        place.clock.advance(121)
        assert await change_trims.run_once(volume) > 150
        with pytest.raises(Stale):
            await read(volume, since=20)


async def test_a_trim_never_passes_a_reader_unseen(tmp_path: Path) -> None:
    """Whatever is trimmed between two pages: all of it, or STALE."""
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        for number in range(50):
            await driver.create(f"/{number}")
        await volume.sync()
        since, found = 0, list[str]()
        while len(found) < 30:
            page, since = await read(volume, since=since, limit=10)
            found += said(page)
        place.clock.advance(KEEP_NS / 1e9 + 1)
        assert await change_trims.run_once(volume) == 49
        await volume.sync()
        with pytest.raises(Stale) as error:
            await read(volume, since=since)
        assert found == [f"created /{number}" for number in range(30)]
        assert error.value.facts == {"since": 30, "oldest": 50}
        assert said((await read(volume, since=49))[0]) == ["created /49"]


async def test_at_most_so_many_changes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_trims, "KEEP_ROWS_MAX", 5)
    monkeypatch.setattr(change_trims, "TRIM_ROWS", 5)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        for number in range(20):
            await driver.create(f"/{number}")
        await volume.sync()
        while await change_trims.trim(volume):
            await volume.sync()
        assert 5 <= len((await read(volume))[0]) <= 10


# ---------------------------------------------------------------- one thing, wherever it stands


async def feed_of(
    volume: Volume, number: int, since: int = 0, **more: Any
) -> tuple[list[str], changes.Page]:
    page = await changes.read_of(volume, number, since, 0, 0, **more)
    return said(page.changes), page


async def test_the_feed_goes_with_a_directory_that_is_renamed(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.mkdir("/a")
        await driver.create("/a/1")
        await driver.mkdir("/up")
        await driver.rename("/a", "/up/b")
        await driver.create("/up/b/2")
        await driver.rename("/up", "/top")
        await driver.create("/top/b/3")
        await driver.mkdir("/other")
        await driver.rename("/top/b", "/other", exchange=True)
        await driver.create("/other/4")
        await driver.create("/top/b/not here")
        await driver.mkdir("/a")
        await driver.create("/a/nor here")
        await volume.sync()
        told = [
            "created /a",
            "created /a/1",
            "renamed /up/b",
            "created /up/b/2",
            "renamed /top",
            "created /top/b/3",
            "exchanged /other",
            "created /other/4",
        ]
        whole, page = await feed_of(volume, handle.inode)
        assert whole == told
        for since in range(page.next):
            volume.places._known.clear()  # as after a restart
            found, _ = await feed_of(volume, handle.inode, since)
            assert found == told[len(told) - len(found) :]
            assert len(found) == sum(c.commit > since for c in page.changes)
        step: list[str] = []
        since = 0
        while since < page.end:  # as a reader goes on, a commit at a time
            one = await changes.read_of(volume, handle.inode, since, 1, 0)
            step += said(one.changes)
            since = one.next
        assert step == told


async def test_what_is_renamed_into_or_out_of_it_shows(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.mkdir("/d")
        await driver.mkdir("/e")
        await driver.create("/e/f")
        await driver.create("/d/g")
        await driver.rename("/e/f", "/d/f")
        await driver.rename("/d/g", "/e/g")
        await driver.rename("/e/g", "/e/h")
        await driver.rename("/d/f", "/e/h", exchange=True)
        await volume.sync()
        found, page = await feed_of(volume, handle.inode)
        assert found == [
            "created /d",
            "created /d/g",
            "renamed /d/f",
            "renamed /e/g",
            "exchanged /e/h",
        ]
        assert page.changes[3].event.facts == {"from": "/d/g", "to": "/e/g"}


async def test_what_was_there_before_a_thing_is_of_the_place_where_it_came_to_be(
    tmp_path: Path,
) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/x")
        await driver.rename("/x", "/d")
        await driver.rmdir("/d")
        handle = await driver.mkdir("/d")
        await volume.sync()
        found, _ = await feed_of(volume, handle.inode)
        assert found == ["renamed /d", "removed /d", "created /d"]


async def test_the_last_changes_of_what_is_removed_are_told(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.mkdir("/d")
        await driver.create("/d/f")
        await volume.sync()
        _, page = await feed_of(volume, handle.inode)
        assert not page.is_over
        waiting = asyncio.create_task(
            changes.read_of(volume, handle.inode, page.next, 0, 1000, wanted=created_or_removed())
        )
        await driver.chmod("/d", 0o700)
        await driver.unlink("/d/f", durable=True)
        page = await waiting
        assert said(page.changes) == ["removed /d/f"]
        await driver.rmdir("/d")
        await driver.mkdir("/d")
        await volume.sync()
        found, page = await feed_of(volume, handle.inode, page.next)
        assert found == ["removed /d", "created /d"]  # nobody knew that this was not its end
        page = await changes.read_of(volume, handle.inode, page.next, 0, 1000)
        assert page.is_over
        assert page.changes == []
        with pytest.raises(NotFound):
            await changes.read_of(volume, handle.inode, 1, 0, 0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def created_or_removed() -> Wanted:
    return wanted((), ("created", "removed"))


async def test_a_commit_to_come_is_a_mistake(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.create("/f", durable=True)
        with pytest.raises(Invalid):
            await changes.read_of(volume, ROOT_INODE, 2, 0, 1000)


async def test_filters(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.mkdir("/d")
        await driver.write_file("/d/f", b"x")
        await driver.table("/d/t")
        await driver.rename("/d/f", "/d/g")
        await volume.sync()
        for kinds, events, expected in (
            (["file"], [], ["created /d/f", "written /d/f", "renamed /d/g"]),
            (["table", "directory"], [], ["created /d", "created /d/t"]),
            ([], ["renamed"], ["renamed /d/g"]),
            (["table"], ["created", "renamed"], ["created /d/t"]),
            (["stream"], [], []),
        ):
            found, page = await feed_of(volume, ROOT_INODE, wanted=wanted(kinds, events))
            assert found == expected
            assert page.next == page.end == volume.state.commit


def test_words_that_there_are_not_are_refused() -> None:
    for kinds, events in ((["fil"], []), ([], ["create"])):
        with pytest.raises(Invalid) as error:
            wanted(kinds, events)
        assert re.search("did you mean .*'(created|file)'", str(error.value))


def test_every_event_of_the_core_is_known() -> None:
    """As it is written in the source."""
    core = Path(changes.__file__).parent
    said_there = set[str]()
    for source in core.rglob("*.py"):
        text = source.read_text()
        said_there |= set(re.findall(r'\.event\(\s*"([^"]+)"', text))
        for pair in re.findall(r'(?:verb = |\.event\()"([^"]+)" if [^\n]* else "([^"]+)"', text):
            said_there |= set(pair)
    assert said_there
    assert said_there <= EVENTS


async def test_filtered_commits_move_a_waiting_reader_on(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.mkdir("/d")
        await volume.sync()
        waiting = asyncio.create_task(changes.read_of(volume, handle.inode, 1, 0, 0.2))
        for number in range(5):
            await driver.create(f"/{number}", durable=True)
        volume.clock.advance(1)  # type: ignore[attr-defined]
        page = await waiting
        assert page.changes == []
        assert page.next == volume.state.commit


async def test_many_filtered_commits_are_a_page_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_ROWS_MAX", 7)
    monkeypatch.setattr(change_log, "PAGE_ROWS", 3)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.mkdir("/d")
        for number in range(30):
            await driver.create(f"/{number}")
        await driver.create("/d/f")
        await volume.sync()
        since, found = 0, list[str]()
        for _ in range(10):
            page = await changes.read_of(volume, handle.inode, since, 0, 1000)
            assert page.next > since
            since, found = page.next, found + said(page.changes)
            if since == page.end:
                break
        assert found == ["created /d", "created /d/f"]


async def test_who_follows_hears_of_lazy_commits_soon(tmp_path: Path) -> None:
    """What nobody waits for is synced for them; without them it is not."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.create("/before")
        assert volume.lane.on_lazy_commit is None
        waiting = asyncio.create_task(changes.read_of(volume, ROOT_INODE, 0, 0, 1000))
        assert said((await waiting).changes) == ["created /before"]
        waiting = asyncio.create_task(changes.read_of(volume, ROOT_INODE, 1, 0, 1000))
        await until(lambda: volume.lane.on_lazy_commit is not None)
        began_s = time.monotonic()
        await driver.create("/lazy")
        assert volume.lane.durable_commit == 1
        assert said((await waiting).changes) == ["created /lazy"]
        assert time.monotonic() - began_s >= followers.LATENCY_S / 2
        assert volume.lane.on_lazy_commit is None


async def test_a_gap_in_the_log_is_said(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        for number in range(6):
            await driver.create(f"/{number}")
        await volume.sync()
        kept = await volume.storage.engine.get(keys.change(3))
        await volume.storage.engine.commit({keys.change(3): None})
        page = await changes.read_of(volume, ROOT_INODE, 0, 0, 0)
        assert said(page.changes) == ["created /0", "created /1"]
        with pytest.raises(Corrupt) as error:
            await changes.read_of(volume, ROOT_INODE, page.next, 0, 0)
        assert (error.value.facts["first"], error.value.facts["last"]) == (3, 3)
        found, _ = await feed_of(volume, ROOT_INODE, 3)
        assert found == ["created /3", "created /4", "created /5"]
        await volume.storage.engine.commit({keys.change(3): kept})
