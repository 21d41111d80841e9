"""Attacks through the methods: what somebody without the right gets to know, or makes others wait
for, by ways that no single method is about."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.clock import ManualClock, SystemEntropy
from dataplatform.base.errors import (
    Conflict,
    Denied,
    Exhausted,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
)
from dataplatform_server.areas import open_area
from dataplatform_server.sessions import Sessions
from tests.rights import ANA, ANYBODY, EVE, ROOT, Core
from tests.sharing import memfd


def in_core(test: Callable[[Core], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        core = await Core.start()
        try:
            await test(core)
        finally:
            await core.close()

    run.__doc__ = test.__doc__
    return run


def itself(node: pb.Node, name: str = "") -> pb.Target:
    return pb.Target(volume=node.volume, inode=node.inode, path=name)


async def stat_of(core: Core, path: str) -> pb.Node:
    node: pb.Node = await core.call(
        ROOT, "Namespace.Stat", pb.StatRequest(target=pb.Target(path=path))
    )
    return node


class Spy:
    """Somebody who has himself told what changes, as a mount does."""

    def __init__(self, core: Core, who: Any) -> None:
        self.core, self.who = core, who
        self.acknowledged = 0
        self.heard: list[pb.WatchReply] = []

    async def ask(self, target: pb.Target, expected: type[PlatformError] | None) -> None:
        asking = self.core.call(self.who, "Namespace.Stat", pb.StatRequest(target=target))
        if expected is None:
            await asking
        else:
            with pytest.raises(expected):
                await asking

    async def watch(self, *, begin: bool = False) -> pb.WatchReply:
        message = pb.WatchRequest(begin=begin, acknowledged=self.acknowledged)
        reply: pb.WatchReply = await self.core.call(self.who, "Namespace.Watch", message)
        self.acknowledged = reply.sequence
        self.heard.append(reply)
        return reply

    async def hears(self, change: Coroutine[Any, Any, Any]) -> str:
        """Everything that it is told while the change is made."""
        self.heard.clear()
        task = asyncio.ensure_future(change)
        while not task.done():
            await asyncio.sleep(0)
            await self.watch()
        await task
        await self.watch()
        return str(self.heard)


@in_core
async def test_a_guessed_number_is_not_watched(core: Core) -> None:
    """A promise is made before a verdict: it ends with the verdict."""
    private = await core.make_directory("/private", 0o700)
    file = await core.make("/private/file", 0o644)
    spy = Spy(core, EVE)
    await spy.watch(begin=True)
    for name in ("x", "file", "x/y"):
        await spy.ask(itself(private, name), Denied)
    await spy.ask(itself(file), Denied)
    keeper = core.platform.promises.find(core.attachment(EVE).session.id)
    assert keeper is not None
    assert not keeper.kept
    with pytest.raises(Denied):
        await core.call(EVE, "Files.Write", pb.WriteRequest(target=itself(file)), b"x")
    assert not keeper.kept
    assert "secret" not in await spy.hears(core.make("/private/secret", 0o600))


@in_core
async def test_names_are_told_to_who_may_list_them(core: Core) -> None:
    shared = await core.make_directory("/shared", 0o755)
    drop = await core.make_directory("/drop", 0o711)
    spy = Spy(core, EVE)
    await spy.watch(begin=True)
    await spy.ask(itself(shared, "x"), NotFound)
    assert "known" in await spy.hears(core.make("/shared/known", 0o600))
    await spy.ask(itself(drop, "x"), NotFound)
    heard = await spy.hears(core.make("/drop/secret", 0o600))
    assert "secret" not in heard
    assert "everything" in heard  # which its caches must drop, all the same


@in_core
async def test_names_are_not_told_after_a_right_is_withdrawn(core: Core) -> None:
    shared = await core.make_directory("/shared", 0o755)
    spy = Spy(core, EVE)
    await spy.watch(begin=True)
    await spy.ask(itself(shared, "x"), NotFound)
    withdrawal = pb.SetAttributesRequest(target=itself(shared), mode=0o700)
    await spy.hears(core.call(ROOT, "Namespace.SetAttributes", withdrawal))
    assert "secret" not in await spy.hears(core.make("/shared/secret", 0o600))


@in_core
async def test_nobody_waits_for_nobody_in_particular(core: Core) -> None:
    shared = await core.make_directory("/shared", 0o755)
    spy = Spy(core, ANYBODY)
    await spy.watch(begin=True)
    await spy.ask(itself(shared, "x"), NotFound)
    await asyncio.wait_for(core.make("/shared/x", 0o644), 5.0)
    assert "everything" in str(await spy.watch()) or spy.heard[-1].broken


@in_core
async def test_what_a_mount_says_of_itself_is_short(core: Core) -> None:
    report = pb.MountReport(mountpoint="x" * 20_000)
    with pytest.raises(Invalid, match="too long"):
        await core.call(EVE, "Namespace.Watch", pb.WatchRequest(begin=True, report=report))
    assert not core.platform.promises.reports()


@in_core
async def test_the_status_tells_others_no_path(core: Core) -> None:
    hidden = await core.make_directory("/hidden", 0o700)
    request = pb.VolumeRequest(target=itself(hidden, "merger"))
    request.settings.audit = "changes"
    await core.call(ROOT, "Volumes.Create", request)
    assert "merger" in str(await core.call(ROOT, "System.Status", pb.Empty()))
    for who in (ANA, ANYBODY):
        assert "hidden" not in str(await core.call(who, "System.Status", pb.Empty()))


@in_core
async def test_locking_does_not_tell_what_there_is(core: Core) -> None:
    hidden = await core.make_directory("/hidden", 0o700)
    await core.call(ROOT, "Volumes.Create", pb.VolumeRequest(target=itself(hidden, "merger")))
    for method in ("Volumes.Lock", "Volumes.Unlock"):
        said = set()
        for path in ("/hidden/merger", "/hidden/other", "/nothing"):
            with pytest.raises(PlatformError) as refused:
                await core.call(EVE, method, pb.VolumeRequest(target=pb.Target(path=path)))
            said.add((refused.value.kind, refused.value.message))
        assert len(said) == 1


@in_core
async def test_a_whole_file_that_is_refused_is_not_stored_before(core: Core) -> None:
    await core.make_directory("/closed", 0o755)
    await core.make_directory("/open", 0o777)
    (volume,) = core.platform.volumes

    async def put(who: Any, path: str) -> None:
        message = pb.WriteFileRequest(target=pb.Target(path=path), parents=True)
        await core.call(who, "Files.WriteFile", message, bytes(1 << 20))

    for who, path in ((EVE, "/closed/f"), (ANYBODY, "/closed/a/b/f"), (EVE, "/f")):
        with pytest.raises(Denied):
            await put(who, path)
    assert sum((await volume.storage.segments.sizes()).values()) == 0
    await put(EVE, "/open/f")
    await put(EVE, "/open/f")  # over one's own
    with pytest.raises(Denied):
        await put(ANYBODY, "/closed/g")
    assert sum((await volume.storage.segments.sizes()).values()) >= 2 << 20


@in_core
async def test_members_are_thrown_out_by_themselves_alone(core: Core) -> None:
    stream = await core.make("/s", 0o711, kind=pb.STREAM)
    topic = pb.TopicRequest(stream=itself(stream), topic="t", partitions=1)
    await core.call(ROOT, "Streams.CreateTopic", topic)
    joining = pb.JoinGroupRequest(stream=itself(stream), group="g", member="worker-1", topics=["t"])
    joined = await core.call(ROOT, "Groups.Join", joining)
    leaving = pb.HeartbeatRequest(
        stream=itself(stream), group="g", member="worker-1", epoch=2**62, leave=True
    )
    with pytest.raises(Denied):
        await core.call(EVE, "Groups.Heartbeat", leaving)
    beat = pb.HeartbeatRequest(
        stream=itself(stream), group="g", member="worker-1", epoch=joined.epoch
    )
    assert (await core.call(ROOT, "Groups.Heartbeat", beat)).member == "worker-1"


@in_core
async def test_a_transaction_takes_no_number_of_another_volume_for_its_own(core: Core) -> None:
    other = await core.call(ROOT, "Volumes.Create", pb.VolumeRequest(target=pb.Target(path="/v")))
    directory = await core.make_directory("/d", 0o755)
    step = pb.TransactionRequest.Operation()
    step.create.target.CopyFrom(pb.Target(volume=other.volume, inode=directory.inode, path="f"))
    step.create.kind = pb.FILE
    request = pb.TransactionRequest(base=pb.Target(path="/"), operations=[step])
    with pytest.raises(Invalid, match="one volume"):
        await core.call(ROOT, "Transactions.Commit", request)


def test_one_owner_does_not_take_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplatform_server.sessions.SESSIONS_OWNER_MAX", 5)
    clock = ManualClock()
    sessions = Sessions(clock, SystemEntropy(), lambda session: None)
    for _ in range(5):
        sessions.touch(os.urandom(16), ANYBODY)
    with pytest.raises(Exhausted, match="of yours"):
        sessions.touch(os.urandom(16), ANYBODY)
    sessions.touch(os.urandom(16), ANA)
    clock.advance(61.0)
    assert sessions.run_once() == 6
    sessions.touch(os.urandom(16), ANYBODY)


def test_memory_of_another_user_is_not_shared() -> None:
    """As when the number of a process that has gone belongs to somebody else's by now."""
    descriptor = memfd(4096)
    try:
        request = pb.ShareRequest(area=1, descriptor=descriptor, size=4096)
        with pytest.raises(Denied, match="somebody else"):
            open_area(os.getpid(), os.getuid() + 1, request)
    finally:
        os.close(descriptor)


@in_core
async def test_a_quota_is_not_left_behind_by_a_volume(core: Core) -> None:
    """What a volume holds counts for itself alone: whoever has a quota makes none below it."""
    await core.make_directory("/ana", 0o755, ANA)
    making = pb.VolumeRequest(target=pb.Target(path="/ana/v"))
    making.settings.audit = "all"
    with pytest.raises(Denied):
        await core.call(ANA, "Volumes.Create", making)
    quota = pb.QuotaRequest(target=pb.Target(path="/ana"))
    quota.limits.quota_bytes = 1000
    await core.call(ROOT, "Quotas.Set", quota)
    making = pb.VolumeRequest(target=pb.Target(path="/ana/d/v"))
    with pytest.raises(Denied):
        await core.call(ANA, "Volumes.Create", making)
    await core.call(ROOT, "Volumes.Create", making)


def test_no_request_names_stored_bytes() -> None:
    """Segments and extents are named by replies alone: there is no asking for deleted bytes.
    Except by mirrors, which are administrators': see the matrix."""
    seen: set[str] = set()
    others = [method for name, method in METHODS.items() if name != "Replication.Extents"]
    todo = [method.request.DESCRIPTOR for method in others]
    while todo:
        message = todo.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            assert not any(word in field.name for word in ("segment", "extent", "skip"))
            if field.message_type is not None:
                todo.append(field.message_type)


def written(path: str, data: bytes) -> pb.TransactionRequest.Operation:
    step = pb.TransactionRequest.Operation()
    step.write_file.target.path = path
    step.write_file.data = data
    return step


@in_core
async def test_a_transaction_that_is_refused_stores_nothing_before(core: Core) -> None:
    await core.make_directory("/closed", 0o755)
    await core.make_directory("/open", 0o777)
    stream = await core.make("/s", 0o744, kind=pb.STREAM)
    (volume,) = core.platform.volumes
    large = bytes(1 << 20)

    async def commit(who: Any, *steps: pb.TransactionRequest.Operation) -> Any:
        request = pb.TransactionRequest(base=pb.Target(path="/"), operations=steps)
        return await core.call(who, "Transactions.Commit", request)

    appended = pb.TransactionRequest.Operation()
    appended.append.stream.CopyFrom(itself(stream))
    appended.append.data = large
    fails = pb.TransactionRequest.Operation()
    fails.expect.target.path = "/open"
    fails.expect.version = 12345
    fine = written("/open/f", large)
    for refused, *steps in (
        (Denied, written("/closed/f", large)),
        (Denied, fine, written("/closed/f", large)),
        (Denied, appended),
        (Conflict, fails, written("/open/g", large)),
    ):
        with pytest.raises(refused):
            await commit(EVE, *steps)
    read_only = replace(EVE, is_read_only=True)
    with pytest.raises(Denied):
        await commit(read_only, fine)
    assert sum((await volume.storage.segments.sizes()).values()) == 0
    assert await volume.find_entry((await stat_of(core, "/open")).inode, b"f") is None
    await commit(EVE, fine)
    assert (await stat_of(core, "/open/f")).size == len(large)


@in_core
async def test_everything_is_synced_to_who_changed_it_alone(core: Core) -> None:
    await core.call(ROOT, "Volumes.Create", pb.VolumeRequest(target=pb.Target(path="/v")))
    await core.make_directory("/v/open", 0o777)
    await core.make_directory("/v/shut", 0o755)
    synced: list[int] = []
    for volume in core.platform.volumes:

        async def sync(number: int = volume.id) -> None:
            synced.append(number)

        volume.sync = sync  # type: ignore[method-assign]
    everything = [volume.id for volume in core.platform.volumes]

    async def sync_all(who: Any) -> list[int]:
        synced.clear()
        await core.call(who, "Files.Sync", pb.SyncRequest())
        return synced

    async def put(who: Any, path: str) -> None:
        message = pb.WriteFileRequest(target=pb.Target(path=path))
        await core.call(who, "Files.WriteFile", message, b"x")

    assert await sync_all(EVE) == []
    with pytest.raises(Denied):
        await put(EVE, "/v/shut/f")
    await core.call(EVE, "Namespace.Stat", pb.StatRequest(target=pb.Target(path="/v/open")))
    assert await sync_all(EVE) == []
    await put(EVE, "/v/open/f")
    assert await sync_all(EVE) == [v for v in everything if v != 1]
    assert await sync_all(ANA) == []
    assert await sync_all(ROOT) == everything


@in_core
async def test_a_token_that_may_only_read_joins_no_group(core: Core) -> None:
    stream = await core.make("/s", 0o777, kind=pb.STREAM)
    topic = pb.TopicRequest(stream=itself(stream), topic="t", partitions=1)
    await core.call(ROOT, "Streams.CreateTopic", topic)
    joining = pb.JoinGroupRequest(stream=itself(stream), group="g", member="m", topics=["t"])
    with pytest.raises(Denied, match="no change"):
        await core.call(replace(EVE, is_read_only=True), "Groups.Join", joining)
    group = pb.GroupRequest(stream=itself(stream), group="g")
    with pytest.raises(NotFound, match="no such group"):
        await core.call(ROOT, "Groups.Describe", group)
    await core.call(EVE, "Groups.Join", joining)


@in_core
async def test_a_request_that_is_replayed_changes_nothing(core: Core) -> None:
    """Whoever recorded it sends it again, at once or later, as himself or over his own session."""
    directory = await core.make_directory("/d", 0o777)
    session = core.attachment(ANA).session.id

    def create(name: str, sequence: int) -> pb.CreateRequest:
        at = pb.RequestId(session=session, slot=0, sequence=sequence)
        return pb.CreateRequest(target=itself(directory, name), kind=pb.FILE, request=at)

    made = await core.call(ANA, "Namespace.Create", create("a", 1))
    (volume,) = core.platform.volumes
    commit = volume.state.commit
    again = await core.call(ANA, "Namespace.Create", create("a", 1))
    assert again.inode == made.inode
    for who in (EVE, ANYBODY):
        with pytest.raises(Denied, match="somebody else"):
            await core.call(who, "Namespace.Create", create("a", 1))
    remove = pb.RemoveRequest(target=itself(directory, "a"), request=create("", 1).request)
    with pytest.raises(Invalid, match="another request"):  # its id, for something else
        await core.call(ANA, "Namespace.Remove", remove)
    assert volume.state.commit == commit
    await core.call(ANA, "Namespace.Create", create("b", 2))
    await core.call(
        ANA,
        "Namespace.Remove",
        pb.RemoveRequest(target=itself(directory, "a"), request=create("", 3).request),
    )
    with pytest.raises(Stale):  # what was removed does not come back
        await core.call(ANA, "Namespace.Create", create("a", 1))
    with pytest.raises(NotFound):
        await stat_of(core, "/d/a")
