"""The trail: everything that was committed is told once, in order, whatever happens."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Denied, Exhausted, PlatformError
from dataplatform.core import (
    change_trims,
    files,
    namespace,
    retention,
    streams,
    transactions,
)
from dataplatform.core.access.verbs import Verb
from dataplatform.core.audit import protection, trail
from dataplatform.core.audit.trail import TTL_MS_MIN
from dataplatform.core.change_trims import KEEP_NS
from dataplatform.core.namespace import Attributes
from dataplatform.core.principals import Principal
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, Kind, VolumeSettings
from tests.model.platform_driver import Driver, Place, at_work
from tests.principals import admin
from tests.streaming import build_batch

from .reading import audited, said

CHANGES = VolumeSettings(audit="changes")


async def set_audit(driver: Driver, volume: Volume, mode: str, ttl_ms: int = 0) -> None:
    settings = VolumeSettings(
        created_ns=volume.settings.created_ns,
        identity=volume.settings.identity,
        audit=mode,
        audit_ttl_ms=ttl_ms,
    )
    request = Request(admin("boss"), origin="unix pid 1 uid 0")
    await driver.platform.catalog.set(request, volume, settings)


async def settle(driver: Driver) -> None:
    for volume in driver.platform.volumes:
        await volume.sync()
    await driver.platform.audit.run_once()


async def test_what_was_committed_is_told_with_everything_about_it(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        volume_id = await driver.create_volume("/v", CHANGES)
        volume = await driver.platform.acquire(volume_id)
        ana = Principal("ana", uid=0, token="t-1")
        request = Request(ana, origin="tcp 10.1.2.3:4")

        async def work(unit: Unit) -> int:
            return await namespace.create(unit, ROOT_INODE, "f", Attributes(Kind.FILE))

        place_ns = driver.platform.clock.now_ns()
        number = await volume.run(request, work, durable=True)
        commit = volume.state.commit
        await driver.rename("/v/f", "/v/g")
        await settle(driver)
        first, second = await audited(driver.platform, "v")
        assert first == {
            "time": first["time"],
            "user": "ana",
            "token": "t-1",
            "origin": "tcp 10.1.2.3:4",
            "op": "created",
            "kind": "file",
            "path": "/v/f",
            "verdict": "allowed",
            "commit": commit,
            "volume": volume_id,
        }
        assert number
        assert first["time"].endswith("Z")
        assert place_ns // 10**9 == int(_seconds(first["time"]))
        assert second["user"] == "tester"
        assert second["right"] == "admin"
        assert second["facts"] == {"from": "/v/f", "to": "/v/g"}
        await settle(driver)
        assert len(await audited(driver.platform, "v")) == 2
        driver.platform.release(volume)


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


async def test_who_shares_a_commit_is_told_apart(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        volume_id = await driver.create_volume("/v", CHANGES)
        volume = await driver.platform.acquire(volume_id)
        handle = await driver.create("/v/f")
        ana, bob = Principal("ana", uid=0), Principal("bob", uid=0)
        for principal, origin in ((ana, "tcp a"), (bob, "tcp b"), (ana, "tcp a"), (ana, "tcp c")):
            request = Request(principal, origin=origin)
            await files.write(volume, request, handle.inode, 0, b"x", durable=False)
        await settle(driver)
        found = [r for r in await audited(driver.platform, "v") if r["op"] == "written"]
        assert [(r["user"], r["origin"]) for r in found] == [
            ("ana", "tcp a"),
            ("bob", "tcp b"),
            ("ana", "tcp c"),
        ]
        assert len({r["commit"] for r in found}) == 1
        driver.platform.release(volume)


async def test_switching_it_on_and_off_is_told_and_nothing_beside_it(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, root):
        await driver.mkdir("/before")
        await set_audit(driver, root, "changes")
        await driver.mkdir("/during")
        await set_audit(driver, root, "")
        await driver.mkdir("/after")
        await settle(driver)
        expected = ["volume set /", "created /during", "volume set /"]
        found = await audited(driver.platform, "root")
        assert said(found) == expected
        assert [r["facts"].get("audit") for r in (found[0], found[2])] == ["changes", "off"]
        assert found[2]["user"] == "boss"
        await settle(driver)
        assert root.audited_commit is None
        assert not driver.platform.audit.backlog()
        await set_audit(driver, root, "all")
        await settle(driver)
        assert said(await audited(driver.platform, "root")) == [*expected, "volume set /"]
        commit = root.state.commit
        for _ in range(5):
            await settle(driver)
        assert root.state.commit == commit, "an audit of the root volume audits itself for ever"


async def test_a_kill_between_commit_and_audit_loses_and_repeats_nothing(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    driver = Driver(platform)
    await driver.create_volume("/v", CHANGES)
    for index in range(5):
        await driver.create(f"/v/{index}", durable=True)
    await settle(driver)
    for index in range(5, 10):
        await driver.create(f"/v/{index}", durable=True)
    await place.crash()
    async with at_work(place) as (driver, _):
        assert len(driver.platform.volumes) == 1  # nobody uses it yet
        await driver.platform.audit.run_once()
        found = await audited(driver.platform, "v")
        assert said(found) == [f"created /v/{index}" for index in range(10)]
        commits = [record["commit"] for record in found]
        assert commits == sorted(set(commits))


async def test_a_topic_follows_the_path_of_its_volume(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        await driver.mkdir("/a")
        await driver.create_volume("/a/v", CHANGES)
        await driver.create("/a/v/f")
        await settle(driver)
        await driver.rename("/a", "/b")
        await driver.create("/b/v/g")
        await settle(driver)
        old, new = [await audited(driver.platform, topic) for topic in ("a.v", "b.v")]
        assert said(old) == ["created /a/v/f", "audit moved /b/v"]
        assert old[1]["facts"] == {"topic": "b.v"}
        assert said(new) == ["audit moved /b/v", "created /b/v/g"]


async def test_a_volume_goes_when_all_of_it_was_told(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        volume_id = await driver.create_volume("/v", CHANGES)
        await driver.create("/v/f")
        request = Request(admin("boss"), origin="unix pid 1 uid 0")
        await driver.platform.catalog.remove(request, volume_id, recursive=True)
        found = await audited(driver.platform, "v")
        assert said(found) == ["created /v/f", "volume removed /v"]
        assert (found[1]["user"], found[1]["origin"]) == ("boss", "unix pid 1 uid 0")
        assert not driver.platform.audit.backlog()
    async with at_work(place) as (driver, _):
        assert await driver.platform.audit.run_once() == 0


async def test_the_change_log_waits_for_the_audit(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, _):
        volume_id = await driver.create_volume("/v", CHANGES)
        volume = await driver.platform.acquire(volume_id)
        for index in range(10):
            await driver.create(f"/v/{index}")
        await volume.sync()
        place.clock.advance(KEEP_NS / 10**9 + 1)
        assert await change_trims.trim(volume) == 0
        await settle(driver)
        assert await change_trims.trim(volume) > 5
        assert len(await audited(driver.platform, "v")) == 10
        driver.platform.release(volume)


@pytest.mark.allow_warnings
async def test_a_disk_without_room_delays_the_audit_and_a_removal(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, root):
        volume_id = await driver.create_volume("/v", CHANGES)
        await driver.create("/v/f")
        volume = await driver.platform.acquire(volume_id)
        await volume.sync()
        driver.platform.release(volume)
        commit, refused = root.storage.engine.commit, 0

        async def full(*_: Any, **__: Any) -> int:
            nonlocal refused
            refused += 1
            raise Exhausted("disk is full")

        root.storage.engine.commit = full  # type: ignore[method-assign]
        with pytest.raises(Exhausted):
            await driver.platform.audit.run_once()
        assert "disk is full" in driver.platform.audit.failure
        with pytest.raises(Exhausted):
            await driver.platform.catalog.remove(Request(admin("boss")), volume_id, recursive=True)
        root.storage.engine.commit = commit  # type: ignore[method-assign]
        assert refused == 2
        assert await driver.names("/v") == ["f"]
        assert driver.platform.audit.backlog()[volume_id]
        await settle(driver)
        assert not driver.platform.audit.failure
        assert said(await audited(driver.platform, "v")) == ["created /v/f"]


async def test_its_bytes_are_outside_of_quotas(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    quota = 10_000
    async with at_work(place) as (driver, root):
        settings = VolumeSettings(
            quota_bytes=quota, created_ns=1, identity=root.settings.identity, audit="changes"
        )
        await driver.platform.catalog.set(Request(admin("boss")), root, settings)
        for index in range(300):
            await driver.mkdir(f"/{index:0200}")
            if index % 10 == 0:
                await settle(driver)
        await settle(driver)
        assert len(await audited(driver.platform, "root")) == 301
        assert root.state.used_bytes == root.quotas.exempt_bytes > quota
    async with at_work(place) as (driver, root):
        assert root.quotas.exempt_bytes == root.state.used_bytes
        await driver.write_file("/f", bytes(quota))
        with pytest.raises(Exhausted):
            await driver.write_file("/g", b"x")
        await settle(driver)
        assert said(await audited(driver.platform, "root"))[-1] == "written /f"


async def test_retention_is_an_audited_setting(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (driver, root):
        await driver.create_volume("/v", CHANGES)
        await driver.create("/v/f")
        await set_audit(driver, root, "changes", TTL_MS_MIN)
        await settle(driver)
        place.clock.advance(TTL_MS_MIN / 1000 + 1)
        await driver.mkdir("/late")
        await settle(driver)
        await retention.run_once(root)
        assert said(await audited(driver.platform, "root")) == ["created /late"]
        assert said(await audited(driver.platform, "v")) == ["created /v/f"]
        await settle(driver)
        assert said(await audited(driver.platform, "root")) == ["created /late"]
        with pytest.raises(PlatformError):
            await set_audit(driver, root, "changes", TTL_MS_MIN - 1)


async def test_denials_and_reads_are_gathered_and_folded(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, root):
        await set_audit(driver, root, "all")
        observed = driver.platform.audit.observed
        eve = Principal("eve", token="t-9")
        driver.platform.audit.record(eve, "tcp x", op="login", rule="the token has expired")
        for _ in range(3):
            observed.denied(eve, "tcp x", 1, verb="write", path="/f", rule="mode 0600")
        for index in range(5000):
            observed.denied(eve, "tcp x", 1, verb="read", path=f"/{index}")
        for key in ("a", "b", "a"):
            read = (eve, "tcp x", 1, 7, "row got", (key.encode(),))
            if not observed.read_again(*read):
                observed.read(*read, path="/t", kind="table")
        await settle(driver)
        found = (await audited(driver.platform, "root"))[1:]
        assert len(found) < 1200
        assert sum(r.get("count", 1) for r in found if r.get("verb") == "read") == 5000
        (write,) = [r for r in found if r.get("verb") == "write"]
        assert (write["count"], write["verdict"], write["rule"]) == (3, "denied", "mode 0600")
        (login,) = [r for r in found if r["op"] == "login"]
        assert (login["rule"], login["token"]) == ("the token has expired", "t-9")
        (got,) = [r for r in found if r["op"] == "row got"]
        assert got["facts"] == {"keys": ["a", "b", "a"]}
        assert observed.is_told(b"s", "read", 1, 2) is False
        assert observed.is_told(b"s", "read", 1, 2) is True
        assert observed.is_told(b"s", "row got", 1, 2) is False


CHANGING: dict[str, Callable[[Unit, int], Awaitable[Any]]] = {
    "remove": lambda unit, _: namespace.remove(unit, ROOT_INODE, b".audit"),
    "rename": lambda unit, _: namespace.rename(unit, ROOT_INODE, b".audit", ROOT_INODE, "x"),
    "replace": lambda unit, _: namespace.rename(unit, ROOT_INODE, b"other", ROOT_INODE, ".audit"),
    "exchange": lambda unit, _: namespace.rename(
        unit, ROOT_INODE, b"other", ROOT_INODE, "x-stream", exchange=True
    ),
    "chmod": lambda unit, number: namespace.set_attributes(unit, number, mode=0o777),
    "chown": lambda unit, number: namespace.set_attributes(unit, number, uid=7),
    "ttl": lambda unit, number: namespace.set_attributes(unit, number, settings={"ttl_ms": 1}),
    "xattr": lambda unit, number: namespace.set_xattr(
        unit, number, "user.a", b"", create_only=False, replace_only=False
    ),
    "create topic": lambda unit, number: streams.create_topic(unit, number, "mine"),
    "add partitions": lambda unit, number: streams.create_topic(unit, number, "root", 5),
    "delete topic": lambda unit, number: streams.delete_topic(unit, number, "root"),
    "producer": lambda unit, number: streams.init_producer(unit, number),
}


@pytest.mark.parametrize("what", [name for name in CHANGING if name != "exchange"])
async def test_nobody_changes_it(what: str, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, root):
        await driver.make("/other", Attributes(Kind.STREAM))
        await set_audit(driver, root, "changes")
        await settle(driver)
        before = await audited(driver.platform, "root")
        node = await driver.platform.locate(protection.PATH)
        driver.platform.release(node.volume)
        assert node.inode.mode == 0o600
        assert node.inode.access == {"consume": ""}
        with pytest.raises(Denied) as refused:
            await root.run(
                Request(admin("root")),
                lambda unit: CHANGING[what](unit, node.inode.number),
                durable=True,
            )
        assert refused.value.os_errno == errno.EPERM
        assert await audited(driver.platform, "root") == before


async def test_nobody_appends_to_it_or_takes_its_name(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, root):
        for kind in (Kind.FILE, Kind.STREAM, Kind.DIRECTORY):
            with pytest.raises(Denied):
                await driver.make("/.audit", Attributes(kind))
        await driver.mkdir("/d")
        await driver.mkdir("/d/.audit")  # only the one in the root is taken
        with pytest.raises(Denied):
            await driver.rename("/d", "/.audit")
        await set_audit(driver, root, "changes")
        await settle(driver)
        node = await driver.platform.locate(protection.PATH)
        driver.platform.release(node.volume)
        with root.holds.append():
            prepared = await streams.prepare(root, [streams.Part("root", 0, build_batch([b"{}"]))])

            async def append(unit: Unit) -> Any:
                return await streams.append(unit, node.inode.number, prepared)

            for work in (
                lambda: root.run(Request(admin("root")), append, durable=True),
                lambda: transactions.run(root, Request(admin("root")), [append], durable=True),
            ):
                with pytest.raises(Denied):
                    await work()
        with pytest.raises(Denied):
            protection.check_verbs(node.inode, ["consume", "admin"])
        protection.check_verbs(node.inode, ["consume"])
        assert trail.WRITING.session is None


async def test_every_kind_of_denial_says_what_denied(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, root):
        await driver.create_volume("/v", CHANGES)
        await set_audit(driver, root, "changes")
        await driver.create("/v/mode", mode=0o600)
        await driver.create("/v/rule")
        await driver.mkdir("/v/closed", mode=0o700)
        await driver.create("/v/closed/f")
        node = await driver.platform.locate("/v/rule")
        volume = node.volume

        async def rule(unit: Unit) -> None:
            inode = await unit.inode(node.inode.number)
            inode.access = {"read": "u:bob"}
            unit.save(inode)

        await volume.run(Request(admin("boss")), rule, durable=True)
        ana = Principal("ana", uid=7, token="t-7")
        reader = Principal("boss", uid=0, is_admin=True, is_read_only=True)
        elsewhere = Principal("eve", uid=0, is_admin=True, roots=((1, 999),))
        for who, path, verb in (
            (ana, "/v/mode", Verb.READ),
            (ana, "/v/rule", Verb.READ),
            (ana, "/v/closed/f", Verb.READ),
            (reader, "/v/mode", Verb.WRITE),
            (elsewhere, "/v/mode", Verb.READ),
        ):
            found = await driver.platform.locate(path)
            with pytest.raises(Denied):
                await found.volume.allow(who, found.inode, verb, origin="tcp 10.0.0.7:1")
            driver.platform.release(found.volume)
        await settle(driver)
        told = [r for r in await audited(driver.platform, "v") if r["verdict"] == "denied"]
        assert [(r["user"], r["path"], r["verb"]) for r in told] == [
            ("ana", "/v/mode", "read"),
            ("ana", "/v/rule", "read"),
            ("ana", "/v/closed/f", "read"),
            ("boss", "/v/mode", "write"),
            ("eve", "/v/mode", "read"),
        ]
        rules = [r["rule"] for r in told]
        assert rules[0] == "mode"
        assert rules[1] == "expression 'u:bob' at /v/rule"
        assert rules[2].startswith("reach")
        assert rules[3] == rules[4] == "token"
        assert told[0]["token"] == "t-7"
        assert {r["origin"] for r in told} == {"tcp 10.0.0.7:1"}
        driver.platform.release(volume)


async def test_only_its_readers_read_it_and_only_administrators_set_it(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, root):
        await set_audit(driver, root, "changes")
        await settle(driver)
        node = await driver.platform.locate(protection.PATH)
        driver.platform.release(node.volume)
        ana = Principal("ana", uid=7, groups=frozenset(("auditors",)))

        async def open_above(unit: Unit) -> None:
            inode = await unit.inode(ROOT_INODE)
            inode.access = {"consume": "p", "read": "p"}
            unit.save(inode)
            unit.move_rules()

        async def name_readers(unit: Unit) -> None:
            inode = await unit.inode(node.inode.number)
            protection.check_verbs(inode, ("consume",))
            inode.access = {"consume": "g:auditors"}
            unit.save(inode)

        await root.run(Request(admin("boss")), open_above, durable=True)
        with pytest.raises(Denied):
            await root.allow(ana, node.inode.number, Verb.CONSUME)
        await root.run(Request(admin("boss")), name_readers, durable=True)
        await root.allow(ana, node.inode.number, Verb.CONSUME)
        with pytest.raises(Denied):
            await root.allow(Principal("bob", uid=8), node.inode.number, Verb.CONSUME)
        off = VolumeSettings(created_ns=1, identity=root.settings.identity)
        with pytest.raises(Denied):
            await driver.platform.catalog.set(Request(ana), root, off)
        assert root.settings.audit == "changes"
