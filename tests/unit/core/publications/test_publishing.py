"""A published feed is the feed: each change once, in order, whatever happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, Exists, Invalid, NotFound, Stale
from dataplatform.base.partitioner import partition_of
from dataplatform.client.changes import change_of
from dataplatform.core import change_texts, change_trims, changes, streams
from dataplatform.core.change_words import wanted
from dataplatform.core.identities import Account
from dataplatform.core.publications import jobs
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, Publication
from dataplatform_clients.cli import outputs
from tests.model.platform_driver import Driver, Place, at_work

from .world import BOSS, copied, listed, make_stream, publish, said, settle, unpublish


async def test_it_is_what_the_feed_says(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/log", 3)
        await driver.mkdir("/d")
        await publish(platform, "/d", "/log")
        for number in range(20):
            await driver.write_file(f"/d/{number}", b"data")
        await driver.rename("/d/1", "/d/renamed")
        await driver.create("/beside")
        await settle(platform)
        found = await copied(platform, "/log")
        feed, _ = await changes.read(volume, "/d", 2, 0, 0)
        told = [change_texts.tell(change, "/") for change in feed]
        assert sorted(each.value["commit"] for each in found) == [t.commit for t in told]
        shown = [
            outputs.to_json(outputs.change_json(change_of(pb.Change(**each._asdict()))))
            for each in told
        ]
        assert [each.json() for each in told] == shown
        for each in found:
            assert each.key == each.value["path"]
            assert each.partition == partition_of(each.key.encode(), 3)
            assert each.headers == {
                "commit": str(each.value["commit"]),
                "event": each.value["event"],
                "kind": each.value["kind"],
            }
        state = await listed(platform)
        assert (state.path, state.stream, state.topic) == ("/d", "/log", "feed")
        assert (state.state, state.records, state.by) == ("running", len(told), "boss")


async def test_it_goes_with_the_directory_and_has_filters(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        platform = driver.platform
        await make_stream(driver, "/log")
        await driver.mkdir("/a")
        await driver.create("/a/0")
        await publish(
            platform, "/a", "/log", wanted=wanted(["file"], ["created", "renamed"]), since=0
        )
        await settle(platform)
        await driver.rename("/a", "/b")
    async with at_work(place) as (driver, _):
        platform = driver.platform
        await driver.create("/b/1")
        await driver.mkdir("/a")
        await driver.create("/a/not here")
        await driver.rename("/b/1", "/a/1")
        await driver.write_file("/b/2", b"x")
        await settle(platform)
        assert await said(platform, "/log") == [
            "created /a/0",
            "created /b/1",
            "renamed /a/1",
            "created /b/2",
        ]
        assert (await listed(platform)).path == "/b"


async def test_what_publications_append_is_not_published(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/one")
        await make_stream(driver, "/two")
        await publish(platform, "/", "/one")
        await publish(platform, "/", "/two")
        commit = volume.state.commit
        await driver.create("/f")
        await settle(platform)
        assert await said(platform, "/one") == [
            "topic created /two",
            "changes published /two",
            "created /f",
        ]
        assert await said(platform, "/two") == ["created /f"]
        assert volume.state.commit == commit + 3
        await settle(platform)
        assert volume.state.commit == commit + 3
        appended = await changes.read(volume, "/one", commit, 0, 0)
        assert {c.event.verb for c in appended[0]} == {"records appended"}
        assert {c.principal for c in appended[0]} == {"boss"}


async def test_volumes_may_publish_to_each_other(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        platform = driver.platform
        await driver.create_volume("/v")
        await make_stream(driver, "/log")
        await make_stream(driver, "/v/log")
        await publish(platform, "/v", "/log")
        await publish(platform, "/", "/v/log")
        await driver.create("/v/f")
        await driver.create("/g")
        await settle(platform)
    async with at_work(place) as (driver, _):
        platform = driver.platform
        await driver.create("/v/h", durable=True)
        await settle(platform)
        assert await said(platform, "/log") == [
            "topic created /v/log",
            "changes published /v/log",
            "created /v/f",
            "created /v/h",
        ]
        assert await said(platform, "/v/log") == ["created /g"]
        assert {each.state for each in await platform.publications.listed(BOSS)} == {"running"}


async def test_a_volume_that_closes_is_read_to_its_end(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        platform = driver.platform
        await driver.create_volume("/v")
        await make_stream(driver, "/log")
        await publish(platform, "/v", "/log")
        await settle(platform)
        await driver.create("/v/late")  # lazy: durable when the volume is closed
        place.clock.advance(10_000)
        assert await platform.close_idle() == 1
        await settle(platform)
        assert await said(platform, "/log") == ["created /v/late"]
        place.clock.advance(10_000)
        assert await platform.close_idle() == 1
        await platform.publications.run_once()
        assert len(platform.volumes) == 1  # it is not opened for nothing


async def test_once_is_enough(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        platform = driver.platform
        await make_stream(driver, "/log")
        await driver.mkdir("/d")
        await publish(platform, "/d", "/log")
        with pytest.raises(Exists):
            await publish(platform, "/d", "/log")
        await publish(platform, "/", "/log")
        with pytest.raises(Invalid):
            await unpublish(platform, "/log")
        await unpublish(platform, "/log", "/d")
        await unpublish(platform, "/log")
        with pytest.raises(NotFound):
            await unpublish(platform, "/log")
        await driver.create("/d/f")
        await settle(platform)
        assert await said(platform, "/log") == []
        with pytest.raises(Invalid):
            await publish(platform, "/d", "/log", since=10_000)


# ---------------------------------------------------------------- rights


async def set_mode(driver: Driver, path: str, **attributes: int) -> None:
    await driver.set_attributes(path, **attributes)


@pytest.mark.allow_warnings
async def test_it_sees_and_may_what_its_owner_may_now(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        platform = driver.platform
        identities = platform.identities
        await identities.create_user(SYSTEM, "ana", uid=1000)
        await make_stream(driver, "/log")
        await set_mode(driver, "/log", mode=0o777)
        await driver.mkdir("/d", 0o755)
        await driver.mkdir("/d/secret", 0o700)
        ana = Request(identities.principal_of_user("ana"))
        await publish(platform, "/d", "/log", request=ana)
        await driver.create("/d/seen")
        await driver.create("/d/secret/unseen")
        await settle(platform)
        assert await said(platform, "/log") == ["created /d/seen"]
        await set_mode(driver, "/log", mode=0o700)
        await driver.create("/d/later")
        await settle(platform)
        assert await said(platform, "/log") == ["created /d/seen"]
        state = await listed(platform)
        assert state.state == "stopped"
        assert state.reason.startswith("ana may not do this any more")
        await set_mode(driver, "/log", mode=0o777)
        await settle(platform)
        assert (await listed(platform)).state == "stopped"  # until somebody says so
        await publish(platform, "/d", "/log", request=ana, restart=True)
        await settle(platform)
        assert (await said(platform, "/log"))[1:] == ["created /d/later"]
        await set_mode(driver, "/d", mode=0o700)
        await driver.create("/d/closed")
        await identities.set_user(SYSTEM, "ana", is_disabled=True)
        await settle(platform)
        state = await listed(platform)
        assert (state.state, "disabled" in state.reason) == ("stopped", True)


async def test_who_may_end_and_see_them(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        platform, identities = driver.platform, driver.platform.identities
        await make_stream(driver, "/log")
        await set_mode(driver, "/log", mode=0o777)
        await driver.mkdir("/d", 0o755)
        account = Account("ana", 1000, 1000, frozenset((1000,)))
        ana = Request(identities.principal_of_account(account))
        bob = Request(identities.principal_of_account(Account("bob", 1001)))
        await publish(platform, "/d", "/log", request=ana)
        assert len(await platform.publications.listed(ana)) == 1
        assert await platform.publications.listed(ana, "/e") == []
        assert await platform.publications.listed(bob) == []
        with pytest.raises(Denied):
            await unpublish(platform, "/log", request=bob)
        await unpublish(platform, "/log", request=ana)
        await set_mode(driver, "/log", mode=0o755)
        with pytest.raises(Denied):
            await publish(platform, "/d", "/log", request=ana)
        await set_mode(driver, "/log", mode=0o777)
        await set_mode(driver, "/d", mode=0o700)
        await publish(platform, "/d", "/log", request=ana)  # its name is seen, nothing below it
        await driver.create("/d/f")
        await settle(platform)
        assert await said(platform, "/log") == []


# ---------------------------------------------------------------- what goes wrong


async def set_rows(driver: Driver, volume: Volume, rows: int) -> None:
    await driver.platform.catalog.set(BOSS, volume, replace(volume.settings, changes_rows=rows))


@pytest.mark.allow_warnings
async def test_what_was_trimmed_is_said_and_left_behind_when_told_to(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/log")
        await driver.mkdir("/d")
        await publish(platform, "/d", "/log")
        await set_rows(driver, volume, 100)
        for number in range(150):
            await driver.create(f"/d/{number}")
        await volume.sync()
        assert await change_trims.run_once(volume) == 3  # what was read; the others are held
        for number in range(150, 400):
            await driver.create(f"/d/{number}")
        await volume.sync()
        assert await change_trims.run_once(volume) > 100
        await settle(platform)
        state = await listed(platform)
        assert state.state == "stopped"
        assert "commits 4 to" in state.reason
        assert "--restart" in state.reason
        assert volume.change_holds == {}
        with pytest.raises(Stale):
            await publish(platform, "/d", "/log", since=4, restart=True)
        await publish(platform, "/d", "/log", restart=True)
        await settle(platform)
        first, *others = await copied(platform, "/log")
        oldest = volume.state.oldest_change
        assert first.value["event"] == "changes lost"
        assert first.value["facts"] == {"first": "4", "last": str(oldest - 1)}
        assert [each.value["path"] for each in others] == [
            f"/d/{number}" for number in range(400 - len(others), 400)
        ]
        assert others[0].value["commit"] == oldest
        assert (await listed(platform)).state == "running"


async def test_change_rows_wait_for_it(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/log")
        await publish(platform, "/", "/log")
        for number in range(50):
            await driver.create(f"/{number}")
        await volume.sync()
    place.clock.advance(change_trims.KEEP_NS / 1e9 + 1)
    async with at_work(place) as (driver, volume):
        platform = driver.platform
        assert await change_trims.run_once(volume) <= 2
        await settle(platform)
        assert await said(platform, "/log") == [f"created /{number}" for number in range(50)]
        assert await change_trims.run_once(volume) >= 49


@pytest.mark.allow_warnings
async def test_damage_stops_it_until_somebody_says_go_on(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/log")
        await publish(platform, "/", "/log")
        for number in range(6):
            await driver.create(f"/{number}")
        await volume.sync()
        engine, key = volume.storage.engine, keys.change(volume.state.commit - 3)
        kept = await engine.get(key)
        assert kept is not None
        await engine.commit({key: kept[:-1]})
        await settle(platform)
        assert await said(platform, "/log") == ["created /0", "created /1"]
        state = await listed(platform)
        assert state.state == "stopped"
        await publish(platform, "/", "/log", restart=True)
        await settle(platform)
        assert (await said(platform, "/log"))[2:] == [
            "changes lost /",
            "created /3",
            "created /4",
            "created /5",
            "changes published /log",
        ]
        await engine.commit({key: kept})


@pytest.mark.allow_warnings
async def test_a_full_stream_is_waited_for(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        platform = driver.platform
        await driver.mkdir("/q")
        await driver.mkdir("/d")
        await make_stream(driver, "/q/log")
        await publish(platform, "/d", "/q/log")
        await driver.set_quota("/q", quota_bytes=1)
        await driver.create("/d/f")
        await settle(platform)
        state = await listed(platform)
        assert (state.state, "quota" in state.reason) == ("waiting", True)
        await driver.set_quota("/q", quota_bytes=1 << 20)
        await settle(platform)
        assert (await listed(platform)).state == "waiting"
        place.clock.advance(jobs.RETRY_S)
        await settle(platform)
        assert (await listed(platform)).state == "running"
        assert await said(platform, "/q/log") == ["created /d/f"]


@pytest.mark.allow_warnings
async def test_what_is_published_may_go_and_so_may_the_stream(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/log")
        await driver.mkdir("/d")
        await publish(platform, "/d", "/log")
        await driver.create("/d/f")
        await driver.unlink("/d/f")
        await driver.rmdir("/d")
        await settle(platform)
        await settle(platform)
        assert await said(platform, "/log") == ["created /d/f", "removed /d/f", "removed /d"]
        state = await listed(platform)
        assert (state.state, state.path) == ("stopped", "/d")
        assert "removed" in state.reason
        await publish(platform, "/", "/log")
        await driver.unlink("/log")
        await driver.create("/f")
        await settle(platform)
        start, end = keys.prefix_range(keys.PUBLICATION)
        await unpublish_all(volume)
        assert await volume.storage.engine.scan(start, end) == []


async def unpublish_all(volume: Volume) -> None:
    """Of those that stopped nobody hears that their stream went."""

    async def work(unit: Unit) -> None:
        start, end = keys.prefix_range(keys.PUBLICATION)
        for key, _ in await unit.scan(start, end):
            unit.delete(key)

    await volume.run(SYSTEM, work, durable=True)


async def test_a_copy_of_its_record_sleeps(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, volume):
        platform = driver.platform
        await make_stream(driver, "/log")
        await publish(platform, "/", "/log")
        start, end = keys.prefix_range(keys.PUBLICATION)
        ((key, value),) = await volume.storage.engine.scan(start, end)
        elsewhere = replace(Publication.unpack(value), home=b"another place")
        await volume.sync()
        await volume.storage.engine.commit({key: elsewhere.pack()})
    async with at_work(place) as (driver, volume):
        platform = driver.platform
        await driver.create("/f")
        await settle(platform)
        assert await said(platform, "/log") == []
        await publish(platform, "/", "/log")  # it is not in the way
        await driver.create("/g")
        await settle(platform)
        assert await said(platform, "/log") == ["created /g"]


async def test_an_append_is_not_repeated_after_a_failed_wait(tmp_path: Path) -> None:
    """Two runs at the same time, and a record that somebody else changed."""
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        platform = driver.platform
        await make_stream(driver, "/log")
        await publish(platform, "/", "/log")
        await driver.create("/f", durable=True)
        (job,) = platform.publications._jobs.values()
        stale = jobs.job_of(job.home, job.name, job.record)
        await settle(platform)
        platform.publications._jobs[job.home, job.name] = stale
        await driver.create("/g", durable=True)
        await settle(platform)
        assert await said(platform, "/log") == ["created /f", "created /g"]


async def test_settings_of_topics_hold(tmp_path: Path) -> None:
    """The topic is there at once, so that consumers may come."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await make_stream(driver, "/log", 5)
        await publish(driver.platform, "/", "/log")
        entry = await volume.find_entry(ROOT_INODE, b"log")
        assert entry is not None
        (topic,) = await streams.topics(volume, entry.inode, ["feed"])
        assert len(topic.partitions) == 5
